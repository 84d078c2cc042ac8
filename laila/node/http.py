"""A small, bounded HTTP server for status pages: GET and HEAD, one answer per connection.

One thread with a selector serves every connection, so a client that dribbles or stalls costs a slot and
never a thread. Everything has a bound: connections (the one that has waited longest without a whole request
makes room for a new one), bytes of a request, seconds to send it, seconds to take the answer. Answers that
may have to wait for a disk are `slow`: they are computed in a thread, one at a time per path and shared by
all who ask meanwhile, so that a hung disk turns `/readyz` into 503 and leaves `/healthz` answering.
"""

from __future__ import annotations

import contextlib
import logging
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from laila.transport.tcp import bind

log = logging.getLogger("laila.node.http")

_REQUEST_LINE = re.compile(rb"([A-Z]{1,16}) ([!-~]{1,2048}) HTTP/1\.[01]")
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """Bounds of the server. Seconds are per connection."""

    connections: int = 64
    request_bytes: int = 8192
    request_seconds: float = 5.0
    answer_seconds: float = 10.0
    slow_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class Response:
    """What a route answers."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """How a path is answered; `slow` when `answer` may wait for something outside this process."""

    answer: Callable[[], Response]
    slow: bool = False


class _Client:
    """One connection: reading its request, waiting for an answer, writing, lingering until it hangs up."""

    __slots__ = ("deadline", "head_only", "path", "received", "sending", "since", "sock", "state")

    def __init__(self, sock: socket.socket, now: float, seconds: float) -> None:
        self.sock = sock
        self.state = "reading"
        self.received = bytearray()
        self.sending = memoryview(b"")
        self.since = now
        self.deadline = now + seconds
        self.head_only = False
        self.path = ""


class HttpServer:
    """Serves `routes` on `host:port` until `close`. `address` is what was bound.

    Raises BadConfig or Unreachable from the constructor when the address cannot be bound.
    """

    def __init__(
        self, host: str, port: int, routes: Mapping[str, Route], limits: HttpLimits | None = None
    ) -> None:
        self._routes = dict(routes)
        self._limits = limits or HttpLimits()
        self._listener = bind(host, port)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._clients: dict[int, _Client] = {}
        self._lock = threading.Lock()
        self._running: dict[str, threading.Thread] = {}  # slow computations under way, by path
        self._finished: dict[str, Response] = {}
        self._paused_until = 0.0
        self._refusing = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="laila-status", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving and close every connection. Idempotent."""
        if self._closing:
            return
        self._closing = True
        self._wake()
        self._thread.join()
        for thread in list(self._running.values()):
            thread.join(self._limits.slow_seconds)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it wakes anyway; closed: nobody is left to wake
            self._wake_write.send(b"\0")

    # the loop

    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
        finally:
            for client in list(self._clients.values()):
                self._drop(client)
            for sock in (self._listener, self._wake_read, self._wake_write):
                sock.close()
            self._selector.close()

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._patience()):
            if key.fileobj is self._listener:
                self._accept()
            elif key.fileobj is self._wake_read:
                self._collect()
            elif (client := self._clients.get(key.fd)) is not None:
                self._serve(client)
        self._expire(time.monotonic())

    def _patience(self) -> float | None:
        waits = [client.deadline for client in self._clients.values()]
        if self._paused_until:
            waits.append(self._paused_until)
        return max(0.0, min(waits) - time.monotonic()) if waits else None

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError, InterruptedError):
            return
        except OSError as error:  # out of descriptors: let others free some instead of spinning
            if not self._refusing:  # five tries in a second, but one line
                log.warning("the status port cannot accept", extra={"reason": error.strerror})
            self._refusing = True
            self._selector.unregister(self._listener)
            self._paused_until = time.monotonic() + 0.2
            return
        self._refusing = False
        if len(self._clients) >= self._limits.connections:
            self._drop(min(self._clients.values(), key=lambda c: (c.state == "waiting", c.since)))
        sock.setblocking(False)
        client = _Client(sock, time.monotonic(), self._limits.request_seconds)
        self._clients[sock.fileno()] = client
        self._selector.register(sock, selectors.EVENT_READ)
        self._serve(client)  # the request has usually come with the connection

    def _expire(self, now: float) -> None:
        if self._paused_until and now >= self._paused_until:
            self._paused_until = 0.0
            self._selector.register(self._listener, selectors.EVENT_READ)
        for client in [c for c in self._clients.values() if c.deadline <= now]:
            if client.state == "reading":
                self._answer(client, _text(408, "the request did not arrive in time"))
            elif client.state == "waiting":
                self._answer(
                    client,
                    _text(503, f"{client.path} has not been answered in {self._limits.slow_seconds:g} s"),
                )
            else:
                self._drop(client)

    def _drop(self, client: _Client) -> None:
        self._clients.pop(client.sock.fileno(), None)
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(client.sock)
        client.sock.close()

    # one connection

    def _serve(self, client: _Client) -> None:
        try:
            if client.state == "writing":
                self._write(client)
            else:
                self._read(client)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop(client)

    def _read(self, client: _Client) -> None:
        data = client.sock.recv(4096)
        if not data:
            self._drop(client)
        elif client.state == "reading":
            client.received += data
            if (end := client.received.find(b"\r\n\r\n")) >= 0:
                self._route(client, bytes(client.received[:end]))
            elif len(client.received) > self._limits.request_bytes:
                self._answer(client, _text(431, f"a request has at most {self._limits.request_bytes} bytes"))

    def _route(self, client: _Client, head: bytes) -> None:
        found = _REQUEST_LINE.fullmatch(head.partition(b"\r\n")[0])
        if not found:
            return self._answer(client, _text(400, "this is no HTTP/1 request"))
        method, client.path = found[1].decode(), found[2].decode().partition("?")[0]
        client.head_only = method == "HEAD"
        route = self._routes.get(client.path)
        if method not in ("GET", "HEAD"):
            self._answer(client, _text(405, "only GET and HEAD", {"Allow": "GET, HEAD"}))
        elif route is None:
            self._answer(client, _text(404, f"known are {' '.join(sorted(self._routes))}"))
        elif route.slow:
            self._wait(client, route)
        else:
            self._answer(client, _guarded(client.path, route))

    def _answer(self, client: _Client, response: Response) -> None:
        client.sending = memoryview(_encode(response, head_only=client.head_only))
        client.state = "writing"
        client.deadline = time.monotonic() + self._limits.answer_seconds
        client.received.clear()
        self._selector.modify(client.sock, selectors.EVENT_WRITE)
        self._serve(client)

    def _write(self, client: _Client) -> None:
        client.sending = client.sending[client.sock.send(client.sending) :]
        if not client.sending:
            client.sock.shutdown(socket.SHUT_WR)
            client.state = (
                "lingering"  # closing on unread bytes would reset the connection and lose the answer
            )
            client.deadline = time.monotonic() + 1.0
            self._selector.modify(client.sock, selectors.EVENT_READ)

    # slow answers

    def _wait(self, client: _Client, route: Route) -> None:
        client.state = "waiting"
        client.deadline = time.monotonic() + self._limits.slow_seconds
        path = client.path
        with self._lock:
            if path in self._running:
                return
            thread = threading.Thread(
                target=self._compute, args=(path, route), name=f"laila-status{path}", daemon=True
            )
            self._running[path] = thread
        try:
            thread.start()
        except (
            RuntimeError
        ) as error:  # the system has no thread to give now; it may have one for the next who asks
            with self._lock:
                del self._running[path]
            self._answer(client, _text(503, f"{path} cannot be worked out now: {error}"))

    def _compute(self, path: str, route: Route) -> None:
        response = _guarded(path, route)
        with self._lock:
            self._finished[path] = response
            del self._running[path]
        self._wake()

    def _collect(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_read.recv(4096)
        with self._lock:
            finished, self._finished = self._finished, {}
        for client in [c for c in self._clients.values() if c.state == "waiting" and c.path in finished]:
            self._answer(client, finished[client.path])


def _guarded(path: str, route: Route) -> Response:
    try:
        return route.answer()
    except Exception:  # a broken page must not take the status port with it; the log has the reason
        log.exception("a status page failed", extra={"path": path})
        return _text(500, "this page failed; the log says why")


def _text(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(f"{sentence}\n".encode(), status=status, headers=headers or {})


def _encode(response: Response, *, head_only: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {response.status} {_REASONS[response.status]}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
        *(f"{name}: {value}" for name, value in response.headers.items()),
    ]
    head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    return head if head_only else head + response.body
