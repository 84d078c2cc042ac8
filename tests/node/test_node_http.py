"""The status port's HTTP server: bounded in every direction, and never held up by one client or one disk."""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from laila.cli.fetch import get
from laila.errors import BadConfig
from laila.node.addresses import Address
from laila.node.http import HttpLimits, HttpServer, Response, Route

LIMITS = HttpLimits(
    connections=8, request_bytes=1024, request_seconds=0.6, answer_seconds=0.6, slow_seconds=0.5
)
BIG = b"x" * (8 << 20)


class Slow:
    """A route that waits until it is let go, and counts how often it was computed."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.calls = 0

    def __call__(self) -> Response:
        self.calls += 1
        self.gate.wait(10)
        return Response(b"at last")


def broken() -> Response:
    raise RuntimeError("the page is broken")


@pytest.fixture
def slow() -> Iterator[Slow]:
    route = Slow()
    yield route
    route.gate.set()


@pytest.fixture
def server(slow: Slow) -> Iterator[HttpServer]:
    routes = {
        "/healthz": Route(lambda: Response(b"ok")),
        "/slow": Route(slow, slow=True),
        "/broken": Route(broken),
        "/big": Route(lambda: Response(BIG)),
    }
    server = HttpServer("127.0.0.1", 0, routes, LIMITS)
    yield server
    slow.gate.set()
    server.close()


def connect(server: HttpServer) -> socket.socket:
    return socket.create_connection(server.address, 5)


def exchange(server: HttpServer, request: bytes) -> bytes:
    with connect(server) as sock:
        sock.sendall(request)
        received = b""
        while data := sock.recv(65536):
            received += data
        return received


def ask(server: HttpServer, path: str = "/healthz", timeout: float = 5.0) -> tuple[int, bytes]:
    answer = get(Address(*server.address), path, timeout=timeout)
    return answer.status, answer.body


def until(true: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_get_gives_body_and_head_does_not(server: HttpServer) -> None:
    """GET and HEAD answer with the same headers."""
    got = exchange(server, b"GET /healthz?x=1 HTTP/1.1\r\nHost: a\r\n\r\n")
    head = exchange(server, b"HEAD /healthz HTTP/1.0\r\n\r\n")
    assert got == head + b"ok"
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Length: 2\r\n" in got


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n\r\n", 404),
        (b"POST /healthz HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"GET /healthz HTTP/2\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nA: " + b"a" * 4000, 431),
        (b"GET /broken HTTP/1.1\r\n\r\n", 500),
    ],
)
def test_wrong_requests_get_their_status(server: HttpServer, request_bytes: bytes, status: int) -> None:
    """Each wrong request has its answer, and the server goes on."""
    assert exchange(server, request_bytes).split(b" ")[1] == str(status).encode()
    assert ask(server) == (200, b"ok")


def test_request_byte_by_byte_is_understood(server: HttpServer) -> None:
    """A request may come in any pieces."""
    with connect(server) as sock:
        for byte in b"GET /healthz HTTP/1.1\r\n\r\n":
            sock.sendall(bytes([byte]))
        assert sock.recv(100).startswith(b"HTTP/1.1 200")


def test_dribbling_client_is_sent_away_in_time(server: HttpServer) -> None:
    """The seconds are for the whole request: sending a byte now and then does not prolong them."""
    started = time.monotonic()
    with connect(server) as sock:
        sock.settimeout(0.1)
        received = b""
        while not received and time.monotonic() - started < 5:
            try:
                sock.sendall(b"G")
                received = sock.recv(100)
            except TimeoutError:
                continue
    assert received.startswith(b"HTTP/1.1 408")
    assert 0.4 < time.monotonic() - started < 2.0


def test_silent_clients_beyond_the_bound_make_room(server: HttpServer) -> None:
    """A hundred connections that never speak hold 8 slots at most, and /healthz answers at once meanwhile."""
    silent = [connect(server) for _ in range(100)]
    try:
        started = time.monotonic()
        assert ask(server) == (200, b"ok")
        assert time.monotonic() - started < 0.4
        assert len(server._clients) <= LIMITS.connections
    finally:
        for sock in silent:
            sock.close()


def test_slow_page_holds_up_nobody_and_is_computed_once(server: HttpServer, slow: Slow) -> None:
    """While a page waits for its disk, others answer; all who ask for it share one computation."""
    answers: list[tuple[int, bytes]] = []
    askers = [threading.Thread(target=lambda: answers.append(ask(server, "/slow"))) for _ in range(4)]
    for asker in askers:
        asker.start()
    until(lambda: len([c for c in server._clients.values() if c.state == "waiting"]) == 4)
    assert ask(server) == (200, b"ok")
    slow.gate.set()
    for asker in askers:
        asker.join()
    assert answers == [(200, b"at last")] * 4
    assert slow.calls == 1


def test_page_whose_disk_hangs_answers_503(server: HttpServer, slow: Slow) -> None:
    """A computation that does not end is given up on, and not started twice."""
    for _ in range(3):
        status, body = ask(server, "/slow")
        assert status == 503
        assert b"/slow has not been answered in 0.5 s" in body
    assert slow.calls == 1


def test_client_that_does_not_read_is_dropped(server: HttpServer) -> None:
    """An answer that is not taken in time frees its slot and memory."""
    with connect(server) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(b"GET /big HTTP/1.1\r\n\r\n")
        until(lambda: any(c.state == "writing" for c in server._clients.values()))
        until(lambda: not server._clients, 3.0)
    assert ask(server, "/big") == (200, BIG)


def test_address_in_use_is_an_error(server: HttpServer) -> None:
    """A second server on the port says so at once."""
    with pytest.raises(BadConfig, match="another program has this port"):
        HttpServer(*server.address, {})


def test_close_frees_the_port_and_ends_the_threads(slow: Slow) -> None:
    """Nothing of a closed server is left."""
    server = HttpServer("127.0.0.1", 0, {"/healthz": Route(lambda: Response(b"ok"))})
    with connect(server):
        until(lambda: bool(server._clients))
        server.close()
        server.close()
    assert not any(thread.name.startswith("laila-status") for thread in threading.enumerate())
    HttpServer(*server.address, {}).close()


def test_a_system_without_threads_costs_an_answer_and_not_the_port(
    server: HttpServer, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As under a limit of processes: starting a thread raises RuntimeError."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        status, body = ask(server, "/slow")
    assert status == 503
    assert b"can't start new thread" in body
    slow.gate.set()
    assert ask(server, "/slow")[0] == 200
    assert ask(server)[0] == 200


def test_a_port_that_cannot_accept_says_so_once(server: HttpServer, caplog: pytest.LogCaptureFixture) -> None:
    """No file descriptor is left: it tries again and again, and goes on when there is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as sock, caplog.at_level("WARNING", logger="laila.node.http"):
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            sock.connect(server.address)
            until(lambda: bool(caplog.records))
            time.sleep(0.7)  # three tries more
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        sock.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        sock.settimeout(5)
        assert sock.recv(4096).startswith(b"HTTP/1.1 200")
    assert [record.message for record in caplog.records] == ["the status port cannot accept"]
