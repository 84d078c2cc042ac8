"""The nodes of one check as its conductor sees them: asked one by one or all at once, their clocks mapped to its own.

A node's clock is known up to half of the shortest round trip; times of two nodes are compared only beyond that.
Processes of one kernel share its clock, so theirs are exact. A node that fails ends what was being tried with it, by
NodeFailed; whether it is gone for good, that says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BadValue, DeadlineExceeded, LailaError, LinkError, ProtocolError
from ..mounts import Mount
from .nodes import NodeLink
from .steps import MAX_START, MAX_WAIT

PATIENCE = 15.0
"""Seconds beyond its own bound that a step may take on a slow volume; then its node counts as hanging."""
LEAD = 0.1
"""Seconds between asking for a race and its beginning, beside the way there."""
LONGEST = MAX_WAIT - 0.5
"""Seconds of one race."""
ENCORES, ENCORE = 4, 1.0
"""How many races more, and of how many seconds, when those within the time said too little."""
_PINGS = 5
_LONGEST_NAME = 24

Tell = Callable[[str], None]


class NodeFailed(Exception):
    """A step did not work on a node. `gone`: it will not answer any more."""

    def __init__(self, name: str, error: LailaError) -> None:
        text = str(error)
        named = text.startswith((f"{name} ", f"the program of {name} "))
        super().__init__(text if named else f"{name}: {text}")
        self.gone = isinstance(error, LinkError | DeadlineExceeded)


class Answer(dict[str, Any]):
    """What a node answered to a step; that something is missing in it is the node's failure."""

    def __init__(self, name: str, words: Mapping[str, Any]) -> None:
        super().__init__(words)
        self._name = name

    def __missing__(self, word: str) -> Any:
        raise NodeFailed(self._name, ProtocolError(f"its answer lacks {word!r}; does it run the same laila?"))


@dataclass(slots=True, eq=False)
class Member:
    """A node that takes part. `offset`: its monotonic clock minus the conductor's, known up to `slack`."""

    link: NodeLink
    name: str
    path: str
    mount: Mount
    boot: str
    process: tuple[str, str, int]
    host: str
    device: int = 0
    offset: float = 0.0
    slack: float = 0.0

    def __str__(self) -> str:
        return self.name


class Party:
    """Begin with `gather`; `disperse` removes what the check has left, whatever has happened."""

    def __init__(self, links: Sequence[NodeLink], path: str, probe: str, tell: Tell, patience: float) -> None:
        self.links = tuple(links)
        self.members: list[Member] = []
        self.tell = tell
        self._gone: set[NodeLink] = set()
        self._path = path
        self._probe = probe
        self._patience = patience

    @property
    def pairs(self) -> list[tuple[Member, Member]]:
        """Each member with the next, the last with the first: everybody is in both places once."""
        return list(zip(self.members, [*self.members[1:], self.members[0]], strict=True))

    def others(self, member: Member) -> list[Member]:
        return [other for other in self.members if other is not member]

    # ---- coming and going ----

    def gather(self) -> None:
        """Have all of them begin. Raises NodeFailed, BadValue when two are one process."""
        for link in self.links:
            self._welcome(link)
        for member in self.members:
            self.synchronize(member)

    def _welcome(self, link: NodeLink) -> None:
        path = link.path or self._path
        hello = self._of(link, {"do": "hello"}, self._patience)
        process = (str(hello["boot"]), str(hello["space"]), int(hello["pid"]))
        for member in self.members:
            if member.process == process:
                raise BadValue(f"{link.name} and {member.name} are one process; name two nodes")
        begun = self._of(link, {"do": "begin", "path": path, "probe": self._probe}, self._patience)
        mount = Mount.from_dict(begun["mount"])
        host, device = str(hello["host"]), int(begun["device"])
        name = self._called(link.name, host)
        self.members.append(Member(link, name, path, mount, process[0], process, host, device))

    def _called(self, name: str, host: str) -> str:
        """What the node is called in evidence: a whole command would hide what is said about it."""
        short = name if len(name) <= _LONGEST_NAME else host
        same = sum(member.name.partition(" #")[0] == short for member in self.members)
        return f"{short} #{same + 1}" if same else short

    def synchronize(self, member: Member) -> None:
        """Find the member's clock again. Raises NodeFailed."""
        best = None
        for _ in range(_PINGS):
            before = time.monotonic()
            there = float(self.ask(member, "time")["monotonic"])
            after = time.monotonic()
            if best is None or after - before < best[1]:
                best = (there - (before + after) / 2, after - before)
        assert best is not None  # there was a ping
        offset, slack = best[0], best[1] / 2
        if member.boot == _own_boot() and abs(offset) <= slack:
            offset = slack = 0.0
        member.offset, member.slack = offset, slack

    def disperse(self) -> list[str]:
        """Have all of them let go, then remove the directory. What did not work, in sentences."""
        problems: dict[NodeLink, str] = {}
        for step, bound in (("end", MAX_WAIT), ("remove", self._patience)):
            for link in self.links:
                if link not in problems and link not in self._gone:
                    try:
                        link.ask({"do": step}, bound)
                    except LailaError as error:
                        problems[link] = str(error)
        began = [member.link for member in self.members]
        left = f"may have left {self._path}/.laila/probe-{self._probe}"
        if began and all(link in problems or link in self._gone for link in began):
            return [f"the check {left}: no node was there to remove it"]
        return [f"{link.name} {left}: {problems[link]}" for link in began if link in problems]

    # ---- asking ----

    def ask(self, member: Member, do: str, **words: Any) -> Answer:
        """The answer to one step. Raises NodeFailed."""
        bound = sum(float(words.get(name, 0)) for name in ("wait", "seconds")) + MAX_START
        return self._of(member.link, {"do": do, **words}, self._patience + bound)

    def together(self, members: Sequence[Member], do: str, **words: Any) -> list[Answer]:
        """The answers of all to one step, asked at the same time. Raises NodeFailed once all have answered."""
        return self.each([(member, do, words) for member in members])

    def each(self, steps: Sequence[tuple[Member, str, dict[str, Any]]]) -> list[Answer]:
        """The answers to several steps, asked at the same time. Raises NodeFailed once all have answered."""
        if not steps:
            return []
        with ThreadPoolExecutor(len(steps), thread_name_prefix="volume check") as pool:
            waiting = [pool.submit(self.ask, member, do, **words) for member, do, words in steps]
        return [future.result() for future in waiting]

    def at_once(self, steps: Sequence[tuple[Member, str, dict[str, Any]]], seconds: float) -> list[Answer]:
        """A race: the steps begin at one moment on all nodes, and go on for `seconds`. Raises NodeFailed."""
        start = time.monotonic() + LEAD + min(4 * max(member.slack for member, _, _ in steps), MAX_START / 2)
        return self.each(
            [
                (member, do, {**words, "start": start + member.offset, "seconds": seconds})
                for member, do, words in steps
            ]
        )

    def _of(self, link: NodeLink, step: dict[str, Any], timeout: float) -> Answer:
        try:
            return Answer(link.name, link.ask(step, timeout))
        except LailaError as error:
            failure = NodeFailed(link.name, error)
            if failure.gone:
                self._gone.add(link)
            raise failure from error


class Races:
    """The lengths of the races that fill `seconds`, and of some more until `enough` is set."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.enough = False

    def __iter__(self) -> Iterator[float]:
        left = self.seconds
        while left > 0.05:
            yield min(left, LONGEST)
            left -= LONGEST
        for _ in range(ENCORES):
            if not self.enough:
                yield ENCORE


def _own_boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
