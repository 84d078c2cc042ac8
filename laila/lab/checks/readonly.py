"""Readers who may only read: they load what is there and what comes, and change nothing.

The same volume, mounted read-only a second time. That it is read-only is shown by the system's refusal of a plain
write; then another node publishes, and every read-only reader must have it at once.
"""

from __future__ import annotations

from laila.lab.checks.base import CannotHere, Stage
from laila.lab.checks.exclusion import ask
from laila.lab.checks.freshness import HOW, READER, STORE, WRITER, load_everywhere
from laila.lab.crew import Worker

NAME = "read-only"
_VERSIONS = 3


def readers_read_and_change_nothing(stage: Stage) -> str:
    stage.need_safe()
    spec = stage.read_only
    if spec is None:
        raise CannotHere("the topology has no second, read-only mount of its volume")
    readers = stage.each(lambda node: stage.crew.at(node, READER, spec.name), stage.names)
    _create(stage, stage.names[0])
    words = {
        reader.name: ask(stage, reader, "scribble", path="lab-check/scribble")["refused"]
        for reader in readers
    }
    if writable := [name for name, refused in words.items() if refused != "EROFS"]:
        hindrance = stage.driver.hindrance(spec.name)
        raise CannotHere(f"{', '.join(writable)} can write: no read-only mount can be made here: {hindrance}")
    loads, wrong = 0, []
    for turn in range(_VERSIONS):
        expected = _create(stage, stage.names[turn % len(stage.names)])
        for how in HOW:
            for reader, got in load_everywhere(stage, NAME, how, volume=spec.name):
                loads += 1
                if got.get("print") != expected:
                    wrong.append(f"{how} by {reader} gave {got.get('error', 'another version')}")
    if wrong:
        stage.fail(
            f"{len(wrong)} of {loads} loads by readers who may only read did not give the newest version",
            wrong,
        )
    told = _nobody_publishes(stage, readers, expected)
    stage.crew.dismiss(*readers)
    return (
        f"{len(readers)} readers on a read-only mount (a plain write there: EROFS) made {loads} loads, each of the "
        f"version just created elsewhere; publishing there was refused ({', '.join(sorted(set(told)))})"
    )


def _create(stage: Stage, node: str) -> str:
    seed = stage.random.randrange(1 << 40)
    made = ask(stage, stage.crew.of(node, WRITER), "create", store=STORE, name=NAME, seed=seed)
    return str(made["print"])


def _nobody_publishes(stage: Stage, readers: list[Worker], newest: str) -> list[str]:
    told, wrong = [], []
    for reader in readers:
        words = {"store": STORE, "name": NAME, "seed": stage.random.randrange(1 << 40)}
        outcome = stage.crew.op(reader, "create", timeout=stage.effort.op_timeout, phase=stage.step, **words)
        told.append(outcome.error or "nothing")
        if outcome.error not in ("StorageError", "LockUnavailable"):
            wrong.append(f"create by {reader.name} gave {outcome}")
    for reader_name, got in load_everywhere(stage, NAME, "load"):
        if got.get("print") != newest:
            wrong.append(f"afterwards load by {reader_name} gave {got.get('error', 'another version')}")
    if wrong:
        stage.fail("a reader who may only read could publish, or was refused in an unclear way", wrong)
    return told
