"""Programs that sshd runs for us: their lines, their end, and what they leave. Every wait is bounded.

sshd does not end a program when its channel closes, so whoever gives up on one asks for its end otherwise (`end`).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from laila.errors import DeadlineExceeded, LabError
from laila.lab.drivers.base import MAX_LINE, Channel, Output

_KEPT_COMPLAINTS = 65536
_BLOCK = 65536
_TAKES_INPUT_WITHIN = 30.0
_TICK = 5.0
"""Seconds after which a reader looks whether it is still wanted."""


class SshProgram:
    """One program on a host. `raw` is paramiko's channel; `end` ends the program there, with all that it started."""

    def __init__(self, raw: Any, where: str, end: Callable[[], None]) -> None:
        self.raw = raw
        self.where = where
        self.end = end

    def read(self, deadline: float | None = None) -> bytes:
        """What it printed, empty at the end. Raises DeadlineExceeded, and LabError when the connection is lost."""
        while True:
            left = _TICK if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise DeadlineExceeded("its time is over")
            self.raw.settimeout(min(left, _TICK))
            try:
                data: bytes = self.raw.recv(_BLOCK)
            except TimeoutError:
                continue
            if not data and self.lost:
                raise LabError(f"the connection to {self.where} was lost")
            return data

    def complaints(self) -> Iterator[bytes]:
        """What it printed on stderr, until it ends."""
        while True:
            try:
                data: bytes = self.raw.recv_stderr(_BLOCK)
            except TimeoutError:
                continue
            if not data:
                return
            yield data

    @property
    def lost(self) -> bool:
        """Ended by the connection, not by itself or by us."""
        return self.code is None and not self.raw.get_transport().is_active()

    @property
    def code(self) -> int | None:
        return None if self.raw.exit_status == -1 else int(self.raw.exit_status)

    def wait(self, timeout: float) -> bool:
        """Whether it has ended."""
        return bool(self.raw.status_event.wait(max(0.0, timeout)))

    def close(self) -> None:
        self.raw.close()


class SshChannel(Channel):
    """A conversation in lines."""

    def __init__(self, program: SshProgram, first: bytes = b"") -> None:
        """`first` was read already."""
        self._program = program
        self._first = first
        self._sending = threading.Lock()
        self._complaints = b""
        self._listener = threading.Thread(target=self._listen, name=f"stderr of {program.where}", daemon=True)
        self._listener.start()

    def send(self, line: bytes) -> None:
        deadline = time.monotonic() + _TAKES_INPUT_WITHIN
        data = memoryview(line + b"\n")
        with self._sending:
            while data:
                try:
                    data = data[self._program.raw.send(data) :]
                except TimeoutError:
                    if time.monotonic() > deadline:
                        self._program.close()  # half a line was sent: nothing that follows would be understood
                        raise LabError(
                            f"the program beside the node takes no input for {_TAKES_INPUT_WITHIN:g} s"
                        ) from None
                except OSError as error:
                    lost = f" (the connection to {self._program.where} was lost)" * self._program.lost
                    raise LabError(f"the program beside the node is gone{lost}") from error

    def lines(self) -> Iterator[bytes]:
        data, pending = self._first or self._program.read(), b""
        while data:
            *whole, pending = (pending + data).split(b"\n")
            yield from whole
            if len(pending) > MAX_LINE:
                raise LabError(f"the program beside the node printed a line of over {MAX_LINE} bytes")
            data = self._program.read()

    def stderr(self) -> str:
        return self._complaints.decode("utf-8", "replace")

    def close(self, timeout: float = 5.0) -> int | None:
        with contextlib.suppress(OSError):  # it ended first
            self._program.raw.shutdown_write()
        if not self._program.wait(timeout):
            with contextlib.suppress(LabError):  # its host is out of reach: nothing can be known of it
                self._program.end()
            self._program.wait(2.0)
        code = self._program.code
        self._program.close()
        self._listener.join(_TICK + 1)
        return code

    def _listen(self) -> None:
        for data in self._program.complaints():
            self._complaints = (self._complaints + data)[-_KEPT_COMPLAINTS:]


def run_to_end(program: SshProgram, first: bytes, timeout: float, what: str) -> Output:
    """Collect its outputs. Raises DeadlineExceeded when it does not end in time; then it is ended."""
    deadline = time.monotonic() + timeout
    complaints: list[bytes] = []
    listener = threading.Thread(
        target=lambda: complaints.extend(program.complaints()), name=f"stderr of {what}", daemon=True
    )
    listener.start()
    output = [first]
    try:
        program.raw.shutdown_write()
        while data := program.read(deadline):
            output.append(data)
        listener.join(max(0.0, deadline - time.monotonic()))
        if listener.is_alive() or not program.wait(deadline - time.monotonic()):
            raise DeadlineExceeded("its time is over")
        if program.code is None:
            raise LabError(f"the connection to {program.where} was lost")
        return Output(program.code, b"".join(output), b"".join(complaints))
    except DeadlineExceeded:
        program.end()
        raise DeadlineExceeded(f"waited {timeout:g} s for {what}") from None
    finally:
        program.close()
        listener.join(1.0)
