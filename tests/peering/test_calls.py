"""Calls in awkward company: awaited, unwaited, interrupted, behind large bodies, beside callers who err."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support import FAST, SECRET, child, node, until

import laila
from laila.errors import (
    BadConfig,
    BadValue,
    Busy,
    DeadlineExceeded,
    LimitExceeded,
    PeerLost,
    ProtocolError,
    StorageError,
)
from laila.futures import Future
from laila.limits import Limits
from laila.macros.defaults import DefaultPolicy
from laila.pools import MemoryPool
from laila.proxies import Peer
from laila.transport.order import Order
from laila.verbs import CallFuture
from laila.wire.messages import Op, pack


@pytest.fixture
def peer() -> Iterator[Peer]:
    """A node in another process, as a peer of one here; "x" is in its store."""
    with DefaultPolicy(name="a", limits=FAST) as a, child() as (_, port):
        proxy = a.peers[a.communication.add_tcpip_peer("127.0.0.1", port, SECRET)]
        proxy.memorize(laila.constant("value", nickname="x"), pool_nickname="store").wait()
        yield proxy


def ask(peer: Peer) -> CallFuture:
    return peer.remember(nickname="x", pool_nickname="store")


def test_awaited_calls_are_answered_promptly(peer: Peer) -> None:
    """Nobody drives the socket for a task: the I/O thread must watch it at once."""

    async def main() -> list[float]:
        took = []
        for _ in range(60):
            started = time.monotonic()
            assert await ask(peer) == "value"
            took.append(time.monotonic() - started)
        return took

    assert statistics.median(asyncio.run(main())) < 0.01


def test_unwaited_calls_do_not_starve_their_link(peer: Peer) -> None:
    """Calls that are started again and again and looked at only later are answered all along."""
    calls = []
    for _ in range(int(2 * FAST.dead_after / 0.01)):
        calls.append(ask(peer))
        time.sleep(0.01)
    assert all(call.done for call in calls[:-10])
    assert [call.data for call in calls] == ["value"] * len(calls)
    assert peer.connected


def test_threads_that_share_a_peer_wait_no_longer_than_they_must(peer: Peer) -> None:
    """When the thread that reads has its answer, the others' answers are read without delay."""
    took: list[float] = []

    def work() -> None:
        for _ in range(100):
            started = time.monotonic()
            assert ask(peer).wait(5) == "value"
            took.append(time.monotonic() - started)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(took) == 400
    assert statistics.median(took) < 0.01


@pytest.mark.parametrize("pool", ["store", "durable"])
def test_a_small_call_does_not_overtake_a_large_one_on_the_same_entry(pool: str, tmp_path: Path) -> None:
    """Small frames pass large bodies on the wire; calls on one entry keep their order all the same."""
    durable = str(tmp_path / "d.sqlite")
    with DefaultPolicy(limits=FAST) as a, child(durable=durable) as (_, port):
        peer = a.peers[a.communication.add_tcpip_peer("127.0.0.1", port, SECRET)]
        large = laila.constant(np.zeros(1_000_000), nickname="k")
        for _ in range(3):
            with laila.guarantee:
                peer.memorize(large, pool_nickname=pool)
                middle = peer.remember(nickname="k", pool_nickname=pool)
                peer.memorize(laila.constant("new", nickname="k"), pool_nickname=pool)
                last = peer.remember(nickname="k", pool_nickname=pool)
            assert middle.data.nbytes == 8_000_000
            assert last.data == "new"


def test_a_large_call_that_never_went_out_holds_up_nobody(peer: Peer) -> None:
    """It was refused here; later calls on the same entry do not wait for its answer."""
    entry = laila.constant(np.arange(1000.0), nickname="refused")
    with pytest.raises(LimitExceeded, match="large values"):
        peer.memorize([entry] * 66_000, pool_nickname="store").wait(20)
    assert peer.exists(entry, pool_nickname="store").wait(5) is False


