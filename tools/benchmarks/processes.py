"""Child processes that speak JSON lines and that end when they should.

Each child runs in a session of its own, asks the kernel to be killed when its parent dies (so nothing
outlives a killed harness), and is ended through `Child.close`, which `with` calls on every way out.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
HERE = Path(__file__).resolve().parent.parent


def begin_child() -> None:
    """Be killed when the process that started this one ends, and keep to the given cores; both survive exec."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    cores = os.environ.get("BENCH_CORES")
    if cores:
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})


class ChildFailed(RuntimeError):
    """A child ended or stayed silent; the message ends with the last it wrote to stderr."""


class Child:
    """A process with lines of JSON in both directions."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: str) -> None:
        self.label = " ".join(command[2:4])
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed in close()
        self._unread = b""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, **environment, "PYTHONPATH": str(HERE)},
            cwd=folder,  # `-m` puts it first on the import path, and the checkout holds another `laila` than laila-core
            start_new_session=True,
        )

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, timeout: float) -> dict[str, Any]:
        """The next line, as JSON. Raises ChildFailed after `timeout` seconds, at the end, or on `error`."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout
        while b"\n" not in self._unread:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise ChildFailed(f"{self.label}: nothing within {timeout:.0f} s{self._last_words()}")
            chunk = os.read(descriptor, 65536)
            if not chunk:
                raise ChildFailed(f"{self.label}: ended early{self._last_words()}")
            self._unread += chunk
        line, self._unread = self._unread.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        if "error" in message:
            raise ChildFailed(f"{self.label}: {message['error']}")
        return message

    def write(self, line: str) -> None:
        """One line to the child's stdin."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End the child and whatever it started."""
        for how, patience in ((signal.SIGTERM, 1.0), (signal.SIGKILL, 10.0)):
            if self._process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, how)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(patience)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        self._errors.close()

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return "; its last words: " + " | ".join(lines[-3:]) if lines else ""
