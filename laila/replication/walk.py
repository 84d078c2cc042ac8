"""Where replicas differ, found by their digest trees.

All are asked for the same part at the same time, beginning with the whole. A part whose digests are equal is done; of
one that differs, the differing branches are asked for, many at a time, until what differs is small enough that its
names come along. So replicas that agree cost one exchange each, and three differing names of 100,000 a handful.

Rules
- Depth first, and so many parts in one exchange that about a mebibyte comes back: what is kept is bounded, however
  many names differ.
- A replica that cannot be asked, or answers what cannot be, is left out from there on, and the others are compared on.
- Nothing stands still for this: what was compared may be older than what is there. Whoever acts on a difference looks
  again, and acts so that it does no harm when it is gone by then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import DeadlineExceeded, ProtocolError
from .branches import DIGEST, NOTHING, branches_of, hash_of
from .calls import Crowd
from .replica import Branch
from .tags import Found, Stand, Unsure

BATCH = 4096
"""What may come back of one exchange, in names of about 250 bytes."""
DEPTH = 32
"""Hex digits after which a part cannot be large any more."""
_BRANCHES = 256
_MOST = 16
"""The digests of a large part are as long as so many names."""
_STEP = [f"{number:02x}" for number in range(_BRANCHES)]
_Entries = tuple[tuple[str, Found], ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """A name of which replicas have different versions: what each has, by member id, as far as it was asked."""

    name: str
    found: Mapping[str, Found]


@dataclass(frozen=True, slots=True)
class _Part:
    """A part that may differ. `known` are those whose names under it came with a larger part already."""

    prefix: str
    known: Mapping[str, _Entries] = field(default_factory=dict)
    cost: int = _MOST
    """How many names come back for it, about."""


class Walk:
    """One comparison of the replicas `ids`; iterate over it once, in one thread at a time.

    Afterwards: `unreachable` (by id, why), `exchanges` (by id), and how many `branches` and `entries` were looked at.
    `names` is how many names the fullest replica has, `share` which share of all names was compared so far, and
    `ended` whether that was all of them, with whoever answered.
    """

    def __init__(
        self,
        crowd: Crowd,
        ids: Iterable[str],
        *,
        timeout: float = 30.0,
        batch: int = BATCH,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._crowd = crowd
        self._ids = list(ids)
        self._timeout = timeout
        self._batch = batch
        self._stop = stop
        self.unreachable: dict[str, Exception] = {}
        self.exchanges: dict[str, int] = dict.fromkeys(self._ids, 0)
        self.counts: dict[str, int] = {}
        self.branches = 0
        self.entries = 0
        self.share = 0.0
        self.ended = False

    @property
    def names(self) -> int:
        return max(self.counts.values(), default=0)

    @property
    def asked(self) -> set[str]:
        """Who has answered everything so far."""
        return set(self._ids) - set(self.unreachable)

    def __iter__(self) -> Iterator[Difference]:
        parts = [_Part("")]
        while parts and not self._stop():
            now = self._next(parts)
            answers = self._ask(now)
            for place, part in enumerate(now):
                sides = {
                    id: answers[id][place] if id in answers else part.known[id]
                    for id in self._ids
                    if id not in self.unreachable
                }
                different, deeper = _compare(part.prefix, sides)
                if deeper:
                    self.share += (_BRANCHES - len(deeper)) * _weight(deeper[0].prefix)
                    parts.extend(deeper)
                else:
                    self.share += _weight(part.prefix)
                yield from different
        if not parts:
            self.share = 1.0
            self.ended = not self._stop()

    def _next(self, parts: list[_Part]) -> list[_Part]:
        """Take as many off the end as go into one exchange."""
        cost, now = 0, list[_Part]()
        while parts and (not now or cost + parts[-1].cost <= self._batch):
            now.append(parts.pop())
            cost += now[-1].cost
        return now

    def _ask(self, parts: Sequence[_Part]) -> dict[str, list[Branch | _Entries]]:
        """What each has of these parts, by id; what is known of one is not asked for."""
        ids = [id for id in self._ids if id not in self.unreachable]
        wanted = {id: [part.prefix for part in parts if id not in part.known] for id in ids}
        asked = [id for id in ids if wanted[id]]
        answers = self._crowd.ask(
            asked,
            lambda id, replica: replica.branches(wanted[id]),
            lambda answers: self._stop(),
            self._timeout,
        )
        for id in asked:
            self.exchanges[id] += 1
        self.unreachable.update(answers.failed)
        if not self._stop():
            late = DeadlineExceeded(f"no answer within {self._timeout:g} s")
            self.unreachable.update(dict.fromkeys(answers.silent, late))
        for id, branches in answers.got.items():
            try:
                self._check(id, branches, wanted[id])
            except ProtocolError as error:
                self.unreachable[id] = error
        if self._stop():
            self.unreachable.update(dict.fromkeys(answers.silent, DeadlineExceeded("not waited for")))
        laid: dict[str, list[Branch | _Entries]] = {}
        for id in ids:
            if id not in self.unreachable:
                came = iter(answers.got.get(id, ()))
                laid[id] = [part.known[id] if id in part.known else next(came) for part in parts]
        return laid

    def _check(self, id: str, branches: Sequence[Branch], wanted: Sequence[str]) -> None:
        """Count what came of whom. Raises ProtocolError for what answers another question, or none."""
        if [branch.prefix for branch in branches] != list(wanted):
            raise ProtocolError("it was asked for parts of its digest tree and answered with others")
        for branch in branches:
            if branch.branches and (
                len(branch.branches) != _BRANCHES * DIGEST or len(branch.prefix) >= DEPTH
            ):
                raise ProtocolError(f"part {branch.prefix!r} of its digest tree is none")
            if not all(_hash(name).startswith(branch.prefix) for name, _ in branch.entries):
                raise ProtocolError(f"part {branch.prefix!r} of its digest tree holds names of others")
            if not branch.prefix:
                self.counts[id] = branch.count
            self.branches += 1
            self.entries += len(branch.entries)


def _compare(prefix: str, sides: Mapping[str, Branch | _Entries]) -> tuple[list[Difference], list[_Part]]:
    """Names that differ in a part, or else the branches of it that do."""
    fresh = [side for side in sides.values() if isinstance(side, Branch)]
    if len(sides) < 2 or (len(fresh) == len(sides) and len({side.digest for side in fresh}) == 1):
        return [], []
    large = {id: side for id, side in sides.items() if isinstance(side, Branch) and side.branches}
    small = {
        id: side.entries if isinstance(side, Branch) else side
        for id, side in sides.items()
        if id not in large
    }
    if not large:
        return _differing(small), []
    held = {id: _by_branch(entries, prefix) for id, entries in small.items()}
    cost = max(1, min(_MOST, max(side.count for side in large.values()) // _BRANCHES))
    deeper = []
    for number, step in enumerate(_STEP):
        at = number * DIGEST
        digests = {side.branches[at : at + DIGEST] for side in large.values()}
        digests |= {held[id][step].digest if step in held[id] else NOTHING for id in small}
        if len(digests) > 1:
            known = {id: held[id][step].entries if step in held[id] else () for id in small}
            deeper.append(_Part(prefix + step, known, cost))
    return [], deeper


def _differing(sides: Mapping[str, _Entries]) -> list[Difference]:
    have = {id: dict(entries) for id, entries in sides.items()}
    names = sorted({name for entries in have.values() for name in entries})
    found = ({id: entries.get(name) for id, entries in have.items()} for name in names)
    return [
        Difference(name, by_id)
        for name, by_id in zip(names, found, strict=True)
        if len({_version(one) for one in by_id.values()}) > 1
        or any(isinstance(one, Unsure) for one in by_id.values())
    ]


def _version(found: Found) -> object:
    """What two replicas that agree have in common."""
    return found.tag if isinstance(found, Stand) else found


def _by_branch(entries: _Entries, prefix: str) -> dict[str, Branch]:
    """The branches that a part would have if it were large, but for those without names."""
    depth = len(prefix)
    steps = {_hash(name)[depth : depth + 2] for name, _ in entries}
    return {
        branch.prefix[depth:]: branch for branch in branches_of(entries, [prefix + step for step in steps])
    }


def _hash(name: str) -> str:
    return hash_of(name).hex()


def _weight(prefix: str) -> float:
    """The share of all names that lies in a part."""
    return 16.0 ** -len(prefix)
