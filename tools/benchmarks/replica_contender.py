"""What every way to keep values on three servers is: a put that a majority has on disk, and a get that sees it.

Each contender is tuned as its own manual advises; what was chosen is in its module's docstring. `serve` runs in a
process of each server and becomes it; everything else runs in the one client process.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .facts import Facts

SERVERS = 3
DIFFERING = 3  # names that are repaired
LOCAL = "bare"  # has no servers
SHARED_WORKS = ("durable", "crowd")
OWN_WORKS = ("quorum", "stream", "verify", "repair")  # those that have nothing of the others to stand beside

# by the name on the command line; the order is the order of the table
CONTENDERS: dict[str, Facts] = {
    "bare": Facts(
        "bare_replicas", "Bare", "one bare file, local", environment="replicas", works=SHARED_WORKS
    ),
    "laila": Facts(
        "laila_replicas",
        "Laila",
        "ReplicatedStore",
        encrypted=True,
        environment="replicas",
        works=(*SHARED_WORKS, *OWN_WORKS),
        checkout=True,
    ),
    "etcd": Facts("etcd_replicas", "Etcd", "etcd, grpcio", environment="replicas", works=SHARED_WORKS),
    "redis": Facts("redis_replicas", "Redis", "redis-py, WAIT 1", environment="replicas", works=SHARED_WORKS),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where the servers of one contender are: a folder, two loopback ports for each, and what only they know."""

    folder: Path
    ports: tuple[int, ...]
    secret: str

    def words(self) -> str:
        """As an argument of a process."""
        return json.dumps([str(self.folder), self.ports, self.secret])

    @classmethod
    def of_words(cls, words: str) -> Place:
        folder, ports, secret = json.loads(words)
        return cls(Path(folder), tuple(ports), secret)

    def port(self, number: int) -> int:
        """Where clients reach a server."""
        return self.ports[2 * number]

    def other(self, number: int) -> int:
        """Its second port, for whatever it needs one."""
        return self.ports[2 * number + 1]

    def own(self, number: int) -> Path:
        """The folder of one server, made when it is asked for."""
        folder = self.folder / f"server-{number}"
        folder.mkdir(exist_ok=True)
        return folder


class ReplicaContender(ABC):
    """A way to keep values on three servers."""

    def __init__(self, place: Place) -> None:
        self.place = place

    @abstractmethod
    def serve(self, number: int) -> Sequence[str]:
        """What to run as one of the servers; `os.environ` may be changed for it."""

    @abstractmethod
    def connect(self) -> None:
        """Reach the servers, once all are ready; after this every call below works, from any thread."""

    @abstractmethod
    def put(self, name: str, value: bytes) -> None:
        """Store a value under a name that may have one, and wait until it is durable."""

    @abstractmethod
    def get(self, name: str) -> bytes:
        """The newest value of a name."""


def load(name: str) -> type[ReplicaContender]:
    """The class of a contender, in a process of that contender's environment."""
    found: type[ReplicaContender] = CONTENDERS[name].load()
    return found


def become(command: Sequence[str]) -> None:
    """Go on as another program, whose own lines are no answers to the harness."""
    os.dup2(2, 1)
    os.execvp(command[0], list(command))  # noqa: S606  # the server takes this pid
