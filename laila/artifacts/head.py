"""The head of a file: what says which version it is, in a few small reads however large the file.

Two equal heads are two files with the same signed header, the same footer hash and the same lineage. A head alone
proves nothing about content; it tells whether content that was verified before is still the current one. That header
and lineage belong together is proved by the last two entries of the provenance: the signed one that ends the version
names the root, and through its hash chain the block.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from itertools import pairwise

from ..errors import ArtifactCorrupt
from . import layout, lineage, provenance
from .canonical import content_hash
from .checking import Finding, raise_for
from .layout import BLOCK_HEADER, FILE_HEADER, FOOTER, INDEX_ENTRY, SIGNED_PART
from .lineage import Version
from .reading import MAX_PROVENANCE, MAX_SECURITY, check_header, parse_security, public_key_of
from .signing import holds
from .source import regular
from .trust import TrustSet

_TAIL = 4096
"""Bytes of the provenance's end that are read first; some five entries."""
_MOST = BLOCK_HEADER + lineage.MAX_BYTES + len(lineage.METADATA)


@dataclass(frozen=True, slots=True)
class Head:
    """Raw header (444 bytes), footer (48) and last block when it is a lineage block (else empty), and what they say."""

    header: bytes
    footer: bytes
    meta: bytes
    path: str
    size: int
    root: str
    version: Version | None
    signer: str | None
    """The key that the file names, hex."""
    end: bytes = b""
    """The end of the provenance: its last entries."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Head):
            return NotImplemented
        return (self.header, self.footer, self.meta) == (other.header, other.footer, other.meta)

    def __hash__(self) -> int:
        return hash((self.header, self.footer))

    @property
    def digest(self) -> str:
        """SHA-256 of all bytes before the footer, as the footer says; hex."""
        return layout.unpack_footer(self.footer).digest.hex()

    @property
    def name(self) -> str | None:
        return None if self.version is None else self.version.name

    @property
    def sequence(self) -> int:
        """The version's number; 0 without a lineage."""
        return 0 if self.version is None else self.version.sequence

    @property
    def fence(self) -> int:
        return 0 if self.version is None else self.version.fence

    def require(self, trust: TrustSet | None = None) -> None:
        """Verify the header's and the lineage block's own signatures, and with `trust` the signer.

        Raises: ArtifactCorrupt, Unsigned, UntrustedSigner.
        """
        key = None if self.signer is None else bytes.fromhex(self.signer)
        found: list[Finding] = []
        flags = layout.unpack_file_header(self.header)[3].flags
        if not flags & layout.FILE_SIGNED:
            found.append(Finding("unsigned", "the file", "is not signed", 8))
        elif key is None or not self._signed(key):
            found.append(
                Finding("signature", "the head", "was not signed by the key that the file names", SIGNED_PART)
            )
        elif trust is not None and not trust.trusts(key, self._voucher):
            what = f"was signed by key {key.hex()[:16]}…, which this reader does not trust"
            found.append(Finding("untrusted", "the file", what, 0))
        raise_for(found, self.path, key)

    @property
    def _voucher(self) -> bytes | None:
        return bytes.fromhex(self.version.voucher) or None if self.version is not None else None

    def _signed(self, key: bytes) -> bool:
        raw = layout.raw_signature(self.header[SIGNED_PART : SIGNED_PART + layout.SIGNATURE_FIELD])
        if raw is None or not holds(key, raw, self.header[:SIGNED_PART]):
            return False
        if not self.meta:
            return True
        front, field, metadata_size, _ = layout.unpack_block(self.meta[:BLOCK_HEADER])
        raw = layout.raw_signature(field)
        message = layout.message_front(front, metadata_size) + self.meta[BLOCK_HEADER:]
        return raw is not None and holds(key, raw, message) and self._bound(key, front)

    def _bound(self, key: bytes, front: layout.BlockFront) -> bool:
        """Whether the lineage block is the last one of the version that the header is about."""
        try:
            *before, last = provenance.last_entries(self.end)
            whole = all(provenance.entry_hash(entry) == entry["entry_hash"] for entry in (*before, last))
            signature = bytes.fromhex(last["signature"])
        except ValueError:
            return False
        linked = all(b["previous_entry_hash"] == a["entry_hash"] for a, b in pairwise((*before, last)))
        ends = [
            entry
            for entry in (*before, last)
            if entry["action"] != "finalize" or entry["block_hash"] != self.root
        ]
        body = self.meta[BLOCK_HEADER : len(self.meta) - len(lineage.METADATA)]
        return (
            whole
            and linked
            and last["action"] == "finalize"
            and last["block_hash"] == self.root
            and bool(ends)
            and (ends[-1]["action"], ends[-1]["block_hash"])
            == ("add_metadata_block", front.content_hash.hex())
            and content_hash(body, lineage.METADATA) == front.content_hash
            and holds(key, signature, last["entry_hash"].encode())
        )


def read_head(path: str | os.PathLike[str]) -> Head:
    """The head of the file at `path`. Raises: OSError, NotAnArtifact, UnsupportedVersion, ArtifactCorrupt."""
    name = os.fspath(path)
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        size = regular(descriptor, name)
        front = os.pread(descriptor, FILE_HEADER, 0)
        header = check_header(front, size, name)
        section = os.pread(
            descriptor, min(header.index_at - header.security_at, MAX_SECURITY), header.security_at
        )
        end = os.pread(descriptor, INDEX_ENTRY + FOOTER, size - FOOTER - INDEX_ENTRY)
        tail = _end_of_provenance(descriptor, header)
        last = end[:INDEX_ENTRY] if header.blocks else b""
        meta = _lineage_block(descriptor, last, header) if last else b""
        key = public_key_of(parse_security(section[4:]))
        version = _version(meta, header.root.hex())
    except (ValueError, struct.error) as error:  # also when it is shortened just now
        raise ArtifactCorrupt(f"{name} is damaged: its head cannot be read: {error}", path=name) from error
    finally:
        os.close(descriptor)
    signer = None if key is None else key.hex()
    return Head(front, end[-FOOTER:], meta, name, size, header.root.hex(), version, signer, tail)


def _end_of_provenance(descriptor: int, header: layout.FileHeader) -> bytes:
    """So much of it that the entry of the last block is there; a file that was signed again has more ends after it."""
    begin, end, size = header.provenance_at + 4, header.security_at, _TAIL
    while True:
        at = max(begin, end - size)
        tail = os.pread(descriptor, end - at, at)
        if at == begin or tail.count(b'"action": "add_') > 1 or size > MAX_PROVENANCE:
            return tail
        size *= 4


def _lineage_block(descriptor: int, entry: bytes, header: layout.FileHeader) -> bytes:
    """The last block, if it is a lineage block. Raises ValueError when index and block disagree."""
    offset, size, kind, _ = layout.unpack_index(entry)
    block = os.pread(descriptor, min(max(size, BLOCK_HEADER), _MOST), min(offset, header.provenance_at))
    if offset + size != header.provenance_at or len(block) < BLOCK_HEADER:
        raise ValueError("its index points somewhere else than to its last block")
    front = layout.unpack_block(block[:BLOCK_HEADER])[0]
    if layout.pack_index(offset, front) != entry:
        raise ValueError("its index says something else than its last block")
    return block if kind == b"META" and len(block) == size and block.endswith(lineage.METADATA) else b""


def _version(meta: bytes, root: str) -> Version | None:
    if not meta:
        return None
    return lineage.decode(meta[BLOCK_HEADER : len(meta) - len(lineage.METADATA)], root)
