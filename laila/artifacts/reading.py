"""From bytes to the parts of a file: strict about structure, silent about truth (that is `checking`).

Whatever makes it impossible to say where things are is an error here, with its offset; all that is merely wrong is
found by a check. Sizes and counts are believed only after they were held against the file's own size.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, NoReturn

from ..errors import ArtifactCorrupt, NotAnArtifact, UnsupportedVersion
from . import layout, lineage
from .canonical import MAX_ALL_METADATA, MAX_METADATA, load_json
from .layout import BLOCK_HEADER, FILE_HEADER, FOOTER, INDEX_ENTRY, BlockFront, FileHeader, Footer
from .lineage import Version
from .merkle import MerkleTree
from .source import Source

MAX_SECURITY = 64 << 10
_U32 = struct.Struct(">I")


class Block(NamedTuple):
    """One block: where it is and what its header says."""

    offset: int
    front: BlockFront
    signature: bytes
    """The 256-byte field."""
    metadata_size: int
    reserved: bytes

    @property
    def data_at(self) -> int:
        return self.offset + BLOCK_HEADER

    @property
    def data_size(self) -> int:
        return self.front.size - BLOCK_HEADER - self.metadata_size

    @property
    def body_size(self) -> int:
        """Data and metadata."""
        return self.front.size - BLOCK_HEADER

    @property
    def header(self) -> bytes:
        return self.front.pack() + self.signature + _U32.pack(self.metadata_size) + self.reserved


@dataclass(slots=True, weakref_slot=True)
class Document:
    """A file, taken apart."""

    source: Source
    header: FileHeader
    header_raw: bytes
    blocks: list[Block]
    provenance: bytes
    security_raw: bytes
    index: bytes
    footer: Footer
    security: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return self.source.path

    @property
    def public_key(self) -> bytes | None:
        """The key that the file says it was signed by; None when it is not signed, whatever it names."""
        return public_key_of(self.security) if self.signed else None

    @property
    def signed(self) -> bool:
        """Whether it says that it is signed."""
        return bool(self.header.flags & layout.FILE_SIGNED)

    def data(self, block: Block) -> memoryview:
        return self.source.view(block.data_at, block.data_size)

    def metadata(self, block: Block) -> bytes:
        return self.source.read(block.data_at + block.data_size, block.metadata_size)

    def is_lineage(self, block: Block) -> bool:
        return (
            block.front.kind == b"META"
            and block.metadata_size == len(lineage.METADATA)
            and self.metadata(block) == lineage.METADATA
        )

    def newest(self) -> Version | None:
        """The version that the file's last block ends. Raises ValueError when it cannot be read."""
        if not self.blocks or not self.is_lineage(self.blocks[-1]):
            return None
        return lineage.decode(bytes(self.data(self.blocks[-1])), self.header.root.hex())

    def versions(self) -> list[tuple[int, Version]]:
        """(block number, version) of each lineage block. Raises ValueError when one cannot be read."""
        tree, found = MerkleTree(), []
        for number, block in enumerate(self.blocks):
            tree.add(block.front.content_hash)
            if self.is_lineage(block):
                found.append((number, lineage.decode(bytes(self.data(block)), tree.root.hex())))
        return found


def public_key_of(security: dict[str, Any]) -> bytes | None:
    """The 32 bytes of a security section's key; None when it has none that can be one."""
    text = security.get("public_key")
    try:
        raw = bytes.fromhex(text) if type(text) is str else b""
    except ValueError:
        return None
    return raw if len(raw) == 32 else None


def parse_security(raw: bytes) -> dict[str, Any]:
    """Raises ValueError."""
    value = load_json(raw)
    if type(value) is not dict:
        raise ValueError("it is no JSON object")
    return value


