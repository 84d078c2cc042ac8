"""One end of a link, without I/O: bytes in -> events out, calls in -> bytes out.

Feed it with `want()` (where to read the next bytes) and `received(n)` (-> events); drain it with `output()`.
Requests are multiplexed in both directions, each direction with its own request ids. Small frames always go first;
large bodies follow in chunks, in turn, and only after the receiver granted credit, which is when it has the memory.
Whoever breaks a rule gets ProtocolError raised here and a GOODBYE that says why.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum

from ..codec import Buffer
from ..errors import DeadlineExceeded, LimitExceeded, ProtocolError
from .bodies import IncomingBody, OutgoingBody, parse_table, table
from .events import (
    BodyOffered,
    BodyReceived,
    Cancelled,
    Event,
    Failure,
    Goodbye,
    HelloReceived,
    Pong,
    Reply,
    Request,
)
from .frames import (
    CHUNK,
    HEADER,
    HEADER_SIZE,
    MAX_BUFFERS,
    MAX_CHUNK,
    MAX_FRAME,
    MAX_HELLO,
    MAX_INLINE,
    MAX_REQUEST_ID,
    MAX_TABLE,
    Flag,
    Kind,
    frame,
    header,
)
from .messages import Hello, pack_error, pack_goodbye, pack_hello, unpack_goodbye, unpack_hello

SCRATCH = 128 * 1024
_TABLE_FRAME = struct.Struct(">QQ")
# Members of an enum are slow to look up, and these are looked up for every message.
_REQUEST, _REPLY = int(Kind.REQUEST), int(Kind.REPLY)
_BODIES = (int(Kind.REQUEST_BODY), int(Kind.REPLY_BODY))
_CANCELLED = pack_error(DeadlineExceeded("the request was cancelled by its caller"))
_BODY_OF = {Kind.REQUEST: Kind.REQUEST_BODY, Kind.REPLY: Kind.REPLY_BODY}


class Phase(Enum):
    HELLO = "hello"
    """Nothing but the other side's hello (or its goodbye) may come."""
    OPEN = "open"
    DRAINING = "draining"
    """The other side said goodbye: it sends no new requests, answers may still come."""
    CLOSED = "closed"


_ALWAYS = {
    Kind.REPLY,
    Kind.ERROR,
    Kind.REQUEST_BODY,
    Kind.REPLY_BODY,
    Kind.REQUEST_CREDIT,
    Kind.REPLY_CREDIT,
    Kind.CANCEL,
    Kind.PING,
    Kind.PONG,
}
ALLOWED: dict[Phase, set[Kind]] = {
    Phase.HELLO: {Kind.HELLO, Kind.GOODBYE},
    Phase.OPEN: _ALWAYS | {Kind.REQUEST, Kind.GOODBYE},
    Phase.DRAINING: _ALWAYS,
    Phase.CLOSED: set(),
}


