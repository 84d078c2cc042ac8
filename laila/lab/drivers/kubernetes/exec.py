"""Programs in a pod: their lines, outputs and end, over one websocket each, as `kubectl exec` has it.

Each message is a byte that names the stream, and data. The end of input can be said since Kubernetes 1.30
(`v5.channel.k8s.io`); before that a program is ended instead.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlencode

from laila.errors import DeadlineExceeded, LabError
from laila.lab.drivers.base import MAX_LINE, Channel, Output
from laila.lab.drivers.kubernetes.cluster import Cluster, short

_STDIN, _STDOUT, _STDERR, _STATUS, _CLOSE = 0, 1, 2, 3, 255
_GOODBYE = 8
"""The kind of a websocket's last message."""
_V5, _V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
_KEPT_COMPLAINTS = 65536
_BLOCK = 32768
_CONNECTS = 20.0
_STARTS = 20.0
"""Seconds that a program may take until it says that it runs."""


def exit_code(status: bytes) -> int:
    """Of the last message of a program. Raises LabError when it was never started."""
    try:
        told = json.loads(status)
    except ValueError as error:
        raise LabError("the connection to the cluster ended before the program did") from error
    if told.get("status") == "Success":
        return 0
    for cause in (told.get("details") or {}).get("causes") or ():
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    raise LabError(f"the cluster did not run the program: {told.get('message') or 'it does not say why'}")


class Program:
    """One program of a container, while it runs."""

    def __init__(
        self, cluster: Cluster, namespace: str, pod: str, container: str, argv: Sequence[str], *, stdin: bool
    ) -> None:
        words = {"container": container, "stdin": str(stdin).lower(), "stdout": "true", "stderr": "true"}
        query = urlencode([*words.items(), *(("command", word) for word in argv)])
        base = cluster.configuration.host.replace("http", "ws", 1)
        url = f"{base}/api/v1/namespaces/{namespace}/pods/{pod}/exec?{query}"
        self._socket = _connect(cluster, url, f"run {argv[0]!r} in {pod}")
        self.status = b""

    @property
    def says_end(self) -> bool:
        """Whether the end of input can be told."""
        return bool(self._socket.subprotocol == _V5)

    def send(self, data: bytes) -> None:
        try:
            for offset in range(0, len(data), _BLOCK):
                self._socket.send_binary(bytes([_STDIN]) + data[offset : offset + _BLOCK])
        except Exception as error:  # the library's own, of ssl and of sockets
            raise LabError("the program beside the node is gone") from error

    def end_input(self) -> bool:
        """False where that cannot be said."""
        if not self.says_end:
            return False
        with contextlib.suppress(Exception):  # it ended first
            self._socket.send_binary(bytes([_CLOSE, _STDIN]))
        return True

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """(stream, bytes) until it ends."""
        while True:
            try:
                kind, data = self._socket.recv_data()
            except Exception:  # closed under us, or by the other side: the same as its end
                return
            if kind == _GOODBYE:  # its bytes are no stream's
                return
            if not data:
                continue
            if data[0] == _STATUS:
                self.status += data[1:]
            elif data[0] in (_STDOUT, _STDERR) and len(data) > 1:
                yield data[0], data[1:]

    def cut(self) -> None:
        """Unblocks whoever reads."""
        with contextlib.suppress(Exception):
            self._socket.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        with contextlib.suppress(Exception):
            self._socket.shutdown()


def _connect(cluster: Cluster, url: str, doing: str) -> Any:
    websocket: Any = importlib.import_module("websocket")
    settings = cluster.configuration
    token = settings.auth_settings().get("BearerToken")  # asks whoever makes new ones
    headers = {} if token is None else {token["key"]: token["value"]}
    options: dict[str, Any] = {"cert_reqs": ssl.CERT_REQUIRED if settings.verify_ssl else ssl.CERT_NONE}
    if settings.verify_ssl and settings.ssl_ca_cert:
        options["ca_certs"] = settings.ssl_ca_cert
    if not settings.verify_ssl or settings.assert_hostname is False:
        options["check_hostname"] = False
    if settings.cert_file:
        options.update(certfile=settings.cert_file, keyfile=settings.key_file)
    if getattr(settings, "tls_server_name", None):
        options["server_hostname"] = settings.tls_server_name
    try:
        made = websocket.create_connection(
            url,
            timeout=_CONNECTS,
            header=[f"{name}: {value}" for name, value in headers.items()],
            subprotocols=[_V5, _V4],
            sslopt=options,
            sockopt=[(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)],
            enable_multithread=True,
            skip_utf8_validation=True,
        )
    except websocket.WebSocketBadStatusException as error:
        error.body = error.resp_body
        raise LabError(f"the cluster did not {doing}: {short(error)}") from error
    except (websocket.WebSocketException, OSError) as error:
        raise LabError(f"the cluster did not {doing}: {short(error)}") from error
    made.settimeout(None)
    return made


