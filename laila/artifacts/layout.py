"""The bytes of a MAIF 2.1 file: sizes, offsets and fixed records, all big-endian; no I/O.

Sections follow each other without a gap: file header, blocks, provenance, security, index, footer. What the fields
mean, and which of them are signed or hashed how, is written in docs/maif.md.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

MAGIC, END_MAGIC = b"MAIF", b"FIAM"
MAJOR, MINOR = 2, 1

FILE_SIGNED, FILE_FINAL, FILE_PROVENANCE, FILE_ENCRYPTED = 1, 2, 4, 8
BLOCK_SIGNED, BLOCK_IMMUTABLE, BLOCK_ENCRYPTED, BLOCK_COMPRESSED = 1, 2, 4, 8
UNSIGNED_BITS = 0x33
"""Flags that are cleared before a block's header is signed."""

FILE_HEADER = 444
SIGNED_PART = 184
"""The file signature covers so many bytes of the file header."""
BLOCK_HEADER = 372
BLOCK_FRONT = 104
"""A block's header up to its signature."""
MESSAGE_FRONT = BLOCK_FRONT + 4
"""What goes before the data in the message that a block's signature covers: the front and the metadata's size."""
SIGNATURE_FIELD = 256
INDEX_ENTRY = 24
FOOTER = 48
MAX_BLOCK = (1 << 32) - 1
"""A block's size is a u32: header, data and metadata together."""
MAX_BLOCKS = (1 << 32) - 1

NO_HASH = bytes(32)
SIGNATURE_MARK = b"ED25519:"
_SIGNATURE_PADDING = bytes(SIGNATURE_FIELD - len(SIGNATURE_MARK) - 64)
NO_SIGNATURE = bytes(SIGNATURE_FIELD)
DID_PREFIX = "did:maif:"
MAX_AGENT_ID = 64 - len(DID_PREFIX)

_FILE = struct.Struct(">4sHHIQQ16s16s64sIQQQ32s")
_FRONT = struct.Struct(">I4sIIQ16s32s32s")
_BLOCK = struct.Struct(">I4sIIQ16s32s32s256sI8s")
_INDEX = struct.Struct(">QQ4sI")
_FOOTER = struct.Struct(">4sQ32sI")

TYPES = {
    b"TEXT": "text",
    b"EMBD": "embeddings",
    b"IMAG": "image",
    b"AUDI": "audio",
    b"VIDE": "video",
    b"KNOW": "knowledge",
    b"BINA": "binary",
    b"META": "metadata",
}
"""The eight block types, and the word in `add_<word>_block`."""


class FileHeader(NamedTuple):
    """The signed part of the file header. Times are microseconds of the epoch, offsets bytes."""

    flags: int
    created: int
    modified: int
    file_id: bytes
    creator_id: bytes
    did: bytes
    blocks: int
    provenance_at: int
    security_at: int
    index_at: int
    root: bytes

    def pack(self) -> bytes:
        """The 184 bytes that are signed."""
        return _FILE.pack(
            MAGIC,
            MAJOR,
            MINOR,
            self.flags,
            self.created,
            self.modified,
            self.file_id,
            self.creator_id,
            self.did,
            self.blocks,
            self.provenance_at,
            self.security_at,
            self.index_at,
            self.root,
        )


class BlockFront(NamedTuple):
    """A block's header up to its signature."""

    size: int
    kind: bytes
    flags: int
    version: int
    timestamp: int
    block_id: bytes
    previous: bytes
    content_hash: bytes

    def pack(self, *, for_signing: bool = False) -> bytes:
        flags = self.flags & ~UNSIGNED_BITS if for_signing else self.flags
        return _FRONT.pack(
            self.size,
            self.kind,
            flags,
            self.version,
            self.timestamp,
            self.block_id,
            self.previous,
            self.content_hash,
        )


class Footer(NamedTuple):
    """The last 48 bytes."""

    magic: bytes
    size: int
    digest: bytes
    reserved: int

    def pack(self) -> bytes:
        return _FOOTER.pack(*self)


def unpack_file_header(data: bytes) -> tuple[bytes, int, int, FileHeader]:
    """Magic, major and minor version, and the rest, of at least 184 bytes."""
    magic, major, minor, *rest = _FILE.unpack_from(data)
    return magic, major, minor, FileHeader(*rest)


def unpack_block(header: bytes) -> tuple[BlockFront, bytes, int, bytes]:
    """Front, signature field, metadata size and reserved bytes of a block's 372-byte header."""
    *front, signature, metadata_size, reserved = _BLOCK.unpack(header)
    return BlockFront(*front), signature, metadata_size, reserved


def pack_block(front: BlockFront, signature: bytes, metadata_size: int) -> bytes:
    """A block's 372-byte header; `signature` is the 256-byte field."""
    return front.pack() + signature + struct.pack(">I8x", metadata_size)


def pack_index(offset: int, front: BlockFront) -> bytes:
    return _INDEX.pack(offset, front.size, front.kind, front.flags)


def unpack_index(entry: bytes) -> tuple[int, int, bytes, int]:
    """Offset, size, type and flags of one block."""
    return _INDEX.unpack(entry)


def unpack_footer(data: bytes) -> Footer:
    return Footer(*_FOOTER.unpack(data))


def message_front(front: BlockFront, metadata_size: int) -> bytes:
    """The 108 bytes that go before data and metadata in what a block's signature covers."""
    return front.pack(for_signing=True) + struct.pack(">I", metadata_size)


def signature_field(signature: bytes) -> bytes:
    """64 raw bytes as the 256-byte field."""
    return SIGNATURE_MARK + signature + _SIGNATURE_PADDING


def raw_signature(field: bytes) -> bytes | None:
    """The 64 raw bytes of a signature field; None unless mark and padding are as they must be."""
    end = len(SIGNATURE_MARK) + 64
    if not field.startswith(SIGNATURE_MARK) or field[end:] != _SIGNATURE_PADDING:
        return None
    return field[len(SIGNATURE_MARK) : end]


def did_field(agent_id: str) -> bytes:
    """`did:maif:<agent>`, NUL-padded to 64 bytes."""
    return (DID_PREFIX + agent_id).encode("ascii").ljust(64, b"\0")
