"""What every way to lock is: two calls, `acquire` and `release`, for one lock that other processes use too.

A contender is built with the folder of its lock files (and the port of a redis-server). What its manual
advises for a lock that is taken again and again is what is measured; waiting for it has no limit that is
reached here. `acquire` returns when the lock is held.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from .facts import Facts


@dataclass(frozen=True, slots=True)
class Place:
    """Where the processes meet."""

    folder: Path
    port: int | None

    @property
    def file(self) -> Path:
        """The lock file of those that have one."""
        return self.folder / "bench.lock"


# by the name on the command line; the order is the order of the table
CONTENDERS: dict[str, Facts] = {
    "bare": Facts("flock_locks", "Bare", "bare flock", environment="locks"),
    "reopen": Facts("flock_locks", "Reopen", "flock, file opened each time", environment="locks"),
    "laila": Facts("laila_locks", "Laila", "laila.locks, flock", environment="locks", checkout=True),
    "portalocker": Facts("library_locks", "PortalockerFunction", "portalocker.lock()", environment="locks"),
    "portalocker-lock": Facts("library_locks", "PortalockerLock", "portalocker.Lock", environment="locks"),
    "fasteners": Facts("library_locks", "Fasteners", "fasteners", environment="locks"),
    "filelock": Facts("library_locks", "FileLock", "filelock", environment="locks"),
    "redis": Facts("library_locks", "Redis", "redis-py Lock", environment="locks"),
}


class LockContender(ABC):
    """One lock, in one process."""

    @abstractmethod
    def __init__(self, place: Place) -> None:
        """Be ready to acquire."""

    @abstractmethod
    def acquire(self) -> object:
        """Wait until the lock is held, by nobody else."""

    @abstractmethod
    def release(self) -> object:
        """Let go."""


def load(name: str) -> type[LockContender]:
    """The class of a contender, in a process of that contender's environment."""
    found: type[LockContender] = CONTENDERS[name].load()
    return found