class ProgramChannel(Channel):
    """A conversation in lines. `end` ends the program where its input's end does not; a `first` line that tells whether
    it was started is not part of the conversation.
    """

    def __init__(self, program: Program, end: Callable[[], None], *, first: bool = False) -> None:
        self._program = program
        self._end = end
        self._complaints = b""
        self._ended = threading.Event()
        self._closed = False
        self._chunks = program.frames()
        self._pending = b""
        if first:
            self._pending = _started(self._chunks, program, self._complain)

    def send(self, line: bytes) -> None:
        if self._ended.is_set() or self._closed:
            raise LabError("the program beside the node is gone")
        self._program.send(line + b"\n")

    def lines(self) -> Iterator[bytes]:
        *whole, pending = self._pending.split(b"\n")
        try:
            yield from whole
            for stream, data in self._chunks:
                if stream == _STDERR:
                    self._complain(data)
                    continue
                *whole, pending = (pending + data).split(b"\n")
                yield from whole
                if len(pending) > MAX_LINE:
                    raise LabError(f"the program beside the node printed a line of over {MAX_LINE} bytes")
        finally:
            self._ended.set()

    def _complain(self, data: bytes) -> None:
        self._complaints = (self._complaints + data)[-_KEPT_COMPLAINTS:]

    def stderr(self) -> str:
        return self._complaints.decode("utf-8", "replace")

    def close(self, timeout: float = 5.0) -> int | None:
        told, self._closed = self._program.end_input(), True
        if told:
            self._ended.wait(timeout)
        if not self._ended.is_set():
            with contextlib.suppress(LabError):  # its node, or pod, is gone
                self._end()
            self._ended.wait(1.0)
        self._program.cut()
        self._ended.wait(1.0)
        try:
            return exit_code(self._program.status)
        except LabError:
            return None
        finally:
            self._program.close()

    def abandon(self) -> None:
        """Let go of it without a word."""
        self._closed = True
        self._program.close()


def _started(
    chunks: Iterator[tuple[int, bytes]], program: Program, complain: Callable[[bytes], None]
) -> bytes:
    """Reads the first line, which says whether the program runs; returns what followed it. Raises LabError."""
    seen, late = b"", threading.Timer(_STARTS, program.cut)
    late.daemon = True
    late.start()
    try:
        return _first(chunks, program, complain, seen)
    finally:
        late.cancel()


def _first(
    chunks: Iterator[tuple[int, bytes]], program: Program, complain: Callable[[bytes], None], seen: bytes
) -> bytes:
    while b"\n" not in seen:
        stream, data = next(chunks, (0, b""))
        if not stream:
            program.close()
            exit_code(program.status)
            raise LabError("the program ended before it was one")
        if stream == _STDOUT:
            seen += data
        else:
            complain(data)
    first, _, rest = seen.partition(b"\n")
    if first != b"+":
        program.close()
        raise LabError(first.decode("utf-8", "replace").removeprefix("! "))
    return rest


def run_to_end(
    start: Callable[[], Program], timeout: float, what: str, *, end: Callable[[], None], first: bool = True
) -> Output:
    """Run a program without input and collect its outputs. Raises DeadlineExceeded when it does not end in time, and
    then it is ended.
    """
    program = start()
    outputs: dict[int, list[bytes]] = {_STDOUT: [], _STDERR: []}
    problem: list[LabError] = []

    def collect() -> None:
        chunks = program.frames()
        try:
            if first:
                outputs[_STDOUT].append(_started(chunks, program, outputs[_STDERR].append))
            for stream, data in chunks:
                outputs[stream].append(data)
        except LabError as error:
            problem.append(error)

    reader = threading.Thread(target=collect, name="exec output", daemon=True)
    reader.start()
    began = time.monotonic()
    try:
        reader.join(timeout)
        if reader.is_alive():
            with contextlib.suppress(LabError):
                end()
            raise DeadlineExceeded(f"waited {timeout:g} s for {what}")
        if problem:
            raise LabError(f"cannot run {what}: {problem[0]}")
        code = exit_code(program.status)
        return Output(code, b"".join(outputs[_STDOUT]), b"".join(outputs[_STDERR]))
    except LabError as error:
        if time.monotonic() - began < timeout and "connection" in str(error):
            raise LabError(f"{what}: {error}") from error
        raise
    finally:
        program.cut()
        reader.join(1.0)
        program.close()
