"""Which addresses are dialed while names change what they resolve to."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from laila.dialer import DialerState
from laila.errors import AuthenticationFailed, LailaError, Unreachable
from laila.node.addresses import PeerSource
from laila.node.discovery import Discovery, resolve


class Dialer:
    """A dialer whose state the test sets."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address
        self.state = DialerState.CONNECTING
        self.last_error: LailaError | None = None
        self.closed = False


class World:
    """A name service that the test rewrites, and every dialer that was made."""

    def __init__(self, *peers: str) -> None:
        self.names: dict[str, list[str] | OSError] = {}
        self.dialers: list[Dialer] = []
        sources = [PeerSource.parse(peer) for peer in peers]
        self.discovery = Discovery(sources, self.dial, self.forget, every=3600, resolve=self.resolve)

    def dial(self, host: str, port: int) -> Dialer:
        self.dialers.append(Dialer((host, port)))
        return self.dialers[-1]

    def forget(self, dialer: Dialer) -> None:
        dialer.closed = True

    def resolve(self, name: str, port: int) -> Sequence[str]:
        answer = self.names.get(name, OSError("no such name"))
        if isinstance(answer, OSError):
            raise answer
        return answer

    def open(self) -> list[str]:
        return [f"{d.address[0]}:{d.address[1]}" for d in self.dialers if not d.closed]


def test_static_peer_is_dialed_by_name_and_kept() -> None:
    """A static peer is the dialer's business from the start, whether its name resolves or not."""
    world = World("n2:7400")
    world.discovery.start()
    world.discovery.turn()
    assert world.open() == ["n2:7400"]
    world.discovery.close()
    assert world.open() == []


def test_name_is_dialed_at_every_address_that_it_has_now() -> None:
    """New addresses are dialed, vanished ones dropped, known ones left alone."""
    world = World("dns:nodes:7400")
    world.names["nodes"] = ["10.0.0.1", "fd00::1"]
    world.discovery.turn()
    world.discovery.turn()
    assert world.open() == ["10.0.0.1:7400", "fd00::1:7400"]
    world.names["nodes"] = ["fd00::1", "10.0.0.2"]
    world.discovery.turn()
    assert world.open() == ["fd00::1:7400", "10.0.0.2:7400"]
    assert len(world.dialers) == 3


def test_vanished_address_is_kept_while_its_link_is_up() -> None:
    """A name that forgets a node does not cut a healthy link; when the link is lost, the address goes."""
    world = World("dns:nodes:7400")
    world.names["nodes"] = ["10.0.0.1"]
    world.discovery.turn()
    world.dialers[0].state = DialerState.UP
    world.names["nodes"] = []
    world.discovery.turn()
    assert world.open() == ["10.0.0.1:7400"]
    world.dialers[0].state = DialerState.WAITING
    world.discovery.turn()
    assert world.open() == []


def test_own_address_is_left_alone_while_the_name_contains_it() -> None:
    """The node finds itself behind the name once, not every few seconds; a reused address is tried again."""
    world = World("dns:nodes:7400")
    world.names["nodes"] = ["10.0.0.1", "10.0.0.2"]
    world.discovery.turn()
    world.dialers[0].state = DialerState.SELF
    for _ in range(3):
        world.discovery.turn()
    assert (world.open(), len(world.dialers)) == (["10.0.0.2:7400"], 2)
    world.names["nodes"] = ["10.0.0.2"]
    world.discovery.turn()
    world.names["nodes"] = ["10.0.0.1", "10.0.0.2"]
    world.discovery.turn()
    assert world.open() == ["10.0.0.2:7400", "10.0.0.1:7400"]


def test_static_peer_that_is_this_node_is_dropped() -> None:
    """All nodes may have the same list of peers."""
    world = World("n1:7400", "n2:7400")
    world.discovery.start()
    world.dialers[0].state = DialerState.SELF
    world.discovery.turn()
    assert world.open() == ["n2:7400"]
    world.discovery.close()


def test_failing_lookup_changes_nothing_and_is_shown() -> None:
    """A name service that is down costs no link; a name without an answer yet shows up with the reason."""
    world = World("dns:nodes:7400")
    world.discovery.turn()
    assert world.discovery.view() == [
        {
            "peer": "dns:nodes:7400",
            "address": None,
            "state": "unresolved",
            "last_error": "nodes cannot be looked up: no such name",
        }
    ]
    world.names["nodes"] = ["10.0.0.1"]
    world.discovery.turn()
    world.dialers[0].last_error = Unreachable("nobody there")
    world.names["nodes"] = OSError("server failure")
    world.discovery.turn()
    assert world.open() == ["10.0.0.1:7400"]
    assert world.discovery.view() == [
        {
            "peer": "dns:nodes:7400",
            "address": "10.0.0.1:7400",
            "state": "connecting",
            "last_error": "nobody there",
        }
    ]


def test_system_resolver_gives_plain_addresses() -> None:
    """The real lookup gives addresses, each once."""
    assert resolve("127.0.0.1", 7400) == ["127.0.0.1"]
    try:
        found = resolve("localhost", 7400)
    except socket.gaierror:  # a machine without a hosts file
        found = ["127.0.0.1"]
    assert set(found) <= {"127.0.0.1", "::1"}
    assert len(found) == len(set(found))


def test_who_is_refused_by_all_says_so_and_who_has_a_peer_does_not() -> None:
    world = World("n1:7400", "n2:7400")
    world.discovery.start()
    first, second = world.dialers
    assert world.discovery.refusals() == [], "nobody has answered yet"
    first.last_error = Unreachable("n1:7400 cannot be reached")
    assert world.discovery.refusals() == []
    second.last_error = AuthenticationFailed("n2:7400 does not share this secret")
    assert world.discovery.refusals() == ["no peer: n2:7400 does not share this secret"]
    first.state = DialerState.UP
    assert world.discovery.refusals() == [], "one that differs is not this node's fault"
    world.discovery.close()
    assert world.discovery.refusals() == []
