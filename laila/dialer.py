"""A dialer keeps one link that this node opens: dials, and dials again with growing, jittered pauses."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from enum import Enum
from typing import TYPE_CHECKING

from .errors import Closed, LailaError, SelfPeer, Unreachable
from .futures import Future
from .transport.link import Link, State
from .transport.reactor import Timer
from .transport.tcp import ContextCache, format_address, is_literal, resolve, start_connect

if TYPE_CHECKING:
    from .endpoint import Communication

_STEADY = 5.0
"""A link that lived so long resets the pauses."""


class DialerState(Enum):
    CONNECTING = "connecting"
    UP = "up"
    WAITING = "waiting"
    SELF = "self"
    """The address is this very node's."""
    CLOSED = "closed"


class Dialer:
    """All of it runs in the I/O thread, except resolving names, which may block."""

    def __init__(
        self,
        communication: Communication,
        host: str,
        port: int,
        context: ContextCache,
        *,
        first: Future | None,
    ) -> None:
        self.host, self.port = host, port
        self.address = format_address(host, port)
        self.state = DialerState.CONNECTING
        self.last_error: LailaError | None = None
        self.peer_id = ""
        self.attempts = 0
        self.link: Link | None = None
        self._communication = communication
        self._context = context
        self._first = first
        self._addresses: list[tuple[socket.AddressFamily, tuple[object, ...]]] = []
        self._pause = communication.limits.reconnect_first
        self._timer: Timer | None = None
        self._up_at = 0.0
        communication.reactor.call_soon(self._attempt)

    def __repr__(self) -> str:
        return f"<Dialer {self.address} {self.state.value}>"

    def close(self) -> None:
        """Dial no more. A link that is up stays."""
        self.state = DialerState.CLOSED
        if self._timer is not None:
            self._timer.cancel()
        link = self.link
        if link is not None and link.state is not State.OPEN:
            link.refuse(Closed(f"{self.address}: dialing was given up"))
        first, self._first = self._first, None
        if first is not None:
            first.reject(Closed(f"{self.address}: this node was closed while it was dialing"))

    @property
    def closed(self) -> bool:
        return self.state is DialerState.CLOSED

    # ---- in the I/O thread ----

    def _attempt(self) -> None:
        if self.state is DialerState.CLOSED:
            return
        if self.peer_id and self._communication.is_connected(self.peer_id):
            self.state = DialerState.UP  # it dialed us meanwhile
            return
        self.state = DialerState.CONNECTING
        self.attempts += 1
        if is_literal(self.host):
            self._resolved(resolve(self.host, self.port))
        else:
            self._communication.resolve(self.host, self.port, self._resolved, self._failed)

    def _resolved(self, addresses: list[tuple[socket.AddressFamily, tuple[object, ...]]]) -> None:
        self._addresses = addresses
        self._next_address(Unreachable(f"{self.address} has no address"))

    def _next_address(self, error: LailaError) -> None:
        if self.state is DialerState.CLOSED:
            return
        while self._addresses:
            family, address = self._addresses.pop(0)
            try:
                sock = start_connect(family, address)
            except OSError as problem:
                error = Unreachable(f"{self.address} cannot be reached: {problem.strerror or problem}")
                continue
            try:
                self.link = self._communication.dialed(sock, self.address, self._context, self)
            except Closed:  # this node is being closed at this moment
                sock.close()
            return
        self._failed(error)

    def opened(self, link: Link) -> None:
        """The link has shaken hands."""
        if self.closed:
            return
        self.state = DialerState.UP
        self.peer_id = link.peer_id
        self.last_error = None
        self._up_at = time.monotonic()
        self._addresses = []
        first, self._first = self._first, None
        if first is not None:
            first.resolve(link.peer_id)

    def lost(self, error: LailaError, *, shaken: bool) -> None:
        """The link ended, or never came up."""
        self.link = None
        if self.closed:
            return
        if not shaken and isinstance(error, Unreachable) and self._addresses:
            self._next_address(error)
            return
        if shaken and self._communication.is_connected(self.peer_id):
            self.state = DialerState.UP  # over another link
            return
        if shaken and time.monotonic() - self._up_at > _STEADY:
            self._pause = self._communication.limits.reconnect_first
        self._failed(error)

    def _failed(self, error: LailaError) -> None:
        if self.state is DialerState.CLOSED:
            return
        self.last_error = error
        first, self._first = self._first, None
        if first is not None:  # whoever called add_tcpip_peer is told, and decides
            self._communication.forget_dialer(self)
            first.reject(error)
            return
        if isinstance(error, SelfPeer):
            self.state = DialerState.SELF
            self._communication.dial_failed(self, error)
            return
        self.state = DialerState.WAITING
        self._communication.dial_failed(self, error)
        pause = self._pause * random.uniform(0.5, 1.5)  # noqa: S311  # jitter, not a secret
        with contextlib.suppress(Closed):  # as above
            self._timer = self._communication.reactor.call_later(pause, self._attempt)
        self._pause = min(self._communication.limits.reconnect_most, self._pause * 2)

    def peer_lost(self) -> None:
        """The peer that this dialer stands for lost its link, which may have been one that the peer dialed."""
        if self.state is DialerState.UP and self.link is None:
            self._attempt()
