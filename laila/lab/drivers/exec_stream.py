"""Talking with a program that the engine runs beside a node: one hijacked connection, stdout and stderr in
frames.

The engine frames the two outputs as `stream, 0, 0, 0, length (4 bytes, big-endian)`. Input is the
connection itself; half-closing it is the program's end of input. Reading goes through the buffered reader
that parsed the engine's answer, so bytes that arrived together with it are not lost.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from laila.errors import DeadlineExceeded, LabError
from laila.lab.drivers.base import MAX_LINE, Channel, Output

_HEADER = struct.Struct(">BxxxL")
_STDOUT, _STDERR = 1, 2
_KEPT_COMPLAINTS = 65536


class _Stream:
    """One program's connection."""

    def __init__(
        self,
        api: Any,
        container: str,
        argv: Sequence[str],
        *,
        stdin: bool,
        user: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._api = api
        outputs = {"stdout": True, "stderr": True, "environment": dict(environment or {})}
        made = api.exec_create(container, list(argv), stdin=stdin, user=user, **outputs)
        self.exec_id: str = made["Id"]
        self._raw: Any = api.exec_start(self.exec_id, socket=True)
        response = self._raw._response.raw
        self._reader: Any = response._fp.fp
        self._socket: socket.socket = getattr(self._raw, "_sock", self._raw)
        self._socket.settimeout(None)
        self._lock = threading.Lock()

    def send(self, data: bytes) -> None:
        with self._lock:
            self._socket.sendall(data)

    def end_input(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # it ended first

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """(stream, bytes) until the program's outputs are closed."""
        while len(header := self._exactly(_HEADER.size)) == _HEADER.size:
            stream, length = _HEADER.unpack(header)
            yield stream, self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        parts, missing = [], count
        while missing:
            try:
                part = self._reader.read1(missing)
            except (OSError, ValueError):
                part = b""  # closed under us: the same as its end
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def cut(self) -> None:
        """Unblocks whoever reads."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def close(self) -> None:
        self.cut()
        self._raw._response.close()
        self._raw.close()
        self._socket.close()  # the SDK's own objects leave it open

    def exit_code(self) -> int | None:
        code = self._api.exec_inspect(self.exec_id)["ExitCode"]
        return None if code is None else int(code)


class ExecChannel(Channel):
    """A conversation in lines. Without `user` the program is whom the container's own is; `environment` is added to
    the container's.
    """

    def __init__(
        self,
        api: Any,
        container: str,
        argv: Sequence[str],
        *,
        user: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._stream = _Stream(api, container, argv, stdin=True, user=user, environment=environment)
        self._complaints = b""
        self._ended = threading.Event()

    def send(self, line: bytes) -> None:
        try:
            self._stream.send(line + b"\n")
        except OSError as error:
            raise LabError("the program beside the node is gone") from error

    def lines(self) -> Iterator[bytes]:
        pending = b""
        try:
            for stream, data in self._stream.frames():
                if stream == _STDERR:
                    self._complaints = (self._complaints + data)[-_KEPT_COMPLAINTS:]
                    continue
                *whole, pending = (pending + data).split(b"\n")
                yield from whole
                if len(pending) > MAX_LINE:
                    raise LabError(f"the program beside the node printed a line of over {MAX_LINE} bytes")
        finally:
            self._ended.set()

    def stderr(self) -> str:
        return self._complaints.decode("utf-8", "replace")

    def close(self, timeout: float = 5.0) -> int | None:
        self._stream.end_input()
        self._ended.wait(timeout)
        self._stream.cut()
        self._ended.wait(1.0)
        try:
            return self._stream.exit_code()
        except Exception:
            return None
        finally:
            self._stream.close()


def run_to_end(
    api: Any, container: str, argv: Sequence[str], timeout: float, what: str, *, user: str = ""
) -> Output:
    """Run a program without input and collect its outputs. Raises DeadlineExceeded when it does not end in
    time.
    """
    stream = _Stream(api, container, argv, stdin=False, user=user)
    outputs: dict[int, list[bytes]] = {_STDOUT: [], _STDERR: []}

    def collect() -> None:
        for number, data in stream.frames():
            outputs.setdefault(number, []).append(data)

    reader = threading.Thread(target=collect, name="exec output", daemon=True)
    reader.start()
    try:
        reader.join(timeout)
        if reader.is_alive():
            raise DeadlineExceeded(f"waited {timeout:g} s for {what}")
        output = Output(_code_when_ended(stream), b"".join(outputs[_STDOUT]), b"".join(outputs[_STDERR]))
        if output.code in (126, 127) and output.stdout.startswith(b"OCI runtime exec failed"):
            raise LabError(f"cannot run {argv[0]!r}: {output.stdout.decode('utf-8', 'replace').strip()}")
        return output
    finally:
        stream.cut()
        reader.join(1.0)
        stream.close()


def _code_when_ended(stream: _Stream) -> int:
    """Its outputs can close an instant before the engine knows its exit code."""
    deadline = time.monotonic() + 5
    while (code := stream.exit_code()) is None:
        if time.monotonic() > deadline:
            raise DeadlineExceeded("waited 5 s for the exit code of a program that closed its outputs")
        time.sleep(0.02)
    return code
