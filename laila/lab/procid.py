"""Which process a number means: a pid is reused, a pid with its start time is not.

On Linux the start time is the kernel's (field 22 of /proc/PID/stat, ticks since boot) together with the
boot's id; on other systems it is what `ps` says.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUN_VARIABLE = "LAILA_LAB_RUN"
"""In the environment of every process that a run starts, so that none is missed by `laila lab gc`."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process of this machine, for good."""

    pid: int
    started: str
    host: str

    @classmethod
    def of(cls, pid: int) -> ProcessId:
        """The process that has this pid now; `started` is empty when there is none."""
        return cls(pid, _start_time(pid), _host())

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> ProcessId:
        return cls(int(fields["pid"]), str(fields["started"]), str(fields["host"]))

    @classmethod
    def from_text(cls, text: str) -> ProcessId | None:
        """What `str` wrote, None when it is not that."""
        pid, _, rest = text.partition("/")
        started, _, host = rest.partition("/")
        return cls(int(pid), started, host) if pid.isdigit() and host else None

    def __str__(self) -> str:
        return f"{self.pid}/{self.started}/{self.host}"

    @property
    def here(self) -> bool:
        """Whether it was started on this machine, since this boot or before."""
        return self.host.partition(":")[0] == _host().partition(":")[0]

    @property
    def alive(self) -> bool:
        return bool(self.started) and self.host == _host() and _start_time(self.pid) == self.started

    def end(self, timeout: float = 5.0) -> bool:
        """SIGKILL it and wait until it is gone. True when it is."""
        deadline = time.monotonic() + timeout
        while self.alive:
            try:
                os.kill(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                return True
            except PermissionError:
                return False
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True


def marked(run_id: str) -> list[int]:
    """Pids of living processes whose environment names this run (Linux; elsewhere none are found)."""
    mark = f"{RUN_VARIABLE}={run_id}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in entry.read_bytes().split(b"\0") and _start_time(int(entry.parent.name)):
                found.append(int(entry.parent.name))
        except OSError:
            continue  # it ended, or belongs to somebody else
    return found


def _start_time(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return "" if Path("/proc/self/stat").exists() else _start_time_by_ps(pid)
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()  # the name, in parentheses, may hold anything
    return "" if fields[0] in ("Z", "X") else fields[19]


def _start_time_by_ps(pid: int) -> str:
    shown = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip().replace(" ", "-")


def _host() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = "boot"
    return f"{socket.gethostname()}:{boot}"
