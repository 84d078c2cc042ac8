"""Where a node is dialed: one door for each node that may dial it, and one for those of whom nobody knows who they are.

A door does to a new connection what the network would do. It is open while the node listens; shut, so that connecting
is refused, while the node does not or a rule says so; and a hole while anything between the two is dropped: packets
that ask for a connection vanish, and who waits patiently gets it when the hole is mended, by the system's own
repetitions. A hole is a listener whose queue is full, of one connection that it makes to itself: Linux answers with
silence then.
"""

from __future__ import annotations

import enum
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from laila.lab.drivers.relay import READ, Connection, Loop, Way

HOST = "127.0.0.1"
LOOK = 0.05
"""Seconds between two looks at whether a node listens, while it does not."""
_QUEUE = 512
_ACCEPTS = 64
_REST = 0.1


def reserve() -> socket.socket:
    """A port of this machine that nobody is given while the socket is open; who knows it can still listen there."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((HOST, 0))
    return held


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


class Place:
    """A node, and whether it listens. That is seen without a connection: its port cannot be bound then."""

    def __init__(self, name: str, loop: Loop) -> None:
        self.name = name
        self.listens = False
        self.doors: list[Door] = []
        self._loop = loop
        self._held = (reserve(), reserve())

    @property
    def ports(self) -> tuple[int, int]:
        """For its peers, and for its status page."""
        return port_of(self._held[0]), port_of(self._held[1])

    def look(self) -> None:
        """Look now, and while it does not listen again and again."""
        before, self.listens = self.listens, self._listening()
        if before != self.listens:
            for door in self.doors:
                door.settle()
        if not self.listens:
            self._loop.at(time.monotonic() + LOOK, self.look)

    def left(self) -> None:
        """A connection to it has ended, perhaps because the node did."""
        if self.listens and not self._listening():
            self.look()

    def _listening(self) -> bool:
        with socket.socket() as attempt:
            attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                attempt.bind((HOST, self.ports[0]))
            except OSError:
                return True
        return False


class Passing(enum.Enum):
    """What happens to who comes to a door."""

    OPEN = "open"
    SHUT = "shut"
    HOLE = "hole"


@dataclass(slots=True, eq=False)
class Door:
    """Leads to `place` for those beside `source` (empty: for anybody)."""

    source: str
    place: Place
    loop: Loop
    forth: Way
    back: Way
    came: Callable[[Door], None]
    """Told of every connection that it lets in."""
    measured: Mapping[int, int]
    """Ports from which the lab itself dials in order to measure, and where that leads to."""
    refuse: bool = False
    reset: bool = False
    connections: set[Connection] = field(default_factory=set)
    _held: socket.socket = field(default_factory=reserve)
    _passing: Passing = Passing.SHUT
    _listener: socket.socket | None = None
    _mask: int = 0
    _stopper: socket.socket | None = None

    @property
    def port(self) -> int:
        return port_of(self._held)

    def settle(self) -> None:
        """Be what the rules and the node say."""
        if self.forth.drop or self.back.drop:
            wanted = Passing.HOLE
        else:
            wanted = Passing.OPEN if self.place.listens and not self.refuse else Passing.SHUT
        if wanted is self._passing:
            return
        self._passing = wanted
        if wanted is Passing.SHUT:
            self._shut()
        elif wanted is Passing.OPEN:
            self._open()
        else:
            self._dig()

    def _shut(self) -> None:
        self._fill()
        if self._listener is not None:
            self._watch(0)
            self._listener.close()
            self._listener = None

    def _open(self) -> None:
        listener = self._listening(_QUEUE)
        self._accept(READ)
        self._fill()
        self._watch(READ)
        listener.listen(_QUEUE)

    def _dig(self) -> None:
        """Those who are in are let in; then the queue is made so short that one who stands in it fills it."""
        self._listening(0)
        self._watch(0)
        self._accept(READ)
        self._stopper = socket.socket()
        self._stopper.setblocking(False)
        self._stopper.connect_ex((HOST, self.port))

    def _fill(self) -> None:
        """Undo the hole, but for its length."""
        if self._stopper is not None:
            self._stopper.close()
            self._stopper = None

    def _listening(self, queue: int) -> socket.socket:
        if self._listener is None:
            self._listener = socket.socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind((HOST, self.port))
            self._listener.setblocking(False)
        self._listener.listen(queue)
        return self._listener

    def _watch(self, mask: int) -> None:
        if self._listener is not None and mask != self._mask:
            self._mask = self.loop.watch(self._listener, self._mask, mask, self._accept)

    def _accept(self, mask: int) -> None:
        stopper = 0 if self._stopper is None else port_of(self._stopper)
        for _ in range(_ACCEPTS):
            try:
                if self._listener is None:
                    return
                client, (_, port) = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:  # no descriptor is left: rest instead of spinning
                self._watch(0)
                self.loop.at(time.monotonic() + _REST, self._rested)
                return
            if port == stopper:
                client.close()
            else:
                self._let_in(client, port)

    def _let_in(self, client: socket.socket, port: int) -> None:
        onward = self.measured.get(port)
        address = (HOST, self.place.ports[0] if onward is None else onward)
        ways, ours = (self.forth, self.back), onward is not None
        try:
            connection = Connection(self.loop, client, address, ways, self._ended, ours=ours)
        except OSError:  # no descriptor is left for its other half
            client.close()
            return
        self.connections.add(connection)
        self.came(self)
        if self.reset:
            connection.abort()
        else:
            connection.pump()

    def _ended(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if not connection.ours:
            self.place.left()

    def _rested(self) -> None:
        if self._passing is Passing.OPEN:
            self._watch(READ)
