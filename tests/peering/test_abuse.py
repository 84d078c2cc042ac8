"""A node under abuse: it lives, its memory stays bounded, other links are undisturbed."""

from __future__ import annotations

import random
import resource
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import SECRET, child, node, until

import laila
from laila.limits import Limits
from laila.macros.defaults import DefaultPolicy
from laila.transport.identity import Identity
from laila.transport.tls import make_context
from laila.wire.frames import HEADER, Kind, frame
from laila.wire.messages import Hello, Op, pack_call, pack_hello


def resident(pid: int) -> int:
    """Bytes of memory that a process holds now."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise AssertionError(pid)


def peak(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise AssertionError(pid)


@contextmanager
def insider(port: int, *, greet: bool = True) -> Iterator[ssl.SSLSocket]:
    """Somebody who knows the secret but not the manners: an authenticated raw connection."""
    identity = Identity.ephemeral()
    context = make_context(identity, SECRET, server=False)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as raw, context.wrap_socket(raw) as sock:
        if greet:
            hello = Hello(identity.node_id, "insider", "x", max_body=1 << 40)
            sock.sendall(frame(Kind.HELLO, 0, pack_hello(hello)))
            read(sock, HEADER.unpack(read(sock, 12))[0])
        yield sock


def read(sock: ssl.SSLSocket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise ConnectionError("closed")
        data += more
    return data


def ended(sock: ssl.SSLSocket) -> bytes:
    """What the node still said before it closed the connection."""
    data = b""
    try:
        while more := sock.recv(65536):
            data += more
    except (ConnectionError, ssl.SSLError):
        pass
    return data


@contextmanager
def watched() -> Iterator[tuple[int, int]]:
    """A node in its own process with a healthy peer that works all the while: its pid and port."""
    with child() as (process, port), DefaultPolicy(name="healthy") as healthy:
        peer = healthy.peers[healthy.communication.add_tcpip_peer("127.0.0.1", port, SECRET)]
        entry = laila.constant("fine")
        peer.memorize(entry, pool_nickname="store").wait()
        stop = threading.Event()
        wrong: list[object] = []
        calls = [0]

        def work() -> None:
            while not stop.is_set():
                try:
                    if peer.remember(entry, pool_nickname="store").wait(10) != "fine":
                        wrong.append("another value")
                except Exception as error:
                    wrong.append(error)
                    return
                calls[0] += 1
                time.sleep(0.002)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield process.pid, port
        finally:
            before = calls[0]
            until(lambda: wrong or calls[0] > before + 3)
            stop.set()
            thread.join(15)
        assert wrong == []
        assert process.poll() is None


def test_ten_thousand_connections_that_never_speak() -> None:
    """They are turned away by the oldest; a real peer still gets in; under 64 MiB over idle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = min(10_000, hard - 200)
    held: list[socket.socket] = []
    try:
        with watched() as (pid, port):
            idle = resident(pid)
            for _ in range(most):
                held.append(socket.create_connection(("127.0.0.1", port), timeout=20))
            with DefaultPolicy(name="late") as late:
                late.communication.add_tcpip_peer("127.0.0.1", port, SECRET)
            assert peak(pid) - idle < 64 * 2**20
            assert len(list(Path(f"/proc/{pid}/fd").iterdir())) < 300
    finally:
        for sock in held:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert most == 10_000, "this test needs 10,000 descriptors: raise the hard limit (ulimit -Hn)"


def test_random_bytes_and_half_a_handshake() -> None:
    """Rubbish before authentication ends that connection, nothing else."""
    rng = random.Random(7)  # noqa: S311  repeatable rubbish
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context.check_hostname = False
    start = context.wrap_bio(incoming, outgoing)
    with pytest.raises(ssl.SSLWantReadError):
        start.do_handshake()
    greeting = outgoing.read()
    with watched() as (pid, port):
        idle = resident(pid)
        for number in range(300):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
                if number % 3 == 0:
                    sock.sendall(rng.randbytes(rng.randrange(1, 3000)))
                elif number % 3 == 1:
                    sock.sendall(greeting[: rng.randrange(1, len(greeting))])
                else:
                    broken = bytearray(greeting)
                    broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
                    sock.sendall(broken)
        assert peak(pid) - idle < 64 * 2**20


