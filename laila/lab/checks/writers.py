"""Writers die by SIGKILL while they publish: every node finds the old version or the new one, whole and signed.

Each writer is a process that publishes without a pause and is killed at a random moment. It says what it begins and
what was acknowledged, so it is known which versions may be there; after each death every node loads. That a kill came
in the middle of a publishing is part of the proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from laila.errors import LabError
from laila.lab.checkers.versions import Read, Write
from laila.lab.checks.base import Stage
from laila.lab.checks.exclusion import ask
from laila.lab.checks.freshness import HOW, STORE, judge, load_everywhere
from laila.lab.crew import Worker

NAME = "killed-writers"
PUBLISHINGS = 4
"""A writer lives for a random time of at most so many publishings, once it is ready."""
LEAST = 0.04
"""Seconds of that at least."""
WRITER = 2
_LEAST_CUT = 0.5
"""Share of the kills that must come in the middle of a publishing; else too little was shown."""


@dataclass(slots=True)
class _Deaths:
    """What the writers said, and what was loaded after each of them was dead."""

    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    cut: int = 0
    old: int = 0
    new: int = 0


def killed_writers(stage: Stage) -> str:
    stage.need_safe()
    deaths = _Deaths()
    count = stage.effort.writers_killed
    longest = max(LEAST, PUBLISHINGS * _first_versions(stage, deaths))
    for turn in range(count):
        node = stage.names[turn % len(stage.names)]
        stage.tell(f"{turn} of {count} writers killed; every node loads after each")
        after = stage.random.uniform(0, longest)
        _one_death(stage, deaths, stage.crew.of(node, WRITER), after, HOW[turn % len(HOW)])
    stage.crew.dismiss(*(stage.crew.of(node, WRITER) for node in stage.names))
    judge(stage, deaths.writes, deaths.reads, "writers")
    published = sum(write.acknowledged for write in deaths.writes)
    if deaths.cut < _LEAST_CUT * count or published <= 2:
        raise LabError(
            f"of {count} kills {deaths.cut} came in the middle of a publishing, and {published} versions were "
            "acknowledged: too few to say anything"
        )
    stage.facts["writers"] = {
        "killed": count,
        "cut": deaths.cut,
        "old": deaths.old,
        "new": deaths.new,
        "faults": 0,
    }
    return (
        f"{count} writers killed, {deaths.cut} in the middle of a publishing ({deaths.old} left the old version, "
        f"{deaths.new} the new one): {len(deaths.reads)} loads on {len(stage.names)} nodes all whole, none of "
        f"{published} acknowledged versions lost"
    )


def _first_versions(stage: Stage, deaths: _Deaths) -> float:
    """What is there before the first death; the seconds that a publishing takes here."""
    worker, took = stage.crew.of(stage.names[0], WRITER), 0.0
    for sequence in (1, 2):  # the first one makes what a store needs, too
        words = {"store": STORE, "name": NAME, "seed": stage.random.randrange(1 << 40)}
        outcome = stage.crew.op(
            worker, "create", timeout=stage.effort.file_timeout, phase=stage.step, **words
        )
        if not outcome.ok:
            stage.fail(f"create by {worker.name} failed: {outcome}")
        began, ended = worker.span(outcome)
        deaths.writes.append(Write(worker.name, worker.node, outcome.result["print"], sequence, began, ended))
        took = outcome.clock[1] - outcome.clock[0]
    return took


def _one_death(stage: Stage, deaths: _Deaths, worker: Worker, after: float, how: str) -> None:
    seed = stage.random.randrange(1 << 40)
    words = {"store": STORE, "name": NAME, "after": after, "seed": seed}
    told = ask(stage, worker, "publish_and_die", timeout=stage.effort.file_timeout, **words)
    died = worker.moment(told["killed"][0])
    stage.history.event(
        "writer-killed", f"a writer on {worker.node} was killed", node=worker.node, at=died.earliest
    )
    writes = _writes(stage, worker, told["said"])
    deaths.writes += writes
    cut = writes[-1] if writes and not writes[-1].acknowledged else None
    for reader, got in load_everywhere(stage, NAME, how):
        if "error" in got:
            stage.facts["writers"] = {"killed": len(deaths.writes), "faults": 1}
            stage.fail(f"{reader} cannot load after a writer on {worker.node} was killed: {got['error']}")
        deaths.reads.append(
            Read(reader, got["node"], how, got["print"], got["sequence"], got["began"], got["ended"])
        )
    if cut is not None:
        deaths.cut += 1
        became = bool(deaths.reads) and deaths.reads[-1].print == cut.print
        deaths.new += became
        deaths.old += not became


def _writes(stage: Stage, worker: Worker, said: Sequence[Sequence[Any]]) -> list[Write]:
    """From what the writer said before and after each publishing."""
    found: list[Write] = []
    for what, *words in said:
        if what == "begun":
            found.append(
                Write(worker.name, worker.node, words[0], None, worker.moment(float(words[1])), None)
            )
        elif what == "done":
            last, ended = found.pop(), worker.moment(float(words[1]))
            found.append(Write(last.client, last.node, last.print, int(words[0]), last.began, ended))
        else:
            stage.fail(f"a writer on {worker.node} could not publish: {' '.join(words)}")
    return found
