"""One node of a lab, as a test goes at it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from laila.lab.drivers.base import Output

if TYPE_CHECKING:
    from laila.testing.lab import Lab


@dataclass(frozen=True, slots=True)
class Node:
    """A node by its name. All raise LabError with why something cannot be done."""

    lab: Lab
    name: str

    def exec(self, *argv: str, timeout: float = 30.0) -> Output:
        """Run a program beside it: `code`, `stdout`, `stderr`."""
        self.lab.deeds.note("note", f"exec {shlex.join(argv)}", self.name)
        return self.lab.driver.exec(self.name, argv, timeout=timeout)

    def address(self, port: int) -> str:
        """`host:port` at which this machine reaches a port of the node. It may be another one after `start`."""
        return self.lab.driver.reach(self.name, port)

    @property
    def state(self) -> str:
        """`running`, `paused`, `exited` or `absent`."""
        return self.lab.driver.state(self.name).value

    def logs(self) -> str:
        """Everything that it wrote, all its starts together."""
        return self.lab.driver.logs(self.name).decode("utf-8", "replace")

    def kill(self) -> None:
        """SIGKILL, and with it every program beside it."""
        self.lab.deeds.note("kill", "killed by the test", self.name)
        self.lab.driver.kill(self.name)

    def start(self) -> None:
        """Start it again on the same state, and wait until it is ready."""
        self.lab.deeds.note("note", "is started by the test", self.name)
        self.lab.driver.start(self.name)
        self.lab.wait_ready(self.name)
        self.lab.deeds.note("up", "started again on the same state", self.name)

    def pause(self) -> None:
        """Freeze it."""
        self.lab.deeds.note("note", "paused by the test", self.name)
        self.lab.driver.pause(self.name)

    def resume(self) -> None:
        """Let it go on."""
        self.lab.deeds.note("note", "goes on, by the test", self.name)
        self.lab.driver.resume(self.name)

    def __str__(self) -> str:
        return self.name
