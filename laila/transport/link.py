"""A link: one connection to another node, from the first packet to the last.

Who does the I/O: a thread that waits for an answer takes the *reading role* and drives the socket itself; when nobody
waits, the I/O thread has it. Whoever reads also handles what was read, for everybody. Anybody may write: frames are
queued in the session and flushed under the lock. What the socket does not take at once is flushed by whoever drives
it, else by the I/O thread.

Rules: `lock` guards session and TLS and is never held while waiting. Events are handled outside it, in order, by the
holder of the reading role. A call leaves `pending` exactly once, and whoever takes it out completes it.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

from .. import errors
from ..codec import Buffer
from ..errors import (
    AuthenticationFailed,
    Busy,
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
from ..wire import session as wire
from ..wire.frames import Kind
from ..wire.messages import Hello, pack_error, unpack_error
from ..wire.session import Session
from .budget import Budget
from .reactor import READ, WRITE, Reactor
from .stream import TlsStream
from .tls import explain, peer_identity

RECEIVE = 256 * 1024
_HANDSHAKE_RECEIVE = 16 * 1024
_FLUSH_ROUNDS = 16
_COALESCE = 16 * 1024
_BLOCK = 0.2
"""A driving thread looks up this often, so that a deadline that another thread enforces is noticed."""


class State(Enum):
    CONNECTING = "connecting"
    TLS = "tls"
    HELLO = "hello"
    OPEN = "open"
    CLOSED = "closed"


class Answer(Protocol):
    """Whoever made a request: a future, or the relay of somebody else's."""

    def answered(self, envelope: bytes, buffers: tuple[Buffer, ...]) -> None: ...
    def failed(self, error: LailaError) -> None: ...


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


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.view = memoryview(bytearray(RECEIVE))


