"""Wall clocks of nodes that can be bent: a small library that their programs preload, and the file that it goes by.

`laila/lab/faults/clockshift.c` is compiled on this machine when a run needs it; it is linked with nothing, so it loads
beside any C library of the same processor. Those programs are bent that are linked dynamically, read the time by the C
library and were started with its environment: the node, what it starts, and programs beside it. Not bent are the times
of files, and waits until a moment of the wall clock (`sem_timedwait`), which are the kernel's.
"""

from __future__ import annotations

import functools
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from laila.errors import LabError
from laila.lab.drivers.base import Driver
from laila.lab.registry import Run

LIBRARY = "clockshift.so"
VARIABLE = "LAILA_LAB_CLOCK"
"""Names the file in a program's environment."""
FACT = "clocks"
"""In the run's record: why clocks cannot be shifted though the topology asks for it, empty when they can."""
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
"""Processors that the library knows, and what container engines call them."""
_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-shared", "-fPIC", "-O2", "-ffreestanding", "-fno-stack-protector", "-nostdlib")
_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Shift:
    """A wall clock is `seconds` ahead, and since the moment `since` it runs fast by `ppm` parts per million."""

    seconds: float = 0.0
    ppm: float = 0.0
    since: float = 0.0
    """Seconds since the epoch, by the clock that is bent."""

    def pack(self) -> bytes:
        """As the library reads it."""
        return struct.pack(
            "=qqq", round(self.seconds * _SECOND), round(self.ppm), round(self.since * _SECOND)
        )


def missing() -> str:
    """Why the library cannot be made on this machine, and what to do about it; empty when it can."""
    if not sys.platform.startswith("linux") or platform.machine() not in MACHINES:
        known = " or ".join(MACHINES)
        return f"clocks are bent by a library for Linux on {known}; this is {sys.platform} on {platform.machine()}"
    if _compiler() is None:
        return "there is no C compiler here, which makes the library that bends clocks; install gcc"
    return ""


def lever(driver: Driver) -> str:
    """For `Driver.lever`, of drivers that start their nodes with the library."""
    if not driver.topology.clocks:
        return (
            "the nodes were not started so that their clocks can be shifted: give the topology clocks = true"
        )
    made = driver.run.facts.get(FACT)
    return missing() if made is None else str(made)


def made(run: Run) -> bool:
    """Whether this run's nodes are started with the library."""
    return run.facts.get(FACT) == ""


def environment(library: str, file: str) -> dict[str, str]:
    """For the node and the programs beside it; both paths as they see them."""
    return {"LD_PRELOAD": library, VARIABLE: file}


@functools.cache
def library() -> bytes:
    """The library for this machine. Raises LabError."""
    if why := missing():
        raise LabError(why)
    with (
        as_file(files("laila.lab").joinpath("faults", "clockshift.c")) as source,
        tempfile.TemporaryDirectory() as place,
    ):
        target = Path(place) / LIBRARY
        words = [str(_compiler()), *_FLAGS, "-o", str(target), str(source)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
            raise LabError(f"{words[0]} could not make the library that bends clocks: {last}")
        return target.read_bytes()


def _compiler() -> str | None:
    return next((path for name in _COMPILERS if (path := shutil.which(name))), None)
