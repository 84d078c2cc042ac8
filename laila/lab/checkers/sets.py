"""Sets that everybody adds to: what was acknowledged is there, for everybody, from then on.

`add` has the element in `value`, `list` has all elements in `result`. Every element is added once. An addition of which
nobody knows may come at any later time, or never, but what was listed once does not go away again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

from laila.lab.checkers.atomic import by_key, plain
from laila.lab.checkers.operations import FAIL, OK, Op, short
from laila.lab.checkers.verdict import Explanation, Judgement, Verdict, nothing

CHECK = "grow-only set"
LOST = "an acknowledged element is not there"
GONE = "an element that was there is gone"
PHANTOM = "an element that nobody added"
EARLY = "an element before its addition was begun"
REFUSED = "an element whose addition was refused"
DOUBLE = "an element that is listed twice"


def judge_all(ops: Iterable[Op], noun: str = "element") -> list[Judgement]:
    """Every key, sorted. `noun` is what people call an element."""
    return [judge(of_key, key, noun) for key, of_key in sorted(by_key(ops, ("add", "list")).items())] or [
        nothing(CHECK)
    ]


def judge(ops: Sequence[Op], key: str, noun: str = "element") -> Judgement:
    """One set, which is empty in the beginning."""
    adds = [op for op in ops if op.op == "add"]
    lists = sorted((op for op in ops if op.op == "list" and op.outcome == OK), key=lambda op: op.start)
    count = len(adds) + len(lists)
    for op in (*adds, *lists):
        if not op.start <= op.end:
            reason = f"{op} ended before it began: the clocks say nothing"
            return Judgement(CHECK, key, Verdict.UNKNOWN, count, reason=reason)
    added = {plain(op.value): op for op in adds}
    if len(added) < len(adds):
        twice = Counter(plain(op.value) for op in adds).most_common(1)[0][0]
        reason = f"{twice} was added more than once, so it cannot be known which addition is seen"
        return Judgement(CHECK, key, Verdict.UNKNOWN, count, reason=reason)
    listings = _Listings(added, lists, noun)
    if faults := listings.faults():
        first = min(listings.told, key=lambda why: (why.offender.end, len(why.operations)))
        return Judgement(CHECK, key, Verdict.ILLEGAL, count, first, faults)
    if reason := _vacuous(adds, lists, noun):
        return Judgement(CHECK, key, Verdict.UNKNOWN, count, reason=reason)
    return Judgement(CHECK, key, Verdict.OK, count)


class _Listings:
    """Lists in the order of their starts, and what each must have: what was added, or listed, before it."""

    def __init__(self, added: dict[Hashable, Op], lists: Sequence[Op], noun: str) -> None:
        self.added, self.lists, self.noun = added, lists, noun
        self.shown = [dict.fromkeys(plain(one) for one in op.result) for op in lists]
        self.told: list[Explanation] = []
        """The first of each kind in each list."""

    def faults(self) -> int:
        """How many elements are wrong, in all lists together."""
        strange = sum(self._strange(op, shown) for op, shown in zip(self.lists, self.shown, strict=True))
        return strange + self._missing(LOST, self._acknowledged()) + self._missing(GONE, self._listed())

    def _strange(self, op: Op, shown: dict[Hashable, None]) -> int:
        """What the list should not have."""
        kinds: Counter[str] = Counter()

        def tell(kind: str, element: Hashable, but: str, *others: Op) -> None:
            kinds[kind] += 1
            if kinds[kind] == 1:
                self._tell(kind, f"{said(op)} has {self.noun} {short(element)}, {but}", op, *others)

        for element in shown:
            add = self.added.get(element)
            if add is None:
                tell(PHANTOM, element, "which nobody added")
            elif add.outcome == FAIL:
                tell(REFUSED, element, f"though {said(add)}", add)
            elif add.start > op.end:
                tell(EARLY, element, f"and was over before {said(add)} was begun", add)
        if len(shown) < len(op.result):
            for element, times in Counter(plain(one) for one in op.result).items():
                if times > 1:
                    tell(DOUBLE, element, f"{times} times")
        return kinds.total()

    def _missing(self, kind: str, due: Sequence[tuple[float, Hashable, Op]]) -> int:
        """A sweep: what is due, by when, and not in a list that began later."""
        there: dict[Hashable, Op] = {}
        turn, count = 0, 0
        for op, shown in zip(self.lists, self.shown, strict=True):
            while turn < len(due) and due[turn][0] < op.start:
                there.setdefault(due[turn][1], due[turn][2])
                turn += 1
            missing = there.keys() - shown.keys()
            if kind == GONE and missing:
                missing = {one for one in missing if not self._acknowledged_before(one, op)}
            count += len(missing)
            if missing:
                element = min(missing, key=lambda one: there[one].end)
                name, before = f"{self.noun} {short(element)}", there[element]
                was = "was acknowledged" if kind == LOST else "had ended, which has it"
                self._tell(
                    kind, f"{said(op)} lacks {name}, and it began after {said(before)} {was}", op, before
                )
        return count

    def _acknowledged_before(self, element: Hashable, op: Op) -> bool:
        add = self.added[element]
        return add.outcome == OK and add.end < op.start

    def _tell(self, kind: str, text: str, offender: Op, *others: Op) -> None:
        operations = sorted((offender, *others), key=lambda one: (one.start, one.end))
        self.told.append(Explanation(kind, text, tuple(operations), offender))

    def _acknowledged(self) -> list[tuple[float, Hashable, Op]]:
        due = [(add.end, element, add) for element, add in self.added.items() if add.outcome == OK]
        return sorted(due, key=lambda one: one[0])

    def _listed(self) -> list[tuple[float, Hashable, Op]]:
        """When each element was first seen, of those that were not acknowledged by then."""
        found = []
        seen: set[Hashable] = set()
        for op, shown in sorted(zip(self.lists, self.shown, strict=True), key=lambda pair: pair[0].end):
            for element in shown.keys() - seen:
                seen.add(element)
                add = self.added.get(element)
                if add is not None and not (add.outcome == OK and add.end <= op.end):
                    found.append((op.end, element, op))
        return found


def said(op: Op) -> str:
    """As explanations name it."""
    when = (
        f"({op.start:.4f} to {op.end:.4f} s)" if op.end < math.inf else f"(from {op.start:.4f} s, no answer)"
    )
    if op.op == "list":
        return f"the list of {len(op.result)} by {op.client} {when}"
    refused = ", refused" if op.outcome == FAIL else ""
    return f"the addition of {short(op.value)} by {op.client} {when}{refused}"


def _vacuous(adds: Sequence[Op], lists: Sequence[Op], noun: str) -> str:
    """Why a right history shows nothing."""
    done = [op.end for op in adds if op.outcome == OK]
    if not done:
        return f"no {noun} was acknowledged, so none could have been lost"
    if not any(op.start > max(done) for op in lists):
        return (
            f"nobody listed after the last {noun} was acknowledged, so it is not known whether all are there"
        )
    return ""
