"""A link: one connection to another node, from the first packet to the last.

The channel below moves bytes; a link knows what they mean: requests and their answers, the hello, signs of life, the
end. A call leaves `pending` exactly once, and whoever takes it out completes it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from .. import errors
from ..codec import Buffer
from ..errors import (
    AuthenticationFailed,
    Busy,
    Closed,
    DeadlineExceeded,
    LailaError,
    LimitExceeded,
    LinkError,
    PeerLost,
    ProtocolError,
    Unreachable,
)
from ..futures import Future
from ..limits import Limits
from ..wire import events as wire
from ..wire.frames import MAX_INLINE, Kind
from ..wire.messages import Hello, pack_error, unpack_error
from ..wire.session import Phase
from .budget import Budget
from .channel import Channel
from .order import Answer, Order
from .pulse import Finding, Pulse
from .reactor import Reactor
from .tls import explain, peer_identity

_COALESCE = 400
"""While answers are awaited small requests are gathered up to this many bytes before they are sent: some five of them.
Measured: fewer cost system calls, more leave the other side idle while this one still writes."""
_ENDS = (ssl.SSLEOFError, ssl.SSLZeroReturnError)


class State(Enum):
    HANDSHAKE = "handshake"
    """TCP and TLS."""
    HELLO = "hello"
    OPEN = "open"
    CLOSED = "closed"


class Named(Protocol):
    """What a call is called in messages; a name is made only when one is needed."""

    @property
    def what(self) -> str: ...
    @property
    def ids(self) -> Sequence[str]:
        """The entries that it is about."""


class Owner(Protocol):
    """The node that a link belongs to. Called in the thread that reads; must not block."""

    def authenticated(self, link: Link) -> None:
        """The other side proved the secret and `link.peer_id`. Raise Denied to refuse it."""

    def greeted(self, link: Link, hello: Hello) -> None:
        """The other side said hello. Raise LinkError to refuse it."""

    def requested(self, link: Link, request: wire.Request) -> None: ...
    def cancelled(self, link: Link, request_id: int) -> None: ...
    def opened(self, link: Link) -> None: ...
    def may_part(self, link: Link) -> bool:
        """Whether a link that is no longer wanted may go: not before the one that replaces it is there."""

    def lost(self, link: Link, error: LailaError) -> None: ...


class Link:
    """See the head of this file."""

    def __init__(
        self,
        sock: socket.socket,
        address: str,
        *,
        context: Callable[[], ssl.SSLContext],
        dialed: bool,
        hello: Hello,
        owner: Owner,
        reactor: Reactor,
        limits: Limits,
        budget: Budget,
    ) -> None:
        self.address = address
        self.dialed = dialed
        self.state = State.HANDSHAKE
        self.peer_id = ""
        self.peer: Hello | None = None
        self.error: LailaError | None = None
        self.reason = ""
        """A short word for why it ended, for counters."""
        self.since = time.monotonic()
        self.rtt: float | None = None
        self.requests_in = self.requests_out = self.errors = 0
        self.serving = 0
        """Requests of the other side that have not been answered yet."""
        self.retired_as = ""
        """The code of the goodbye that was said or heard."""
        self.retired_at = 0.0
        self.pending: dict[int, tuple[Answer, float, Named]] = {}
        self._answering: tuple[Answer, float, Named] | None = None
        self._order = Order()
        self._moving: set[int] = set()
        self._looked = self.since
        self._owner = owner
        self._limits = limits
        self._budget = budget
        self._accepted = 0
        self._pulse = Pulse(limits.ping_interval, limits.dead_after)
        self._reactor = reactor
        self.channel = Channel(
            sock, context, dialed=dialed, hello=hello, sink=self, reactor=reactor, spin=limits.spin
        )
        self.lock = self.channel.lock
        self.session = self.channel.session

    def __repr__(self) -> str:
        way = "to" if self.dialed else "from"
        return f"<Link {way} {self.address} {self.state.value} peer={self.peer_id or '?'}>"

    @property
    def bytes_in(self) -> int:
        return self.channel.bytes_in

    @property
    def bytes_out(self) -> int:
        return self.channel.bytes_out

    @property
    def last_contact(self) -> float:
        """Monotonic seconds."""
        return self.channel.last_contact

    @property
    def idle(self) -> bool:
        """Nothing is under way in either direction."""
        return not (self.pending or self.serving or self.session.bodies or self.session.has_output)

    # ---- requests ----

    def submit(
        self, envelope: bytes, buffers: Sequence[Buffer], answer: Answer, call: Named, timeout: float
    ) -> None:
        """Queue a request; `answer` is told how it ends. Raises PeerLost, Busy, LimitExceeded."""
        if self._order and self._order.parked(
            call.ids, lambda: self._resubmit(envelope, buffers, answer, call, timeout)
        ):
            return
        if not buffers or sum(memoryview(buffer).nbytes for buffer in buffers) <= MAX_INLINE:
            self._submit(envelope, buffers, answer, call, timeout)
            return
        self._submit_large(envelope, buffers, answer, call, timeout)

    def _submit(
        self, envelope: bytes, buffers: Sequence[Buffer], answer: Answer, call: Named, timeout: float
    ) -> None:
        assert self.peer is not None
        if len(self.pending) >= self.peer.max_requests:
            self._make_room(self.peer.max_requests, time.monotonic() + timeout)
        with self.lock:
            if self.state is not State.OPEN or self.session.said_goodbye:
                raise PeerLost(f"{self.where()} is not connected; {call.what} was not sent", executed="no")
            alone = not self.pending
            request_id = self.session.request(envelope, buffers)
            self.pending[request_id] = (answer, time.monotonic() + timeout, call)
            self.requests_out += 1
            self.channel.send_locked(now=alone or self.session.out_bytes >= _COALESCE)

    def _submit_large(
        self, envelope: bytes, buffers: Sequence[Buffer], answer: Answer, call: Named, timeout: float
    ) -> None:
        ordered = self._order.first(call.ids, answer)
        try:
            self._submit(envelope, buffers, ordered, call, timeout)
        except BaseException:
            self._order.release(call.ids)  # it never went out: nobody may wait for its answer
            raise

    def _resubmit(
        self, envelope: bytes, buffers: Sequence[Buffer], answer: Answer, call: Named, timeout: float
    ) -> None:
        large = sum(memoryview(buffer).nbytes for buffer in buffers) > MAX_INLINE
        try:
            (self._submit_large if large else self._submit)(envelope, buffers, answer, call, timeout)
        except LailaError as error:
            answer.failed(error)

    def _make_room(self, most: int, deadline: float) -> None:
        if self._reactor.inside:
            raise Busy(f"{self.where()} has {most} requests in flight already; try again later")
        while len(self.pending) >= most and self.state is State.OPEN:
            oldest = next(iter(list(self.pending.values())), None)
            if oldest is not None and isinstance(oldest[0], Future):
                self.drive(oldest[0], deadline)
            else:
                time.sleep(0.001)  # the oldest are relayed calls, which the I/O thread completes
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"{self.where()} had {most} requests in flight all the time")

    def reply(
        self, request_id: int, envelope: bytes, buffers: Sequence[Buffer] = (), *, flush: bool = False
    ) -> None:
        """Answer a request; `flush` when the caller is not handling events of this link."""
        with self.lock:
            self.serving -= 1
            if self.state is not State.OPEN:
                return
            try:
                self.session.reply(request_id, envelope, buffers)
            except LimitExceeded as error:
                self.session.error(request_id, pack_error(error))
            if flush:
                self.channel.flush_locked()

    def reply_error(self, request_id: int, error: BaseException, *, flush: bool = False) -> None:
        self.errors += 1
        with self.lock:
            self.serving -= 1
            if self.state is not State.OPEN:
                return
            self.session.error(request_id, pack_error(error))
            if flush:
                self.channel.flush_locked()

    def drive(self, future: Future, deadline: float | None) -> None:
        """Futures' driver."""
        self.channel.drive(future, deadline)
        if not future.done and self.state is State.CLOSED:
            future.block(deadline)  # whoever closed the link is about to say so

    # ---- the channel's sink ----

    def proved(self, certificate: bytes | None) -> None:
        self.peer_id = peer_identity(certificate)
        self.state = State.HELLO
        self._owner.authenticated(self)

    def handle(self, event: wire.Event) -> None:
        if type(event) is wire.Reply:
            self._answering = self.pending.get(event.request_id)
            entry = self.pending.pop(event.request_id, None)
            if entry is not None:
                entry[0].answered(event.envelope, event.buffers)
            self._answering = None
        elif type(event) is wire.Request:
            self.requests_in += 1
            self.serving += 1
            if self.serving > 2 * self._limits.max_requests:
                busy = Busy(
                    f"more than max_requests={self._limits.max_requests} requests of yours are being served"
                )
                self.reply_error(event.request_id, busy)
            else:
                self._owner.requested(self, event)
        else:
            _EVENTS[type(event)](self, event)

    def broke(self, error: Exception | None) -> None:
        if isinstance(error, Unreachable):
            self.fail(Unreachable(f"{self.address} cannot be reached: {error.message}"), "unreachable")
        elif isinstance(error, LailaError):
            self.refuse(error)
        elif isinstance(error, ssl.SSLError) and not isinstance(error, _ENDS):
            reason, text = explain(error, self.address)
            self.fail(AuthenticationFailed(text), reason)
        elif isinstance(error, OSError) and not isinstance(error, _ENDS):
            self.fail(self._end_error(error.strerror or str(error)), "broken")
        else:
            self.fail(self._end_error("it closed the connection"), "goodbye" if self.retired_as else "closed")

    def interrupted(self, error: BaseException) -> None:
        lost = PeerLost(
            f"the thread that read the link to {self.where()} was interrupted ({type(error).__name__})"
        )
        entry, self._answering = self._answering, None
        self.fail(lost, "interrupted")
        if entry is not None and not getattr(entry[0], "done", False):
            entry[0].failed(lost)

    def refuse(self, error: LailaError) -> None:
        """The other side broke a rule or is not wanted any more: say why, then part."""
        with self.lock:
            if self.state is not State.CLOSED and self.channel.established:
                self.session.goodbye(type(error).__name__, error.message)
                self.channel.flush_locked()
        self.fail(error, type(error).__name__)

    # ---- events ----

    def _on_failure(self, event: wire.Failure) -> None:
        entry = self.pending.pop(event.request_id, None)
        if entry is not None:
            self.errors += 1
            entry[0].failed(unpack_error(event.envelope))

    def _on_offered(self, event: wire.BodyOffered) -> None:
        if event.size > self._limits.max_body:
            error = LimitExceeded(
                f"a body of {event.size} bytes is larger than max_body={self._limits.max_body} allows",
                limit="max_body",
                allowed=self._limits.max_body,
                got=event.size,
            )
            self._turn_down(event, error)
        else:
            self._budget.ask(event.size, lambda: self._accept(event))

    def _accept(self, event: wire.BodyOffered) -> bool:
        """Whether the memory is used now."""
        try:
            with self.lock:
                if self.state is State.CLOSED:
                    return False
                events = self.session.accept_body(event.kind, event.request_id)
                if events is None:
                    return False
                self._accepted += event.size
                self.channel.flush_locked()
        except ProtocolError as error:
            self.refuse(error)
            return False
        except (MemoryError, OSError) as error:
            self._turn_down(event, Busy(f"this node has no memory for {event.size} bytes now ({error})"))
            return False
        try:
            for one in events:
                self.handle(one)
        except LailaError as error:  # of this link; the caller may be reading another
            self.refuse(error)
        return True

    def _turn_down(self, event: wire.BodyOffered, error: LailaError) -> None:
        with self.lock:
            self.session.refuse_body(event.kind, event.request_id, pack_error(error))
            self.channel.flush_locked()
        if event.kind is Kind.REPLY_BODY:
            entry = self.pending.pop(event.request_id, None)
            if entry is not None:
                entry[0].failed(error)

    def _on_received(self, event: wire.BodyReceived) -> None:
        self._accepted -= event.size
        self._budget.give(event.size)

    def _on_pong(self, event: wire.Pong) -> None:
        with contextlib.suppress(ValueError):
            self.rtt = max(0.0, time.monotonic() - float(event.token))

    def _on_goodbye(self, event: wire.Goodbye) -> None:
        error = goodbye_error(event, self.where())
        if self.state is State.HELLO:
            self.fail(error, event.code)
        elif event.code in {"closing", "duplicate", Closed.__name__}:
            self.retired_as, self.retired_at = event.code, time.monotonic()
            self.error = error
            self.part_when_idle()
        else:
            self.fail(error, event.code)

    def _on_cancelled(self, event: wire.Cancelled) -> None:
        self._owner.cancelled(self, event.request_id)

    def _on_hello(self, event: wire.HelloReceived) -> None:
        self._owner.greeted(self, event.hello)
        with self.lock:
            if self.state is not State.HELLO:
                return
            self.peer = event.hello
            self.state = State.OPEN
            if not self.dialed:
                self.session.send_hello()
        self._owner.opened(self)

    # ---- time ----

    def tick(self, now: float) -> None:
        """Called by the owner about four times per ping interval."""
        if self.state is State.CLOSED:
            return
        if self.state is not State.OPEN:
            if now - self.since > self._limits.connect_timeout:
                self.fail(
                    Unreachable(
                        f"{self.address} did not finish the handshake in {self._limits.connect_timeout} s"
                    ),
                    "silent",
                )
            return
        if self.session.out_bytes > self._limits.outbox:
            self.fail(PeerLost(f"{self.where()} does not read what it asked for"), "not-reading")
            return
        self._check_life(now)
        self._expire(now)
        if self.retired_as:
            self.part_when_idle()

    def _check_life(self, now: float) -> None:
        finding = self._pulse.tick(now, self.last_contact)
        if finding is Finding.ASK:
            with self.lock:
                self.session.ping(repr(now).encode())
                self.channel.flush_locked()
        elif finding is Finding.DEAD:
            silence = now - self.last_contact
            self.fail(
                PeerLost(f"{self.where()} has been silent for {silence:.1f} s and is taken for dead"),
                "silent",
            )

    def _expire(self, now: float) -> None:
        if now - self._looked >= self._limits.request_timeout / 4:
            with self.lock:
                self._moving = self.session.moving()
            self._looked = now
        moving = self._moving
        for request_id, (answer, deadline, call) in list(self.pending.items())[:256]:
            if deadline > now:
                return
            if request_id in moving:
                continue  # slow, but its body is on its way
            if self.pending.pop(request_id, None) is None:
                continue
            with self.lock:
                self.session.cancel(request_id)
                self.channel.flush_locked()
            answer.failed(
                DeadlineExceeded(f"{call.what}: {self.where()} gave no answer in time; it may have run")
            )

    # ---- the end ----

    def retire(self, code: str, text: str) -> None:
        """Send no new requests, let what is under way end, then part."""
        with self.lock:
            if self.state is not State.OPEN:
                return
            self.retired_as, self.retired_at = code, time.monotonic()
            self.session.goodbye(code, text)
            self.channel.flush_locked()

    def part_when_idle(self) -> None:
        """Close once both said goodbye and nothing is under way."""
        if not self._owner.may_part(self):
            return
        with self.lock:
            if self.state is not State.OPEN or not self.idle:
                return
            self.session.goodbye("closing")
            self.channel.flush_locked()
            both = self.session.phase is Phase.DRAINING
        if both:
            self.fail(
                self.error or PeerLost(f"the link to {self.where()} was closed", executed="no"), "goodbye"
            )

    def fail(self, error: LailaError, reason: str) -> None:
        """End now; every call in flight fails."""
        with self.lock:
            if self.state is State.CLOSED:
                return
            self.state = State.CLOSED
            self.error, self.reason = error, reason
            sent_up_to = self.session.sent_up_to
            pending, self.pending = self.pending, {}
            accepted, self._accepted = self._accepted, 0
            self.channel.close_locked()
        if accepted:
            self._budget.give(accepted)
        try:
            self._owner.lost(self, error)
        finally:
            for request_id, (answer, _, call) in pending.items():
                executed = "maybe" if request_id <= sent_up_to else "no"
                answer.failed(self._lost_error(error, call.what, executed))

    def _lost_error(self, error: LailaError, what: str, executed: str) -> LailaError:
        tail = "it may have run" if executed == "maybe" else "it was not sent"
        return PeerLost(f"{what}: {error.message}; {tail}", executed=executed)

    def _end_error(self, text: str) -> LailaError:
        if self.state in {State.OPEN, State.CLOSED}:
            return self.error or PeerLost(f"the link to {self.where()} ended: {text}")
        if self.state is State.HELLO:
            return AuthenticationFailed(f"{self.address} ended the link before its hello: {text}")
        return Unreachable(
            f"{self.address} ended the connection during the handshake: {text}; is it a laila node?"
        )

    def abandon(self) -> None:
        """In a forked child: use this no more, and leave the connection to the parent."""
        self.state = State.CLOSED
        self.lock = self.channel.abandon()
        pending, self.pending = self.pending, {}
        for answer, _, call in pending.values():
            answer.failed(PeerLost(f"{call.what}: this process was forked; the answer goes to the parent"))

    def where(self) -> str:
        """The other node in messages."""
        if self.peer is not None and self.peer.name:
            return f"{self.peer.name} ({self.address})"
        return self.address


def goodbye_error(event: wire.Goodbye, where: str) -> LailaError:
    """What a goodbye means for the calls that it cuts off, or for the one who dialed."""
    kind = getattr(errors, event.code, None)
    if isinstance(kind, type) and issubclass(kind, LinkError | AuthenticationFailed) and kind is not PeerLost:
        return kind(event.text or f"{where} refused the link")
    if event.code == "duplicate":
        return PeerLost(f"{where} goes on over another link")
    return PeerLost(f"{where} said goodbye: {event.text or event.code}")


_EVENTS: dict[type, Callable[[Link, object], None]] = {
    wire.Failure: Link._on_failure,  # type: ignore[dict-item]  # each handler takes its own event
    wire.BodyOffered: Link._on_offered,  # type: ignore[dict-item]  # as above
    wire.BodyReceived: Link._on_received,  # type: ignore[dict-item]  # as above
    wire.Pong: Link._on_pong,  # type: ignore[dict-item]  # as above
    wire.Goodbye: Link._on_goodbye,  # type: ignore[dict-item]  # as above
    wire.Cancelled: Link._on_cancelled,  # type: ignore[dict-item]  # as above
    wire.HelloReceived: Link._on_hello,  # type: ignore[dict-item]  # as above
}
