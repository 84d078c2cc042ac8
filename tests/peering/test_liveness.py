"""Peers that die, freeze, come back; calls in flight end as PeerLost or DeadlineExceeded, never wrong, never never."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
from support import FAST, SECRET, child, node, until

import laila
from laila.errors import DeadlineExceeded, PeerLost
from laila.limits import Limits
from laila.macros.defaults import DefaultPolicy


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def freeze(pid: int) -> None:
    """Stop a process, and see that all of it stands still."""
    os.kill(pid, signal.SIGSTOP)
    until(
        lambda: all(
            "T" in (task / "stat").read_text().split()[2] for task in Path(f"/proc/{pid}/task").iterdir()
        )
    )


def test_a_killed_peer_is_seen_at_once_and_calls_in_flight_fail() -> None:
    with node("a") as (a, _), child() as (process, port):
        peer = a.peers[a.communication.add_tcpip_peer("127.0.0.1", port, SECRET)]
        freeze(process.pid)
        calls = [peer.remember("x", pool_nickname="store") for _ in range(50)]
        process.kill()
        started = time.monotonic()
        for call in calls:
            error = call.exception
            assert isinstance(error, PeerLost)
            assert error.executed == "maybe"
            assert "it may have run" in str(error)
        assert time.monotonic() - started < FAST.dead_after + 1
        assert not peer.connected
        with pytest.raises(PeerLost) as caught:
            peer.remember("x", pool_nickname="store").wait()
        assert caught.value.executed == "no"


def test_a_frozen_peer_is_taken_for_dead_in_time() -> None:
    """The kernel keeps a stopped process' connection alive; the node does not wait for it."""
    with node("a") as (a, _), child() as (process, port):
        peer = a.peers[a.communication.add_tcpip_peer("127.0.0.1", port, SECRET)]
        freeze(process.pid)
        started = time.monotonic()
        call = peer.remember("x", pool_nickname="store")
        assert isinstance(call.exception, PeerLost)
        assert "silent" in str(call.exception)
        assert FAST.ping_interval < time.monotonic() - started < FAST.dead_after + 1
        os.kill(process.pid, signal.SIGCONT)
        until(lambda: peer.connected, what="the link heals when the process goes on")
        assert peer.keys("store").data == []


def test_a_link_heals_by_itself_and_acknowledged_entries_are_there(tmp_path: Path) -> None:
    """Killed under load with -9 and started anew: same identity, same proxy object, nothing acknowledged is lost."""
    port, state, durable = free_port(), str(tmp_path / "state"), str(tmp_path / "durable.sqlite")
    acknowledged: dict[str, int] = {}
    with node("a") as (a, _):
        for _ in range(3):
            with child(port=port, state=state, durable=durable) as (process, _):
                if not a.peers:
                    peer = a.peers[a.communication.add_tcpip_peer("127.0.0.1", port, SECRET)]
                until(lambda peer=peer: peer.connected)
                threading.Timer(0.4, process.kill).start()
                for number in range(100_000):
                    entry = laila.constant(number)
                    try:
                        peer.memorize(entry, pool_nickname="durable").wait(10)
                    except PeerLost:
                        break
                    acknowledged[entry.global_id] = number
                else:
                    pytest.fail("the peer was never lost")
                assert not peer.connected
        assert len(acknowledged) > 10
        with child(port=port, state=state, durable=durable):
            until(lambda: peer.connected, what="the link comes back")
            ids = list(acknowledged)
            assert peer.remember(ids, pool_nickname="durable").data == list(acknowledged.values())


def test_one_dead_peer_does_not_disturb_the_others() -> None:
    with node("a") as (a, _), child() as (dying, port_1), child() as (_, port_2):
        a.communication.add_tcpip_peer("127.0.0.1", port_1, SECRET)
        healthy = a.peers[a.communication.add_tcpip_peer("127.0.0.1", port_2, SECRET)]
        freeze(dying.pid)
        slowest = 0.0
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            started = time.monotonic()
            healthy.keys("store").wait(5)
            slowest = max(slowest, time.monotonic() - started)
        assert slowest < 1.0
        os.kill(dying.pid, signal.SIGCONT)


