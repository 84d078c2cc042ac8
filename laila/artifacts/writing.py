"""From blocks to a file: hash, chain, sign, and put every byte in its place once.

Blocks that are there and were signed by the same key are taken over as they are. Small files are put together in memory
and written with one call; a large block is written first and signed where it lies, because its signature covers it in
one piece, and meanwhile the other core hashes.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ..codec import Buffer
from ..errors import ArtifactCorrupt, BadValue
from . import layout, overlap
from .canonical import MAX_ALL_METADATA, content_hash
from .contents import Draft, check_size
from .layout import BLOCK_HEADER, FILE_HEADER, FOOTER, MESSAGE_FRONT, NO_HASH, BlockFront, FileHeader
from .lineage import Version
from .merkle import MerkleTree
from .provenance import Chain, resigned
from .reading import MAX_PROVENANCE, Document
from .sheet import MemorySheet, Sheet
from .signing import Signer, did_of

LARGE = 1 << 20
"""Blocks from so many bytes on are signed where they lie."""
TOGETHER = 16 << 20
"""Bytes up to which smaller blocks are put together in memory."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who and what a file is, over all its versions."""

    agent_id: str
    file_id: bytes
    creator_id: bytes
    created: int


@dataclass(slots=True)
class Plan:
    """One block on its way into the file: a draft, or a kept one whose header may have to be signed anew."""

    draft: Draft
    offset: int
    word: str
    kept: bool
    digest: bytes = NO_HASH
    previous: bytes = NO_HASH
    header: bytes = b""

    @property
    def data_at(self) -> int:
        return self.offset + BLOCK_HEADER

    @property
    def large(self) -> bool:
        return self.draft.size >= LARGE

    def front(self, signed: bool) -> BlockFront:
        draft = self.draft
        flags = layout.BLOCK_IMMUTABLE | (layout.BLOCK_SIGNED if signed else 0)
        return BlockFront(
            draft.size, draft.kind, flags, 1, draft.timestamp, draft.block_id, self.previous, self.digest
        )