def test_half_a_handshake_is_held_only_so_long() -> None:
    """Hundreds of begun handshakes at once stay within the bound, and are closed in time."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    greeting = outgoing.read()
    held: list[socket.socket] = []
    with watched() as (pid, port):
        idle = resident(pid)
        try:
            for _ in range(500):
                sock = socket.create_connection(("127.0.0.1", port), timeout=20)
                sock.sendall(greeting)  # the node answers, and waits for what never comes
                held.append(sock)
            until(lambda: len(list(Path(f"/proc/{pid}/fd").iterdir())) < 200)
            assert peak(pid) - idle < 64 * 2**20
        finally:
            for sock in held:
                sock.close()


def test_half_a_frame_and_silence() -> None:
    """An authenticated peer that stops in the middle of a frame is dropped as dead, and nothing waits for it."""
    with watched() as (_, port), insider(port) as sock:
        sock.settimeout(10)
        sock.sendall(HEADER.pack(1000, Kind.REQUEST, 0, 0, 1) + b"x" * 10)
        started = time.monotonic()
        ended(sock)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "breach",
    [
        HEADER.pack(0xFFFFFFFF, Kind.REQUEST, 0, 0, 1),
        HEADER.pack(5, 99, 0, 0, 1),
        frame(Kind.REQUEST, 1, b"\xc1rubbish"),
        frame(Kind.REQUEST, 1, b"\x91" * 5000 + b"\xc0"),
        frame(Kind.REQUEST, 1, b"\x94\x63\xc0\xc0\xc0"),
        frame(Kind.REPLY, 9, b""),
        frame(Kind.REQUEST_BODY, 1, b"x"),
        frame(Kind.HELLO, 0, b""),
    ],
    ids=["4 GiB", "kind", "not msgpack", "deep nesting", "no such op", "answer", "body", "hello"],
)
def test_a_breach_ends_that_link_with_a_reason(breach: bytes) -> None:
    with watched() as (_, port), insider(port) as sock:
        sock.settimeout(10)
        sock.sendall(breach)
        assert b"ProtocolError" in ended(sock)


def test_bodies_that_are_announced_but_never_come() -> None:
    """Memory is set aside only by the budget, and given back when the link ends."""
    with watched() as (pid, port):
        idle = resident(pid)
        for _ in range(20):
            with insider(port) as sock:
                table = struct.pack(">HIQ", 1, 1, 1 << 30) + b"\xc0"
                sock.sendall(frame(Kind.REQUEST, 1, table, 1))
        until(lambda: resident(pid) - idle < 64 * 2**20)


def test_a_million_tiny_frames() -> None:
    """A million cancels of nothing, and 200,000 requests whose answers are read: in little memory."""
    with watched() as (pid, port):
        idle = resident(pid)
        with insider(port) as sock:
            sock.settimeout(300)
            cancels = frame(Kind.CANCEL, 7) * 5000
            for _ in range(200):
                sock.sendall(cancels)
            sock.sendall(frame(Kind.PING, 0, b"done"))
            assert read(sock, 16)[12:] == b"done"
            tiny = pack_call(Op.EXISTS, "store", ["x"])
            for start in range(0, 200_000, 500):
                sock.sendall(b"".join(frame(Kind.REQUEST, start + number + 1, tiny) for number in range(500)))
                read(sock, 500 * 14)
        assert peak(pid) - idle < 64 * 2**20


def test_a_peer_that_never_reads_its_answers() -> None:
    """It is dropped when what waits for it reaches the limit; the node's memory stays bounded."""
    with watched() as (pid, port), insider(port) as sock:
        sock.settimeout(30)
        pings = frame(Kind.PING, 0, b"x" * 64) * 1000
        with pytest.raises((ConnectionError, ssl.SSLError, TimeoutError)):
            for _ in range(4000):
                sock.sendall(pings)
        assert peak(pid) < 400 * 2**20