def test_the_queue_of_an_entry_keeps_its_order() -> None:
    """What is asked for while the queue is let go stands behind what waited; a large one in it stops the others."""
    order, went = Order(), []
    first = order.first(["k"], Future("x"))  # type: ignore[arg-type]

    def middle() -> None:
        went.append("middle")
        assert order.parked(["k"], lambda: went.append("late"))
        went.append("large")
        order.first(["k"], Future("y"))  # type: ignore[arg-type]

    assert order.parked(["k"], middle)
    assert order.parked(["k"], lambda: went.append("last"))
    assert not order.parked(["other"], middle)
    order.release(first._ids)  # type: ignore[attr-defined]
    assert went == ["middle", "large"]
    order.release(["k"])
    assert went == ["middle", "large", "last", "late"]
    assert not order


def test_interrupts_lose_nothing_for_ever(peer: Peer) -> None:
    """Ctrl-C at any instant of a wait: later every call ends, with its value or with PeerLost, and the link works."""
    armed = False

    def interrupted(number: int, frame: object) -> None:
        nonlocal armed
        if armed:  # only while the library is at work, so that the test itself is not broken off
            armed = False
            raise KeyboardInterrupt

    calls: list[CallFuture] = []
    interrupts = 0
    before = signal.signal(signal.SIGALRM, interrupted)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.0101)
    try:
        end = time.monotonic() + 2.0
        while time.monotonic() < end:
            call = ask(peer)
            calls.append(call)
            try:
                armed = True
                call.finish(5)
            except KeyboardInterrupt:
                interrupts += 1
            armed = False
            if isinstance(call.exception if call.done else None, PeerLost):
                until(lambda: peer.connected)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupts > 5
    until(lambda: peer.connected)
    for call in calls:
        try:
            assert call.wait(5) == "value"
        except PeerLost:
            continue
    assert ask(peer).wait(5) == "value"


def test_threads_that_wait_for_one_future_all_wake() -> None:
    for _ in range(500):
        future, woken = Future("x"), []
        threads = [threading.Thread(target=lambda f=future, w=woken: w.append(f.wait(10))) for _ in range(3)]
        for thread in threads:
            thread.start()
        future.resolve(1)
        for thread in threads:
            thread.join(10)
        assert woken == [1, 1, 1]


def test_a_callback_may_wait_for_an_answer_itself(peer: Peer) -> None:
    """It runs in the thread that reads; that thread goes on reading for it."""
    seen: list[object] = []
    for _ in range(20):
        call = ask(peer)
        call.add_done_callback(
            lambda _: seen.append(threading.current_thread().name[:5] == "laila" or ask(peer).wait(5))
        )
        assert call.wait(5) == "value"
    assert len(seen) == 20


def test_a_callback_that_raises_harms_nobody_else(peer: Peer, capfd: pytest.CaptureFixture[str]) -> None:
    calls = [ask(peer) for _ in range(20)]
    calls[0].add_done_callback(lambda _: 1 / 0)
    assert [call.wait(5) for call in calls] == ["value"] * 20
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_listener_to_events_that_raises_harms_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    with node("a") as (a, _), child() as (process, port):
        a.communication.events.subscribe(lambda kind, fields: 1 / 0)
        peer = a.peers[a.communication.add_tcpip_peer("127.0.0.1", port, SECRET)]
        os.kill(process.pid, signal.SIGSTOP)
        calls = [peer.keys("store") for _ in range(5)]
        process.kill()
        assert all(isinstance(call.exception, PeerLost) or call.data == [] for call in calls)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_a_callers_mistake_is_the_callers_error(peer: Peer) -> None:
    """Wrong arguments are refused here; the link and the calls of others stay."""
    for pool in (5, b"alpha", ""):
        with pytest.raises(BadValue, match="nickname"):
            peer.remember("x", pool_nickname=pool)  # type: ignore[arg-type]
    with pytest.raises(BadValue, match="peer is named"):
        peer.at(5)  # type: ignore[arg-type]
    with pytest.raises(BadValue, match="Unicode"):
        peer.remember("\ud800").wait()
    assert ask(peer).data == "value"


