"""Judges the records of checks again: registers, holds, versions and members, as their steps wrote them.

What workloads did is judged by `laila.lab.checkers.history`; these are the kinds of lines that steps of a check have of
their own.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from laila.lab.checkers import holds, members, registers, versions
from laila.lab.checkers.fault import Fault
from laila.lab.checkers.operations import OK, UNKNOWN, Op
from laila.lab.checkers.verdict import Explanation, Judgement, Verdict
from laila.lab.history import JUDGED

REGISTER, LOCK, VERSIONS, MEMBERS = (
    "linearizable register",
    "mutual exclusion",
    "fresh versions",
    "complete lists",
)
CHAINED = "exclusion"
"""The step whose holders count up a register that only the lock protects."""

Records = Mapping[str, Sequence[Mapping[str, Any]]]
"""By kind (`what`)."""


def judge(records: Iterable[Mapping[str, Any] | None]) -> list[Judgement]:
    """One judgement for each register, and for each step that told of holds, versions or members. `workload` is the
    step's key. Lines of other kinds, and those that cannot be read, are passed over.
    """
    by_phase: dict[str, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record is not None and (what := str(record.get("what"))) in JUDGED:
            by_phase[str(record.get("phase", ""))][what].append(record)
    return [one for phase, kinds in by_phase.items() for judge in _JUDGES for one in judge(phase, kinds)]


def _registers(phase: str, kinds: Records) -> list[Judgement]:
    writes = [registers.Write.from_record(record) for record in kinds.get(registers.WRITTEN, ())]
    reads = [registers.Read.from_record(record) for record in kinds.get(registers.GOT, ())]
    found = []
    for one in registers.judge_all(writes, reads):
        why = None if one.why is None else _explained(one.why)
        verdict, count = Verdict(one.verdict.value), one.writes + one.reads
        found.append(
            Judgement(REGISTER, one.name, verdict, count, why, one.faults, one.reason, workload=phase)
        )
    return found


def _explained(why: registers.Explanation) -> Explanation:
    ops = {id(one): _register_op(one) for one in why.operations}
    return Explanation(why.kind, why.text, tuple(ops.values()), ops[id(why.offender)])


def _register_op(one: registers.Operation) -> Op:
    wrote = isinstance(one, registers.Write)
    what = (one.client, one.node, "write" if wrote else "read", one.name)
    value, result = (one.value, None) if wrote else (None, one.value)
    return Op(*what, value, result, one.start, one.end, UNKNOWN if one.end == math.inf else OK)


def _holds(phase: str, kinds: Records) -> list[Judgement]:
    found = [holds.Hold.from_record(record) for record in kinds.get("hold", ())]
    by = holds.judge if phase == CHAINED else holds.judge_holders
    return _judged(phase, LOCK, "hold", len(found), by(found))


def _versions(phase: str, kinds: Records) -> list[Judgement]:
    writes = [versions.Write.from_record(record) for record in kinds.get("write", ())]
    reads = [versions.Read.from_record(record) for record in kinds.get("read", ())]
    return _judged(phase, VERSIONS, "load", len(writes) + len(reads), versions.judge(writes, reads))


def _members(phase: str, kinds: Records) -> list[Judgement]:
    additions = [members.Addition.from_record(record) for record in kinds.get("addition", ())]
    listings = [members.Listing.from_record(record) for record in kinds.get("listing", ())]
    count = len(additions) + len(listings)
    return _judged(phase, MEMBERS, "list", count, members.judge(additions, listings))


def _judged(phase: str, check: str, op: str, count: int, faults: Sequence[Fault]) -> list[Judgement]:
    """What was found of the records of one step: none of them, nothing to say."""
    step, _, name = phase.partition(" of ")
    name = name or step
    if not count:
        return []
    if not faults:
        return [Judgement(check, name, Verdict.OK, count, workload=step)]
    first = faults[0]
    offender = Op(first.node, first.node, op, name, None, None, first.at, first.at)
    why = Explanation(first.kind, first.text, (offender,), offender)
    return [Judgement(check, name, Verdict.ILLEGAL, count, why, len(faults), workload=step)]


_JUDGES: Sequence[Callable[[str, Records], list[Judgement]]] = (_registers, _holds, _versions, _members)
