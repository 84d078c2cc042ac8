"""What was published is what is loaded: on every node, with and without a cache, at once.

First one after another: each node creates a version, and then every node must load exactly that one. Then all
together: writers on every node publish as fast as they can while readers on every node load; judged by
`laila.lab.checkers.versions`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from laila.errors import LabError
from laila.lab.checkers import fault, versions
from laila.lab.checkers.fault import Fault
from laila.lab.checkers.versions import Read, Write
from laila.lab.checks.base import Stage
from laila.lab.checks.exclusion import ask
from laila.lab.clocks import Moment
from laila.lab.crew import Worker

STORE = "lab-check/store"
"""Where on the volume the store of these checks is."""
PAUSE = (0.0, 0.02)
HOW = ("load", "load_cached")
WRITER, READER = 0, 1


def loads_are_fresh(stage: Stage) -> str:
    stage.need_safe()
    turns = _one_after_another(stage, "fresh-in-turn")
    writes, reads = _all_together(stage, "fresh-at-once")
    judge(stage, writes, reads, "fresh")
    counts = Counter(read.node for read in reads)
    few = [f"{node} {counts[node]}" for node in stage.names if counts[node] < stage.effort.least_reads]
    if few or len(writes) < len(stage.names):
        raise LabError(
            f"too little was seen to say anything: {len(writes)} versions; loads: {', '.join(few)}"
        )
    stage.facts["fresh"] = {"versions": len(writes), "reads": len(reads) + turns, "faults": 0}
    return (
        f"{turns} loads right after a create on another node gave that version; then {len(writes)} versions by "
        f"{len(stage.names)} writers at once and {len(reads)} loads on every node, half of them cached: none stale, "
        "torn or out of order"
    )


def _one_after_another(stage: Stage, name: str) -> int:
    """Each node creates, all load. How many loads that were."""
    wrong, loads = [], 0
    for node in stage.names:
        stage.tell(f"{node} creates a version, every node loads it")
        made = ask(stage, stage.crew.of(node, WRITER), "create", store=STORE, name=name, seed=_seed(stage))
        for how in HOW:
            for reader, got in load_everywhere(stage, name, how):
                loads += 1
                if got.get("print") != made["print"]:
                    said = got.get("error") or f"version {got['sequence']} of another content"
                    wrong.append(f"{how} by {reader} after a create by {node} gave {said}")
    if wrong:
        stage.facts["fresh"] = {"versions": len(stage.names), "reads": loads, "faults": len(wrong)}
        stage.fail(f"{len(wrong)} of {loads} loads did not give the version that was just created", wrong)
    return loads


def load_everywhere(
    stage: Stage, name: str, how: str, store: str = STORE, *, volume: str = ""
) -> list[tuple[str, dict[str, Any]]]:
    """The same load on every node, side by side: what each got, or `{"error": …, "code": …}`. `volume`: another one
    than the shared one.
    """

    def work(node: str) -> tuple[str, dict[str, Any]]:
        worker = stage.crew.at(node, READER, volume) if volume else stage.crew.of(node, READER)
        words = {"store": store, "name": name, "how": how}
        outcome = stage.crew.op(worker, "load", timeout=stage.effort.file_timeout, phase=stage.step, **words)
        got = outcome.result if outcome.ok else {"error": str(outcome), "code": outcome.error}
        began, ended = worker.span(outcome)
        return worker.name, {**got, "began": began, "ended": ended, "node": node, "how": how}

    return stage.each(work, stage.names)


def _all_together(stage: Stage, name: str) -> tuple[list[Write], list[Read]]:
    effort = stage.effort
    began = Moment.at(time.monotonic())
    first = ask(
        stage, stage.crew.of(stage.names[0], WRITER), "create", store=STORE, name=name, seed=_seed(stage)
    )
    ready = Moment.at(time.monotonic())
    writers = [stage.crew.of(node, WRITER) for node in stage.names]
    readers = [stage.crew.of(node, READER) for node in stage.names]
    words: dict[str, Any] = {"store": STORE, "name": name, "seconds": effort.fresh_for}
    seeds = {worker.name: _seed(stage) for worker in writers}
    stage.tell(f"{len(writers)} writers and {len(readers)} readers work on one artifact")

    def work(worker: Worker) -> dict[str, Any]:
        limit = effort.fresh_for + effort.file_timeout
        if worker in writers:
            seed = seeds[worker.name]
            return ask(stage, worker, "publish_for", timeout=limit, pause=PAUSE, seed=seed, **words)
        return ask(stage, worker, "load_for", timeout=limit, **words)

    everybody = [*writers, *readers]
    told = stage.each(work, everybody)
    _no_errors(stage, everybody, told)
    writes = [Write("lab", stage.names[0], first["print"], 1, began, ready)]
    writes += [
        _write(worker, item)
        for worker, one in zip(everybody, told, strict=True)
        for item in one.get("writes", ())
    ]
    reads = [
        _read(worker, item)
        for worker, one in zip(everybody, told, strict=True)
        for item in one.get("reads", ())
    ]
    return writes, reads


def judge(stage: Stage, writes: Sequence[Write], reads: Sequence[Read], fact: str) -> None:
    """Keep the records; fail with what the judge finds."""
    for write in writes:
        stage.history.keep("write", write.to_record(stage.history.began), phase=stage.step)
    for read in reads:
        stage.history.keep("read", read.to_record(stage.history.began), phase=stage.step)
    faults: list[Fault] = versions.judge(writes, reads)
    if not faults:
        return
    first = faults[0]
    stage.history.event("bad", str(first), node=first.node, at=first.at)
    stage.facts[fact] = {"versions": len(writes), "reads": len(reads), "faults": len(faults)}
    stage.fail(f"{len(faults)} faults in {len(reads)} loads, first {first.kind}", fault.lines(faults))


def _no_errors(stage: Stage, everybody: Sequence[Worker], told: Sequence[dict[str, Any]]) -> None:
    wrong = [
        f"{error.get('how', 'publish')} by {worker.name}: {error['code']}: {error['message']}"
        for worker, one in zip(everybody, told, strict=True)
        for error in one["errors"]
    ]
    if wrong:
        stage.fail(f"{len(wrong)} operations failed without a reason", wrong)


def _write(worker: Worker, told: Sequence[Any]) -> Write:
    content, sequence, began, ended = told
    return Write(worker.name, worker.node, content, sequence, worker.moment(began), worker.moment(ended))


def _read(worker: Worker, told: Sequence[Any]) -> Read:
    how, content, sequence, began, ended = told
    return Read(worker.name, worker.node, how, content, sequence, worker.moment(began), worker.moment(ended))


def _seed(stage: Stage) -> int:
    return stage.random.randrange(1 << 40)