_scratch = _Scratch()


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
        self.state = State.CONNECTING if dialed else State.TLS
        self.peer_id = ""
        self.peer: Hello | None = None
        self.error: LailaError | None = None
        self.reason = ""
        """A short word for why it ended, for counters."""
        self.since = time.monotonic()
        self.last_contact = self.since
        self.progress = self.since
        self.rtt: float | None = None
        self.bytes_in = self.requests_in = self.requests_out = self.errors = 0
        self.retiring = False
        self.retired_as = ""
        self.retired_at = 0.0
        self.serving = 0
        """Requests of the other side that have not been answered yet."""
        self.lock = threading.Lock()
        self.pending: dict[int, tuple[Answer, float, str]] = {}
        self.session = Session(hello)
        self._sock = sock
        self._fd = sock.fileno()
        self._context = context
        self._stream: TlsStream | None = None
        self._owner = owner
        self._reactor = reactor
        self._limits = limits
        self._budget = budget
        self._accepted = 0
        self._reading = threading.Lock()
        self._held = False
        self._blocked = dialed
        self._flush_soon = False
        self._ping_at: float | None = None
        self._silent_ticks = 0
        self._spin_skip = 0
        self._spin_skips = 1
        self._poller = select.poll()
        sock.setblocking(False)
        reactor.add(self._fd, self, WRITE if dialed else READ)

    def __repr__(self) -> str:
        way = "to" if self.dialed else "from"
        return f"<Link {way} {self.address} {self.state.value} peer={self.peer_id or '?'}>"

    @property
    def bytes_out(self) -> int:
        return self._stream.sent if self._stream is not None else 0

    @property
    def idle(self) -> bool:
        """Nothing is under way in either direction."""
        return not (self.pending or self.serving or self.session.bodies or self.session.has_output)

    # ---- requests ----

    def submit(
        self, envelope: bytes, buffers: Sequence[Buffer], answer: Answer, what: str, timeout: float
    ) -> None:
        """Queue a request; `answer` is told how it ends. Raises PeerLost, Busy, LimitExceeded."""
        assert self.peer is not None
        if len(self.pending) >= self.peer.max_requests:
            self._make_room(self.peer.max_requests, time.monotonic() + timeout)
        with self.lock:
            if self.state is not State.OPEN:
                raise PeerLost(f"{self.where()} is not connected; {what} was not sent", executed="no")
            alone = not self.pending
            request_id = self.session.request(envelope, buffers)
            self.pending[request_id] = (answer, time.monotonic() + timeout, what)
            self.requests_out += 1
            if alone or self.session.out_bytes >= _COALESCE:
                self._flush()
            elif not self._flush_soon:
                self._flush_soon = True
                self._reactor.call_soon(self.flush)

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
            self.session.reply(request_id, envelope, buffers)
            if flush:
                self._flush()

    def reply_error(self, request_id: int, error: BaseException, *, flush: bool = False) -> None:
        self.errors += 1
        with self.lock:
            self.serving -= 1
            if self.state is not State.OPEN:
                return
            self.session.error(request_id, pack_error(error))
            if flush:
                self._flush()

    # ---- waiting ----

    def drive(self, future: Future, deadline: float | None) -> None:
        """Futures' driver: read and write until `future` is done or the monotonic deadline has passed."""
        if self.session.has_output:
            self.flush()
        if deadline is not None and deadline <= time.monotonic():
            return
        if self._reactor.inside:
            raise RuntimeError("the I/O thread must not wait for an answer")
        if not self._reading.acquire(blocking=False):
            future.block(deadline)
            return
        try:
            self._hold(True)
            self._drive(future, deadline)
        finally:
            self._hold(False)
            self._reading.release()
        if not future.done and self.state is State.CLOSED:
            future.block(deadline)  # whoever closed the link is about to say so

    def _drive(self, future: Future, deadline: float | None) -> None:
        limit = self._limits.spin
        while not future.done and self.state is not State.CLOSED:
            if limit and not self._blocked:
                if self._spin_skip:
                    self._spin_skip -= 1
                elif self._spin(limit):
                    continue
            timeout = _BLOCK if deadline is None else min(_BLOCK, deadline - time.monotonic())
            if timeout <= 0:
                return
            self._poller.register(self._fd, select.POLLIN | (select.POLLOUT if self._blocked else 0))
            for _, mask in self._poller.poll(timeout * 1000):
                if mask & select.POLLOUT:
                    with self.lock:
                        self._flush(driving=True)
                if mask & ~select.POLLOUT:
                    self._read()

    def _spin(self, limit: float) -> bool:
        end = time.perf_counter() + limit
        while not self._read():
            if time.perf_counter() > end:
                self._spin_skip = self._spin_skips
                self._spin_skips = min(256, self._spin_skips * 2)
                return False
        self._spin_skips = 1
        return True

    def _hold(self, held: bool) -> None:
        with self.lock:
            self._held = held
            self._update_mask()

    def _update_mask(self, driving: bool = False) -> None:
        if self.state is State.CLOSED:
            return
        mask = 0 if self._held else READ
        if self._blocked and not driving:
            mask |= WRITE
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile
            self._reactor.modify(self._fd, mask)

    # ---- the socket ----

    def ready(self, mask: int) -> None:
        """The reactor's word."""
        if mask & WRITE:
            if self.state is State.CONNECTING and not self._connected():
                return
            self.flush()
        if mask & ~WRITE and self._reading.acquire(blocking=False):
            try:
                self._read()
            finally:
                self._reading.release()

    def _connected(self) -> bool:
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self.fail(Unreachable(f"{self.address} cannot be reached: {os.strerror(code)}"), "unreachable")
            return False
        with self.lock:
            self.state = State.TLS
            self._blocked = False
            self._update_mask()
            self._stream = TlsStream(self._sock, self._context(), server=False)
            self._stream.handshake()
        return True

    def flush(self) -> None:
        with self.lock:
            self._flush()

    def _flush(self, driving: bool = False) -> None:
        self._flush_soon = False
        stream = self._stream
        if stream is None or self.state is State.CLOSED:
            return
        try:
            for _ in range(_FLUSH_ROUNDS):
                if not stream.send():
                    break
                if not stream.established:
                    return
                pieces = self.session.output()
                if not pieces:
                    if self._blocked:
                        self._blocked = False
                        self._update_mask(driving)
                    return
                stream.encrypt(pieces)
                self.progress = time.monotonic()
            if self.session.out_bytes > self._limits.outbox:
                raise OSError("it does not read what it asked for")
            if not self._blocked:
                self._blocked = True
                self._update_mask(driving)
        except (OSError, ValueError) as error:
            # Failing needs the lock that we hold, and tells others: later, in the I/O thread.
            lost = PeerLost(f"the link to {self.where()} broke while sending: {error}")
            self._reactor.call_soon(lambda: self.fail(lost, "broken"))

    def _read(self) -> bool:
        """Read once and handle it; False when there was nothing. The caller holds the reading role."""
        view = _scratch.view
        try:
            count = self._sock.recv_into(view if self.state is State.OPEN else view[:_HANDSHAKE_RECEIVE])
        except BlockingIOError:
            return False
        except OSError as error:
            self.fail(self._end_error(error.strerror or str(error)), "broken")
            return True
        if not count:
            self.fail(self._end_error("it closed the connection"), "goodbye" if self.retired_as else "closed")
            return True
        self.last_contact = time.monotonic()
        self.bytes_in += count
        self._ping_at = None
        try:
            with self.lock:
                events = self._take(view[:count])
            for event in events:
                self._dispatch(event)
        except ssl.SSLError as error:
            self._tls_failed(error)
        except LailaError as error:
            self._refuse(error)
        if self.session.has_output:
            self.flush()
        return True

    def _take(self, ciphertext: memoryview) -> list[wire.Event]:
        if self.state is State.CLOSED:
            return []
        if self._stream is None:
            self._stream = TlsStream(self._sock, self._context(), server=True)
        stream = self._stream
        stream.put(ciphertext)
        if not stream.established:
            done = stream.handshake()
            stream.send()
            if not done:
                return []
            self.peer_id = peer_identity(stream.certificate())
            self.state = State.HELLO
            self._owner.authenticated(self)
            if self.dialed:
                self.session.send_hello()
        return stream.decrypt_into(self.session)

    def _tls_failed(self, error: ssl.SSLError) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.send()  # the alert tells the other side why
        if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            self.fail(self._end_error("it closed the connection"), "closed")
            return
        reason, text = explain(error, self.address)
        self.fail(AuthenticationFailed(text), reason)

    def _refuse(self, error: LailaError) -> None:
        """The other side broke a rule or is not wanted: say why, then part."""
        with self.lock:
            if self.state is not State.CLOSED and self._stream is not None and self._stream.established:
                self.session.goodbye(type(error).__name__, error.message)
                self._flush()
        self.fail(error, type(error).__name__)

    # ---- events ----

    def _dispatch(self, event: wire.Event) -> None:
        if type(event) is wire.Reply:
            entry = self.pending.pop(event.request_id, None)
            if entry is not None:
                entry[0].answered(event.envelope, event.buffers)
        elif type(event) is wire.Request:
            self.requests_in += 1
            self.serving += 1
            self._owner.requested(self, event)
        else:
            _EVENTS[type(event)](self, event)

    def _on_failure(self, event: wire.Failure) -> None:
        entry = self.pending.pop(event.request_id, None)
        if entry is not None:
            self.errors += 1
            entry[0].failed(unpack_error(event.envelope))

    def _on_offered(self, event: wire.BodyOffered) -> None:
        self.progress = time.monotonic()
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
                self._accepted += event.size
                self._flush()
        except ProtocolError as error:
            self._refuse(error)
            return False
        except (MemoryError, OSError) as error:
            self._turn_down(event, Busy(f"this node has no memory for {event.size} bytes now ({error})"))
            return False
        for one in events:
            self._dispatch(one)
        return True

    def _turn_down(self, event: wire.BodyOffered, error: LailaError) -> None:
        with self.lock:
            self.session.refuse_body(event.kind, event.request_id, pack_error(error))
            self._flush()
        if event.kind is Kind.REPLY_BODY:
            entry = self.pending.pop(event.request_id, None)
            if entry is not None:
                entry[0].failed(error)

    def _on_received(self, event: wire.BodyReceived) -> None:
        self.progress = time.monotonic()
        self._accepted -= event.size
        self._budget.give(event.size)

    def _on_pong(self, event: wire.Pong) -> None:
        with contextlib.suppress(ValueError):
            self.rtt = max(0.0, time.monotonic() - float(event.token))

    def _on_goodbye(self, event: wire.Goodbye) -> None:
        error = goodbye_error(event, self.where())
        if self.state is State.HELLO:
            self.fail(error, event.code)
        elif event.code in {"closing", "duplicate"}:
            self.retiring = True
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
        self._check_life(now)
        self._expire(now)
        if self.retiring:
            self.part_when_idle()

    def _check_life(self, now: float) -> None:
        if now - self.last_contact < self._limits.ping_interval:
            self._silent_ticks = 0
            return
        if self._ping_at is None:
            self._ping_at = now
            self._silent_ticks = 0
            with self.lock:
                self.session.ping(repr(now).encode())
                self._flush()
            return
        # Ticks are counted as well as seconds: a process that was stopped must first read what came meanwhile.
        self._silent_ticks += 1
        if (
            now - self._ping_at >= self._limits.dead_after - self._limits.ping_interval
            and self._silent_ticks > 3
        ):
            self.fail(
                PeerLost(
                    f"{self.where()} has been silent for {now - self.last_contact:.1f} s and is taken for dead"
                ),
                "silent",
            )

    def _expire(self, now: float) -> None:
        for request_id, (answer, deadline, what) in list(self.pending.items())[:64]:
            if deadline > now or (self.progress + self._limits.request_timeout > now and self.session.bodies):
                return
            if self.pending.pop(request_id, None) is None:
                continue
            with self.lock:
                self.session.cancel(request_id)
                self._flush()
            answer.failed(DeadlineExceeded(f"{what}: {self.where()} gave no answer in time; it may have run"))

    # ---- the end ----

    def retire(self, code: str, text: str) -> None:
        """Send no new requests, let what is under way end, then part."""
        with self.lock:
            if self.state is not State.OPEN:
                return
            self.retiring = True
            self.session.goodbye(code, text)
            self._flush()

    def part_when_idle(self) -> None:
        """Close once both said goodbye and nothing is under way."""
        if not self._owner.may_part(self):
            return
        with self.lock:
            if self.state is not State.OPEN or not self.idle:
                return
            self.session.goodbye("closing")
            self._flush()
            both = self.session.phase is wire.Phase.DRAINING
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
            with contextlib.suppress(OSError, ValueError):
                self._reactor.remove(self._fd)
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        self._reactor.call_soon(self._close_socket)
        if accepted:
            self._budget.give(accepted)
        self._owner.lost(self, error)
        for request_id, (answer, _, what) in pending.items():
            executed = "maybe" if request_id <= sent_up_to else "no"
            answer.failed(self._lost_error(error, what, executed))

    def _lost_error(self, error: LailaError, what: str, executed: str) -> LailaError:
        tail = "it may have run" if executed == "maybe" else "it was not sent"
        return PeerLost(f"{what}: {error.message}; {tail}", executed=executed)

    def _close_socket(self) -> None:
        # A thread that still polls this descriptor must leave first, else it could poll another's.
        if self._reading.acquire(timeout=1.0):
            self._sock.close()
            self._reading.release()
        else:
            self._reactor.call_soon(self._close_socket)

    def _end_error(self, text: str) -> LailaError:
        if self.state in {State.OPEN, State.CLOSED}:
            return self.error or PeerLost(f"the link to {self.where()} ended: {text}")
        if self.state is State.HELLO:
            return AuthenticationFailed(f"{self.address} ended the link before its hello: {text}")
        return Unreachable(
            f"{self.address} ended the connection during the handshake: {text}; is it a laila node?"
        )

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