class Session:
    """See the head of this file. Not thread safe: the link that owns it holds a lock."""

    def __init__(self, hello: Hello) -> None:
        self.hello = hello
        self.phase = Phase.HELLO
        self.said_goodbye = False
        self.sent_up_to = 0
        """The last of our request ids of which a byte was handed to the transport."""
        self.out_bytes = 0
        self._out: list[bytes] = []
        self._next_id = 0
        # Memory for what comes in is taken when something comes: strangers cost nothing.
        self._scratch = bytearray()
        self._view = memoryview(self._scratch)
        self._start = 0
        self._end = 0
        self._sink: IncomingBody | None = None
        self._sink_kind = 0
        self._chunk_left = 0
        self._incoming: dict[tuple[int, int], IncomingBody] = {}
        self._waiting: dict[tuple[int, int], OutgoingBody] = {}
        self._active: deque[OutgoingBody] = deque()

    # ---- calls in -> bytes out ----

    def send_hello(self) -> None:
        self._queue(frame(Kind.HELLO, 0, pack_hello(self.hello)))

    def request(self, envelope: bytes, buffers: Sequence[Buffer] = ()) -> int:
        """Queue a request; returns its id."""
        if self._next_id >= MAX_REQUEST_ID:
            raise ProtocolError("this link has used up its request ids; open another")
        self._next_id += 1
        self._message(_REQUEST, self._next_id, envelope, buffers)
        return self._next_id

    def reply(self, request_id: int, envelope: bytes, buffers: Sequence[Buffer] = ()) -> None:
        self._message(_REPLY, request_id, envelope, buffers)

    def error(self, request_id: int, envelope: bytes) -> None:
        self._queue(frame(Kind.ERROR, request_id, envelope[:MAX_FRAME]))

    def ping(self, token: bytes) -> None:
        self._queue(frame(Kind.PING, 0, token))

    def cancel(self, request_id: int) -> None:
        """Our request is not wanted any more: what it still has to send is dropped, what comes is discarded."""
        self._drop_outgoing(Kind.REQUEST_BODY, request_id)
        body = self._incoming.get((Kind.REPLY_BODY, request_id))
        if body is not None:
            body.discard = True
            if not body.accepted:
                del self._incoming[(Kind.REPLY_BODY, request_id)]
        self._queue(frame(Kind.CANCEL, request_id))

    def goodbye(self, code: str, text: str = "") -> None:
        """The last word: no more requests from us."""
        if not self.said_goodbye:
            self.said_goodbye = True
            self._queue(frame(Kind.GOODBYE, 0, pack_goodbye(code, text)))

    def accept_body(self, kind: Kind, request_id: int) -> list[Event] | None:
        """Allocate the memory and grant the credit for a body that was offered; None if it was given up meanwhile."""
        body = self._incoming.get((kind, request_id))
        if body is None or body.accepted:
            return None
        body.accept()
        credit = Kind.REQUEST_CREDIT if kind is Kind.REQUEST_BODY else Kind.REPLY_CREDIT
        self._queue(frame(credit, request_id))
        events: list[Event] = []
        if not body.left:
            self._finish(kind, body, events)
        return events

    def refuse_body(self, kind: Kind, request_id: int, error: bytes = b"") -> None:
        """Do not take a body: an ERROR for a request's, a CANCEL for a reply's."""
        if self._incoming.pop((kind, request_id), None) is None:
            return
        if kind is Kind.REQUEST_BODY:
            self.error(request_id, error)
        else:
            self._queue(frame(Kind.CANCEL, request_id))

    def moving(self) -> set[int]:
        """Our requests of which a body, theirs or the answer's, has moved since the last look."""
        moved = set()
        bodies: list[IncomingBody | OutgoingBody] = [*self._active]
        bodies += [body for (kind, _), body in self._incoming.items() if kind == Kind.REPLY_BODY]
        for body in bodies:
            if body.moves != body.seen:
                body.seen = body.moves
                moved.add(body.request_id)
        return moved

    @property
    def has_output(self) -> bool:
        return bool(self._out or self._active)

    @property
    def receiving(self) -> bool:
        """Whether a large body is on its way in."""
        return bool(self._incoming)

    @property
    def bodies(self) -> int:
        """Bodies under way, both directions."""
        return len(self._incoming) + len(self._waiting) + len(self._active)

    def output(self) -> list[Buffer]:
        """The next bytes to send: all small frames as one piece, else a chunk of the body whose turn it is."""
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self.out_bytes = 0
            self.sent_up_to = self._next_id
            return [data]
        if not self._active:
            return []
        body = self._active.popleft()
        piece = body.take(CHUNK)
        body.moves += 1
        if body.left:
            self._active.append(body)
        return [header(body.kind, body.request_id, piece.nbytes), piece]

    # ---- bytes in -> events out ----

    def want(self) -> memoryview:
        """Where the next bytes belong; read as many as there are, up to its length, then call `received`."""
        if self._sink is not None and not self._sink.discard:
            return self._sink.view(self._chunk_left)
        if not self._scratch:
            self._scratch = bytearray(SCRATCH)
            self._view = memoryview(self._scratch)
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start and SCRATCH - self._end < MAX_FRAME:
            count = self._end - self._start
            self._scratch[:count] = self._scratch[self._start : self._end]
            self._start, self._end = 0, count
        view = self._view[self._end :]
        return view[: self._chunk_left] if self._sink is not None else view

    def received(self, count: int) -> list[Event]:
        """`count` bytes were written at `want()`. Raises ProtocolError when the other side broke the protocol."""
        events: list[Event] = []
        if self._sink is not None:
            self._sink.moves += 1
            if self._sink.discard:
                self._sink.skip(count)
            else:
                self._sink.advance(count)
            self._chunk_got(count, events)
        else:
            self._end += count
            self._parse(events)
        return events

    def feed(self, data: bytes) -> list[Event]:
        """`want` and `received` for bytes that are at hand."""
        events: list[Event] = []
        view = memoryview(data)
        while view.nbytes:
            room = self.want()
            count = min(room.nbytes, view.nbytes)
            room[:count] = view[:count]
            events += self.received(count)
            view = view[count:]
        return events

    def _parse(self, events: list[Event]) -> None:
        start, end = self._start, self._end
        allowed, most = self._rules()
        try:
            while end - start >= HEADER_SIZE:
                length, kind, flags, zero, request_id = HEADER.unpack_from(self._scratch, start)
                if kind in _BODIES:
                    start = self._start_chunk(kind, request_id, length, start + HEADER_SIZE, end, events)
                    continue
                if zero or length > most or kind not in allowed:
                    self._refuse_header(length, kind, zero)
                stop = start + HEADER_SIZE + length
                if stop > end:
                    break
                payload = bytes(self._view[start + HEADER_SIZE : stop])
                start = stop
                if kind == _REQUEST and not flags:
                    events.append(Request(request_id, payload))
                else:
                    _HANDLERS[kind](self, flags, request_id, payload, events)
                    allowed, most = self._rules()
        finally:
            self._start = start

    def _rules(self) -> tuple[set[Kind], int]:
        """Kinds that may come now, and the longest payload."""
        return ALLOWED[self.phase], MAX_HELLO if self.phase is Phase.HELLO else MAX_FRAME

    def _refuse_header(self, length: int, kind: int, zero: int) -> None:
        if kind not in _HANDLERS or zero:
            raise ProtocolError(
                f"the other side sent a frame of unknown kind {kind}: it does not speak this protocol"
            )
        most = self._rules()[1]
        if length > most:
            raise ProtocolError(
                f"the other side announced a {Kind(kind).name} frame of {length} bytes; at most {most} are allowed"
            )
        raise ProtocolError(f"the other side sent {Kind(kind).name} in phase {self.phase.value}")

    def _start_chunk(
        self, kind: int, request_id: int, length: int, start: int, end: int, events: list[Event]
    ) -> int:
        body = self._incoming.get((kind, request_id))
        if body is None or not body.accepted:
            raise ProtocolError("the other side sent a body that was not granted")
        if not 0 < length <= min(MAX_CHUNK, body.left):
            raise ProtocolError(f"the other side sent a chunk of {length} bytes where {body.left} were due")
        self._sink, self._sink_kind, self._chunk_left = body, kind, length
        count = min(length, end - start)
        if count:
            body.moves += 1
            if body.discard:
                body.skip(count)
            else:
                body.fill(self._view[start : start + count])
            self._chunk_got(count, events)
        return start + count

    def _chunk_got(self, count: int, events: list[Event]) -> None:
        body = self._sink
        assert body is not None
        self._chunk_left -= count
        if not self._chunk_left:
            self._sink = None
            if not body.left:
                self._finish(Kind(self._sink_kind), body, events)

    def _finish(self, kind: Kind, body: IncomingBody, events: list[Event]) -> None:
        del self._incoming[(kind, body.request_id)]
        events.append(BodyReceived(body.size))
        if body.discard:
            return
        make = Request if kind is Kind.REQUEST_BODY else Reply
        events.append(make(body.request_id, body.envelope, body.buffers))

    # ---- frames ----

    def _on_hello(self, flags: int, request_id: int, payload: bytes, events: list[Event]) -> None:
        self.phase = Phase.OPEN
        events.append(HelloReceived(unpack_hello(payload)))

    def _on_request(self, flags: int, request_id: int, payload: bytes, events: list[Event]) -> None:
        if flags:
            self._on_body(Kind.REQUEST_BODY, flags, request_id, payload, events)
        else:
            events.append(Request(request_id, payload))

    def _on_reply(self, flags: int, request_id: int, payload: bytes, events: list[Event]) -> None:
        self._check_ours(request_id)
        if flags:
            self._on_body(Kind.REPLY_BODY, flags, request_id, payload, events)
        else:
            events.append(Reply(request_id, payload))

    def _on_body(self, kind: Kind, flags: int, request_id: int, payload: bytes, events: list[Event]) -> None:
        if (kind, request_id) in self._incoming:
            raise ProtocolError("the other side used a request id twice")
        if flags == Flag.BODY | Flag.INLINE:
            sizes, envelope, end = parse_table(payload)
            if end + sum(sizes) != len(payload):
                raise ProtocolError("an inline body does not have the size that it announced")
            buffers = []
            for size in sizes:
                buffers.append(payload[end : end + size])
                end += size
            make = Request if kind is Kind.REQUEST_BODY else Reply
            events.append(make(request_id, envelope, tuple(buffers)))
            return
        if flags == Flag.BODY:
            sizes, envelope, end = parse_table(payload)
            if end != len(payload):
                raise ProtocolError("bytes follow a message that said its buffers come later")
            body = IncomingBody(request_id, envelope, sizes, size=sum(sizes))
        elif flags == Flag.BODY | Flag.TABLE and len(payload) == _TABLE_FRAME.size:
            table_size, rest = _TABLE_FRAME.unpack(payload)
            if not 0 < table_size <= MAX_TABLE:
                raise ProtocolError(
                    f"an announced message table has {table_size} bytes; 1 to {MAX_TABLE} are allowed"
                )
            body = IncomingBody(request_id, b"", (), size=table_size + rest, table_size=table_size)
        else:
            raise ProtocolError(f"the other side sent flags {flags:#x} that have no meaning")
        if len(self._incoming) >= 2 * self.hello.max_requests:
            raise ProtocolError(
                f"the other side offers more than {2 * self.hello.max_requests} bodies at once"
            )
        self._incoming[(kind, request_id)] = body
        events.append(BodyOffered(kind, request_id, body.size))

    def _on_error(self, flags: int, request_id: int, payload: bytes, events: list[Event]) -> None:
        self._check_ours(request_id)
        self._drop_outgoing(Kind.REQUEST_BODY, request_id)
        body = self._incoming.pop((Kind.REPLY_BODY, request_id), None)
        if body is not None and body.accepted:
            events.append(BodyReceived(body.size))
        events.append(Failure(request_id, payload))

    def _on_request_credit(self, flags: int, request_id: int, payload: bytes, events: list[Event]) -> None:
        self._start_outgoing(Kind.REQUEST_BODY, request_id)

    def _on_reply_credit(self, flags: int, request_id: int, payload: bytes, events: list[Event]) -> None:
        self._start_outgoing(Kind.REPLY_BODY, request_id)

    def _on_cancel(self, flags: int, request_id: int, payload: bytes, events: list[Event]) -> None:
        if self._drop_outgoing(Kind.REPLY_BODY, request_id):
            self.error(request_id, _CANCELLED)  # lets the other side free what it had set aside
        body = self._incoming.get((Kind.REQUEST_BODY, request_id))
        if body is not None:
            body.discard = True
            del self._incoming[(Kind.REQUEST_BODY, request_id)]
            if body.accepted:
                events.append(BodyReceived(body.size))
        events.append(Cancelled(request_id))

    def _on_ping(self, flags: int, request_id: int, payload: bytes, events: list[Event]) -> None:
        self._queue(frame(Kind.PONG, 0, payload[:64]))

    def _on_pong(self, flags: int, request_id: int, payload: bytes, events: list[Event]) -> None:
        events.append(Pong(payload))

    def _on_goodbye(self, flags: int, request_id: int, payload: bytes, events: list[Event]) -> None:
        self.phase = Phase.DRAINING if self.phase is Phase.OPEN else Phase.CLOSED
        events.append(Goodbye(*unpack_goodbye(payload)))

    # ---- outgoing messages ----

    def _queue(self, data: bytes) -> None:
        self._out.append(data)
        self.out_bytes += len(data)

    def _message(self, kind: int, request_id: int, envelope: bytes, buffers: Sequence[Buffer]) -> None:
        size = len(envelope)
        if not buffers and size <= MAX_INLINE:
            self._out.append(HEADER.pack(size, kind, 0, 0, request_id) + envelope)
            self.out_bytes += HEADER_SIZE + size
            return
        if len(buffers) > MAX_BUFFERS:
            raise LimitExceeded(
                f"{len(buffers)} large values in one call; at most {MAX_BUFFERS} fit: use several calls",
                limit="max_buffers",
                allowed=MAX_BUFFERS,
                got=len(buffers),
            )
        sizes = [memoryview(buffer).nbytes for buffer in buffers]
        head, total = table(envelope, sizes), sum(sizes)
        if len(head) + total <= MAX_INLINE:
            self._queue(frame(kind, request_id, b"".join([head, *buffers]), Flag.BODY | Flag.INLINE))
            return
        body_kind = _BODY_OF[Kind(kind)]
        if len(head) <= MAX_INLINE:
            self._queue(frame(kind, request_id, head, Flag.BODY))
            body = OutgoingBody(body_kind, request_id, buffers)
        else:
            self._queue(frame(kind, request_id, _TABLE_FRAME.pack(len(head), total), Flag.BODY | Flag.TABLE))
            body = OutgoingBody(body_kind, request_id, [head, *buffers])
        self._waiting[(body_kind, request_id)] = body

    def _start_outgoing(self, kind: Kind, request_id: int) -> None:
        # A credit may cross our cancel on the wire: one for a body that we dropped means nothing.
        body = self._waiting.pop((kind, request_id), None)
        if body is not None and body.left:
            self._active.append(body)

    def _drop_outgoing(self, kind: Kind, request_id: int) -> bool:
        if self._waiting.pop((kind, request_id), None) is not None:
            return True
        for body in self._active:
            if body.kind == kind and body.request_id == request_id:
                self._active.remove(body)
                return True
        return False

    def _check_ours(self, request_id: int) -> None:
        if not 0 < request_id <= self._next_id:
            raise ProtocolError(f"the other side answered request {request_id}, which was never made")


_HANDLERS: dict[int, Callable[[Session, int, int, bytes, list[Event]], None]] = {
    Kind.HELLO: Session._on_hello,
    Kind.REQUEST: Session._on_request,
    Kind.REPLY: Session._on_reply,
    Kind.ERROR: Session._on_error,
    Kind.REQUEST_CREDIT: Session._on_request_credit,
    Kind.REPLY_CREDIT: Session._on_reply_credit,
    Kind.CANCEL: Session._on_cancel,
    Kind.PING: Session._on_ping,
    Kind.PONG: Session._on_pong,
    Kind.GOODBYE: Session._on_goodbye,
}
