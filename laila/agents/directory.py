"""A shared directory of agents, for whoever only looks: no lock, no key of one's own, no right to write.

>>> import tempfile
>>> from laila.agents.directory import Directory
>>> from laila.artifacts import TrustSet
>>> Directory(tempfile.mkdtemp(), TrustSet()).agents()
[]
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from ..artifacts import TrustSet
from ..clock import SYSTEM, Clock
from ..names import check_name
from ..shared.voucher_file import VoucherFile
from .layout import Layout
from .register import Register, Status
from .results import Results
from .summary import Summary
from .vetting import Vetting
from .volumeclock import VolumeClock
from .waiting import freshen, pauses


class Directory:
    """Reads `shared_path` for somebody who believes whom `trust` says. Safe under threads.

    Raises: ArtifactNotFound when there is no such directory (with `make` it is made), StorageError.
    """

    def __init__(
        self,
        shared_path: str | os.PathLike[str],
        trust: TrustSet,
        *,
        clock: Clock = SYSTEM,
        make: bool = False,
    ) -> None:
        self.layout = layout = Layout(shared_path, make=make)
        self.vetting = Vetting(trust.reading(VoucherFile(layout.root).read))
        self.summary = Summary(layout, self.vetting)
        self.clock = VolumeClock(layout.clock, clock, one_clock=layout.one_kernel)
        self.register = Register(layout, self.vetting, self.clock, self.summary)
        self.recorded = Results(layout, self.vetting, self.register)
        self._wall = clock.wall

    def agents(self) -> list[dict[str, Any]]:
        """Every agent; see `DistributedAgent.agents`."""
        wall = self._wall()
        return [known.describe(wall) for known in self.register.all()]

    def active_agents(self, capability: str | None = None) -> list[dict[str, Any]]:
        """See `DistributedAgent.get_active_agents`."""
        found = [one for one in self.agents() if one["status"] == Status.ACTIVE]
        return [one for one in found if capability is None or capability in one["capabilities"]]

    def get_result(self, task_id: str) -> dict[str, Any] | None:
        """See `DistributedAgent.get_result`."""
        found = self.recorded.get(check_name("task", task_id))
        return None if found is None else found.describe()

    def get_results(self, task_id: str) -> list[dict[str, Any]]:
        """See `DistributedAgent.get_results`."""
        return [one.describe() for one in self.recorded.of_task(check_name("task", task_id))]

    def results(self) -> list[dict[str, Any]]:
        """Every result of every agent, without its content."""
        return [_without_content(one.describe()) for one in self.recorded.all()]

    def wait_result(self, task_id: str, timeout: float) -> dict[str, Any]:
        """See `DistributedAgent.wait_result`."""
        steps = self._steps(task_id, timeout)
        while (found := self._look_again(task_id)) is None:
            time.sleep(next(steps))
        return found

    async def wait_result_async(self, task_id: str, timeout: float) -> dict[str, Any]:
        """See `DistributedAgent.wait_result_async`."""
        import asyncio  # costs more to import than all of this; only who awaits needs it

        steps = self._steps(task_id, timeout)
        while (found := await asyncio.to_thread(self._look_again, task_id)) is None:
            await asyncio.sleep(next(steps))
        return found

    def _steps(self, task_id: str, timeout: float) -> Iterator[float]:
        return pauses(f"a result of task {check_name('task', task_id)!r}", timeout)

    def _look_again(self, task_id: str) -> dict[str, Any] | None:
        freshen(self.layout.results)
        return self.get_result(task_id)


def _without_content(described: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in described.items() if name != "result"}
