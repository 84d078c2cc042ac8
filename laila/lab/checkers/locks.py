"""Locks: never two at a time, and every later holder has a greater token.

Two judges look at each lock. One compares the times for which clients had it without doubt, and their tokens, and sees
who let go of it without ever having got it: exact, in O(n log n), and its explanations are one or two holders. The
other looks for an order of all acquisitions and releases that a lock with fencing tokens allows
(`laila.lab.checkers.wing_gong`), within bounds. What it could not decide is unknown.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from laila.lab.checkers.operations import OK, Op
from laila.lab.checkers.smallest import Unit, smallest
from laila.lab.checkers.tenures import Taken, Tenure, tenures
from laila.lab.checkers.verdict import Explanation, Judgement, Verdict, nothing
from laila.lab.checkers.wing_gong import IMPOSSIBLE, USUAL, Bounds, Call, Found, search

CHECK = "mutual exclusion"
OVERLAP = "two holders at the same time"
UNRISEN = "a fencing token that does not rise"
STRAY = "a lock let go by one who did not have it"
NO_ORDER = "holds that no order allows"

MOST = 12
"""So many operations are told beside the one that has no place."""
_TAKE, _GIVE = range(2)


def judge_all(ops: Iterable[Op], lease: float = 0.0, bounds: Bounds = USUAL) -> list[Judgement]:
    """Every lock, sorted; `lease` in seconds, 0: locks are held until they are let go. The bounds are for each."""
    return judge_taken(tenures(ops, lease), lease, bounds)


def judge_taken(taken: Mapping[str, Taken], lease: float = 0.0, bounds: Bounds = USUAL) -> list[Judgement]:
    """The same of tenures, by key."""
    return [judge(taken[key], key, lease, bounds) for key in sorted(taken)] or [nothing(CHECK)]


def judge(taken: Taken, key: str, lease: float = 0.0, bounds: Bounds = USUAL) -> Judgement:
    """One lock."""
    count = sum(len(one.ops) for one in taken.tenures) + len(taken.strays)
    for one in taken.tenures:
        if not one.acquired.start <= one.got:
            reason = f"{one.acquired} ended before it began: the clocks say nothing"
            return Judgement(CHECK, key, Verdict.UNKNOWN, count, reason=reason)
    faults = [*overlaps(taken.tenures), *unrisen(taken.tenures), *(() if lease > 0 else strays(taken))]
    if faults:
        first = min(faults, key=lambda fault: (fault.offender.end, len(fault.operations)))
        return Judgement(CHECK, key, Verdict.ILLEGAL, count, first, len(faults))
    units = calls_of(taken, leased=lease > 0)
    found = decide(units, bounds)
    if found.verdict is Verdict.UNKNOWN:
        return Judgement(CHECK, key, Verdict.UNKNOWN, count, reason=found.reason)
    if found.blocked is not None:
        return Judgement(CHECK, key, Verdict.ILLEGAL, count, _explained(units, found.blocked), 1)
    if reason := _vacuous(taken):
        return Judgement(CHECK, key, Verdict.UNKNOWN, count, reason=reason)
    return Judgement(CHECK, key, Verdict.OK, count)


# -- by times and tokens


def overlaps(held: Sequence[Tenure]) -> list[Explanation]:
    """One for each that came into another's. A sweep: each is compared with whoever would have it longest."""
    found: list[Explanation] = []
    longest: Tenure | None = None
    for one in sorted((one for one in held if one.lasted), key=lambda one: (one.got, one.until)):
        if longest is not None and one.got < longest.until:
            both = min(one.until, longest.until) - one.got
            text = f"{longest} and {one}, both for {both * 1000:.3f} ms"
            found.append(Explanation(OVERLAP, text, _ops(longest, one), one.acquired))
        if longest is None or one.until > longest.until:
            longest = one
    return found


def unrisen(held: Sequence[Tenure]) -> list[Explanation]:
    """Whoever got it after another had it, or asked for it after another had got it, has a greater token."""
    given = [one for one in held if one.token is not None]
    given.sort(
        key=lambda one: (one.got, one.until, _number(one))
    )  # of two at one instant either can be the first
    found: dict[int, Explanation] = {}
    greatest: list[Tenure] = []
    for one in given:
        greatest.append(one if not greatest or _number(one) > _number(greatest[-1]) else greatest[-1])
    ends = [one.got for one in given]
    for one in given:
        turn = bisect.bisect_left(ends, one.acquired.start)
        if turn and _number(greatest[turn - 1]) >= _number(one):
            found[id(one)] = _unrisen(greatest[turn - 1], one)
    before: Tenure | None = None
    for one in given:
        if one.lasted:
            if before is not None and _number(one) <= _number(before):
                found.setdefault(id(one), _unrisen(before, one))
            if before is None or _number(one) > _number(before):
                before = one
    return list(found.values())


