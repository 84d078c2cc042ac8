"""Each node stores, and every other one remembers, replaces and forgets: small entries, every type, and a
large array.

All comparing is by fingerprint (`laila.lab.values`): the client that stores makes the value and its
fingerprint, the one that reads makes the fingerprint of what it got.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from laila.lab import values
from laila.lab.checks.base import Stage


@dataclass(frozen=True, slots=True)
class Load:
    """Entries that go together in one call."""

    what: str
    pool: str
    entries: list[dict[str, Any]]
    timeout: float
    labels: list[str]


def work_in_every_direction(stage: Stage) -> str:
    pairs = stage.topology.directed_links()
    entries = nbytes = 0
    for number, (worker, owner) in enumerate(pairs, 1):
        for load in _loads(stage, worker, owner):
            stage.tell(
                f"pair {number} of {len(pairs)}: {worker} works on {owner}: {load.what} in {load.pool}"
            )
            _one_direction(stage, worker, owner, load)
            entries += len(load.entries)
            nbytes += stage.effort.array_bytes if load.what == "array" else 0
    if not entries:
        stage.fail("no pool was worked on")
    size = f", {nbytes >> 20} MiB of arrays" if nbytes else ""
    kinds = len(values.TYPED) + 2
    return f"{len(pairs)} pairs, {entries} entries of {kinds} kinds{size}: stored, read, replaced, forgotten"


def _one_direction(stage: Stage, worker: str, owner: str, load: Load) -> None:
    """`owner` stores; `worker`, through its own node, reads, replaces and forgets; `owner` sees each
    change.
    """
    words: dict[str, Any] = {"pool": load.pool, "timeout": load.timeout}
    who = f"{worker} on {owner}, {load.what} in {load.pool}"
    stored = stage.must(owner, "memorize", entries=load.entries, **words)
    ids = stored["ids"]
    got = stage.must(worker, "remember", at=owner, ids=ids, **words)
    _compare(
        stage, f"{who}: remembered something else than {owner} stored", load, stored["prints"], got["prints"]
    )

    others = [{**entry, "value": _other(entry["value"])} for entry in load.entries]
    replaced = stage.must(worker, "memorize", at=owner, entries=others, **words)
    seen = stage.must(owner, "remember", ids=replaced["ids"], **words)
    if replaced["ids"] != ids:
        stage.fail(f"{who}: the same nicknames have other ids on the other node")
    _compare(
        stage, f"{who}: {owner} does not see what {worker} replaced", load, replaced["prints"], seen["prints"]
    )

    stage.must(worker, "forget", at=owner, ids=ids, **words)
    left = [n for n, there in enumerate(stage.must(owner, "exists", ids=ids, **words)["exists"]) if there]
    if left:
        stage.fail(f"{who}: still there after forget", [load.labels[n] for n in left])
    after = stage.op(worker, "remember", at=owner, ids=ids[:1], **words)
    if after.error != "EntryNotFound":
        stage.fail(f"{who}: remember after forget gave {after} instead of EntryNotFound")


def _compare(stage: Stage, message: str, load: Load, expected: list[str], got: list[str]) -> None:
    wrong = [
        load.labels[n] for n, prints in enumerate(zip(expected, got, strict=False)) if len(set(prints)) != 1
    ]
    if wrong or len(expected) != len(got):
        stage.fail(message, [f"{len(got)} of {len(expected)} answers", *wrong])


def _other(value: dict[str, Any]) -> dict[str, Any]:
    """What an entry is replaced with: another value, and for typed ones a value of another type."""
    if value["kind"] == "typed":
        return {
            "kind": "typed",
            "name": values.TYPED[(values.TYPED.index(value["name"]) + 7) % len(values.TYPED)],
        }
    return {**value, "seed": value["seed"] + 1}


def _loads(stage: Stage, worker: str, owner: str) -> list[Load]:
    """Small entries and all types in every pool of the owner, the large array in its first."""
    effort, pools = stage.effort, stage.topology.node(owner).pools
    found = []
    for pool in pools:
        small = [{"kind": "small", "seed": _seed(stage)} for _ in range(effort.small)]
        typed = [{"kind": "typed", "name": name} for name in values.TYPED]
        for what, described in (("small", small), ("typed", typed)):
            found.append(_load(f"{worker}-{owner}", what, pool.name, described, effort.op_timeout))
    if effort.array_bytes and pools:
        array = {"kind": "array", "seed": _seed(stage), "nbytes": effort.array_bytes}
        found.append(_load(f"{worker}-{owner}", "array", pools[0].name, [array], effort.array_timeout))
    return found


def _load(pair: str, what: str, pool: str, described: list[dict[str, Any]], timeout: float) -> Load:
    nicknames = [f"{pair}-{pool}-{what}-{number}" for number in range(len(described))]
    entries = [{"nickname": name, "value": value} for name, value in zip(nicknames, described, strict=True)]
    labels = [str(value.get("name") or f"{what} {number}") for number, value in enumerate(described)]
    return Load(what, pool, entries, timeout, labels)


def _seed(stage: Stage) -> int:
    return stage.random.randrange(1 << 40)
