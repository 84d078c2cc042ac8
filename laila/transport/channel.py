"""A channel: a socket with TLS and a session on it, and the question who reads it.

A thread that waits for an answer takes the *reading role* and drives the socket itself: it polls for a moment without
blocking while that has been paying off, then blocks. When nobody waits, the I/O thread has the role. Whoever reads also
handles what was read, for everybody, in order. Who sends a request *claims* the channel: the I/O thread does not watch
it until the wait that most likely follows is over, or its patrol finds that none came.

Anybody may write: frames are queued in the session and flushed under the lock; what the socket does not take at once is
flushed by the thread that drives it, else by the I/O thread.

Rules: `lock` guards session and TLS and is never held while waiting. The sink is called without it.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Protocol

from ..errors import LailaError, Unreachable
from ..futures import Future
from ..wire.events import Event
from ..wire.messages import Hello
from ..wire.session import Session
from .reactor import READ, WRITE, Patrol, Reactor
from .stream import TlsStream

RECEIVE = 64 * 1024
"""More would leave the processor's cache before it is decrypted."""
_HANDSHAKE_RECEIVE = 16 * 1024
_FLUSH_ROUNDS = 64
_READ_ROUNDS = 16
"""In the middle of a large body the I/O thread reads so often before it looks after other links."""
_BLOCK = 0.2
"""A driving thread looks up this often, so that it notices what other threads decided."""
_MOST_SKIPS = 256


class Sink(Protocol):
    """Who a channel belongs to."""

    def proved(self, certificate: bytes | None) -> None:
        """TLS is up, the other side knows the secret. Raise LailaError to refuse it."""

    def handle(self, event: Event) -> None:
        """One event; raise LailaError when it cannot be."""

    def broke(self, error: Exception | None) -> None:
        """The connection ended (None), failed, or the other side broke a rule."""

    def interrupted(self, error: BaseException) -> None:
        """A signal broke off the thread that was reading."""


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.view = memoryview(bytearray(RECEIVE))


_scratch = _Scratch()


