"""How a fault is written: `KIND[:OPTION=VALUE…][@WHERE]`, and several in a schedule.

kill                          of a node that the seed chooses
kill@node2                    of this one
pause@node1.node3             of both
pause@*                       of all
slow-fsync@most               of more than half, which the seed chooses
partition@node1/node2.node3   between these two groups
latency:ms=200:jitter=50@node2
kill,pause,partition          one after another
partition+kill,latency        two at once, then the third
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from laila.errors import BadConfig

_KIND = re.compile(r"[a-z][a-z0-9-]*")
ALL = "*"
MOST = "most"


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """One fault as it was asked for. `groups` is empty when the seed chooses the nodes; `*` is all."""

    kind: str
    options: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[tuple[str, ...], ...] = ()

    def __str__(self) -> str:
        options = "".join(f":{name}={value}" for name, value in self.options.items())
        where = "/".join(".".join(group) for group in self.groups)
        return f"{self.kind}{options}{'@' + where if where else ''}"

    @classmethod
    def parse(cls, text: str) -> FaultSpec:
        """Raises BadConfig that says how it is written."""
        head, at, where = text.strip().partition("@")
        kind, *words = head.split(":")
        options = dict(word.partition("=")[::2] for word in words)
        groups = tuple(tuple(group.split(".")) for group in where.split("/")) if at else ()
        right = _KIND.fullmatch(kind) and all(name and value for name, value in options.items())
        if not right or any(not name for group in groups for name in group):
            raise BadConfig(
                f"{text!r} is no fault; write KIND, KIND@NODE, KIND:OPTION=VALUE or partition@NODE/NODE.NODE"
            )
        return cls(kind, options, groups)


Schedule = tuple[tuple[FaultSpec, ...], ...]
"""Turns, one after another; what stands in one turn is done at once."""


def schedule(text: str | Sequence[str]) -> Schedule:
    """`a+b,c`, or a list of such texts. Raises BadConfig."""
    texts = [text] if isinstance(text, str) else list(text)
    turns = [turn for one in texts for turn in one.split(",") if turn.strip()]
    return tuple(tuple(FaultSpec.parse(one) for one in turn.split("+")) for turn in turns)


def written(turns: Schedule) -> str:
    """As `schedule` takes it."""
    return ",".join("+".join(map(str, turn)) for turn in turns)
