"""One entry as one file: its bytes and its name. Used by the filesystem pool, and by those that keep it in a server.

A file, little endian:   magic 8s "LAILAREC", format u16, zero u16, crc32 u32 of everything after it,
                         key length u32, number of buffers u32, head length u64, a u64 length per buffer,
                         key, head, then each buffer at a multiple of 64 (so that mapped arrays are aligned)

Its name is a reversible spelling of the key that survives case-folding and normalizing file systems: bytes
other than a-z 0-9 - _ become =xx. A key too long for that is named by its hash. The key is in the file in any
case.

Whoever shortens a mapped file in place kills its readers (SIGBUS); laila only ever replaces files.
The checksum finds accidents (a bad block, half a copy), not forgery; who can write the directory can write
entries.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from laila.codec import Buffer, Encoded
from laila.errors import Corrupt

MAP_MINIMUM = 1 << 20
"""Files from this many bytes on are mapped, smaller ones are read."""
MAX_STEM = 128
"""Longest spelled-out file name; longer keys are named by their hash."""
RECORD_SUFFIX, HASHED_SUFFIX = ".rec", ".long"

_MAGIC = b"LAILAREC"
_FORMAT = 1
_FIXED = struct.Struct("<8sHHIIIQ")
_CHECKED_FROM = 16  # the checksum covers what follows it
_ALIGNMENT = 64
_PLAIN = b"abcdefghijklmnopqrstuvwxyz0123456789-_"
_SPELLING = [chr(byte) if byte in _PLAIN else f"={byte:02x}" for byte in range(256)]


def pack(key: bytes, record: Encoded) -> Iterator[bytes | memoryview]:
    """The pieces of a record's file."""
    views = [memoryview(buffer) for buffer in record.buffers]
    lengths = struct.pack(f"<{len(views)}Q", *(view.nbytes for view in views))
    front = struct.pack("<IIQ", len(key), len(views), len(record.head)) + lengths + key + record.head
    position = _CHECKED_FROM + len(front)
    pieces: list[bytes | memoryview] = [front]
    for view in views:
        padding = -position % _ALIGNMENT
        pieces += [bytes(padding), view] if view.nbytes else [bytes(padding)]
        position += padding + view.nbytes
    checksum = 0
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
    yield struct.pack("<8sHHI", _MAGIC, _FORMAT, 0, checksum)
    yield from pieces


def unpack(data: Buffer, key: bytes, path: Path | str) -> Encoded:
    """The record in a file's content, over its memory. Raises Corrupt, which names `path`."""
    view = memoryview(data).toreadonly()
    lengths = _checked_lengths(view, path)
    key_length, buffer_lengths = lengths[0], lengths[2:]
    position = _FIXED.size + 8 * len(buffer_lengths)
    if view[position : position + key_length] != key:
        raise Corrupt(f"{path} holds another key than its name says; was it renamed by hand?")
    position += key_length
    head = bytes(view[position : position + lengths[1]])
    position += lengths[1]
    buffers = []
    for length in buffer_lengths:
        position += -position % _ALIGNMENT
        buffers.append(view[position : position + length])
        position += length
    if position != len(view):
        raise Corrupt(f"{path} has {len(view)} bytes where its header says {position}")
    return Encoded(head, tuple(buffers))


def _checked_lengths(view: memoryview, path: Path | str) -> tuple[int, ...]:
    """Lengths of key, head and buffers, after everything a header says was checked."""
    if len(view) < _FIXED.size:
        raise Corrupt(f"{path} is damaged: {len(view)} bytes are too few for an entry")
    magic, version, zero, checksum, key_length, count, head_length = _FIXED.unpack_from(view)
    if magic != _MAGIC:
        raise Corrupt(f"{path} is damaged, or not an entry of laila: it does not begin with {_MAGIC!r}")
    if version != _FORMAT or zero:
        raise Corrupt(f"{path} has format {version}.{zero}; this version of laila reads format {_FORMAT}.0")
    if zlib.crc32(view[_CHECKED_FROM:]) != checksum:
        raise Corrupt(
            f"{path} is damaged: its checksum is wrong; restore it from a replica and delete this file"
        )
    if _FIXED.size + 8 * count > len(view):
        raise Corrupt(f"{path} is damaged: it announces {count} buffers")
    return (key_length, head_length, *struct.unpack_from(f"<{count}Q", view, _FIXED.size))


def content(path: Path) -> bytes | mmap.mmap:
    """A file's bytes; a big file is mapped, and the map lives as long as views of it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        if size < MAP_MINIMUM:
            return os.read(descriptor, size)
        if sys.version_info >= (3, 13):  # before, every map keeps a descriptor of its own open
            return mmap.mmap(descriptor, size, access=mmap.ACCESS_READ, trackfd=False)
        return mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)


def file_name(key: bytes, longest: int = MAX_STEM) -> str:
    plain = not key.translate(None, _PLAIN)
    stem = key.decode() if plain else "".join(map(_SPELLING.__getitem__, key))
    if not stem:
        return "=" + RECORD_SUFFIX
    if len(stem) <= longest:
        return stem + RECORD_SUFFIX
    return hashlib.blake2b(key, digest_size=32).hexdigest() + HASHED_SUFFIX


def key_of(path: Path) -> str | None:
    """The key of an entry's file; None for a file that is not an entry's, or went away."""
    return _key_inside(path) if path.suffix == HASHED_SUFFIX else spelled_key(path.name)


def spelled_key(name: str, longest: int = MAX_STEM) -> str | None:
    """The key that a name spells out; None when it spells none."""
    first, *escaped = name.removesuffix(RECORD_SUFFIX).split("=")
    if name == "=" + RECORD_SUFFIX:
        return ""
    try:
        raw = first.encode() + b"".join(bytes.fromhex(part[:2]) + part[2:].encode() for part in escaped)
        return raw.decode() if file_name(raw, longest) == name else None
    except ValueError:
        return None


def _key_inside(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            key = key_in(file)
            if file_name(key) == path.name:  # the name is the key's hash, and so its check
                return key.decode()
    except FileNotFoundError:
        return None
    raise Corrupt(f"{path} is damaged: the key in it is not the one it is named for")


def key_in(file: BinaryIO) -> bytes:
    """The key in an entry's file; not checked, and anything when it is damaged."""
    fixed = file.read(_FIXED.size)
    if len(fixed) < _FIXED.size:
        return b""
    key_length, count = _FIXED.unpack(fixed)[4:6]
    file.seek(8 * count, os.SEEK_CUR)
    return file.read(key_length)
