"""The strict check: everything that has to hold before anybody believes a file, every time.

Structure, hashes, chain, Merkle root, every signature, provenance, lineage. With a trust set also who signed. What is
wrong is listed with its place; nothing stops at the first finding but what makes the rest unreadable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

from ..errors import ArtifactCorrupt, ArtifactError, Unsigned, UntrustedSigner
from . import layout, lineage, overlap, provenance
from .canonical import content_hash, parse_metadata
from .layout import FILE_HEADER, FOOTER, NO_HASH, SIGNED_PART, TYPES
from .merkle import MerkleTree
from .reading import Document
from .signing import did_of, holds
from .source import JOINED_UP_TO
from .trust import TrustSet

UNSIGNED, UNTRUSTED = "unsigned", "untrusted"
"""Kinds of findings that are about who stands for a file, not about its being whole."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `offset` is bytes from the start of the file."""

    kind: str
    """structure, footer, index, hash, chain, root, signature, provenance, lineage, unsigned, untrusted."""
    where: str
    what: str
    offset: int

    def __str__(self) -> str:
        return f"{self.where} {self.what} (offset {self.offset})"


class Check:
    """One check of one document. Not to be run twice at once on the same document."""

    def __init__(self, document: Document) -> None:
        self._doc = document
        self._found: list[Finding] = []
        self._key = document.public_key
        self._signed = bool(document.header.flags & layout.FILE_SIGNED)

    def run(self) -> list[Finding]:
        """All findings, in the order of their places."""
        doc = self._doc
        self._check_header()
        self._check_index()
        self._check_chain()
        self._check_lineage()
        jobs, weight = self._jobs()
        with doc.source.trimming():
            overlap.run(jobs, weight=weight)
        return sorted(self._found, key=lambda finding: (finding.offset, finding.where))

    def content(self) -> list[Finding]:
        """Only what keeps bad content from being signed over: the header's signature, which covers the Merkle root,
        every content hash (that the root is theirs is seen when it is continued), the footer, and that the signed end
        of the provenance is about this root.
        """
        self._check_header()
        with self._doc.source.trimming():
            overlap.run([self._check_footer, self._check_hashes], weight=2 * self._doc.source.size)
        self._check_end()
        return self._found

    def _check_hashes(self) -> None:
        doc = self._doc
        for number, block in enumerate(doc.blocks):
            if content_hash(doc.data(block), doc.metadata(block)) != block.front.content_hash:
                self._find("hash", f"block {number}", "does not hold what its hash says", block.data_at)

    def _check_end(self) -> None:
        doc = self._doc
        try:
            last = provenance.last_entry(doc.provenance)
            good = last["action"] == "finalize" and last["block_hash"] == doc.header.root.hex()
            good = good and provenance.entry_hash(last) == last["entry_hash"]
        except ValueError:
            good, last = False, {}
        if not good or not self._entry_signed(last["signature"], last["entry_hash"]):
            self._find(
                "provenance", "the provenance", "does not end with this version", doc.header.provenance_at
            )

    def _jobs(self) -> tuple[list[Callable[[], object]], int]:
        """The costly ones, the costliest first."""
        blocks = self._doc.blocks
        jobs: list[Callable[[], object]] = []
        large = [n for n, block in enumerate(blocks) if block.body_size > JOINED_UP_TO]
        if self._signed and self._key is not None:
            jobs += [partial(self._check_signatures, [number]) for number in large]
        jobs += [self._check_footer, self._check_contents]
        entries = self._check_provenance()
        jobs += [partial(self._check_entries, part) for part in overlap.shares(entries)]
        if self._signed and self._key is not None:
            small = [n for n, block in enumerate(blocks) if block.body_size <= JOINED_UP_TO]
            jobs += [partial(self._check_signatures, part) for part in overlap.shares(small)]
        return jobs, 2 * self._doc.source.size + overlap.SIGNATURE * (len(entries) + len(blocks))

    # ---- structure ----

    def _check_header(self) -> None:
        doc, header = self._doc, self._doc.header
        if any(doc.header_raw[FILE_HEADER - 4 : FILE_HEADER]):
            self._find("structure", "the file header", "has bytes where zeros are reserved", FILE_HEADER - 4)
        expected = layout.FILE_FINAL | layout.FILE_PROVENANCE | (layout.FILE_SIGNED if self._signed else 0)
        if header.flags != expected:
            self._find(
                "structure", "the file header", f"has flags {header.flags:#x} instead of {expected:#x}", 8
            )
        did = header.did.rstrip(b"\0")
        words = did.decode("ascii", "replace")
        if not words.startswith(layout.DID_PREFIX) or not words.isascii() or not words.isprintable():
            self._find("structure", "the file header", "names no agent by did:maif", 60)
        if header.modified < header.created:
            self._find("structure", "the file header", "was modified before it was created", 20)
        field = doc.header_raw[SIGNED_PART : SIGNED_PART + layout.SIGNATURE_FIELD]
        if not self._signed:
            self._find(UNSIGNED, "the file", "is not signed: anybody may have written or changed it", 8)
            if field != layout.NO_SIGNATURE:
                self._find("signature", "the file header", "is unsigned but holds a signature", SIGNED_PART)
            if doc.security.get("public_key") != "" or doc.security.get("key_algorithm") != "none":
                self._find(
                    "signature", "the security section", "names a key in an unsigned file", header.security_at
                )
            return
        self._check_security()
        raw = layout.raw_signature(field)
        if raw is None:
            self._find("signature", "the file header", "has a signature field of another form", SIGNED_PART)
        elif self._key is not None and not holds(self._key, raw, doc.header_raw[:SIGNED_PART]):
            self._find(
                "signature", "the file header", "was not signed by the key that the file names", SIGNED_PART
            )

    def _check_security(self) -> None:
        at, security = self._doc.header.security_at, self._doc.security
        if self._key is None:
            self._find("signature", "the security section", "names no Ed25519 key", at)
        for name in ("key_algorithm", "signature_algorithm"):
            if security.get(name) != "Ed25519":
                self._find("signature", "the security section", f"has another {name} than Ed25519", at)
        signer = security.get("signer_id")
        if (
            type(signer) is not str
            or not signer.isprintable()
            or security.get("signer_did") != did_of(signer)
        ):
            self._find("signature", "the security section", "names its signer in two ways that disagree", at)
        if type(security.get("signed_at")) is not int:
            self._find("signature", "the security section", "does not say when it was signed", at)

    def _check_index(self) -> None:
        doc = self._doc
        expected = b"".join(layout.pack_index(block.offset, block.front) for block in doc.blocks)
        if doc.index != expected:
            place = next(i for i in range(len(expected)) if doc.index[i] != expected[i])
            number = place // layout.INDEX_ENTRY
            self._find(
                "index", f"index entry {number}", "is not what the block says", doc.header.index_at + place
            )

    def _check_chain(self) -> None:
        previous, tree = NO_HASH, MerkleTree()
        for number, block in enumerate(self._doc.blocks):
            front, where = block.front, f"block {number}"
            if front.previous != previous:
                self._find("chain", where, "does not follow the block before it", block.offset + 40)
            previous = front.content_hash
            tree.add(previous)
            if front.kind not in TYPES:
                self._find(
                    "structure", where, f"is of type {front.kind!r}, which does not exist", block.offset + 4
                )
            if front.version != 1 or any(block.reserved):
                self._find(
                    "structure", where, "has another version, or bytes where zeros are reserved", block.offset
                )
            wanted = layout.BLOCK_IMMUTABLE | (layout.BLOCK_SIGNED if self._signed else 0)
            if front.flags != wanted:
                what = f"has flags {front.flags:#x} instead of {wanted:#x}"
                self._find("structure", where, what, block.offset + 8)
            if not self._signed and block.signature != layout.NO_SIGNATURE:
                self._find("signature", where, "is unsigned but holds a signature", block.offset + 104)
        if tree.root != self._doc.header.root:
            self._find("root", "the file header", "has another Merkle root than the blocks make", 152)

    def _check_lineage(self) -> None:
        doc = self._doc
        try:
            versions = doc.versions()
        except ValueError as error:
            self._find("lineage", "a lineage block", f"cannot be read: {error}", FILE_HEADER)
            return
        for (_, before), (number, version) in pairwise(versions):
            fits = version.parent == before.root and version.fence >= before.fence
            if not fits or (version.name, version.sequence) != (before.name, before.sequence + 1):
                what = f"says version {version.sequence} of {version.name!r}, which does not follow the one before it"
                self._find("lineage", f"block {number}", what, doc.blocks[number].offset)
        if versions and versions[-1][0] != len(doc.blocks) - 1:
            at = doc.blocks[versions[-1][0] + 1].offset
            self._find("lineage", "the file", "has blocks that belong to no version", at)

    # ---- bytes ----

    def _check_footer(self) -> None:
        doc, footer = self._doc, self._doc.footer
        at = doc.source.size - FOOTER
        if footer.magic != layout.END_MAGIC or footer.size != doc.source.size or footer.reserved:
            self._find("footer", "the footer", "does not end a file of this size", at)
        if footer.digest != digest(doc):
            self._find("footer", "the footer", "has another hash than the bytes before it", at + 12)

    def _check_contents(self) -> None:
        doc = self._doc
        for number, block in enumerate(doc.blocks):
            raw = doc.metadata(block)
            try:
                parse_metadata(raw)
            except ValueError as error:
                at = block.offset + block.front.size - block.metadata_size
                self._find("structure", f"block {number}", f"has metadata that cannot be read: {error}", at)
        self._check_hashes()

    def _check_signatures(self, numbers: Sequence[int]) -> None:
        assert self._key is not None
        for number in numbers:
            block = self._doc.blocks[number]
            where, at = f"block {number}", block.offset + layout.BLOCK_FRONT
            raw = layout.raw_signature(block.signature)
            if raw is None:
                self._find("signature", where, "has a signature field of another form", at)
                continue
            front = layout.message_front(block.front, block.metadata_size)
            with self._doc.source.message(front, block.data_at, block.body_size) as message:
                valid = holds(self._key, raw, message)
            if not valid:
                self._find("signature", where, "was not signed by the key that the file names", at)

    def _check_provenance(self) -> list[dict[str, Any]]:
        """Everything but the signatures of its entries, which are answered."""
        doc, at = self._doc, self._doc.header.provenance_at
        try:
            entries = provenance.parse(doc.provenance)
        except ValueError as error:
            self._find("provenance", "the provenance", f"cannot be read: {error}", at)
            return []
        blocks = [
            (TYPES.get(b.front.kind, "?"), b.front.content_hash, b.front.block_id, b.data_size)
            for b in doc.blocks
        ]
        header = doc.header
        for position, words in provenance.faults(
            entries, blocks, created=header.created, file_id=header.file_id, creator_id=header.creator_id
        ):
            self._find("provenance", f"provenance entry {position}", words, at)
        if entries and self._signed and entries[-1]["agent_did"] != doc.security.get("signer_did"):
            self._find("provenance", "the last provenance entry", "was made by another than the signer", at)
        return entries

    def _check_entries(self, entries: Sequence[dict[str, Any]]) -> None:
        for entry in entries:
            if not self._entry_signed(entry["signature"], entry["entry_hash"]):
                where = f"provenance entry {entry['chain_position']}"
                self._find("provenance", where, "has no valid signature", self._doc.header.provenance_at)

    def _entry_signed(self, signature: str, entry_hash: str) -> bool:
        if not self._signed:
            return not signature
        try:
            raw = bytes.fromhex(signature)
        except ValueError:
            return False
        return self._key is not None and holds(self._key, raw, entry_hash.encode("utf-8", "replace"))

    def _find(self, kind: str, where: str, what: str, offset: int) -> None:
        self._found.append(Finding(kind, where, what, offset))