def test_a_peer_that_answers_rubbish() -> None:
    """A fake node's nonsense becomes an error of the call, or ends the link; never a value."""
    from laila.errors import LailaError

    answers = [
        frame(Kind.REPLY, 1, b"\xc1"),
        frame(Kind.REPLY, 1, b"\x92\x91\xc4\x01\xc1\xc0"),
        frame(Kind.REPLY, 1, b"\x92\x92\xc4\x00\xc4\x00\xc0"),
        frame(Kind.ERROR, 1, b"\xc1"),
        frame(Kind.ERROR, 1, b"\x92\xa6Ghosts\x80"),
        frame(Kind.REPLY, 5, b"\xc0"),
        b"\xff" * 100,
    ]
    identity = Identity.ephemeral()
    context = make_context(identity, SECRET, server=True)
    with socket.create_server(("127.0.0.1", 0)) as server, DefaultPolicy() as policy:
        port = server.getsockname()[1]

        def fake() -> None:
            for answer in answers:
                raw, _ = server.accept()
                with raw, context.wrap_socket(raw, server_side=True) as sock:
                    read(sock, HEADER.unpack(read(sock, 12))[0])
                    sock.sendall(
                        frame(Kind.HELLO, 0, pack_hello(Hello(identity.node_id, "fake", str(answer))))
                    )
                    read(sock, HEADER.unpack(read(sock, 12))[0])
                    sock.sendall(answer)
                    sock.settimeout(5)
                    ended(sock)

        thread = threading.Thread(target=fake)
        thread.start()
        for _ in answers:
            peer_id = policy.communication.add_tcpip_peer("127.0.0.1", port, SECRET)
            with pytest.raises(LailaError):
                policy.peers[peer_id].remember("x").wait(10)
            policy.communication.remove_peer(peer_id)
        thread.join(20)
        assert not thread.is_alive()


def test_the_session_survives_a_fuzzer() -> None:
    """Valid traffic with bytes flipped, cut and repeated, from many authenticated links."""
    rng = random.Random(11)  # noqa: S311  as above
    good = b"".join(
        [
            frame(
                Kind.REQUEST,
                1,
                pack_call(Op.MEMORIZE, "store", (["k"], [b"\x94\xa8constant\xc0\x00\x01"], None)),
            ),
            frame(Kind.REQUEST, 2, pack_call(Op.REMEMBER, "store", ["k"])),
            frame(Kind.PING, 0, b"1"),
            frame(Kind.REQUEST, 3, pack_call(Op.KEYS, "store", None)),
            frame(Kind.REQUEST, 4, struct.pack(">HIQ", 1, 1, 50_000) + b"\xc0", 1),
            frame(Kind.CANCEL, 4),
        ]
    )
    with watched() as (pid, port):
        idle = resident(pid)
        for _ in range(150):
            data = bytearray(good)
            for _ in range(rng.randrange(1, 6)):
                where = rng.randrange(len(data))
                action = rng.randrange(3)
                if action == 0:
                    data[where] ^= 1 << rng.randrange(8)
                elif action == 1:
                    del data[where : where + rng.randrange(1, 20)]
                else:
                    data[where:where] = data[where : where + rng.randrange(1, 40)]
                if not data:
                    data = bytearray(b"\0")
            with insider(port) as sock:
                sock.sendall(data)
                sock.settimeout(0.05)
                try:
                    sock.recv(65536)
                except (TimeoutError, ConnectionError, ssl.SSLError):
                    continue
        assert peak(pid) - idle < 128 * 2**20


def test_bodies_wait_for_the_budget() -> None:
    """Two large values at once where there is room for one: both arrive, one after the other."""
    import numpy as np

    limits = Limits(body_budget=5 * 2**20)
    with DefaultPolicy(name="a") as a, node("b", limits=limits) as (b, at_b):
        peer = a.peers[a.communication.add_tcpip_peer("127.0.0.1", at_b.port, SECRET)]
        with laila.guarantee:
            for number in range(6):
                array = np.full(500_000, number, dtype="f8")
                peer.memorize(laila.constant(array, nickname=str(number)), pool_nickname="store")
        for number in range(6):
            assert b.remember(nickname=str(number), pool_nickname="store").data[-1] == number


def test_a_body_over_the_limit_is_a_clear_error() -> None:
    import numpy as np

    from laila.errors import LimitExceeded

    limits = Limits(max_body=2**20)
    with DefaultPolicy(name="a", limits=limits) as a, node("b", limits=limits) as (b, at_b):
        peer = a.peers[a.communication.add_tcpip_peer("127.0.0.1", at_b.port, SECRET)]
        big = laila.constant(np.zeros(2**18), nickname="big")
        with pytest.raises(LimitExceeded, match="max_body"):
            peer.memorize(big, pool_nickname="store").wait(10)
        b.memorize(big, pool_nickname="store").wait()
        with pytest.raises(LimitExceeded, match="max_body"):
            peer.remember(nickname="big", pool_nickname="store").wait(10)
        assert peer.keys("store").data == [big.global_id]
