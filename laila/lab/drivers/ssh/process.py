"""Processes of a host, as its steward sees them: who they are, which a run started, how they end. Sent to hosts.

Everything that a run starts carries the run's id in its environment (also the node's name; a program beside it also a
token), so that it is found again, whatever it forked. A process is told from others by its pid, its start time and the
boot.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

RUN, NODE, TOKEN, STEWARD = "LAILA_LAB_RUN", "LAILA_LAB_NODE", "LAILA_LAB_TOKEN", "LAILA_LAB_STEWARD"
"""Marks in the environment. STEWARD is 1 for the steward and the keepers of nodes, `agent` for a fault agent."""
PROC = Path("/proc")


def boot() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def stat_of(pid: int) -> tuple[str, str] | None:
    """(state, start time) of a process; None when there is none, or only its corpse."""
    try:
        fields = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else (fields[0], fields[19])


def marked(*marks: tuple[str, str]) -> list[int]:
    """Pids of living processes, other than this one, whose environment has all of these."""
    wanted = {f"{name}={value}".encode() for name, value in marks}
    found = []
    for name in os.listdir(PROC):  # noqa: PTH208  hundreds of names, and no paths are needed
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):  # it ended, or belongs to somebody else
                environment = (PROC / name / "environ").read_bytes().split(b"\0")
                if wanted <= set(environment) and stat_of(int(name)):
                    found.append(int(name))
    return sorted(found)


def signal_all(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def until(done: Callable[[], bool], timeout: float) -> bool:
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def end(find: Callable[[], list[int]], timeout: float = 5.0) -> list[int]:
    """SIGKILL them until there are none, also those that they fork meanwhile. Those that are left."""

    def gone() -> bool:
        signal_all(find(), signal.SIGKILL)
        return not find()

    return [] if until(gone, timeout) else find()


def end_agents(run: str, token: str = "") -> list[int]:
    """SIGTERM, by which fault agents undo what they did, and time for that; then SIGKILL. Those that are left."""
    marks = [(RUN, run), (STEWARD, "agent"), *([(TOKEN, token)] if token else [])]
    signal_all(marked(*marks), signal.SIGTERM)
    until(lambda: not marked(*marks), 5.0)
    return end(lambda: marked(*marks))
