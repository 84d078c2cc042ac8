"""Bytes that go from one socket to another, as what is said of their way allows.

One thread, and no byte is looked at. What is read goes straight on out of one large buffer; only what cannot go at
once (a delay, a reader that is slow) is kept, up to HELD bytes for each direction of a connection, and then nothing
more is read, so that the sender blocks as it would before a slow line. What is dropped is not even read: it waits in
the kernel's buffers, which are bounded as well, and comes after the healing, in order, the end of the connection last.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import heapq
import itertools
import random
import selectors
import socket
import struct
import termios
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
HELD = 4 << 20
"""Bytes of one direction of one connection that are kept here at most."""
ROUND = 0.25
"""Seconds for which bytes go on one way while the other is dropped: then a real sender, whose bytes are acknowledged
by nobody, repeats the first of them and sends no new ones.
"""
_BUFFER = memoryview(bytearray(256 << 10))
_PACKET = 1460
_RESET = struct.pack("ii", 1, 0)


class Loop:
    """Calls whoever waits for a socket or for a moment."""

    def __init__(self) -> None:
        self.running = True
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def watch(self, sock: socket.socket, before: int, mask: int, ready: Callable[[int], None]) -> int:
        """Watch for `mask` instead of `before`; returns it. 0 is not at all: even a socket that is watched for nothing
        would tell again and again that it hung up.
        """
        if not before and mask:
            self._selector.register(sock, mask, ready)
        elif before and not mask:
            self._selector.unregister(sock)
        elif before != mask:
            self._selector.modify(sock, mask, ready)
        return mask

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call it at that monotonic time."""
        heapq.heappush(self._timers, (when, next(self._numbers), call))

    def run(self) -> None:
        while self.running:
            pause = None if not self._timers else max(0.0, self._timers[0][0] - time.monotonic())
            for key, mask in self._selector.select(pause):
                key.data(mask)
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()


class Bucket:
    """Tokens for bytes: `rate` a second, and for 20 ms of silence at most."""

    def __init__(self, kbit: int) -> None:
        self.rate = kbit * 125.0
        self._most = max(2.0 * _PACKET, self.rate / 50)
        self._tokens = self._most
        self._filled = time.monotonic()

    def room(self, now: float) -> int:
        """Bytes that may go now; 0 when that is less than a packet."""
        self._tokens = min(self._most, self._tokens + (now - self._filled) * self.rate)
        self._filled = now
        return int(self._tokens) if self._tokens >= _PACKET else 0

    def take(self, count: int) -> None:
        self._tokens -= count

    def when(self) -> float:
        """The time at which there is room again."""
        return self._filled + max(0.0005, (_PACKET - self._tokens) / self.rate)


@dataclass(slots=True, eq=False)
class Way:
    """One direction between two nodes: what is said of its bytes, and who carries them."""

    drop: bool = False
    delay: float = 0.0
    jitter: float = 0.0
    kbit: int = 0
    bucket: Bucket | None = None
    flows: set[Flow] = field(default_factory=set)


class Flow:
    """One direction of one connection."""

    def __init__(
        self, connection: Connection, source: socket.socket, sink: socket.socket, way: Way, back: Way
    ) -> None:
        self.connection = connection
        self.source, self.sink = source, sink
        self.way, self.back = way, back
        self.wants_read = self.wants_write = self.over = self.broken = False
        self._queue: deque[tuple[float, memoryview]] = deque()
        self._queued = 0
        self._end: tuple[float, bool] | None = None
        self._alarm = float("inf")
        self._unanswered: float | None = None
        way.flows.add(self)

    def waiting(self) -> int:
        """Bytes that were sent into it and have not come out."""
        if self.over:
            return 0
        there = bytearray(4)
        try:
            fcntl.ioctl(self.source, termios.FIONREAD, there)
        except (OSError, ValueError):
            return self._queued
        return self._queued + int.from_bytes(there, "little")

    def pump(self) -> None:
        """Send what is due, then read once what there is room for."""
        self.wants_read = self.wants_write = False
        now = time.monotonic()
        if not self.over and not self._held(now) and self._send(now):
            self._read(now)

    def fail(self) -> None:
        """Its sink is gone: nothing goes here any more, and the source is told so, on the way back."""
        self.over = True
        self._queue.clear()
        self._queued = 0
        reverse = self.connection.reverse(self)
        reverse.broken = True
        if reverse.over:
            reverse.over, reverse._end = False, (0.0, True)
        reverse.pump()

    def _held(self, now: float) -> bool:
        if self.way.drop:
            return True
        if not self.back.drop or self.connection.ours:
            self._unanswered = None
            return False
        if self._unanswered is None:
            return False
        return now - self._unanswered > ROUND

    def _send(self, now: float) -> bool:
        """What was read before. False when no more can go now."""
        while self._queue and self._queue[0][0] <= now:
            due, chunk = self._queue[0]
            sent = self._put(chunk)
            if sent < 0:
                return False
            self._queued -= sent
            if sent < len(chunk):
                self._queue[0] = (due, chunk[sent:])
                self.wants_write = True
                return False
            self._queue.popleft()
        if self._queue:
            self._wake(self._queue[0][0])
        elif self._end is not None:
            return self._finish(now, *self._end)
        return True

    def _read(self, now: float) -> None:
        delayed = self.way.delay > 0 or self.way.jitter > 0
        if self._end is not None or self._queued >= HELD or (self._queue and not delayed):
            return
        bucket, most = self.way.bucket, len(_BUFFER)
        if bucket is not None:
            most = min(most, bucket.room(now))
            if not most:
                self._wake(bucket.when())
                return
        self.wants_read = True
        try:
            count = self.source.recv_into(_BUFFER, most)
        except BlockingIOError:
            return
        except OSError:
            count = -1
        due = self._due(now)
        if count <= 0:
            self.wants_read = False
            self._end = (due, count < 0 or self.broken)
            self._send(now)
            return
        if bucket is not None:
            bucket.take(count)
        if self.back.drop and self._unanswered is None:
            self._unanswered = now
        sent = 0
        if not self._queue and due <= now:
            sent = self._put(_BUFFER[:count])
        if 0 <= sent < count:
            self._queue.append((due, memoryview(bytes(_BUFFER[sent:count]))))
            self._queued += count - sent
            self.wants_write = due <= now
            self.wants_read = delayed
            self._wake(due if due > now else float("inf"))

    def _due(self, now: float) -> float:
        """When what was read now may go on, if what was read before has gone."""
        way = self.way
        late = way.delay
        if way.jitter:
            late = max(0.0, late + random.uniform(-way.jitter, way.jitter))  # noqa: S311  no secret
        return now + late

    def _put(self, chunk: memoryview) -> int:
        """Bytes that the sink took, -1 when it is gone."""
        try:
            return self.sink.send(chunk)
        except BlockingIOError:
            return 0
        except OSError:
            self.fail()
            return -1

    def _finish(self, now: float, due: float, reset: bool) -> bool:
        if due > now:
            self._wake(due)
            return True
        if reset:
            self.connection.abort()
            return False
        self.over = True
        try:
            self.sink.shutdown(socket.SHUT_WR)
        except OSError:
            self.fail()
        return False

    def _wake(self, when: float) -> None:
        if when < self._alarm:
            self._alarm = when
            self.connection.loop.at(when, self._woken)

    def _woken(self) -> None:
        self._alarm = float("inf")
        self.connection.pump()


