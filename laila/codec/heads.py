"""Heads: the msgpack bytes of a value. Packs, unpacks, and measures before anything is built.

Strategy: msgpack's C code does the bytes. It is fast and it is trusting: an array that announces N items
gets room for N at once, and 1 byte may become a 64-byte object. So a head that is long enough to matter is
first walked without building anything (`skip`), which proves that every announced length is really there,
and is counted when it could cross the limit on items. After that, memory is bounded by the bytes that were
received.

Packers are pooled in a list, whose `pop` and `append` are atomic: threads never share one, and a finaliser
that runs in the middle of a `pack` and encodes something itself gets another.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgpack

from laila.codec.limits import check_items
from laila.errors import BadValue, Corrupt, LimitExceeded

CODE_INT = 1  # an int that does not fit into 64 bits

UNPROVEN = 1024  # bytes: below this, what a lying header can waste is a few MiB of untouched address space
_LARGEST = 2**32 - 1  # bytes or items: what msgpack can say of one part
_POOLED = 65536  # bytes: a packer that grew beyond this is not kept

_packers: list[msgpack.Packer] = []


def _pack_big_int(value: Any) -> msgpack.ExtType:
    """What the packer cannot do itself, once types were checked: only ints beyond 64 bits."""
    if type(value) is int:
        return msgpack.ExtType(CODE_INT, value.to_bytes((value.bit_length() + 8) // 8, "big", signed=True))
    raise BadValue(f"a {type(value).__qualname__} appeared in the value while it was being encoded")


def pack(tree: Any) -> bytes:
    """Pack a tree of None, bool, int, float, str, bytes, list, dict and ExtType.

    Raises LimitExceeded for one str, int or container that is larger than msgpack can say.
    """
    try:
        packer = _packers.pop()
    except IndexError:
        packer = msgpack.Packer(default=_pack_big_int, strict_types=True)
    try:
        head: bytes = packer.pack(tree)
    except UnicodeEncodeError:  # a lone surrogate; this packer is slower, so it is not the usual one
        packer = msgpack.Packer(default=_pack_big_int, strict_types=True, unicode_errors="surrogatepass")
        return bytes(packer.pack(tree))
    except BadValue:
        raise
    except (ValueError, OverflowError) as error:
        raise LimitExceeded(
            f"the value is too large: {error}", limit="max_bytes", allowed=_LARGEST
        ) from error
    if len(head) <= _POOLED:
        _packers.append(packer)
    return head


def unpack(head: bytes, ext: Callable[[int, bytes], Any]) -> Any:
    """The tree that `head` describes, `ext` building each extension. Raises whatever msgpack raises."""
    return msgpack.unpackb(
        head, ext_hook=ext, strict_map_key=False, unicode_errors="surrogatepass", timestamp=3
    )


def prove(head: bytes, max_items: int) -> None:
    """Raise unless `head` is one whole msgpack value of at most `max_items` items; builds nothing.

    Not needed for heads below UNPROVEN bytes and items: `unpack` finds what is wrong with them.
    """
    size = len(head)
    walker = msgpack.Unpacker(max_buffer_size=size)
    walker.feed(head)
    walker.skip()
    if walker.tell() != size:
        raise Corrupt(f"{size - walker.tell()} bytes follow the end of the value")
    if size > max_items:
        check_items(count_items(head, max_items), max_items)


# Runs of tokens of one width, counted by a division. Possessive, so that nothing is remembered of them.
_RUN = re.compile(
    rb"([\x00-\x9f\xa0\xc0\xc2\xc3\xe0-\xff]++)"
    rb"|((?:[\xcc\xd0].)++)"
    rb"|((?:[\xcd\xd1\xdc\xde]..)++)"
    rb"|((?:[\xca\xce\xd2\xdd\xdf].{4})++)"
    rb"|((?:[\xcb\xcf\xd3].{8})++)",
    re.DOTALL,
)
_WIDTHS = (0, 1, 2, 3, 5, 9)
_FIXEXT = {0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18}
_LENGTH = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xC7: 1, 0xC8: 2, 0xC9: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}


def count_items(head: bytes, enough: int) -> int:
    """Items in all containers of a well-formed head: elements of arrays, and keys and values of maps.

    Every token but the outermost is an item, so nesting does not matter. Stops counting beyond `enough`.
    """
    position, size, tokens = 0, len(head), 0
    while position < size and tokens <= enough + 1:
        run = _RUN.match(head, position)
        if run is not None:
            tokens += (run.end() - position) // _WIDTHS[run.lastindex or 0]
            position = run.end()
            continue
        tokens += 1
        position += _token_size(head, position)
    return tokens - 1


def _token_size(head: bytes, position: int) -> int:
    first = head[position]
    if first <= 0xBF:  # short str; everything else below is in _RUN
        return 1 + (first & 0x1F)
    if first in _FIXEXT:
        return _FIXEXT[first]
    width = _LENGTH.get(first)
    if width is None:
        raise Corrupt(f"byte 0x{first:02x} begins no value")
    type_byte = 1 if 0xC7 <= first <= 0xC9 else 0
    return 1 + width + type_byte + int.from_bytes(head[position + 1 : position + 1 + width], "big")