def digest(doc: Document) -> bytes:
    """SHA-256 of every byte before the footer. Block headers come from the parsed copies: another thread may just be
    verifying a large block where it lies.
    """
    source, end = doc.source, doc.source.size - FOOTER
    sha = hashlib.sha256(doc.header_raw)
    if all(block.body_size <= JOINED_UP_TO for block in doc.blocks):
        sha.update(source.view(FILE_HEADER, end - FILE_HEADER))
        return sha.digest()
    for block in doc.blocks:
        sha.update(block.header)
        sha.update(source.view(block.data_at, block.body_size))
    sha.update(source.view(doc.header.provenance_at, end - doc.header.provenance_at))
    return sha.digest()


def distrust(doc: Document, trust: TrustSet | None) -> Finding | None:
    """Why the signer is not believed; None when it is, or when nobody asks."""
    if trust is None:
        return None
    key = doc.public_key
    if key is not None and trust.trusts(key, voucher_of(doc)):
        return None
    who = str(doc.security.get("signer_id"))[:80]
    name = "nobody" if key is None else f"{who!r} with key {key.hex()[:16]}…"
    return Finding(
        UNTRUSTED,
        "the file",
        f"was signed by {name}, whom this reader does not trust",
        doc.header.security_at,
    )


def voucher_of(doc: Document) -> bytes | None:
    """The voucher in the last lineage block."""
    if not doc.blocks or not doc.is_lineage(doc.blocks[-1]):
        return None
    try:
        return bytes.fromhex(lineage.decode(bytes(doc.data(doc.blocks[-1]))).voucher) or None
    except ValueError:
        return None


def raise_for(findings: Sequence[Finding], path: str, public_key: bytes | None) -> None:
    """Nothing for none; else the error that fits the worst: ArtifactCorrupt, Unsigned or UntrustedSigner."""
    if not findings:
        return
    name = path or "the artifact"
    broken = [finding for finding in findings if finding.kind not in (UNSIGNED, UNTRUSTED)]
    error: ArtifactError
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        words = f"{name} must not be used: {broken[0]}{more}; restore it from a replica or a copy"
        error = ArtifactCorrupt(words, path=path, findings=tuple(map(str, broken[:20])))
    elif any(finding.kind == UNSIGNED for finding in findings):
        error = Unsigned(
            f"{name} is not signed, so anybody may have changed it; have its author sign it", path=path
        )
    else:
        signer = "" if public_key is None else public_key.hex()
        error = UntrustedSigner(
            f"{name}: {findings[0].what}; add the key to the trust set if it should be believed",
            path=path,
            signer=signer,
        )
    raise error