@dataclass(slots=True)
class Writing:
    """One file being written. `old` is the document whose blocks go first; `again` signs them anew."""

    identity: Identity
    signer: Signer | None
    drafts: Sequence[Draft]
    old: Document | None = None
    again: bool = False
    version: Version | None = None
    """What the last draft says, if it is a lineage block."""
    plans: list[Plan] = field(default_factory=list)
    asked: Version | None = None
    """What the caller asked for by name_as."""
    root: bytes = NO_HASH
    digest: bytes = b""
    size: int = 0

    @property
    def body_end(self) -> int:
        """Where the blocks end."""
        return self._new_at + sum(draft.size for draft in self.drafts)

    @property
    def _new_at(self) -> int:
        return FILE_HEADER if self.old is None else self.old.header.provenance_at

    @property
    def small(self) -> bool:
        """Whether it is put together in memory."""
        if any(draft.size >= LARGE for draft in self.drafts):
            return False
        return sum(draft.size for draft in self.drafts) + (self._new_at if self.again else 0) < TOGETHER

    def write(self, sheet: Sheet) -> None:
        """Put the whole file onto the sheet."""
        self._plan()
        if self.small:
            self._sign_small()
        else:
            self._write_large(sheet)
        self._place(sheet, self._pieces())

    # ---- blocks ----

    def _plan(self) -> None:
        at = FILE_HEADER
        if self.old is not None:
            for block in self.old.blocks if self.again else ():
                front = block.front
                draft = Draft(
                    front.kind,
                    self.old.data(block),
                    self.old.metadata(block),
                    front.block_id,
                    front.timestamp,
                )
                self.plans.append(Plan(draft, at, layout.TYPES[front.kind], True, front.content_hash))
                at += draft.size
            at = self._new_at
        described = 0 if self.old is None else sum(block.metadata_size for block in self.old.blocks)
        if described + sum(len(draft.metadata) for draft in self.drafts) > MAX_ALL_METADATA:
            raise BadValue(
                f"more than {MAX_ALL_METADATA} bytes of metadata in one artifact; put it into the data"
            )
        for draft in self.drafts:
            check_size(draft)
            self.plans.append(Plan(draft, at, layout.TYPES[draft.kind], False))
            at += draft.size

    def _hash(self, plan: Plan) -> None:
        plan.digest = content_hash(plan.draft.data, plan.draft.metadata)

    def _chain(self) -> None:
        """Each block names the one before it; the tree grows by each."""
        tree = MerkleTree()
        previous = NO_HASH
        if self.old is not None and not self.again:
            for block in self.old.blocks:
                tree.add(block.front.content_hash)
                previous = block.front.content_hash
            if tree.root != self.old.header.root:
                raise ArtifactCorrupt(
                    f"{self.old.path or 'the artifact'} must not be used: its Merkle root is not that of its blocks",
                    path=self.old.path,
                )
        for plan in self.plans:
            plan.previous, previous = previous, plan.digest
            tree.add(plan.digest)
        self.root = tree.root

    def to_bytes(self) -> bytes:
        """The whole file, of one that is `small`."""
        self._plan()
        self._sign_small()
        return b"".join(self._pieces())

    def _sign_small(self) -> None:
        for plan in self.plans:
            self._hash(plan)
        self._chain()
        jobs = [partial(self._heads, part) for part in overlap.shares(self.plans)]
        overlap.run(jobs, weight=overlap.SIGNATURE * len(self.plans))

    def _heads(self, plans: Sequence[Plan]) -> None:
        for plan in plans:
            self._head(plan)

    def _head(self, plan: Plan, sheet: Sheet | None = None) -> None:
        """Sign a block and make its header."""
        draft, size = plan.draft, len(plan.draft.metadata)
        front = plan.front(self.signer is not None)
        signature = layout.NO_SIGNATURE
        if self.signer is not None:
            before = layout.message_front(front, size)
            if sheet is None or not plan.large or not (sheet.signs_in_place or draft.source):
                raw = self.signer.sign(b"".join((before, draft.data, draft.metadata)))
            else:
                at = plan.data_at - MESSAGE_FRONT
                sheet.place(at, [before])
                with sheet.contiguous(at, MESSAGE_FRONT + draft.size - BLOCK_HEADER) as message:
                    raw = self.signer.sign(message)
            signature = layout.signature_field(raw)
        plan.header = layout.pack_block(front, signature, size)

    def _write_large(self, sheet: Sheet) -> None:
        weight = sum(plan.draft.size for plan in self.plans)
        jobs = [partial(self._hash, plan) for plan in self.plans]
        jobs += [partial(self._place_body, sheet, plan) for plan in self.plans if plan.large]
        with _trimming(self.plans, self.old):
            overlap.run(jobs, weight=weight)
        self._chain()
        overlap.run([partial(self._head, plan, sheet) for plan in self.plans], weight=weight)

    def _place_body(self, sheet: Sheet, plan: Plan) -> None:
        sheet.place(plan.data_at, [plan.draft.data, plan.draft.metadata])

    # ---- the rest ----

    def _pieces(self) -> list[Buffer]:
        """The whole file, in order."""
        pieces: list[Buffer] = []
        if self.old is not None and not self.again:
            pieces.append(self.old.source.view(FILE_HEADER, self._new_at - FILE_HEADER))
        for plan in self.plans:
            pieces += [plan.header, plan.draft.data, plan.draft.metadata]
        now = max(
            time.time_ns() // 1000, self.identity.created, *(plan.draft.timestamp for plan in self.plans), 0
        )
        sections = self._sections(now)
        pieces = [self._file_header(now, sections), *pieces, *sections]
        digest = hashlib.sha256()
        with _trimming(self.plans, self.old):
            for piece in pieces:
                digest.update(piece)
        self.digest = digest.digest()
        self.size = sum(map(len, pieces)) + FOOTER
        pieces.append(layout.Footer(layout.END_MAGIC, self.size, self.digest, 0).pack())
        return pieces

    def _sections(self, now: int) -> list[bytes]:
        sections = [_sized(self._provenance(now)), _sized(self._security(now))]
        return [*sections, self._index()]

    def _provenance(self, now: int) -> bytes:
        sign = None if self.signer is None else self.signer.sign
        agent = self._acting
        if self.old is None:
            chain = Chain(agent, did_of(agent), sign)
            chain.genesis(self.identity.created, self.identity.file_id, self.identity.creator_id)
        else:
            try:
                raw = resigned(self.old.provenance, sign) if self.again else self.old.provenance
                chain = Chain(agent, did_of(agent), sign, raw)
            except ValueError as error:
                raise ArtifactCorrupt(
                    f"{self.old.path or 'the artifact'} must not be used: its provenance cannot be read: {error}",
                    path=self.old.path,
                ) from error
        fresh = [plan for plan in self.plans if not plan.kept]
        for plan in fresh:
            draft = plan.draft
            chain.added(draft.timestamp, plan.word, plan.digest, draft.block_id, len(draft.data))
        chain.finalized(now, self.root, self._count)
        raw = chain.finish()
        if len(raw) > MAX_PROVENANCE:
            raise BadValue(
                f"its provenance has grown to {len(raw)} bytes; begin a new artifact with the content"
            )
        return raw

    @property
    def _acting(self) -> str:
        return (self.signer.agent_id if self.signer is not None else None) or self.identity.agent_id

    @property
    def _count(self) -> int:
        before = 0 if self.old is None or self.again else len(self.old.blocks)
        return before + len(self.plans)

    def _security(self, now: int) -> bytes:
        section: dict[str, Any] = {
            "signer_id": self._acting,
            "signer_did": did_of(self._acting),
            "public_key": "" if self.signer is None else self.signer.public_key.hex(),
            "key_algorithm": "none" if self.signer is None else "Ed25519",
            "signature_algorithm": "none" if self.signer is None else "Ed25519",
            "signed_at": 0 if self.signer is None else now,
        }
        return json.dumps(section).encode("ascii")

    def _index(self) -> bytes:
        before = b"" if self.old is None or self.again else self.old.index
        signed = self.signer is not None
        return before + b"".join(layout.pack_index(plan.offset, plan.front(signed)) for plan in self.plans)

    def _file_header(self, now: int, sections: Sequence[bytes]) -> bytes:
        at = self.body_end
        flags = (
            layout.FILE_FINAL
            | layout.FILE_PROVENANCE
            | (layout.FILE_SIGNED if self.signer is not None else 0)
        )
        header = FileHeader(
            flags=flags,
            created=self.identity.created,
            modified=now,
            file_id=self.identity.file_id,
            creator_id=self.identity.creator_id,
            did=layout.did_field(self.identity.agent_id),
            blocks=self._count,
            provenance_at=at,
            security_at=at + len(sections[0]),
            index_at=at + len(sections[0]) + len(sections[1]),
            root=self.root,
        ).pack()
        field = (
            layout.NO_SIGNATURE if self.signer is None else layout.signature_field(self.signer.sign(header))
        )
        return header + field + bytes(4)

    def _place(self, sheet: Sheet, pieces: Sequence[Buffer]) -> None:
        if self.small:
            sheet.place(0, pieces)
            return
        # Large bodies are there already.
        sheet.place(0, pieces[: 1 if self.old is None or self.again else 2])
        for plan in self.plans:
            whole = [plan.header] if plan.large else [plan.header, plan.draft.data, plan.draft.metadata]
            sheet.place(plan.offset, whole)
        sheet.place(self.body_end, pieces[-4:])


def _sized(section: bytes) -> bytes:
    return len(section).to_bytes(4, "big") + section


def _trimming(plans: Sequence[Plan], old: Document | None) -> ExitStack:
    stack = ExitStack()
    sources = {id(plan.draft.source): plan.draft.source for plan in plans}
    for source in [*sources.values(), None if old is None else old.source]:
        if source is not None:
            stack.enter_context(source.trimming())
    return stack


def to_memory(writing: Writing) -> bytes:
    """The whole file as bytes."""
    if writing.small:
        return writing.to_bytes()
    sheet = MemorySheet(writing.body_end + _room(writing))
    writing.write(sheet)
    return bytes(sheet.memory[: writing.size])


def _room(writing: Writing) -> int:
    """More than provenance, security, index and footer can take."""
    blocks = len(writing.drafts) + (0 if writing.old is None else len(writing.old.blocks))
    before = 0 if writing.old is None else 4 * len(writing.old.provenance)
    return before + 4096 * (len(writing.drafts) + 3) + layout.INDEX_ENTRY * blocks + 65536