def test_arguments_in_the_wrong_order_show_no_secret() -> None:
    with DefaultPolicy(limits=FAST) as policy:
        with pytest.raises(BadConfig) as caught:
            policy.communication.add_tcpip_peer("127.0.0.1", SECRET, 7400)  # type: ignore[arg-type]
        assert SECRET not in str(caught.value)
        with pytest.raises(BadConfig, match="host is a name"):
            policy.communication.add_tcpip_peer(123, 7400, SECRET)  # type: ignore[arg-type]


def test_an_answer_that_does_not_fit_is_an_error_of_that_call(peer: Peer) -> None:
    """More large values in one answer than a message holds: that call fails, the link stays."""
    tiny = [laila.constant(np.full(512, number), nickname=f"n{number}") for number in range(400)]
    ids = [entry.global_id for entry in tiny]
    peer.memorize(tiny, pool_nickname="store").wait(20)
    with pytest.raises(LimitExceeded, match="large values"):
        peer.remember(ids * 170, pool_nickname="store").wait(30)
    assert ask(peer).data == "value"


@pytest.mark.parametrize("op", list(Op))
def test_answers_that_make_no_sense_are_not_believed(op: Op) -> None:
    answers = (None, -1, "rubbish", [7], {"a": 1}, ["x", None], 3)
    for value in (
        one for one in answers if not (op is Op.INVOKE and type(one) is dict)
    ):  # a service may say that
        future = CallFuture(op, ["a", "b"], True)
        future.answered(pack(value), ())
        assert isinstance(future.exception, ProtocolError), value


def test_a_given_up_dial_leaves_no_peer() -> None:
    with node("b") as (b, at_b), DefaultPolicy(name="a", limits=FAST) as a:
        for timeout in (1e-6, 0.0001, 0.0003, 0.0005, 0.001):  # at every stage of a handshake
            with contextlib.suppress(DeadlineExceeded):
                a.communication.remove_peer(
                    a.communication.add_tcpip_peer("127.0.0.1", at_b.port, SECRET, timeout=timeout)
                )
        with pytest.raises(DeadlineExceeded):
            a.communication.add_tcpip_peer("127.0.0.1", at_b.port, SECRET, timeout=1e-6)
        until(lambda: not b.peers)
        time.sleep(0.3)
        assert (dict(a.peers), dict(b.peers), a.communication.dialers) == ({}, {}, [])
        for _ in range(3):
            peer_id = a.communication.add_tcpip_peer("127.0.0.1", at_b.port, SECRET)
        assert len(a.communication.dialers) == 1
        a.communication.remove_peer(peer_id)
        time.sleep(0.5)
        assert (dict(a.peers), dict(b.peers)) == ({}, {})


def test_a_body_that_is_never_granted_ends_in_time() -> None:
    """A peer that answers pings but takes no body holds up neither that call nor the others."""
    limits = Limits(request_timeout=0.6, ping_interval=0.2, dead_after=5.0)
    with DefaultPolicy(limits=limits) as a, node("b") as (b, at_b):
        b.communication._budget.ask(b.limits.body_budget, lambda: True)  # nothing is left for anybody
        peer = a.peers[a.communication.add_tcpip_peer("127.0.0.1", at_b.port, SECRET)]
        large = peer.memorize(laila.constant(np.zeros(100_000), nickname="big"), pool_nickname="store")
        assert isinstance(large.exception, DeadlineExceeded)
        assert peer.keys("store").wait(5) == []


def test_a_pool_that_fails_in_its_own_way_ends_the_call() -> None:
    class Broken(MemoryPool):
        def get(self, key: str) -> None:
            raise RuntimeError("the driver failed")

    with node("a") as (a, _), node("b") as (b, at_b):
        a.memory.extend(Broken(), "broken")
        b.memory.extend(Broken(), "broken")
        peer = a.peers[a.communication.add_tcpip_peer("127.0.0.1", at_b.port, SECRET)]
        with pytest.raises(RuntimeError, match="the driver failed"):
            a.remember("x", pool_nickname="broken").wait(5)
        with pytest.raises(laila.LailaError, match="the driver failed"):
            peer.remember("x", pool_nickname="broken").wait(5)


