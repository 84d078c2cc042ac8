"""Who held a lock when: holds never overlap, tokens rise, and what holders wrote forms one unbroken chain.

A hold is *sure* from the latest moment at which the lock can have been got to the earliest at which it can have been
let go; two sure holds that overlap have no excuse. A register that holders count up, without any protection but the
lock, shows the same from the other side: every holder must find what the one before it wrote.
"""

from __future__ import annotations

import bisect
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from laila.lab.checkers.fault import Fault, in_order
from laila.lab.clocks import Moment

OVERLAP = "two holders at the same time"
UNRISEN = "a fencing token that does not rise"
OTHER_THAN_LAST = "a shared hold with a token that is not the last one"
INTRUDER = "the register changed under a holder"
LOST = "an update was lost"
OVERTAKEN = "a write by an overtaken holder is visible"
TORN = "the register was not readable"
LOSS = "a lock that was lost, though nobody took it away"


@dataclass(frozen=True, slots=True)
class Seen:
    """The register as somebody found it: the number, and the token of the holder who wrote it (0: nobody yet)."""

    number: int
    token: int


@dataclass(frozen=True, slots=True)
class Hold:
    """One client held the lock once. `asked`: when it called; `got`: when the call returned; `gave`: when it called
    release, or was killed."""

    client: str
    node: str
    token: int
    asked: Moment
    got: Moment
    gave: Moment
    shared: bool = False
    killed: bool = False
    found: Seen | None = None
    """What the register held at the beginning; None when it could not be read."""
    left: Seen | None = None
    """What it held at the end, before this holder wrote."""
    wrote: int | None = None
    """The number that this holder wrote; None for shared holds, and for those that were killed first."""
    loss: str = ""
    """Why it was not held any more when it was let go; empty when it was."""

    @property
    def sure(self) -> tuple[float, float] | None:
        """From when to when it held without doubt."""
        start, end = self.got.latest, self.gave.earliest
        return (start, end) if start <= end else None

    def __str__(self) -> str:
        kind = "shared" if self.shared else f"token {self.token}"
        return f"{self.client} ({kind}, {self.got.latest:.4f} to {self.gave.earliest:.4f} s)"

    def to_record(self, began: float) -> dict[str, Any]:
        """For the history; times are seconds since the run began."""
        record: dict[str, Any] = {"client": self.client, "node": self.node, "token": self.token}
        record |= {key: getattr(self, key).since(began) for key in ("asked", "got", "gave")}
        record |= {key: value for key in ("shared", "killed", "loss") if (value := getattr(self, key))}
        for key in ("found", "left"):
            if (seen := getattr(self, key)) is not None:
                record[key] = [seen.number, seen.token]
        return record | ({} if self.wrote is None else {"wrote": self.wrote})

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Hold:
        """What `to_record` made; its times count from the beginning of the run."""
        plain = ("client", "node", "token", "shared", "killed", "wrote", "loss")
        fields: dict[str, Any] = {key: record[key] for key in plain if key in record}
        fields |= {key: Seen(*record[key]) for key in ("found", "left") if key in record}
        fields |= {key: Moment(*record[key]) for key in ("asked", "got", "gave")}
        return cls(**fields)


def judge(holds: Sequence[Hold]) -> list[Fault]:
    """Everything that is wrong with the holds of one lock, in the order of time."""
    return in_order([*judge_holders(holds), *chain(holds)])


def judge_holders(holds: Sequence[Hold]) -> list[Fault]:
    """The same where no register was counted up."""
    return in_order([*overlaps(holds), *tokens(holds), *losses(holds)])


def overlaps(holds: Sequence[Hold]) -> list[Fault]:
    """Sure holds that overlap, where at least one of the two is exclusive. One fault for each hold that came into
    another."""
    return [_overlap(*pair) for pair in overlapping(holds)]


def overlapping(holds: Sequence[Hold]) -> list[tuple[Hold, Hold]]:
    """Pairs (who held, who came in). A sweep: each hold is compared with whoever would end last."""
    found: list[tuple[Hold, Hold]] = []
    last_any: tuple[float, Hold] | None = None
    last_exclusive: tuple[float, Hold] | None = None
    for start, end, hold in sorted(_sure(holds), key=lambda item: item[0]):
        before = last_exclusive if hold.shared else last_any
        if before is not None and start < before[0]:
            found.append((before[1], hold))
        if last_any is None or end > last_any[0]:
            last_any = (end, hold)
        if not hold.shared and (last_exclusive is None or end > last_exclusive[0]):
            last_exclusive = (end, hold)
    return found


def tokens(holds: Sequence[Hold]) -> list[Fault]:
    """Of two exclusive holds the later one has the greater token; a shared one has that of the last before it."""
    found = []
    exclusive = sorted((h for h in holds if not h.shared), key=lambda hold: hold.got.latest)
    greatest: Hold | None = None
    waiting = sorted(exclusive, key=lambda hold: hold.asked.earliest)
    settled, turn = 0, 0
    for hold in waiting:  # asked after another had it: that one's token must be smaller
        while turn < len(exclusive) and exclusive[turn].got.latest < hold.asked.earliest:
            if exclusive[turn].token > settled:
                settled, greatest = exclusive[turn].token, exclusive[turn]
            turn += 1
        if greatest is not None and hold.token <= settled:
            found.append(Fault(UNRISEN, f"{hold} after {greatest}", hold.got.latest, hold.node))
    known = {(fault.at, fault.node) for fault in found}
    found += [fault for fault in _tokens_by_turn(exclusive) if (fault.at, fault.node) not in known]
    return found + _shared_tokens(exclusive, [hold for hold in holds if hold.shared])