class Channel:
    """See the head of this file."""

    def __init__(
        self,
        sock: socket.socket,
        context: Callable[[], ssl.SSLContext],
        *,
        dialed: bool,
        hello: Hello,
        sink: Sink,
        reactor: Reactor,
        spin: float,
    ) -> None:
        self.lock = threading.Lock()
        self.session = Session(hello)
        self.closed = False
        self.last_contact = time.monotonic()
        self.progress = self.last_contact
        """When bytes last moved, either way."""
        self.bytes_in = 0
        self._sock = sock
        self._fd = sock.fileno()
        self._context = context
        self._connecting = dialed
        self._dialed = dialed
        self._sink = sink
        self._reactor = reactor
        self._stream: TlsStream | None = None
        # Reentrant: a callback that runs while this thread reads may itself wait for an answer.
        self._reading = threading.RLock()
        self._driver: int | None = None
        self._blocked = dialed
        self._claimed = False
        self._driven = False
        """Whether somebody waited here since the patrol last came."""
        self._in_read = False
        self._spin_limit = spin
        self._spin_skip = 0
        self._spin_skips = 1
        self._poller = select.poll()
        sock.setblocking(False)
        reactor.add(self._fd, self, WRITE if dialed else READ)

    @property
    def bytes_out(self) -> int:
        return self._stream.sent if self._stream is not None else 0

    @property
    def established(self) -> bool:
        """Whether TLS is up."""
        return self._stream is not None and self._stream.established

    # ---- driving ----

    def drive(self, future: Future, deadline: float | None) -> None:
        """Read and write until `future` is done or the monotonic deadline has passed."""
        if self.session.has_output:
            self.flush()
        if deadline is not None and deadline <= time.monotonic():
            self._unclaim()  # whoever asks without waiting leaves the reading to the I/O thread
            return
        if self._reactor.inside:
            raise RuntimeError("the I/O thread must not wait for an answer")
        leading = False
        try:
            leading = self._reading.acquire(blocking=False)
            if leading:
                self._set_driver(threading.get_ident())
                self._drive(future, deadline)
        except BaseException as error:
            # A signal in the middle of a read may have lost bytes: only a new link is sure to be whole.
            if leading and self._in_read:
                self._in_read = False
                self._sink.interrupted(error)
            raise
        finally:
            # Whatever a signal broke off, nobody keeps the role: releasing what is not ours only raises.
            try:
                if leading:
                    self._set_driver(None)
            finally:
                with contextlib.suppress(RuntimeError):
                    self._reading.release()
        if not leading:
            future.block(deadline)

    def _unclaim(self) -> None:
        with self.lock:
            if self._claimed and self._driver is None and not self.closed:
                self._claimed = False
                self._update_mask()

    def _drive(self, future: Future, deadline: float | None) -> None:
        while not (future.done or self.closed):
            if future.driver is None:
                future.block(deadline)  # the answer is here, and another thread is finishing it
                return
            if self._spin_limit and not self._blocked:
                if self._spin_skip:
                    self._spin_skip -= 1
                elif self._spin():
                    continue
            timeout = _BLOCK if deadline is None else min(_BLOCK, deadline - time.monotonic())
            if timeout <= 0:
                return
            self._poller.register(self._fd, select.POLLIN | (select.POLLOUT if self._blocked else 0))
            for _, mask in self._poller.poll(timeout * 1000):
                if mask & select.POLLOUT:
                    self.flush()
                if mask & ~select.POLLOUT:
                    self._read()

    def _spin(self) -> bool:
        end = time.perf_counter() + self._spin_limit
        while not self._read():
            if time.perf_counter() > end:
                self._spin_skip = self._spin_skips
                self._spin_skips = min(_MOST_SKIPS, self._spin_skips * 2)
                return False
        self._spin_skips = 1
        return True

    def _set_driver(self, thread: int | None) -> None:
        with self.lock:
            self._driver = thread
            watched = thread is None
            self._driven = True
            if watched or not self._claimed or self._blocked:
                self._claimed = not watched
                self._update_mask()

    def _update_mask(self) -> None:
        if self.closed:
            return
        mask = 0 if self._claimed else READ
        if self._blocked and self._driver != threading.get_ident():
            mask |= WRITE
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile
            self._reactor.modify(self._fd, mask)

    # ---- the reactor's word ----

    def ready(self, mask: int) -> None:
        """The I/O thread found the socket readable, writable, or broken."""
        if mask & WRITE:
            if self._connecting and not self._connected():
                return
            self.flush()
        if mask & ~WRITE and self._reading.acquire(blocking=False):
            try:
                for _ in range(_READ_ROUNDS):
                    if not (self._read() and self.session.receiving):
                        break
            finally:
                self._reading.release()

    def patrol(self) -> Patrol:
        """What nobody did: send what waits, watch a socket that was claimed and then not read."""
        with self.lock:
            if self.closed:
                return Patrol.DONE
            if self._driven or self._driver is not None:
                self._driven = False
                return Patrol.BUSY
            found = Patrol.DONE
            if self.session.has_output and not self._blocked:
                self.flush_locked()
                found = Patrol.LATE
            if self._claimed:
                self._claimed = False
                self._update_mask()
                found = Patrol.LATE
            return found

    def _connected(self) -> bool:
        self._connecting = False
        code = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._sink.broke(Unreachable(os.strerror(code)))
            return False
        with self.lock:
            self._blocked = False
            self._update_mask()
            self._stream = TlsStream(self._sock, self._context(), server=False)
            self._stream.handshake()
        return True

    # ---- writing ----

    def send_locked(self, *, now: bool) -> None:
        """A request was queued by a caller who holds the lock: send it, or leave it to the wait that follows."""
        if self._reactor.inside:
            if now:
                self.flush_locked()
            else:
                self._reactor.call_soon(self.flush)
            return
        if not self._claimed:
            self._claimed = True
            self._update_mask()
        self._reactor.patrol(self)
        if now:
            self.flush_locked()

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it."""
        with self.lock:
            self.flush_locked()

    def flush_locked(self) -> None:
        """The same for a caller that holds the lock."""
        stream = self._stream
        if stream is None or self.closed:
            return
        try:
            if self._send(stream) == self._blocked:
                self._blocked = not self._blocked
                self._update_mask()
        except (OSError, ValueError) as error:
            # The sink must not be called under the lock: later, in the I/O thread.
            problem = error
            self._reactor.call_soon(lambda: self._sink.broke(problem))
        except BaseException as error:
            # A signal, perhaps between encrypting and sending: what follows could not be decrypted.
            signal = error
            self._reactor.call_soon(lambda: self._sink.interrupted(signal))
            raise

    def _send(self, stream: TlsStream) -> bool:
        """Whether all is sent."""
        for _ in range(_FLUSH_ROUNDS):
            if not stream.send():
                return False
            if not stream.established:
                return True
            pieces = self.session.output()
            if not pieces:
                return True
            stream.encrypt(pieces)
            self.progress = time.monotonic()
        return False

    # ---- reading ----

    def _read(self) -> bool:
        """Read once and handle it; False when there was nothing. The caller holds the reading role."""
        self._in_read = True
        found = self._read_once()
        self._in_read = False
        return found

    def _read_once(self) -> bool:
        view = _scratch.view
        try:
            count = self._sock.recv_into(view if self.established else view[:_HANDSHAKE_RECEIVE])
        except BlockingIOError:
            return False
        except OSError as error:
            self._sink.broke(error)
            return True
        if not count:
            self._sink.broke(None)
            return True
        self.last_contact = self.progress = time.monotonic()
        self.bytes_in += count
        try:
            with self.lock:
                events = self._take(view[:count])
            for event in events:
                self._sink.handle(event)
        except (ssl.SSLError, LailaError) as error:
            self._sink.broke(error)
        if self.session.has_output:
            self.flush()
        return True

    def _take(self, ciphertext: memoryview) -> list[Event]:
        if self.closed:
            return []
        if self._stream is None:  # not before a first byte came: strangers that never speak cost nothing
            self._stream = TlsStream(self._sock, self._context(), server=True)
        stream = self._stream
        stream.put(ciphertext)
        if not stream.established:
            try:
                done = stream.handshake()
            finally:
                stream.send()  # also the alert that tells the other side what was wrong
            if not done:
                return []
            self._sink.proved(stream.certificate())
            if self._dialed:
                self.session.send_hello()
        return stream.decrypt_into(self.session)

    # ---- the end ----

    def close_locked(self) -> None:
        """End the connection; the caller holds the lock."""
        self.closed = True
        with contextlib.suppress(OSError, ValueError):
            self._reactor.remove(self._fd)
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._reactor.call_soon(self._close_socket)

    def abandon(self) -> threading.Lock:
        """In a forked child: let go of the descriptor without a word to the other side; a lock nobody holds."""
        self.closed = True
        self.lock = threading.Lock()  # another thread of the parent may have held the old one
        self._sock.close()
        return self.lock

    def _close_socket(self) -> None:
        # A thread that still polls this descriptor must leave first, else it could poll another's.
        if self._reading.acquire(timeout=0.25):
            self._sock.close()
            self._reading.release()
        else:
            self._reactor.call_soon(self._close_socket)
