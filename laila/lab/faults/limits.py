"""What a running node may use is taken away: memory, or processes and threads.

Memory: the limit is set close to what the node uses, and a program beside it takes the rest; the node is marked as the
one to go first, so the kernel kills it and not the program. Processes: there may be no more than there are.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

from laila.errors import LabError, LailaError
from laila.lab.drivers.base import Driver, Lever, NodeState, Usage
from laila.lab.faults.base import NoBite, NotHealed, Option, Scene
from laila.lab.faults.family import family, incarnation
from laila.lab.faults.spec import FaultSpec
from laila.lab.faults.struck import PATIENCE, NodeFault, died, start_fallen

_MIB = 1 << 20
_KILLED = (-9, 137)
_EAT = """
for pid; do echo 1000 >"/proc/$pid/oom_score_adj"; done
ulimit -v 4194304
exec tail /dev/zero
"""
"""Takes memory until there is none; never more than 4 GiB, should there be no limit after all."""
_FORK = "sh -c : && echo forked"
_COUNTS = 5
"""Readings of how many processes there are; a health check comes and goes."""


class _Limit(NodeFault):
    """Limits of a whole node, which the driver sets."""

    def __init__(self, scene: Scene, spec: FaultSpec) -> None:
        super().__init__(scene, spec)
        self._before: dict[str, Usage] = {}
        self._limits: dict[str, dict[str, int]] = {}

    @classmethod
    def hindrance(cls, driver: Driver) -> str:
        """See Fault.hindrance."""
        return driver.lever(Lever.LIMITS)

    def _look(self) -> None:
        """How it was, into the ledger."""
        self._before = {name: self.driver.usage(name) for name in self.nodes}
        self._limits = {
            name: {"memory": was.memory_limit, "swap": was.swap_limit, "pids": was.pids_limit}
            for name, was in self._before.items()
        }
        self.remember(limits=self._limits)

    def heal(self) -> None:
        """Give back what was taken; those that died of it are started again."""
        self.undo(self.driver, {"limits": self._limits})
        for name in self._limits:
            self.scene.ready(name)


class OutOfMemory(_Limit):
    """The kernel kills the node for want of memory."""

    kind: ClassVar[str] = "oom"
    summary: ClassVar[str] = (
        "nodes run out of memory and are killed by the kernel, and are started again later"
    )
    options: ClassVar[Mapping[str, Option]] = {
        "mib": Option(16, "how much more memory it may have than it uses", "MiB", 8, 4096),
    }
    breaks_clients: ClassVar[bool] = True

    def inject(self) -> dict[str, Any]:
        """Limit them, and take what is left."""
        self._look()
        for name in self.nodes:
            self.scene.left(name)
        eaters = [threading.Thread(target=self._strike, args=(name,), name="eater") for name in self.nodes]
        for eater in eaters:
            eater.start()
        for eater in eaters:
            eater.join()
        return {}

    def _strike(self, name: str) -> None:
        was = self._before[name]
        least = was.memory + self.option("mib") * _MIB
        pids = [str(process.pid) for process in family(self.driver, name)]
        self.driver.limit(name, memory=min(least, was.memory_limit or least))
        with contextlib.suppress(LailaError):  # it goes down with the node
            self.driver.exec(name, ["sh", "-c", _EAT, "sh", *pids], timeout=self.scene.within)

    def prove(self) -> str:
        """It was killed, and the kernel says why."""
        found = []
        for name in self.nodes:
            exited = NodeState.EXITED
            self.until(lambda: self.driver.state(name) is exited, NoBite, f"{name} to die of it")  # noqa: B023  asked at once
            ending = self.driver.ending(name)
            if not ending.oom or (ending.code is not None and ending.code not in _KILLED):
                raise NoBite(f"{self.spec}: {name} ended with {ending.code}, but not for want of memory")
            used = f"it used {self._before[name].memory / _MIB:.0f} MiB" if name in self._before else ""
            code = "" if ending.code is None else f" with {ending.code}"
            found.append(f"{name} was killed by the kernel for want of memory{code}; {used}")
        return "; ".join(found)

    def prove_healed(self) -> str:
        """It runs, and may use what it might before."""
        found = []
        for name in self.nodes:
            running = NodeState.RUNNING
            self.until(lambda: self.driver.state(name) is running, NotHealed, f"{name} to run")  # noqa: B023  asked at once
            now, was = self.driver.usage(name), self._before.get(name)
            if was is not None and 0 < now.memory_limit <= was.memory + self.option("mib") * _MIB:
                raise NotHealed(f"{self.spec}: {name} may still use {now.memory_limit / _MIB:.0f} MiB only")
            most = f"{now.memory_limit / _MIB:.0f} MiB" if now.memory_limit else "all memory"
            found.append(f"{name} runs as {incarnation(self.driver, name)} and may use {most}")
        return "; ".join(found)

    @classmethod
    def undo(cls, driver: Driver, facts: Mapping[str, Any]) -> None:
        """See Fault.undo."""
        for name, limits in facts.get("limits", {}).items():
            driver.limit(name, memory=limits["memory"], swap=limits["swap"])
        start_fallen(driver, tuple(facts.get("limits", ())))


class NoProcesses(_Limit):
    """No process or thread more than there are."""

    kind: ClassVar[str] = "pids"
    summary: ClassVar[str] = "nodes can start no more processes and threads"

    def inject(self) -> dict[str, Any]:
        """Limit them to what there is."""
        self._look()
        for name in self.nodes:
            self._tighten(name)
        return {}

    def _tighten(self, name: str) -> None:
        counts = []
        for _ in range(_COUNTS):
            counts.append(self.driver.usage(name).pids)
            time.sleep(0.1)
        self.driver.limit(name, pids=max(1, min(counts)))

    def prove(self) -> str:
        """A program beside it, under the same limit, cannot start another one."""
        return "; ".join(self._refused(name) for name in self.nodes)

    def _refused(self, name: str) -> str:
        answer = ""

        def refused() -> bool:
            nonlocal answer
            answer = died(self.driver, name) or self._fork(name)
            if not answer and name in self._before:
                self._tighten(name)  # something had been there that is over now
            return bool(answer)

        self.until(refused, NoBite, f"{name} to be refused a process")
        if end := died(self.driver, name):
            if name not in self._before:
                raise NoBite(f"{self.spec}: {end}, and nothing was done to it")
            return f"{end}: it had {self._before[name].pids} processes and threads and could start no more"
        now = self.driver.usage(name)
        return f"{name} may have {now.pids_limit} processes and threads, and a new one is refused: {answer}"

    def _starts(self, name: str) -> bool:
        return self.driver.state(name) is NodeState.RUNNING and not self._fork(name)

    def _fork(self, name: str) -> str:
        """What keeps a program beside the node from starting another one; empty when nothing does."""
        try:
            told = self.driver.exec(name, ["sh", "-c", _FORK], timeout=PATIENCE)
        except LabError as error:
            self.driver.need(name, NodeState.RUNNING, "try what is refused to")
            return str(error)[-120:]  # not even the first one could be started
        if b"forked" in told.stdout:
            return ""
        words = (told.stderr + told.stdout).decode("utf-8", "replace").strip().splitlines()
        return words[-1] if words else f"it ended with {told.code}"

    def prove_healed(self) -> str:
        """A program beside it can start another one again."""
        found = []
        for name in self.nodes:
            starts = partial(self._starts, name)
            self.until(starts, NotHealed, f"{name} to start a process")
            now = self.driver.usage(name)
            most = f"{now.pids_limit}" if now.pids_limit else "any number"
            found.append(f"{name} may have {most}, has {now.pids} and starts new ones")
        return "; ".join(found)

    @classmethod
    def undo(cls, driver: Driver, facts: Mapping[str, Any]) -> None:
        """See Fault.undo."""
        for name, limits in facts.get("limits", {}).items():
            driver.limit(name, pids=limits["pids"])
        start_fallen(driver, tuple(facts.get("limits", ())))
