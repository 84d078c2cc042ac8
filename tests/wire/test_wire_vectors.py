"""Golden vectors: the bytes of docs/wire.md, which must not change without a new protocol version."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from laila.codec import Encoded
from laila.errors import EntryNotFound
from laila.wire.bodies import table
from laila.wire.frames import Flag, Kind, frame
from laila.wire.messages import (
    Hello,
    Op,
    pack_call,
    pack_error,
    pack_goodbye,
    pack_hello,
    split_records,
    unpack_call,
    unpack_error,
    unpack_hello,
)

ID = "f69bf63a-dc0f-5a54-a7bc-92438d0f83df"
HELLO = Hello(node_id="n", name="node1", instance="i", listen="h:1", software="s", max_body=7)
VECTORS = {
    "hello": frame(Kind.HELLO, 0, pack_hello(HELLO)),
    "ping": frame(Kind.PING, 0, b"1.5"),
    "remember": frame(Kind.REQUEST, 1, pack_call(Op.REMEMBER, "store", [ID])),
    "relayed exists": frame(Kind.REQUEST, 2, pack_call(Op.EXISTS, None, [ID], ["to", "node2"])),
    "memorize inline": frame(
        Kind.REQUEST,
        3,
        table(pack_call(Op.MEMORIZE, "store", ([ID], [b"\xc0"], [1])), [3]) + b"abc",
        Flag.BODY | Flag.INLINE,
    ),
    "reply": frame(Kind.REPLY, 1, b"\x92\x91\xc4\x01\xc0\xc0"),
    "error": frame(Kind.ERROR, 1, pack_error(EntryNotFound("no entry", missing=(ID,), pool="store"))),
    "credit": frame(Kind.REQUEST_CREDIT, 3),
    "goodbye": frame(Kind.GOODBYE, 0, pack_goodbye("closing", "bye")),
}


def documented() -> dict[str, bytes]:
    """Name and hex of each vector in docs/wire.md."""
    text = (Path(__file__).parents[2] / "docs" / "wire.md").read_text()
    found = re.findall(r"^### vector: (.+)\n\n```\n([0-9a-f\n ]+)```", text, re.MULTILINE)
    return {name: bytes.fromhex("".join(value.split())) for name, value in found}


@pytest.mark.parametrize("name", VECTORS)
def test_bytes_are_those_of_the_document(name: str) -> None:
    assert VECTORS[name].hex() == documented()[name].hex()


def test_the_document_has_no_other_vectors() -> None:
    assert set(documented()) == set(VECTORS)


def test_hello_comes_back() -> None:
    assert unpack_hello(pack_hello(HELLO)) == HELLO


def test_a_call_comes_back() -> None:
    call = unpack_call(pack_call(Op.REMEMBER, "store", [ID], ["to", "x"]))
    assert call == (Op.REMEMBER, "store", ["to", "x"], [ID])


def test_an_error_comes_back_as_its_class() -> None:
    error = unpack_error(pack_error(EntryNotFound("no entry", missing=(ID,), pool="store")))
    assert type(error) is EntryNotFound
    assert (error.missing, error.pool, str(error)) == ((ID,), "store", "no entry")


def test_counts_are_only_sent_when_there_are_buffers() -> None:
    assert split_records([Encoded(b"a"), Encoded(b"b")]) == ([b"a", b"b"], None, [])
    assert split_records([Encoded(b"a"), Encoded(b"b", (b"x",))]) == ([b"a", b"b"], [0, 1], [b"x"])
