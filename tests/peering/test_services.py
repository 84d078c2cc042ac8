"""Services: what a node answers beside its memory."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from laila.codec import Buffer
from laila.errors import AccessDenied, BadValue, DeadlineExceeded, LockTimeout, ProtocolError, UnknownService
from laila.serving import Asker
from laila.wire.messages import Answer
from tests.peering.support import SECRET, node


def test_a_service_answers_a_peer_and_knows_who_asks() -> None:
    with node("server") as (server, protocol), node("client") as (client, _):
        server.services.offer(
            "sum", lambda asker, q, buffers: {"sum": sum(q["of"]), "for": asker.name, "raw": b"\0"}
        )
        peer = client.peers[client.communication.add_tcpip_peer("127.0.0.1", protocol.port, SECRET)]
        assert peer.ask("sum", {"of": [1, 2, 3]}) == {"sum": 6, "for": "client", "raw": b"\0"}


def test_through_a_relay_both_must_be_allowed() -> None:
    with node("far") as (far, far_door), node("middle") as (middle, door), node("near") as (near, _):
        far.services.offer(
            "who", lambda asker, q, buffers: {"asker": asker.name, "origin": list(asker.origin or ())}
        )
        middle.communication.add_tcpip_peer("127.0.0.1", far_door.port, SECRET)
        via = near.peers[near.communication.add_tcpip_peer("127.0.0.1", door.port, SECRET)]
        assert via.at("far").ask("who", {}) == {"asker": "middle", "origin": [near.global_id, "near"]}
        far.communication.access.add("deny near service:who")
        with pytest.raises(AccessDenied):
            via.at("far").ask("who", {})


def test_unknown_withdrawn_and_doubly_offered_services_are_refused() -> None:
    with node("server") as (server, protocol), node("client") as (client, _):
        peer = client.peers[client.communication.add_tcpip_peer("127.0.0.1", protocol.port, SECRET)]
        server.services.offer("here", lambda asker, q, buffers: {})
        with pytest.raises(UnknownService, match="here"):
            peer.ask("elsewhere", {})
        with pytest.raises(BadValue, match="already"):
            server.services.offer("here", lambda asker, q, buffers: {})
        server.services.withdraw("here")
        with pytest.raises(UnknownService):
            peer.ask("here", {})
        with pytest.raises(UnknownService):
            server.services.withdraw("here")


def test_what_a_service_raises_is_raised_here_by_class() -> None:
    def refuse(asker: Asker, question: dict[str, object], buffers: object) -> dict[str, object]:
        raise LockTimeout("held by another", holder="pid 7")

    with node("server") as (server, protocol), node("client") as (client, _):
        server.services.offer("lock", refuse)
        peer = client.peers[client.communication.add_tcpip_peer("127.0.0.1", protocol.port, SECRET)]
        with pytest.raises(LockTimeout) as caught:
            peer.ask("lock", {})
        assert caught.value.holder == "pid 7"


def test_access_rules_bind_services_as_writes() -> None:
    with node("server") as (server, protocol), node("client") as (client, _):
        server.services.offer("volume", lambda asker, q, buffers: {"done": True})
        peer = client.peers[client.communication.add_tcpip_peer("127.0.0.1", protocol.port, SECRET)]
        server.communication.access.add("deny * *", "allow client read *")
        with pytest.raises(AccessDenied, match="service:volume"):
            peer.ask("volume", {})
        server.communication.access.add("allow client read,write service:volume")
        assert peer.ask("volume", {}) == {"done": True}


def test_a_service_that_waits_holds_up_no_pool_and_its_caller_only_so_long() -> None:
    release = threading.Event()

    def wait(asker: Asker, question: dict[str, object], buffers: object) -> dict[str, object]:
        release.wait(20)
        return {}

    with node("server") as (server, protocol), node("client") as (client, _):
        server.services.offer("slow", wait)
        peer = client.peers[client.communication.add_tcpip_peer("127.0.0.1", protocol.port, SECRET)]
        with pytest.raises(DeadlineExceeded):
            peer.ask("slow", {}, timeout=0.2)
        assert peer.keys(pool_nickname="store").wait(5) == []
        release.set()


def test_a_question_is_a_map_of_named_values() -> None:
    with node("server") as (server, protocol), node("client") as (client, _):
        server.services.offer("any", lambda asker, q, buffers: {})
        peer = client.peers[client.communication.add_tcpip_peer("127.0.0.1", protocol.port, SECRET)]
        with pytest.raises((ProtocolError, ConnectionError)):
            peer.ask("any", {1: "number"})  # type: ignore[dict-item]  # what a careless caller would do


def test_buffers_travel_beside_the_words_both_ways_and_through_a_relay() -> None:
    def turn(asker: Asker, question: dict[str, object], buffers: Sequence[Buffer]) -> Answer:
        return Answer({"count": len(buffers)}, [bytes(buffer)[::-1] for buffer in buffers])

    big = bytes(range(256)) * 20_000
    with node("far") as (far, far_door), node("middle") as (middle, door), node("near") as (near, _):
        far.services.offer("turn", turn)
        middle.communication.add_tcpip_peer("127.0.0.1", far_door.port, SECRET)
        via = near.peers[near.communication.add_tcpip_peer("127.0.0.1", door.port, SECRET)]
        answer = via.at("far").invoke("turn", {}, [b"abc", big]).wait(10)
        assert answer.words == {"count": 2}
        assert [bytes(buffer) for buffer in answer.buffers] == [b"cba", big[::-1]]
