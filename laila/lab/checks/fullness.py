"""A volume that is full: publishing says so, the old version stays, and work goes on when there is room again.

A small volume of its own is filled until the system refuses every further byte (ENOSPC); so nothing else on the
machine runs out of space.
"""

from __future__ import annotations

from typing import Any

from laila.errors import LabError
from laila.lab.checks.base import CannotHere, Stage
from laila.lab.checks.exclusion import ask
from laila.lab.checks.freshness import HOW, READER, load_everywhere
from laila.lab.crew import Worker

STORE = "store"
NAME = "kept"
BALLAST = "ballast"
MIB = 1 << 20
REFUSALS = ("ENOSPC", "EDQUOT")


def publishing_fails_and_nothing_is_lost(stage: Stage) -> str:
    spec = stage.small
    if spec is None:
        raise CannotHere("the topology has no volume with a size limit")
    workers = stage.each(lambda node: stage.crew.at(node, READER, spec.name), stage.names)
    size = ask(stage, workers[0], "space")["total"]
    if size > 2 * spec.size_mib * MIB:
        raise CannotHere(
            f"no volume of {spec.size_mib} MiB can be made here: {stage.driver.hindrance(spec.name)}"
        )
    first = _create(stage, workers[0])
    _all_load(stage, first, "before")
    filled = ask(stage, workers[1], "fill", timeout=stage.effort.file_timeout, path=BALLAST, most=2 * size)
    if filled["stopped"] not in REFUSALS:
        raise LabError(f"the volume could not be filled: {filled}")
    refused = _all_are_refused(stage, workers)
    loads = _all_load(stage, first, "while it is full")
    ask(stage, workers[1], "remove", path=BALLAST)
    again = [_create(stage, worker) for worker in workers]
    loads += _all_load(stage, again[-1], "after there was room again")
    stage.crew.dismiss(*workers)
    stage.facts["full"] = {"written": filled["written"], "refused": len(refused)}
    return (
        f"{filled['written'] / MIB:.1f} MiB of ballast filled it ({filled['stopped']}): {len(refused)} creates refused "
        f"({', '.join(sorted(set(refused)))}), the old version loaded on {len(stage.names)} nodes; with room again "
        f"{len(again)} creates went through, {loads} loads in all"
    )


def _create(stage: Stage, worker: Worker) -> str:
    """A new version; its print."""
    words: dict[str, Any] = {"store": STORE, "name": NAME, "seed": stage.random.randrange(1 << 40)}
    return str(ask(stage, worker, "create", **words)["print"])


def _all_are_refused(stage: Stage, workers: list[Worker]) -> list[str]:
    """What each was told; each must be told that there is no space."""
    told, wrong = [], []
    for worker in workers:
        seed = stage.random.randrange(1 << 40)
        words = {"store": STORE, "name": NAME, "seed": seed}
        outcome = stage.crew.op(
            worker, "create", timeout=stage.effort.file_timeout, phase=stage.step, **words
        )
        told.append(f"{outcome.error} {outcome.reason}".strip())
        if outcome.reason not in REFUSALS:
            wrong.append(f"create by {worker.name} gave {outcome}")
    if wrong:
        stage.fail("a create on a full volume was not refused as it should be", wrong)
    return told


def _all_load(stage: Stage, expected: str, when: str) -> int:
    """Every node loads this version, also without the cache; how many loads that were."""
    wrong, loads = [], 0
    spec = stage.small
    for how in HOW:
        for reader, got in load_everywhere(stage, NAME, how, STORE, volume=spec.name if spec else ""):
            loads += 1
            if got.get("print") != expected:
                wrong.append(f"{how} by {reader} gave {got.get('error', 'another version')}")
    if wrong:
        stage.fail(f"not every node loads the last acknowledged version {when}", wrong)
    return loads