class Reader:
    """Takes one source apart."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def read(self) -> Document:
        """Raises: NotAnArtifact, UnsupportedVersion, ArtifactCorrupt."""
        raw, header = self._file_header()
        blocks = self._blocks(header)
        provenance = self._section("provenance", header.provenance_at, header.security_at)
        security = self._section("security", header.security_at, header.index_at)
        index = self._source.read(header.index_at, INDEX_ENTRY * header.blocks)
        footer = layout.unpack_footer(self._source.read(self._end, FOOTER))
        document = Document(self._source, header, raw, blocks, provenance, security, index, footer)
        try:
            document.security = parse_security(security)
        except ValueError as error:
            self._fail("the security section", header.security_at, f"cannot be read: {error}")
        return document

    @cached_property
    def _end(self) -> int:
        """Where the footer begins."""
        return self._source.size - FOOTER

    def _file_header(self) -> tuple[bytes, FileHeader]:
        raw = self._source.read(0, FILE_HEADER)
        return raw, check_header(raw, self._source.size, self._source.path)

    def _blocks(self, header: FileHeader) -> list[Block]:
        found, at, end, described = [], FILE_HEADER, header.provenance_at, 0
        read, unpack = self._source.read, layout.unpack_block
        for number in range(header.blocks):  # no more than the index has room for, checked above
            if end - at < BLOCK_HEADER:
                self._fail(f"block {number}", at, f"begins {end - at} bytes before the provenance")
            front, signature, metadata_size, reserved = unpack(read(at, BLOCK_HEADER))
            if not BLOCK_HEADER + metadata_size <= front.size <= end - at:
                self._fail(
                    f"block {number}", at, f"says that it has {front.size} bytes; {end - at} are there"
                )
            if metadata_size > MAX_METADATA:
                self._fail(
                    f"block {number}",
                    at,
                    f"has {metadata_size} bytes of metadata; at most {MAX_METADATA} are read",
                )
            if (described := described + metadata_size) > MAX_ALL_METADATA:
                self._fail(
                    f"block {number}",
                    at,
                    f"makes more metadata than the {MAX_ALL_METADATA} bytes that are read",
                )
            found.append(Block(at, front, signature, metadata_size, reserved))
            at += front.size
        if at != end:
            self._fail("the provenance", end, f"begins {end - at} bytes after the last block")
        return found

    def _section(self, name: str, at: int, end: int) -> bytes:
        size = _U32.unpack(self._source.read(at, 4))[0] if end - at >= 4 else -1
        if at + 4 + size != end:
            self._fail(f"the {name} section", at, f"says that it has {size} bytes; {end - at - 4} are there")
        most = MAX_SECURITY if name == "security" else max_provenance(self._source.size)
        if size > most:
            self._fail(f"the {name} section", at, f"has {size} bytes; at most {most} are read")
        return self._source.read(at + 4, size)

    def _fail(self, what: str, offset: int, problem: str) -> NoReturn:
        _fail(self._source.path, what, offset, problem)


def check_header(raw: bytes, size: int, path: str) -> FileHeader:
    """The file header of a file of `size` bytes, whose sections fit into it.

    Raises: NotAnArtifact, UnsupportedVersion, ArtifactCorrupt.
    """
    name = path or "these bytes"
    if not raw.startswith(layout.MAGIC):
        what = "is empty" if not size else "does not begin with 'MAIF'"
        raise NotAnArtifact(f"{name} is no artifact: it {what}", path=path)
    if len(raw) < 8:
        _fail(path, "the file header", 0, f"is cut off after {size} bytes")
    if (version := struct.unpack(">HH", raw[4:8])) != (layout.MAJOR, layout.MINOR):
        raise UnsupportedVersion(
            f"{name} is MAIF {version[0]}.{version[1]}; this reads {layout.MAJOR}.{layout.MINOR}: "
            "convert it with the program that wrote it",
            path=path,
        )
    if size < FILE_HEADER + FOOTER + 8:
        _fail(path, "the file", size, f"is cut off: {size} bytes are too few for header and footer")
    header, end = layout.unpack_file_header(raw)[3], size - FOOTER
    sections = (header.provenance_at, header.security_at, header.index_at)
    if not FILE_HEADER <= sections[0] < sections[1] < sections[2] <= end:
        _fail(path, "the file header", 128, f"puts sections at {sections} in a file of {size} bytes")
    if header.index_at + INDEX_ENTRY * header.blocks != end:
        words = f"of {header.blocks} blocks does not end where the footer begins"
        _fail(path, "the index", header.index_at, words)
    return header


def _fail(path: str, what: str, offset: int, problem: str) -> NoReturn:
    finding = f"{what} {problem} (offset {offset})"
    raise ArtifactCorrupt(
        f"{path or 'the artifact'} is damaged: {finding}; restore it from a replica or a copy",
        path=path,
        findings=(finding,),
    )


MAX_PROVENANCE = 64 << 20
"""Bytes; some 90,000 entries. JSON takes ten times its size in memory."""


def max_provenance(size: int) -> int:
    return min(size, MAX_PROVENANCE)