class Connection:
    """What somebody dialed, and the connection that leads on from here. That one is made when nothing is dropped."""

    def __init__(
        self,
        loop: Loop,
        client: socket.socket,
        onward: tuple[str, int],
        ways: tuple[Way, Way],
        ended: Callable[[Connection], None],
        *,
        ours: bool = False,
    ) -> None:
        self.loop = loop
        self.ours = ours
        """Made by the lab itself, to measure: no acknowledgement is missed here."""
        self.connected = self.closed = False
        self._started = False
        self._ended = ended
        self._onward = onward
        self._client, self._upstream = client, socket.socket()
        self._client_mask = self._upstream_mask = 0
        for sock in (client, self._upstream):
            sock.setblocking(False)
            with contextlib.suppress(OSError):  # it may be gone already
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.forth = Flow(self, client, self._upstream, *ways)
        self.back = Flow(self, self._upstream, client, *reversed(ways))

    def reverse(self, flow: Flow) -> Flow:
        return self.back if flow is self.forth else self.forth

    def pump(self) -> None:
        """Do what can be done now: a moment has come, or other rules hold."""
        self._turn(self.forth, self.back)

    def abort(self) -> None:
        """End it on both sides as a connection ends that is reset."""
        for sock in (self._client, self._upstream):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()

    def close(self) -> None:
        """End both sides. Tells its owner, once."""
        if self.closed:
            return
        self.closed = True
        self._watch(0, 0)
        for flow in (self.forth, self.back):
            flow.over = True
            flow.way.flows.discard(flow)
        self._client.close()
        self._upstream.close()
        self._ended(self)

    def _turn(self, *flows: Flow) -> None:
        if not self.closed and not self.connected:
            self._connect()
        for flow in flows:
            if self.connected and not self.closed:
                flow.pump()
        if self.closed:
            return
        if self.forth.over and self.back.over:
            self.close()
        elif self.connected:
            forth, back = self.forth, self.back
            self._watch(
                READ * forth.wants_read | WRITE * back.wants_write,
                READ * back.wants_read | WRITE * forth.wants_write,
            )
        else:
            self._watch(0, WRITE if self._started else 0)

    def _connect(self) -> None:
        if not self._started:
            if self.forth.way.drop or self.back.way.drop:
                return
            self._started = True
            failed = self._upstream.connect_ex(self._onward)
            if failed in (0, errno.EINPROGRESS):
                failed = 0
        else:
            failed = self._upstream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failed:
            self.abort()
            return
        with contextlib.suppress(OSError):  # not yet
            self._upstream.getpeername()
            self.connected = True

    def _client_ready(self, mask: int) -> None:
        if mask == READ:
            self._turn(self.forth)
        else:
            self._turn(self.back, self.forth)

    def _upstream_ready(self, mask: int) -> None:
        if mask == READ:
            self._turn(self.back)
        else:
            self._turn(self.forth, self.back)

    def _watch(self, client: int, upstream: int) -> None:
        if client != self._client_mask:
            self._client_mask = self.loop.watch(self._client, self._client_mask, client, self._client_ready)
        if upstream != self._upstream_mask:
            self._upstream_mask = self.loop.watch(
                self._upstream, self._upstream_mask, upstream, self._upstream_ready
            )
