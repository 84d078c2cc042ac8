"""The same store for coroutines: each call runs in a thread of its own and never blocks the event loop.

Cancelling gives up the wait; a save that was begun goes on by itself, so its outcome is unknown to whoever gave it up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ..artifacts import Artifact, Version
from ..locks.waiting import in_thread

if TYPE_CHECKING:
    from .repair import RepairReport


class Asynchronous(ABC):
    """What a store has for coroutines, by the calls of the same names without `_async`."""

    @abstractmethod
    def save(self, name: str, artifact: Artifact) -> Version: ...
    @abstractmethod
    def load(self, name: str) -> Artifact: ...
    @abstractmethod
    def forget(self, name: str, *, missing_ok: bool = False) -> None: ...
    @abstractmethod
    def exists(self, name: str) -> bool: ...
    @abstractmethod
    def names(self) -> list[str]: ...
    @abstractmethod
    def history(self, name: str) -> tuple[Version, ...]: ...
    @abstractmethod
    def verify_replicas(self, name: str) -> dict[str, dict[str, Any]]: ...
    @abstractmethod
    def repair(self, *names: str, rate: float | None = None) -> RepairReport: ...
    @abstractmethod
    def watch(
        self, name: str, *, timeout: float | None = None, interval: float = 0.5
    ) -> Iterator[Artifact]: ...

    async def save_async(self, name: str, artifact: Artifact) -> Version:
        return await in_thread(partial(self.save, name, artifact))

    async def load_async(self, name: str) -> Artifact:
        return await in_thread(partial(self.load, name))

    async def forget_async(self, name: str, *, missing_ok: bool = False) -> None:
        await in_thread(partial(self.forget, name, missing_ok=missing_ok))

    async def exists_async(self, name: str) -> bool:
        return await in_thread(partial(self.exists, name))

    async def names_async(self) -> list[str]:
        return await in_thread(self.names)

    async def history_async(self, name: str) -> tuple[Version, ...]:
        return await in_thread(partial(self.history, name))

    async def verify_replicas_async(self, name: str) -> dict[str, dict[str, Any]]:
        return await in_thread(partial(self.verify_replicas, name))

    async def repair_async(self, *names: str, rate: float | None = None) -> RepairReport:
        return await in_thread(partial(self.repair, *names, rate=rate))

    async def watch_async(
        self, name: str, *, timeout: float | None = None, interval: float = 0.5
    ) -> AsyncIterator[Artifact]:
        """As `watch`: each new version, from the one that is there now on."""
        watching = self.watch(name, timeout=timeout, interval=interval)

        def following() -> Artifact | None:
            return next(watching, None)

        while (artifact := await in_thread(following)) is not None:
            yield artifact