def chain(holds: Sequence[Hold]) -> list[Fault]:
    """Every holder finds the number and the token that the one before it left, and nobody writes in between."""
    found = []
    writers: dict[int, list[Hold]] = defaultdict(list)
    by_token = {hold.token: hold for hold in holds if not hold.shared}
    for hold in holds:
        if hold.wrote is not None:
            writers[hold.wrote].append(hold)
        if hold.killed:
            continue
        if hold.found is None or hold.left is None:
            found.append(Fault(TORN, f"{hold} could not read it", hold.got.latest, hold.node))
        elif hold.found != hold.left:
            said = f"{hold} found {_said(hold.found)} and then {_said(hold.left)}"
            found.append(Fault(INTRUDER, said, hold.gave.earliest, hold.node))
    for number, wrote in writers.items():
        for hold in wrote[1:]:
            text = f"{hold} and {wrote[0]} both wrote number {number}"
            found.append(Fault(LOST, text, hold.gave.earliest, hold.node))
    return found + _links(holds, writers, by_token)


def losses(holds: Sequence[Hold]) -> list[Fault]:
    """Holds that the holder itself says were lost."""
    return [Fault(LOSS, f"{hold}: {hold.loss}", hold.gave.earliest, hold.node) for hold in holds if hold.loss]


def contended(holds: Sequence[Hold]) -> Counter[str]:
    """For each node how often one of its clients waited while a client of another node surely held the lock."""
    sure = sorted(((start, end, hold.node) for start, end, hold in _sure(holds)), key=lambda item: item[0])
    starts = [start for start, _, _ in sure]
    counts: Counter[str] = Counter()
    for hold in holds:
        since, until = hold.asked.latest, hold.got.earliest
        turn = bisect.bisect_left(starts, until) - 1
        for start, end, node in reversed(sure[max(0, turn - 8) : turn + 1]):
            if node != hold.node and end > since and start < until:
                counts[hold.node] += 1
                break
    return counts


def acquisitions(holds: Sequence[Hold]) -> Counter[str]:
    """Exclusive ones, for each node."""
    return Counter(hold.node for hold in holds if not hold.shared)


def last_number(holds: Sequence[Hold]) -> int:
    """What the register must hold in the end: the greatest number that anybody wrote."""
    return max((hold.wrote for hold in holds if hold.wrote is not None), default=0)


def _sure(holds: Sequence[Hold]) -> list[tuple[float, float, Hold]]:
    return [(*hold.sure, hold) for hold in holds if hold.sure is not None]


def _overlap(first: Hold, second: Hold) -> Fault:
    start, end = second.sure or (0.0, 0.0)
    both = min(end, first.gave.earliest) - start
    return Fault(OVERLAP, f"{first} and {second}, for {both * 1000:.3f} ms", start, second.node)


def _tokens_by_turn(exclusive: Sequence[Hold]) -> list[Fault]:
    """Sure holds one after another: since they exclude each other, their order is that of their tokens."""
    found, before = [], None
    for _, _, hold in sorted(_sure(exclusive), key=lambda item: item[0]):
        if before is not None and hold.token <= before.token:
            found.append(Fault(UNRISEN, f"{hold} after {before}", hold.got.latest, hold.node))
        if before is None or hold.token > before.token:
            before = hold
    return found


def _shared_tokens(exclusive: Sequence[Hold], shared: Sequence[Hold]) -> list[Fault]:
    found = []
    ordered = sorted((hold for hold in exclusive), key=lambda hold: hold.got.latest)
    ends = [hold.got.latest for hold in ordered]
    greatest: list[int] = []
    for hold in ordered:
        greatest.append(max(hold.token, greatest[-1] if greatest else 0))
    for hold in shared:
        turn = bisect.bisect_left(ends, hold.asked.earliest)
        least = greatest[turn - 1] if turn else 0
        known = hold.token == 0 or any(other.token == hold.token for other in exclusive)
        if hold.token < least or not known:
            text = f"{hold} with token {hold.token}, after token {least}"
            found.append(Fault(OTHER_THAN_LAST, text, hold.got.latest, hold.node))
    return found


def _links(
    holds: Sequence[Hold], writers: Mapping[int, Sequence[Hold]], by_token: Mapping[int, Hold]
) -> list[Fault]:
    found = []
    for hold in holds:
        if hold.found is None or hold.found.number == 0:
            continue
        writer = by_token.get(hold.found.token)
        if hold.found.token > hold.token:
            kind = OTHER_THAN_LAST if hold.shared else UNRISEN
            text = f"{hold} with token {hold.token} found {_said(hold.found)}"
            found.append(Fault(kind, text, hold.got.latest, hold.node))
        elif writer is None or not (writer.killed or writer.wrote == hold.found.number):
            text = f"{hold} found {_said(hold.found)}, which no holder wrote so"
            found.append(Fault(OVERTAKEN, text, hold.got.latest, hold.node))
        elif writer.sure is not None and (skipped := _skipped(hold, writer, writers)) is not None:
            text = f"{hold} found {_said(hold.found)} of {writer}, though {skipped} had written later"
            found.append(Fault(OVERTAKEN, text, hold.got.latest, hold.node))
    return found


def _skipped(hold: Hold, writer: Hold, writers: Mapping[int, Sequence[Hold]]) -> Hold | None:
    """Somebody whose write came after that of `writer` and was over before `hold` asked."""
    for other in writers.get((hold.found.number if hold.found else 0) + 1, ()):
        if other.token > writer.token and other.gave.latest < hold.asked.earliest:
            return other
    return None


def _said(seen: Seen) -> str:
    return f"number {seen.number} by token {seen.token}"
