"""A program that this process has started in a session of its own, and talks with in lines over pipes.

Whatever the program does, nobody waits for it for ever: not for one that reads nothing, nor for one that ended and left
its output to a child. And what it complains about does not fill the disk.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import IO

from laila.errors import LabError
from laila.lab.drivers.base import MAX_LINE, Channel

LOOK = 0.2
"""Seconds between two looks at a program that says nothing."""
DEAF = 10.0
"""Seconds after which a program that does not read is given up."""
TOLD = 64 << 10
"""Bytes of its complaints that are told."""
KEPT = 16 << 20
"""Bytes of them that are kept; of more only those that are told."""


class ProcessChannel(Channel):
    """A program with pipes; its complaints go to a file without a name."""

    def __init__(self, process: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("a program without pipes says nothing")
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout
        self._complaints = complaints
        self._ending, self._closed = threading.Event(), threading.Event()
        self._sending, self._reading, self._telling = threading.Lock(), threading.Lock(), threading.Lock()
        os.set_blocking(self._stdin.fileno(), False)

    def send(self, line: bytes) -> None:
        with self._sending:
            try:
                self._write(line + b"\n")
            except (OSError, ValueError) as error:
                raise LabError("the program beside the node is gone") from error

    def lines(self) -> Iterator[bytes]:
        with self._reading:
            pending = b""
            while data := self._read():
                *whole, pending = (pending + data).split(b"\n")
                yield from whole
                if len(pending) > MAX_LINE:
                    raise LabError(f"the program beside the node printed a line of over {MAX_LINE} bytes")
            if pending:
                yield pending

    def stderr(self) -> str:
        with self._telling:
            return "" if self._complaints.closed else self._last_words().decode("utf-8", "replace")

    def close(self, timeout: float = 5.0) -> int | None:
        self._ending.set()
        with self._sending, contextlib.suppress(OSError):  # it ended first
            self._stdin.close()
        code = end(self._process, timeout)
        self._closed.set()
        # whoever reads must have stopped: the number of a closed file is soon another one's
        held = self._reading.acquire(timeout=5 * LOOK)
        self._stdout.close()
        with self._telling:
            self._complaints.close()
        if held:
            self._reading.release()
        return code

    # -- inside

    def _write(self, line: bytes) -> None:
        rest, deadline = memoryview(line), time.monotonic() + DEAF
        while rest:
            if self._ending.is_set():
                raise BrokenPipeError
            if _ready(self._stdin, select.POLLOUT):
                rest = rest[os.write(self._stdin.fileno(), rest) :]
            elif time.monotonic() > deadline:
                self._stdin.close()  # after half a line nothing can be said any more
                raise LabError(f"the program beside the node did not read for {DEAF:g} s")

    def _read(self) -> bytes:
        """What it says next; nothing once it has ended, or the channel is closed."""
        while not self._closed.is_set():
            ended = self._process.poll() is not None  # asked first: what it said before its end is there then
            self._trim()
            if _ready(self._stdout, select.POLLIN):
                return os.read(self._stdout.fileno(), 1 << 16)
            if ended:
                break  # a child of it has its output
        return b""

    def _trim(self) -> None:
        """The program writes on at the place that is set here: both have the file by one description. What it says in
        the middle of this is lost.
        """
        number = self._complaints.fileno()
        if os.fstat(number).st_size > KEPT:
            last = self._last_words()
            os.ftruncate(number, 0)
            os.lseek(number, 0, os.SEEK_SET)
            os.write(number, last)

    def _last_words(self) -> bytes:
        number = self._complaints.fileno()
        return os.pread(number, TOLD, max(0, os.fstat(number).st_size - TOLD))


def _ready(stream: IO[bytes], what: int) -> bool:
    """Whether it can be read or written, or has ended; waits a little for it."""
    poll = select.poll()
    poll.register(stream.fileno(), what)
    return bool(poll.poll(LOOK * 1000))


def end(process: subprocess.Popen[bytes], timeout: float = 0.0) -> int:
    """Wait for it so long, then SIGKILL it and its children in the same session. Its exit code."""
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait()