def test_a_callers_timeout_leaves_the_link_alone() -> None:
    with node("a") as (a, _), child() as (process, port):
        peer = a.peers[a.communication.add_tcpip_peer("127.0.0.1", port, SECRET)]
        freeze(process.pid)
        call = peer.keys("store")
        with pytest.raises(DeadlineExceeded, match="keys: no answer within 0.1 s"):
            call.wait(0.1)
        os.kill(process.pid, signal.SIGCONT)
        assert call.wait(5) == []
        assert isinstance(DeadlineExceeded("x"), TimeoutError)


def test_a_request_that_never_ends_is_given_up(tmp_path: Path) -> None:
    """The node's own deadline, without any from the caller; the link stays."""
    limits = Limits(request_timeout=0.5, ping_interval=0.2, dead_after=5.0)
    gate = threading.Event()

    from laila.pools import SqlitePool

    class Stuck(SqlitePool):
        def get(self, key: str) -> None:
            gate.wait(10)

    with DefaultPolicy(limits=limits) as a, node("b") as (b, at_b):
        b.memory.extend(Stuck(tmp_path / "s.sqlite"), "stuck")
        peer = a.peers[a.communication.add_tcpip_peer("127.0.0.1", at_b.port, SECRET)]
        call = peer.remember("x", pool_nickname="stuck")
        assert isinstance(call.exception, DeadlineExceeded)
        assert peer.keys("store").data == []
        gate.set()


def test_starting_in_any_order() -> None:
    """A node that is dialed before it exists is found when it comes."""
    port = free_port()
    with node("a") as (a, _):
        dialer = a.communication.maintain("127.0.0.1", port, SECRET)
        until(lambda: dialer.attempts > 2)
        assert "cannot be reached" in str(dialer.last_error)
        with child(port=port):
            until(lambda: dialer.state.value == "up")
            assert a.peers[dialer.peer_id].connected


def test_closing_says_goodbye() -> None:
    """The other side knows at once and loses nothing that was under way."""
    with node("a") as (a, at_a), DefaultPolicy(name="b", limits=FAST) as b:
        b.communication.add_tcpip_peer("127.0.0.1", at_a.port, SECRET)
        lost = []
        a.communication.events.subscribe(
            lambda kind, fields: kind == "link_lost" and lost.append(fields["error"])
        )
        b.close(grace=2.0)
        until(lambda: not dict(a.peers))
        assert "goodbye" in lost[0]


def test_calls_flat_in_memory() -> None:
    """100,000 calls leave nothing behind."""
    import gc
    import tracemalloc

    with node("a") as (a, _), node("b") as (b, at_b):
        peer = a.peers[a.communication.add_tcpip_peer("127.0.0.1", at_b.port, SECRET)]
        entry = laila.constant("x")
        peer.memorize(entry, pool_nickname="store").wait()

        def work(count: int) -> None:
            for _ in range(count // 100):
                with laila.guarantee:
                    for _ in range(100):
                        peer.remember(entry, pool_nickname="store")

        work(5000)
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        work(100_000)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert after - before < 200_000


def test_a_forked_child_leaves_its_parents_links_alone() -> None:
    """The child gets a clear error and can make a policy of its own; the parent's link goes on."""
    with node("a") as (a, _), child() as (_, port):
        peer = a.peers[a.communication.add_tcpip_peer("127.0.0.1", port, SECRET)]
        assert peer.keys("store").data == []
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                with pytest.raises(PeerLost):
                    peer.keys("store").wait(5)
                with DefaultPolicy(limits=FAST) as own:
                    again = own.peers[own.communication.add_tcpip_peer("127.0.0.1", port, SECRET)]
                    assert again.keys("store").wait(5) == []
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert peer.keys("store").wait(5) == []
