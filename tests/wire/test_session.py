"""The session without I/O: every input whole, byte by byte, and with a tail; every rule broken once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laila.errors import LimitExceeded, ProtocolError
from laila.wire import events as wire
from laila.wire.frames import HEADER, MAX_CHUNK, MAX_FRAME, MAX_INLINE, Flag, Kind, frame
from laila.wire.messages import Hello
from laila.wire.session import ALLOWED, Phase, Session


def hello(name: str) -> Hello:
    return Hello(node_id=f"id-{name}", name=name, instance=f"start-{name}")


def drained(session: Session) -> bytes:
    """All that the session has to send now."""
    out = b""
    while pieces := session.output():
        out += b"".join(pieces)
    return out


def opened() -> tuple[Session, Session]:
    """Two sessions that have greeted each other."""
    left, right = Session(hello("left")), Session(hello("right"))
    left.send_hello()
    right.send_hello()
    assert right.feed(drained(left)) == [wire.HelloReceived(hello("left"))]
    assert left.feed(drained(right)) == [wire.HelloReceived(hello("right"))]
    return left, right


def pump(left: Session, right: Session, step: int = 0) -> tuple[list[wire.Event], list[wire.Event]]:
    """Carry bytes both ways, `step` at a time (0: all at once), accepting every body; the events of each side."""
    events: tuple[list[wire.Event], list[wire.Event]] = ([], [])
    moved = True
    while moved:
        moved = False
        for source, target, seen in ((left, right, events[1]), (right, left, events[0])):
            data = drained(source)
            moved = moved or bool(data)
            size = step or max(1, len(data))
            for start in range(0, len(data), size):
                for event in target.feed(data[start : start + size]):
                    if isinstance(event, wire.BodyOffered):
                        seen += target.accept_body(event.kind, event.request_id)
                    else:
                        seen.append(event)
    return events


def plain(events: list[wire.Event]) -> list[tuple[object, ...]]:
    """Events with buffers as bytes, without the bookkeeping."""
    return [
        (type(event).__name__, event.request_id, event.envelope, [bytes(buffer) for buffer in event.buffers])
        for event in events
        if isinstance(event, wire.Request | wire.Reply)
    ]


@pytest.mark.parametrize("step", [0, 1, 7, 4096])
@pytest.mark.parametrize(
    ("envelope", "sizes"),
    [
        (b"", []),
        (b"e" * 10, []),
        (b"e" * MAX_INLINE, []),
        (b"e" * (MAX_INLINE + 1), []),
        (b"e", [0]),
        (b"e", [5, 0, 7]),
        (b"e", [MAX_INLINE]),
        (b"e", [0, 40_000, 0, 100_000, 0]),
        (b"e" * 50_000, [1, 2, 70_000]),
    ],
)
def test_what_is_sent_arrives(step: int, envelope: bytes, sizes: list[int]) -> None:
    """Requests and replies of every shape arrive whole, however the bytes are cut."""
    left, right = opened()
    buffers = [bytes([index + 1]) * size for index, size in enumerate(sizes)]
    left.request(envelope, buffers)
    assert plain(pump(left, right, step)[1]) == [("Request", 1, envelope, buffers)]
    right.reply(1, envelope, buffers)
    assert plain(pump(left, right, step)[0]) == [("Reply", 1, envelope, buffers)]
    assert left.bodies == right.bodies == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.binary(max_size=200), st.lists(st.integers(0, 90_000), max_size=4)),
        min_size=1,
        max_size=6,
    ),
    st.integers(1, 70_000),
)
def test_many_messages_interleave(messages: list[tuple[bytes, list[int]]], step: int) -> None:
    """Several messages under way at once all arrive, with a tail of the next in the same bytes."""
    left, right = opened()
    expected = []
    for number, (envelope, sizes) in enumerate(messages, 1):
        buffers = [bytes([number]) * size for size in sizes]
        left.request(envelope, buffers)
        expected.append(("Request", number, envelope, buffers))
    assert sorted(plain(pump(left, right, step)[1])) == sorted(expected)


def test_a_small_request_overtakes_a_large_body() -> None:
    """While megabytes are on their way a small request is the very next thing that is sent."""
    left, right = opened()
    left.request(b"big", [bytes(4 * MAX_CHUNK)])
    (offer,) = right.feed(drained(left))
    right.accept_body(offer.kind, offer.request_id)
    left.feed(drained(right))
    right.feed(b"".join(left.output()))
    left.request(b"small")
    events = right.feed(b"".join(left.output()))
    assert events == [wire.Request(2, b"small")]


def test_no_body_without_credit() -> None:
    """Not a byte of a large body leaves before the receiver has the memory for it."""
    left, right = opened()
    left.request(b"big", [bytes(1_000_000)])
    assert len(drained(left)) < 100
    assert not left.has_output
    assert right.bodies == 0


def test_cancel_frees_both_sides() -> None:
    """A request given up in the middle of its body, or of its answer's, leaves nothing behind."""
    left, right = opened()
    left.request(b"big", [bytes(3 * MAX_CHUNK)])
    (offer,) = right.feed(drained(left))
    right.accept_body(offer.kind, offer.request_id)
    left.feed(drained(right))
    right.feed(b"".join(left.output()))
    left.cancel(1)
    events = right.feed(drained(left))
    assert wire.Cancelled(1) in events
    assert wire.BodyReceived(3 * MAX_CHUNK) in events
    assert (left.bodies, right.bodies) == (0, 0)

    left.request(b"get")
    right.feed(drained(left))
    right.reply(2, b"answer", [bytes(3 * MAX_CHUNK)])
    (offer,) = left.feed(drained(right))
    left.accept_body(offer.kind, offer.request_id)
    right.feed(drained(left))
    left.feed(b"".join(right.output()))
    left.cancel(2)
    right.feed(drained(left))
    events = left.feed(drained(right))
    assert wire.BodyReceived(3 * MAX_CHUNK) in events
    assert (left.bodies, right.bodies) == (0, 0)


