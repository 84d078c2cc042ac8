"""A view: which replicas there are, and how many of them are enough, under one membership.

While the membership changes, there are two groups, the old one and the next one, and whatever is done needs enough of
both. So a version that was acknowledged under either is seen under both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from ..errors import BadConfig

READ = "read"
WRITE = "write"


@dataclass(frozen=True, slots=True)
class Member:
    """One replica of a store: its identity, which its stamp carries, and where it is."""

    id: str
    where: str


@dataclass(frozen=True, slots=True)
class Quorums:
    """How many replicas must answer; None is a majority. `stale` allows what loses acknowledged versions."""

    write: int | None = None
    read: int | None = None
    stale: bool = False

    def check(self, count: int) -> None:
        """Raises BadConfig unless what is read is always what was written."""
        for what, number in (("write_quorum", self.write), ("read_quorum", self.read)):
            if number is not None and (type(number) is not int or not 1 <= number <= count):
                raise BadConfig(
                    f"{what} is a number from 1 to {count}, as many as there are replicas, not {number!r}"
                )
        reads, writes = self.of(READ, count), self.of(WRITE, count)
        if reads + writes <= count and not self.stale:
            raise BadConfig(
                f"read_quorum {reads} and write_quorum {writes} of {count} replicas need not meet: a read may miss an "
                f"acknowledged write. Their sum must be above {count}; or say allow_stale_reads=True, and accept "
                "that reads may be stale and that acknowledged versions are lost with the replicas that have them"
            )

    def of(self, kind: str, count: int) -> int:
        chosen = self.write if kind == WRITE else self.read
        return count // 2 + 1 if chosen is None else chosen


@dataclass(frozen=True, slots=True)
class View:
    """One membership of a store. `next` is empty but while it changes. `number` rises with each membership."""

    store: str
    number: int
    members: tuple[Member, ...]
    next: tuple[Member, ...] = ()
    quorums: Quorums = field(default_factory=Quorums)

    @property
    def groups(self) -> tuple[tuple[Member, ...], ...]:
        """Those of which enough are needed, each."""
        return (self.members, self.next) if self.next else (self.members,)

    @property
    def everybody(self) -> tuple[Member, ...]:
        """Each replica once."""
        return tuple({member.id: member for group in self.groups for member in group}.values())

    def enough(self, kind: str, ids: Collection[str]) -> bool:
        """Whether these replicas are a quorum (`READ` or `WRITE`)."""
        return all(
            sum(member.id in ids for member in group) >= self.quorums.of(kind, len(group))
            for group in self.groups
        )

    def possible(self, kind: str, failed: Collection[str]) -> bool:
        """Whether there can still be a quorum when these have failed."""
        return self.enough(kind, {member.id for member in self.everybody} - set(failed))

    def needed(self, kind: str) -> int:
        """How many replicas are needed at least."""
        return max(self.quorums.of(kind, len(group)) for group in self.groups)

    def __iter__(self) -> Iterator[Member]:
        return iter(self.everybody)
