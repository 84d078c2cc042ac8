"""Two and three nodes: symmetry, verbs, batches, duplicates, addresses."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from support import FAST, OTHER_SECRET, SECRET, child, node, until

import laila
from laila.errors import (
    AccessDenied,
    BadConfig,
    EntryNotFound,
    PeerLost,
    SelfPeer,
    UnknownPeer,
    UnknownPool,
)
from laila.macros.defaults import DefaultPolicy, DefaultPool, DefaultTCPIPProtocol
from laila.pools import SqlitePool

ANY = "0.0.0.0"  # noqa: S104  listening everywhere is what is tested


def test_both_sides_list_each_other_when_peering_returns() -> None:
    with node("a") as (a, _), node("b") as (b, port_b):
        peer_id = a.communication.add_tcpip_peer("127.0.0.1", port_b.port, SECRET)
        assert peer_id == b.global_id
        assert list(a.peers) == [b.global_id]
        assert list(b.peers) == [a.global_id]
        assert a.peers[b.global_id].name == "b"
        assert b.peers[a.global_id].name == "a"


@pytest.mark.parametrize(
    "value", [None, 2**200, "text", b"bytes", [1, (2, 3)], {"k": {1, 2}}, 1.5, {(1, 2): "x"}]
)
def test_either_side_works_on_the_others_memory(value: object) -> None:
    with node("a") as (a, _), node("b") as (b, port_b):
        a.communication.add_tcpip_peer("127.0.0.1", port_b.port, SECRET)
        for here, there in ((a, b), (b, a)):
            proxy = here.peers[there.global_id]
            entry = laila.constant(value)
            assert proxy.memorize(entry, pool_nickname="store").data == entry.global_id
            assert proxy.exists(entry, pool_nickname="store").data is True
            got = proxy.remember(entry.global_id, pool_nickname="store")
            assert got.data == value
            assert type(got.data) is type(value)
            assert got.result == entry
            assert proxy.keys("store").data == [entry.global_id]
            assert there.remember(entry.global_id, pool_nickname="store").data == value
            assert proxy.forget(entry, pool_nickname="store").data == 1
            assert proxy.exists(entry, pool_nickname="store").data is False


def test_shapes_of_data() -> None:
    """A positional id gives the bare payload, the plural keyword and lists give lists."""
    with node("a") as (a, _), node("b") as (b, port_b):
        proxy = a.peers[a.communication.add_tcpip_peer("127.0.0.1", port_b.port, SECRET)]
        one, two = laila.constant(1, nickname="one"), laila.constant(2, nickname="two")
        stored = proxy.memorize(entries=[one, two], pool_nickname="store")
        assert stored.data == [one.global_id, two.global_id]
        assert len(stored) == 2
        for where in (proxy, b):
            assert where.remember(one.global_id, pool_nickname="store").data == 1
            assert where.remember(entry_ids=one.global_id, pool_nickname="store").data == [1]
            assert where.remember([one, two], pool_nickname="store").data == [1, 2]
            assert where.remember(nickname="two", pool_nickname="store").data == 2
            assert where.remember(nickname=["two", "one"], pool_nickname="store").data == [2, 1]
            assert where.remember(entry_ids=[], pool_nickname="store").data == []


def test_a_large_array_each_way() -> None:
    with node("a") as (a, _), node("b") as (b, port_b):
        proxy = a.peers[a.communication.add_tcpip_peer("127.0.0.1", port_b.port, SECRET)]
        array = np.random.default_rng(1).random((1024, 1024))
        proxy.memorize(laila.constant(array, nickname="big"), pool_nickname="store").wait(30)
        got = proxy.remember(nickname="big", pool_nickname="store").data
        assert got.dtype == array.dtype
        assert np.array_equal(got, array)
        got[0, 0] = 7.0  # it is the caller's own
        again = proxy.remember(nickname="big", pool_nickname="store").data
        local = b.remember(nickname="big", pool_nickname="store").data
        local[0, 0] = 8.0
        assert again[0, 0] == array[0, 0]
        assert b.remember(nickname="big", pool_nickname="store").data[0, 0] == array[0, 0]


def test_a_batch_is_one_request() -> None:
    with node("a") as (a, _), node("b") as (b, port_b):
        proxy = a.peers[a.communication.add_tcpip_peer("127.0.0.1", port_b.port, SECRET)]
        entries = [laila.constant(number) for number in range(3000)]
        proxy.memorize(entries, pool_nickname="store").wait(30)
        values = proxy.remember([entry.global_id for entry in entries], pool_nickname="store").data
        assert values == list(range(3000))
        assert proxy.forget(entries, pool_nickname="store").data == 3000
        assert proxy.info().requests_out == 3


def test_errors_arrive_as_their_class() -> None:
    with node("a") as (a, _), node("b") as (b, port_b):
        proxy = a.peers[a.communication.add_tcpip_peer("127.0.0.1", port_b.port, SECRET)]
        with pytest.raises(UnknownPool, match="nowhere.*store"):
            proxy.remember("x", pool_nickname="nowhere").wait()
        with pytest.raises(EntryNotFound, match="x") as caught:
            proxy.remember(["x", "y"], pool_nickname="store").wait()
        assert caught.value.missing == ("x", "y")
        assert isinstance(caught.value, KeyError)
        with pytest.raises(EntryNotFound):
            proxy.forget("x", pool_nickname="store").wait()
        assert proxy.forget("x", pool_nickname="store", missing_ok=True).data == 0
        with pytest.raises(UnknownPeer, match="no-such-peer"):
            a.peers["no-such-peer"]


def test_three_nodes_with_three_secrets_in_one_process() -> None:
    """A mesh in which each listener has a secret of its own; one stops, the others are undisturbed."""
    secrets = [SECRET, OTHER_SECRET, laila.new_secret()]
    with node("a", secrets[0]) as (a, at_a), node("b", secrets[1]) as (b, at_b):
        with node("c", secrets[2]) as (c, at_c):
            a.communication.add_tcpip_peer("127.0.0.1", at_b.port, secrets[1])
            b.communication.add_tcpip_peer("127.0.0.1", at_c.port, secrets[2])
            c.communication.add_tcpip_peer("127.0.0.1", at_a.port, secrets[0])
            nodes = [a, b, c]
            for one in nodes:
                assert {peer for peer in one.peers} == {n.global_id for n in nodes if n is not one}
            for one in nodes:
                for other in nodes:
                    if one is not other:
                        entry = laila.constant([one.name, other.name])
                        one.peers[other.global_id].memorize(entry, pool_nickname="store").wait()
                        assert other.remember(entry, pool_nickname="store").data == [one.name, other.name]
        until(lambda: not a.peers.get(c.global_id) or not a.peers[c.global_id].connected)
        entry = laila.constant("still here")
        a.peers[b.global_id].memorize(entry, pool_nickname="store").wait()
        assert b.remember(entry, pool_nickname="store").data == "still here"


def test_dialing_each_other_at_once_leaves_one_link() -> None:
    """Both sides keep the same one of two links, whoever dialed first."""
    for _ in range(8):
        with node("a") as (a, at_a), node("b") as (b, at_b):
            threads = [
                threading.Thread(target=x.communication.add_tcpip_peer, args=("127.0.0.1", at.port, SECRET))
                for x, at in ((a, at_b), (b, at_a))
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10)
            for one, other in ((a, b), (b, a)):
                until(lambda one=one: len(one.communication.live_links) == 1, what="one link")
                assert one.peers[other.global_id].connected
            dialed = [one.communication.links()[0].direction for one in (a, b)]
            assert sorted(dialed) == ["accepted", "dialed"]
            entry = laila.constant("x")
            a.peers[b.global_id].memorize(entry, pool_nickname="store").wait(5)
            assert b.peers[a.global_id].exists(entry, pool_nickname="store").data is False


def test_calls_survive_the_settling_of_duplicates() -> None:
    """Calls that are made while two links become one all get their answers."""
    with node("a") as (a, at_a), node("b") as (b, at_b):
        proxy = a.peers[a.communication.add_tcpip_peer("127.0.0.1", at_b.port, SECRET)]
        proxy.memorize(laila.constant(5, nickname="five"), pool_nickname="store").wait()
        stop = threading.Event()
        wrong: list[object] = []

        def ask() -> None:
            while not stop.is_set():
                try:
                    value = proxy.remember(nickname="five", pool_nickname="store").wait(5)
                except Exception as error:
                    wrong.append(error)
                    return
                if value != 5:
                    wrong.append(value)

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            b.communication.add_tcpip_peer("127.0.0.1", at_a.port, SECRET)
            a.communication.add_tcpip_peer("127.0.0.1", at_b.port, SECRET)
        stop.set()
        for thread in threads:
            thread.join(10)
        assert wrong == []


@pytest.mark.parametrize(("host", "dial"), [("::1", "::1"), ("localhost", "localhost"), (ANY, "127.0.0.1")])
def test_addresses(host: str, dial: str) -> None:
    with node("a") as (a, _), node("b", host=host) as (b, port_b):
        assert a.communication.add_tcpip_peer(dial, port_b.port, SECRET) == b.global_id


def test_a_node_does_not_peer_with_itself() -> None:
    with node("a") as (a, at_a), pytest.raises(SelfPeer, match="this very node"):
        a.communication.add_tcpip_peer("127.0.0.1", at_a.port, SECRET)


def test_a_port_in_use_says_so() -> None:
    with node("a") as (a, at_a), pytest.raises(BadConfig, match="another program has this port"):
        a.communication.add_connection(DefaultTCPIPProtocol(port=at_a.port))


def test_defaults_are_safe() -> None:
    """Loopback, a free port, a secret of its own that no message shows."""
    protocol = DefaultTCPIPProtocol()
    assert (protocol.host, protocol.port) == ("127.0.0.1", 0)
    assert len(protocol.peer_secret_key) >= 43
    assert protocol.peer_secret_key != DefaultTCPIPProtocol().peer_secret_key
    assert protocol.peer_secret_key not in repr(protocol)
    with DefaultPolicy() as policy:
        policy.communication.add_connection(protocol)
        assert protocol.port > 0


def test_removing_a_connection_parts_from_who_came_that_way() -> None:
    with node("a") as (a, _), node("b") as (b, at_b):
        a.communication.add_tcpip_peer("127.0.0.1", at_b.port, SECRET)
        b.communication.remove_connection(at_b)
        until(lambda: not a.peers[b.global_id].connected)
        assert dict(b.peers) == {}
        with pytest.raises(PeerLost) as caught:
            a.peers[b.global_id].remember("x").wait()
        assert caught.value.executed == "no"


def test_removing_a_peer_is_seen_on_both_sides() -> None:
    with node("a") as (a, _), node("b") as (b, at_b):
        peer_id = a.communication.add_tcpip_peer("127.0.0.1", at_b.port, SECRET)
        a.communication.remove_peer(peer_id)
        assert dict(a.peers) == {}
        until(lambda: not dict(b.peers))


def test_remember_can_persist_here() -> None:
    with node("a") as (a, _), node("b") as (b, at_b):
        proxy = a.peers[a.communication.add_tcpip_peer("127.0.0.1", at_b.port, SECRET)]
        entry = laila.constant(np.arange(10_000))
        proxy.memorize(entry, pool_nickname="store").wait()
        with laila.guarantee:
            proxy.remember(entry, pool_nickname="store", persist=True)
        assert np.array_equal(a.remember(entry).data, np.arange(10_000))


# ---- relaying ----


def test_relay_passes_bytes_on_and_never_decodes() -> None:
    """a works on c through b, which does not know the type that travels."""

    class Strange:
        def __init__(self, number: int) -> None:
            self.number = number

    laila.register(Strange, name="test.Strange", encode=lambda s: s.number, decode=Strange)
    with child() as (_, port_b), node("a") as (a, _a), node("c") as (c, at_c):
        # b is a process that never registered Strange.
        b = a.peers[a.communication.add_tcpip_peer("127.0.0.1", port_b, SECRET)]
        c.communication.add_tcpip_peer("127.0.0.1", port_b, SECRET)
        until(lambda: any(info["peer_name"] == "c" for info in b.peers))
        via = b.at("c")
        entry = laila.constant(Strange(41))
        assert via.memorize(entry, pool_nickname="store").data == entry.global_id
        assert c.remember(entry, pool_nickname="store").data.number == 41
        assert via.remember(entry.global_id, pool_nickname="store").data.number == 41
        array = laila.constant(np.arange(500_000.0))
        via.memorize(array, pool_nickname="store").wait(20)
        assert np.array_equal(via.remember(array, pool_nickname="store").data, np.arange(500_000.0))
        with pytest.raises(UnknownPeer, match="nobody"):
            b.at("nobody").exists("x").wait()
        with pytest.raises(UnknownPeer, match="one who asks"):
            b.at("a").exists("x").wait()


# ---- access rules ----


def test_access_rules_by_name_and_default_open() -> None:
    with node("a") as (a, _), node("b") as (b, at_b):
        b.memory.extend(DefaultPool(), "private")
        proxy = a.peers[a.communication.add_tcpip_peer("127.0.0.1", at_b.port, SECRET)]
        proxy.memorize(laila.constant(1, nickname="n"), pool_nickname="private").wait()
        b.communication.access.add("deny * private", "allow * read store", "deny * write store")
        with pytest.raises(AccessDenied, match="private"):
            proxy.remember(nickname="n", pool_nickname="private").wait()
        with pytest.raises(AccessDenied, match="write"):
            proxy.memorize(laila.constant(1), pool_nickname="store").wait()
        assert proxy.keys("store").data == []
        b.communication.access.add("allow a read,write private")
        assert proxy.remember(nickname="n", pool_nickname="private").data == 1
        shown = {pool["name"]: (pool["read"], pool["write"]) for pool in proxy.pools}
        assert shown == {"alpha": (True, True), "store": (True, False), "private": (True, True)}


def test_a_relay_lends_nobody_its_rights() -> None:
    """What c denies to a it also denies to a through b."""
    with node("a") as (a, _), node("b") as (b, at_b), node("c") as (c, at_c):
        proxy = a.peers[a.communication.add_tcpip_peer("127.0.0.1", at_b.port, SECRET)]
        b.communication.add_tcpip_peer("127.0.0.1", at_c.port, SECRET)
        c.communication.access.add("deny a *")
        with pytest.raises(AccessDenied):
            proxy.at("c").keys("store").wait()
        assert b.peers[c.global_id].keys("store").data == []


@pytest.mark.parametrize("rule", ["", "allow", "allow * store", "permit * read store", "deny * fly store x"])
def test_a_rule_that_cannot_be_read_changes_nothing(rule: str) -> None:
    with DefaultPolicy(limits=FAST) as policy:
        with pytest.raises(BadConfig, match="cannot be read"):
            policy.communication.access.add("deny * store", rule)
        assert policy.communication.access.lines == ()


# ---- order and blocking pools ----


def test_a_slow_pool_holds_nobody_up(tmp_path: object) -> None:
    """While a durable pool is busy, requests on memory on the same link are answered."""
    gate = threading.Event()

    class Slow(SqlitePool):
        def put(self, key: str, record: object) -> None:
            gate.wait(10)
            super().put(key, record)  # type: ignore[arg-type]

    with node("a") as (a, _), node("b") as (b, at_b):
        b.memory.extend(Slow(f"{tmp_path}/slow.sqlite"), "slow")
        proxy = a.peers[a.communication.add_tcpip_peer("127.0.0.1", at_b.port, SECRET)]
        stuck = proxy.memorize(laila.constant(1, nickname="s"), pool_nickname="slow")
        for _ in range(50):
            assert proxy.keys("store").wait(5) == []
        assert stuck.status.value == "pending"
        gate.set()
        stuck.wait(10)


def test_calls_on_one_key_keep_their_order(tmp_path: object) -> None:
    with node("a") as (a, _), node("b") as (b, at_b):
        b.memory.extend(SqlitePool(f"{tmp_path}/d.sqlite"), "durable")
        proxy = a.peers[a.communication.add_tcpip_peer("127.0.0.1", at_b.port, SECRET)]
        for _ in range(5):
            entry = laila.variable(0, nickname="v")
            with laila.guarantee:
                for step in range(20):
                    entry = entry.evolve(step)
                    proxy.memorize(entry, pool_nickname="durable")
            assert proxy.remember(nickname="v", pool_nickname="durable").data == 19