def test_ping_is_answered_with_its_token() -> None:
    left, right = opened()
    left.ping(b"12.5")
    right.feed(drained(left))
    assert left.feed(drained(right)) == [wire.Pong(b"12.5")]


def test_goodbye_ends_requests_but_not_answers() -> None:
    """After a goodbye answers still come; a request is a breach."""
    left, right = opened()
    right.request(b"early")
    left.feed(drained(right))
    left.goodbye("closing", "bye")
    left.reply(1, b"late answer")
    assert right.feed(drained(left)) == [wire.Goodbye("closing", "bye"), wire.Reply(1, b"late answer")]
    left.request(b"no")
    with pytest.raises(ProtocolError, match="REQUEST in phase draining"):
        right.feed(drained(left))


BREACHES = {
    "unknown kind": HEADER.pack(0, 99, 0, 0, 0),
    "reserved bits": HEADER.pack(0, Kind.PING, 0, 1, 0),
    "a frame announcing 4 GiB": HEADER.pack(0xFFFFFFFF, Kind.REQUEST, 0, 0, 1),
    "a frame one byte too long": HEADER.pack(MAX_FRAME + 1, Kind.REQUEST, 0, 0, 1),
    "second hello": frame(Kind.HELLO, 0, b""),
    "body without credit": frame(Kind.REQUEST_BODY, 1, b"x"),
    "answer to nothing": frame(Kind.REPLY, 1, b""),
    "error for nothing": frame(Kind.ERROR, 1, b""),
    "body flag without table": frame(Kind.REQUEST, 1, b"", Flag.BODY),
    "table shorter than it says": frame(Kind.REQUEST, 1, b"\x00\x09\x00\x00\x00\x01", Flag.BODY),
    "meaningless flags": frame(Kind.REQUEST, 1, b"", 0x80),
    "inline body of the wrong size": frame(
        Kind.REQUEST, 1, b"\x00\x01\x00\x00\x00\x00" + (9).to_bytes(8, "big") + b"x", Flag.BODY | Flag.INLINE
    ),
    "empty table": frame(Kind.REQUEST, 1, bytes(16), Flag.BODY | Flag.TABLE),
    "goodbye that is no pair": frame(Kind.GOODBYE, 0, b"\x01"),
}


@pytest.mark.parametrize("name", BREACHES)
@pytest.mark.parametrize("step", [0, 1])
def test_every_breach_is_a_protocol_error(name: str, step: int) -> None:
    """One clear error, as soon as the header shows it."""
    _, right = opened()
    data = BREACHES[name]
    with pytest.raises(ProtocolError):
        for start in range(0, len(data), step or len(data)):
            right.feed(data[start : start + (step or len(data))])


def test_a_request_id_twice_is_a_breach() -> None:
    left, right = opened()
    left.request(b"", [bytes(100_000)])
    data = drained(left)
    right.feed(data)
    with pytest.raises(ProtocolError, match="twice"):
        right.feed(data)


def test_a_table_that_lies_is_a_breach() -> None:
    """Sizes inside a streamed table must add up to what was announced."""
    left, right = opened()
    left.request(b"e" * (MAX_INLINE + 1), [b"abc"])
    (offer,) = right.feed(drained(left))
    right.accept_body(offer.kind, offer.request_id)
    left.feed(drained(right))
    data = bytearray(drained(left))
    data[12 + 6 + 7] = 200  # the buffer's size
    with pytest.raises(ProtocolError, match="table"):
        right.feed(bytes(data))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_rubbish_is_refused_or_waited_for(data: bytes, greeted: bool) -> None:
    """Random bytes end in ProtocolError or in waiting for more; nothing else escapes, nothing large is allocated."""
    right = opened()[1] if greeted else Session(hello("right"))
    try:
        events = right.feed(data)
    except ProtocolError:
        return
    assert len(events) <= len(data) // 12


def test_nothing_but_a_hello_may_come_first() -> None:
    for kind in Kind:
        if kind not in (Kind.HELLO, Kind.GOODBYE):
            with pytest.raises(ProtocolError):
                Session(hello("x")).feed(frame(kind, 1, b""))


def test_a_million_tiny_frames_leave_nothing() -> None:
    """Pings are answered, not stored: what is queued is bounded by what the link lets it send."""
    _, right = opened()
    tiny = frame(Kind.CANCEL, 1)
    for _ in range(100):
        events = right.feed(tiny * 10_000)
        assert len(events) == 10_000
    assert right.bodies == 0
    assert not right.has_output


def test_too_many_buffers_is_the_callers_error() -> None:
    left, _ = opened()
    with pytest.raises(LimitExceeded, match="max_buffers|large values"):
        left.request(b"", [b"x"] * 70_000)


def test_phases_allow_what_the_table_says() -> None:
    assert set(ALLOWED) == set(Phase)
    assert Kind.REQUEST not in ALLOWED[Phase.DRAINING]
    assert ALLOWED[Phase.CLOSED] == set()