def strays(taken: Taken) -> list[Explanation]:
    """One for each release that went through of a client that had never got it: no order has a place for it."""
    return [
        Explanation(
            STRAY, f"{one.client} let go of {one.key} ({one.end:.4f} s), and had never got it", (one,), one
        )
        for one in taken.strays
    ]


def _unrisen(before: Tenure, one: Tenure) -> Explanation:
    text = f"{one} had it after {before}"
    return Explanation(UNRISEN, text, (before.acquired, one.acquired), one.acquired)


def _number(one: Tenure) -> int:
    return 0 if one.token is None else one.token


def _ops(*held: Tenure) -> tuple[Op, ...]:
    return tuple(sorted((op for one in held for op in one.ops), key=lambda op: (op.start, op.end)))


# -- by search


def calls_of(taken: Taken, *, leased: bool) -> list[Unit]:
    """Acquisitions and releases as calls, those of one holder together. What may have been let go by itself is an open
    release; an acquisition of which nobody knows says nothing unless it was let go later.
    """
    units: list[Unit] = []
    for number, one in enumerate(taken.tenures):
        take = Call((_TAKE, number, one.token), one.acquired.start, one.got, one.acquired)
        release = one.released
        if release is not None and release.outcome == OK and not leased:
            give = Call((_GIVE, number), release.start, release.end, release)
        else:
            since = one.until if one.lasted else one.acquired.start
            give = Call((_GIVE, number), since, math.inf, release or one.acquired)
        units.append((take, give))
    for number, (asked, release) in enumerate(taken.doubtful, len(units)):
        take = Call((_TAKE, number, None), asked.start, math.inf, asked)
        units.append((take, Call((_GIVE, number), release.start, release.end, release)))
    if not leased:
        units += [(Call((_GIVE, -1), stray.start, stray.end, stray),) for stray in taken.strays]
    return units


def decide(units: Sequence[Unit], bounds: Bounds = USUAL) -> Found:
    """Whether a lock allows them in some order."""
    return search((None, -math.inf), step, (call for unit in units for call in unit), bounds)


def step(state: tuple[Hashable, float], what: tuple[Any, ...]) -> Any:
    """A lock: who has it, and the last token."""
    holder, last = state
    if what[0] == _GIVE:
        return (None, last) if holder == what[1] else IMPOSSIBLE
    if holder is not None:
        return IMPOSSIBLE
    token = what[2]
    if token is None:
        return (what[1], last)
    return (what[1], token) if token > last else IMPOSSIBLE


def _explained(units: Sequence[Unit], blocked: Call) -> Explanation:
    def related(unit: Unit) -> bool:
        return bool(unit[0].what[1] == blocked.what[1])

    # to leave others out only makes room: without them a right order stays right
    kept = smallest(units, blocked, decide, related)
    ops = {id(call.op): call.op for unit in kept for call in unit}
    chosen = sorted(ops.values(), key=lambda op: (op.start, op.end))
    offender = blocked.op if id(blocked.op) in ops else chosen[-1]
    told = [op for op in chosen if op is not offender][-MOST:]
    text = f"{offender}: no order has a place for it beside {'; '.join(map(str, told))}"
    return Explanation(NO_ORDER, text, tuple(op for op in chosen if op in told or op is offender), offender)


def _vacuous(taken: Taken) -> str:
    """Why a right history shows nothing."""
    if len(taken.tenures) < 2:
        return f"the lock was got {len(taken.tenures)} times, and it takes two to exclude each other"
    sure = sorted((one for one in taken.tenures if one.sure), key=lambda one: one.got)
    starts = [one.got for one in sure]
    for one in taken.tenures:
        turn = bisect.bisect_left(starts, one.got) - 1
        if turn >= 0 and sure[turn].client != one.client and sure[turn].until > one.acquired.start:
            return ""
    return "nobody waited for another one, so nobody was kept out"
