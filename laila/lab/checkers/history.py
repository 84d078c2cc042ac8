"""A saved history, judged again: from the lines of `history.jsonl` to judgements, without a cluster.

Lines with `what` = `invoke` are operations, each with the `workload` that they belong to; `what` = `workload` says with
which options that workload ran. All other lines are passed over. What cannot be read is named with its number, and
then nothing is accused either: the line that would explain it may be the one that is missing.
"""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from laila.errors import BadConfig
from laila.lab.checkers.operations import INVOKED, Op
from laila.lab.checkers.verdict import Judgement, Verdict
from laila.lab.workloads import make
from laila.lab.workloads.protocol import misfit

CHECK = "readable history"
WORKLOAD = "workload"
"""The kind of line (`what`) that says how a workload was run."""
AT_ONCE = 200
"""Lines that are parsed in one go: half the time of one by one."""
TOLD = 8
"""So many damaged lines are told one by one."""


@dataclass(slots=True)
class Saved:
    """What a history says: operations and options by workload, and lines that say nothing, with the reason."""

    ops: dict[str, list[Op]] = field(default_factory=dict)
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    damaged: list[tuple[int, str]] = field(default_factory=list)
    """Number (the first is 1) and reason."""


def judge_history(lines: Iterable[str | bytes]) -> list[Judgement]:
    """Every workload by its own judge, in the order in which they first appear; damaged lines last."""
    saved = read(lines)
    found = [one for workload in saved.options for one in _judge(workload, saved)]
    if not found and not saved.damaged:
        return [Judgement(CHECK, "", Verdict.UNKNOWN, 0, reason="there is no operation of a workload in it")]
    return found + _damage(saved.damaged)


def read(lines: Iterable[str | bytes]) -> Saved:
    """Never raises for what stands in a line."""
    saved = Saved()
    with _uncollected():
        _read(lines, saved)
    return saved


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector, which would look at every record again and again: none is garbage."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _read(lines: Iterable[str | bytes], saved: Saved) -> None:
    numbered = enumerate(lines, 1)
    while batch := list(islice(numbered, AT_ONCE)):
        for number, record in _parsed(batch, saved.damaged):
            try:
                _keep(record, saved)
            except (KeyError, ValueError, TypeError, AttributeError) as error:
                what = f"no {error}" if isinstance(error, KeyError) else str(error)
                saved.damaged.append((number, f"it is no record of an operation: {what}"))


def _parsed(
    batch: list[tuple[int, str | bytes]], damaged: list[tuple[int, str]]
) -> Iterator[tuple[int, Any]]:
    """Each line's value. All lines in one go, else one by one."""
    try:
        texts = [line if isinstance(line, str) else line.decode("utf-8") for _, line in batch]
        records = json.loads(f"[{','.join(texts)}]")
        if len(records) == len(batch):
            yield from ((number, record) for (number, _), record in zip(batch, records, strict=True))
            return
    except (ValueError, RecursionError):
        pass  # at least one of them is damaged, or empty
    for number, line in batch:
        try:
            text = line if isinstance(line, str) else line.decode("utf-8")
            if text.strip():
                yield number, json.loads(text)
        except (ValueError, RecursionError) as error:
            damaged.append((number, f"it is no JSON: {error}"))


def _keep(record: Any, saved: Saved) -> None:
    what = record.get("what")
    if what == INVOKED:
        workload = record["workload"]
        op = Op.from_record(record)
        if wrong := misfit(op):
            raise ValueError(wrong)
        ops = saved.ops.get(workload)
        if ops is None:
            ops = saved.ops[workload] = []
            saved.options.setdefault(workload, {})
        ops.append(op)
    elif what == WORKLOAD:
        options = record.get("options") or {}
        if not isinstance(record["workload"], str) or not isinstance(options, dict):
            raise ValueError("a workload has a name, and options by name")
        saved.options[record["workload"]] = options


def _judge(workload: str, saved: Saved) -> list[Judgement]:
    ops = saved.ops.pop(workload, [])
    try:
        judge = make(workload, **saved.options[workload])
    except BadConfig as error:
        return [Judgement(CHECK, workload, Verdict.UNKNOWN, len(ops), reason=str(error), workload=workload)]
    found = [replace(one, workload=workload) for one in judge.judge(ops)]
    return [_doubted(one, saved.damaged[0][0]) for one in found] if saved.damaged else found


def _doubted(one: Judgement, line: int) -> Judgement:
    """An accusation from a history that is not whole."""
    if one.verdict is not Verdict.ILLEGAL or one.why is None:
        return one
    reason = (
        f"line {line} cannot be read and may be what is missing; without it: {one.why.kind}: {one.why.text}"
    )
    return replace(one, verdict=Verdict.UNKNOWN, why=None, faults=0, reason=reason)


def _damage(damaged: list[tuple[int, str]]) -> list[Judgement]:
    found = [
        Judgement(CHECK, f"line {number}", Verdict.UNKNOWN, 0, reason=reason)
        for number, reason in damaged[:TOLD]
    ]
    if (more := len(damaged) - TOLD) > 0:
        reason = f"{more} more lines cannot be read, the last of them is line {damaged[-1][0]}"
        found.append(Judgement(CHECK, "more lines", Verdict.UNKNOWN, 0, reason=reason))
    return found