def test_data_and_result_never_share_what_can_be_written(peer: Peer) -> None:
    array = np.arange(100_000.0)
    peer.memorize(laila.constant(array, nickname="big"), pool_nickname="store").wait()
    first = peer.remember(nickname="big", pool_nickname="store")
    entry = first.result
    first.data[0] = 99
    assert entry.data[0] == 0
    second = peer.remember(nickname="big", pool_nickname="store")
    second.data[0] = 99
    with pytest.raises(BadValue, match="`.result` before `.data`"):
        _ = second.result


def test_a_dataclass_that_computes_in_post_init_comes_back_as_it_was() -> None:
    @laila.register(name="tests.Doubling")
    @dataclass
    class Doubling:
        x: int

        def __post_init__(self) -> None:
            self.x *= 2

    with DefaultPolicy() as policy:
        policy.memorize(laila.constant(Doubling(1), nickname="d")).wait()
        assert policy.remember(nickname="d").data.x == 2


def test_work_handed_to_the_io_thread_is_not_forgotten() -> None:
    """A call that is handed in while others run is run at once too."""
    with node("a", limits=Limits()) as (a, _):
        reactor = a.communication.reactor
        for _ in range(300):
            done = threading.Event()
            reactor.call_soon(lambda done=done: reactor.call_soon(done.set))
            assert done.wait(0.25)


def test_more_requests_than_allowed_are_refused() -> None:
    """A peer that ignores max_requests is told so, and what is queued stays bounded."""
    limits = Limits(max_requests=4)
    gate = threading.Event()

    class Slow(MemoryPool):
        capabilities = MemoryPool.capabilities.__class__(durable=False, blocking=True, shared=False)

        def get(self, key: str) -> None:
            gate.wait(10)

    with node("b", limits=limits) as (b, at_b), node("a") as (a, _):
        b.memory.extend(Slow(), "slow")
        peer = a.peers[a.communication.add_tcpip_peer("127.0.0.1", at_b.port, SECRET)]
        assert peer.link is not None
        assert peer.link.peer is not None
        peer.link.peer = peer.link.peer._replace(max_requests=1000)
        calls = [peer.remember(str(number), pool_nickname="slow") for number in range(50)]
        until(lambda: sum(call.done for call in calls) >= 40)
        gate.set()
        refused = sum(isinstance(call.exception, Busy) for call in calls)
        assert refused >= 40


def test_a_rotation_of_the_secret_loses_nobody() -> None:
    """Three rounds: accept the new one too, show the new one, drop the old one; peering works in each."""
    old, new = SECRET, laila.new_secret()
    rounds = [((old, ()), (old, (new,))), ((new, (old,)), (old, (new,))), ((new, (old,)), (new, ()))]
    for (listens, also), (dials, accepts) in rounds:
        with node("a", secret=listens, also_accept=also) as (a, at_a), DefaultPolicy(limits=FAST) as b:
            peer_id = b.communication.add_tcpip_peer("127.0.0.1", at_a.port, dials, also_accept=accepts)
            assert peer_id == a.global_id


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_over_there_is_said_here(tmp_path: Path) -> None:
    """The write fails with the system's reason; what was acknowledged before is still there, and goes on being read."""
    disk = tmp_path / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], check=True, timeout=10)
    try:
        with DefaultPolicy(limits=FAST) as a, child(durable=str(disk / "d.sqlite")) as (process, port):
            peer = a.peers[a.communication.add_tcpip_peer("127.0.0.1", port, SECRET)]
            kept: dict[str, bytes] = {}
            with pytest.raises(StorageError) as caught:
                for number in range(100):
                    entry = laila.constant(bytes([number]) * 100_000)
                    peer.memorize(entry, pool_nickname="durable").wait(10)
                    kept[entry.global_id] = bytes([number]) * 100_000
            assert "ENOSPC" in caught.value.reason
            assert len(kept) > 3
            assert peer.remember(list(kept), pool_nickname="durable").data == list(kept.values())
            process.kill()
            process.wait()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True, timeout=10)
