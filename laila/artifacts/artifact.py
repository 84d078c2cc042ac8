"""An artifact: content that is added to, saved, loaded and verified.

One artifact may be used by several threads, but adding to it is for one at a time.

A loaded artifact hands out nothing before it was checked. Adding and saving keeps what was there, byte for byte where
the key is the same; another key signs everything anew, after everything was verified, because a file names one signer.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..errors import ArtifactCorrupt, ArtifactError, BadValue
from ..transport.identity import Identity
from . import contents, layout, lineage, provenance
from .canonical import parse_metadata
from .checking import UNSIGNED, UNTRUSTED, Check, Finding, distrust, raise_for
from .contents import Draft
from .lineage import Version
from .reading import Document, Reader
from .sheet import FileSheet
from .signing import Signer, check_agent_id
from .source import READ_UP_TO, Source
from .trust import TrustSet
from .writing import Identity as FileIdentity
from .writing import Writing, to_memory

Key = Signer | Identity | Ed25519PrivateKey


class UnsignedWarning(UserWarning):
    """An artifact was saved without signatures."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What was written: where, Merkle root and SHA-256 of all before the footer (hex), size in bytes, version."""

    path: str
    root: str
    digest: str
    size: int
    sequence: int


class Artifact:
    """Content with its provenance. Make one with `create_maif`, or load one with `load_maif`."""

    def __init__(self, identity: FileIdentity, document: Document | None = None) -> None:
        self._identity = identity
        self._parsed = document
        self._source: Source | None = None if document is None else document.source
        self._drafts: list[Draft] = []
        self._next: Version | None = None
        self._findings: list[Finding] | None = None
        self._lock = threading.RLock()

    @classmethod
    def create(cls, agent_id: str) -> Artifact:
        """A new, empty one. Raises: BadName for what cannot be an agent's id (ASCII, 1 to 55 bytes)."""
        check_agent_id(agent_id)
        return cls(FileIdentity(agent_id, uuid.uuid4().bytes, uuid.uuid4().bytes, _now()))

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, trust: TrustSet | None = None, read_up_to: int = READ_UP_TO
    ) -> Artifact:
        """The artifact in a file; see `load_maif`. Files over `read_up_to` bytes are mapped instead of read."""
        return cls._of(Source.open(path, read_up_to=read_up_to), trust)

    @classmethod
    def from_bytes(
        cls, data: bytes | bytearray | memoryview, *, trust: TrustSet | None = None, path: str = ""
    ) -> Artifact:
        """The artifact in a buffer, which must not change while it is used. `path` is for messages."""
        return cls._of(Source(memoryview(data).toreadonly(), path), trust)

    @classmethod
    def _of(cls, source: Source, trust: TrustSet | None) -> Artifact:
        document = Reader(source).read()
        header = document.header
        agent = header.did.rstrip(b"\0").decode("ascii", "replace").removeprefix(layout.DID_PREFIX)
        artifact = cls(FileIdentity(agent, header.file_id, header.creator_id, header.created), document)
        if trust is not None:
            artifact.require(trust)
        return artifact

    @property
    def _document(self) -> Document | None:
        """What was loaded or saved last, taken apart when it is first looked at."""
        if self._parsed is None and self._source is not None:
            self._parsed = Reader(self._source).read()
        return self._parsed

    # ---- what it is ----

    @property
    def agent_id(self) -> str:
        """Whose it is."""
        return self._identity.agent_id

    @property
    def file_id(self) -> str:
        """The same over all versions; 32 hex digits."""
        return self._identity.file_id.hex()

    @property
    def path(self) -> str | None:
        """Where it was loaded from, or saved to last."""
        return (self._source.path or None) if self._source is not None else None

    @property
    def created(self) -> float:
        """Seconds of the epoch, by its author's clock."""
        return self._identity.created / 1e6

    @property
    def modified(self) -> float:
        """When it was saved last, seconds of the epoch by that writer's clock; `created` before the first time."""
        return self.created if self._document is None else self._document.header.modified / 1e6

    @property
    def root(self) -> str:
        """The Merkle root of what was loaded or saved last, in hex; empty before."""
        return "" if self._document is None else self._document.header.root.hex()

    @property
    def digest(self) -> str:
        """SHA-256 of all bytes before the footer, as the footer says; hex, empty before it was saved."""
        return "" if self._document is None else self._document.footer.digest.hex()

    @property
    def signer(self) -> str | None:
        """The public key that signed what was loaded or saved last, in hex."""
        key = None if self._document is None else self._document.public_key
        return None if key is None else key.hex()

    @property
    def signer_id(self) -> str | None:
        """Who signed, by its own account."""
        if self._document is None or self.signer is None:
            return None
        return str(self._document.security.get("signer_id"))

    @property
    def name(self) -> str | None:
        """The name in its lineage."""
        version = self.version
        return None if version is None else version.name

    @property
    def sequence(self) -> int:
        """The version's number in its lineage; 0 without one."""
        version = self.version
        return 0 if version is None else version.sequence

    @property
    def fence(self) -> int:
        """The fencing token under which the version was published."""
        version = self.version
        return 0 if version is None else version.fence

    @property
    def version(self) -> Version | None:
        """The newest version in its lineage. Raises ArtifactCorrupt when the lineage cannot be read."""
        if self._document is None:
            return None
        try:
            return self._document.newest()
        except ValueError as error:
            raise self._unreadable("its lineage", error) from error

    @property
    def history(self) -> tuple[Version, ...]:
        """The versions in its lineage, oldest first. Raises ArtifactCorrupt when it does not hold together."""
        if self._document is None:
            return ()
        self._require_checked()
        try:
            return tuple(version for _, version in self._document.versions())
        except ValueError as error:
            raise self._unreadable("a lineage block", error) from error

    @property
    def provenance(self) -> list[dict[str, Any]]:
        """Who did what: the signed entries of what was loaded or saved last. Raises ArtifactCorrupt."""
        if self._document is None:
            return []
        self._require_checked()
        try:
            return provenance.parse(self._document.provenance)
        except ValueError as error:
            raise self._unreadable("its provenance", error) from error

    @property
    def weight(self) -> int:
        """Bytes that saving it would write, without the few hundred that each version adds."""
        kept = 0 if self._source is None else self._source.size
        return kept + sum(draft.size for draft in self._drafts)

    @property
    def changed(self) -> bool:
        """Whether something was added since it was loaded or saved."""
        return bool(self._drafts)

    def __repr__(self) -> str:
        try:
            version, blocks = self.version, 0 if self._document is None else len(self._document.blocks)
        except ArtifactError:
            return f"<Artifact of {self.agent_id!r}, damaged>"
        named = f" {version.name!r} version {version.sequence}" if version is not None else ""
        changed = ", changed" if self._drafts else ""
        return f"<Artifact of {self.agent_id!r}{named}, {blocks + len(self._drafts)} blocks{changed}>"

    def _unreadable(self, what: str, error: Exception) -> ArtifactCorrupt:
        return ArtifactCorrupt(
            f"{self.path or 'the artifact'}: {what} cannot be read: {error}", path=self.path or ""
        )

    # ---- adding ----

    def add_text(self, text: str, title: str | None = None, metadata: Mapping[str, Any] | None = None) -> str:
        """Add a text; the block's id (32 hex digits). `title` is kept in the metadata."""
        return self._add(b"TEXT", Source(contents.text_data(text)), contents.metadata_of(title, metadata))

    def add_json(
        self, value: Any, title: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> str:
        """Add a value as JSON text; `get_content_list` gives the value back as `content`."""
        raw = contents.metadata_of(title, metadata, **{contents.CONTENT_TYPE: contents.JSON})
        return self._add(b"TEXT", Source(contents.json_data(value)), raw)

    def add_binary(
        self, data: Any, title: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> str:
        """Add bytes: a buffer, which is copied unless it is `bytes`, or the file at a Path, which must not change until
        the artifact is saved. Raises: UnsupportedType, BadValue from 4 GiB on, OSError.
        """
        return self._add(b"BINA", contents.binary_data(data), contents.metadata_of(title, metadata))

    def add_image(
        self, data: Any, title: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> str:
        """Add an encoded image (PNG, JPEG, …): bytes, or the file at a Path."""
        return self._add(b"IMAG", contents.binary_data(data), contents.metadata_of(title, metadata))

    def add_embeddings(
        self, vectors: Any, title: str | None = None, metadata: Mapping[str, Any] | None = None
    ) -> str:
        """Add vectors as float32, shape (rows, dimensions): lists of numbers, or a 2-D buffer of float32 or float64."""
        data, rows, dimensions = contents.embedding_data(vectors)
        facts = {"count": rows, "dimensions": dimensions, "dtype": "float32", "byte_order": "little"}
        return self._add(b"EMBD", Source(data), contents.metadata_of(title, metadata, **facts))

    def _add(self, kind: bytes, data: Source, metadata: bytes) -> str:
        view: Any = data.view(0, data.size)
        draft = Draft(kind, view, metadata, uuid.uuid4().bytes, _now(), data if data.mapped else None)
        contents.check_size(draft)
        with self._lock:
            self._drafts.append(draft)
        return draft.block_id.hex()

    def name_as(
        self, name: str, *, sequence: int, parent: str = "", fence: int = 0, gone: bool = False
    ) -> None:
        """Let the next save be version `sequence` of `name`, after the version with Merkle root `parent` (hex);
        with `gone` one that says that the name was forgotten.

        Without this, saving a changed artifact that has a lineage continues it. Raises: BadName, BadValue.
        """
        self._next = Version(name, sequence, parent, fence, gone=gone)

    def copy(self, agent_id: str | None = None) -> Artifact:
        """A new artifact with this one's items, without its history: to go on under another name or agent.

        Raises: ArtifactCorrupt, BadName.
        """
        other = Artifact.create(self.agent_id if agent_id is None else agent_id)
        document = self._document
        if document is not None:
            self._require_checked()
            for block in document.blocks:
                if not document.is_lineage(block):
                    data: Any = document.data(block)
                    source = document.source if document.source.mapped else None
                    front, raw = block.front, document.metadata(block)
                    other._drafts.append(Draft(front.kind, data, raw, uuid.uuid4().bytes, _now(), source))
        for draft in self._drafts:
            other._drafts.append(replace(draft, block_id=uuid.uuid4().bytes))
        return other

    # ---- content ----

    def get_content_list(self) -> list[dict[str, Any]]:
        """All items in order: maps with index, type, title, text, content, metadata, id. Lineage blocks are no items.

        Raises: ArtifactCorrupt when what was loaded does not hold together.
        """
        items: list[dict[str, Any]] = []
        document = self._document
        if document is not None:
            self._require_checked()
            for block in document.blocks:
                if not document.is_lineage(block):
                    metadata = parse_metadata(document.metadata(block))
                    word, block_id = layout.TYPES[block.front.kind], block.front.block_id.hex()
                    items.append(contents.item(len(items), word, block_id, document.data(block), metadata))
        for draft in self._drafts:
            view, metadata = memoryview(draft.data), parse_metadata(draft.metadata)
            items.append(
                contents.item(len(items), layout.TYPES[draft.kind], draft.block_id.hex(), view, metadata)
            )
        return items

    # ---- verifying ----

    def check(self, trust: TrustSet | None = None) -> list[Finding]:
        """Everything that is wrong, and where; empty when nothing is. With `trust` also whether the signer is believed.

        An artifact that was never saved has nothing that could be checked, and says so.
        """
        document = self._document
        if document is None:
            return [Finding(UNSIGNED, "the artifact", "was never saved, so nobody has signed it", 0)]
        with self._lock:
            if self._findings is None:
                self._findings = Check(document).run()
        findings = list(self._findings)
        if self._drafts:
            findings.append(
                Finding(
                    UNSIGNED, "the artifact", "has content that was added and not saved", document.source.size
                )
            )
        if any(finding.kind == UNSIGNED for finding in findings):
            return findings
        stranger = distrust(document, trust)
        return [*findings, stranger] if stranger else findings

    def verify(self, trust: TrustSet | None = None) -> bool:
        """Whether it is whole and signed by the key that it names; with `trust` also by somebody in that set."""
        return not self.check(trust)

    def verify_integrity(self, trust: TrustSet | None = None) -> bool:
        """The same as `verify`: there is no integrity without knowing who wrote it."""
        return self.verify(trust)

    def require(self, trust: TrustSet | None = None) -> None:
        """Raises: ArtifactCorrupt, Unsigned, UntrustedSigner."""
        key = None if self._document is None else self._document.public_key
        raise_for(self.check(trust), self.path or "", key)

    def _require_checked(self) -> None:
        """Whole, and signed if it says that it is: before any content is handed out. Raises ArtifactCorrupt."""
        assert self._document is not None
        with self._lock:
            if self._findings is None:
                self._findings = Check(self._document).run()
        broken = [finding for finding in self._findings if finding.kind not in (UNSIGNED, UNTRUSTED)]
        raise_for(broken, self.path or "", None)

    def _require_whole(self) -> None:
        """As it was written, before its blocks are taken over into a new version. Raises ArtifactCorrupt."""
        assert self._document is not None
        if self._findings is not None:
            self._require_checked()
        else:
            found = Check(self._document).content()
            raise_for([finding for finding in found if finding.kind != UNSIGNED], self.path or "", None)

    # ---- saving ----

    def save(
        self,
        path: str | os.PathLike[str],
        sign: bool = True,
        key: Key | None = None,
        *,
        durable: bool = True,
        before_publish: Callable[[], None] | None = None,
    ) -> Saved:
        """Write it to `path`, atomically: readers and crashes see the old file or the new one.

        `key` signs; None is the identity of this node or user. `sign=False` writes hashes only: accidents are found,
        but anybody can change such a file, nobody can tell who wrote it, and `verify` says False (UnsignedWarning says
        so once more). `durable=False` leaves out fsync: after a power cut the file may be gone or torn, and verify will
        say so. `before_publish` is called right before the rename; what it raises leaves the old file in place.
        Raises: StorageError (the old version is intact), ArtifactCorrupt when what was loaded does not hold together,
        BadValue.
        """
        target = Path(path)
        if not target.name or "\0" in str(target):
            raise BadValue(f"{os.fspath(path)!r} names no file; give the path of the .maif file to write")
        signer = self._signer(sign, key)
        with self._lock, FileSheet(target) as sheet:
            writing = self._writing(signer)
            if writing is None:
                assert self._source is not None
                sheet.place(0, [self._source.view(0, self._source.size)])
                written = self._source
            elif writing.small and writing.old is None:
                data = writing.to_bytes()
                sheet.place(0, [data])
                written = Source(data, str(target))
            else:
                sheet.may_map()
                writing.write(sheet)
                written = sheet.source(writing.size)
            sheet.publish(durable=durable, before=before_publish)
            return self._become(written, writing, target)

    def to_bytes(self, sign: bool = True, key: Key | None = None) -> bytes:
        """The file that `save` would write. The artifact goes on from there as if it had been saved."""
        signer = self._signer(sign, key)
        with self._lock:
            writing = self._writing(signer)
            if writing is None:
                assert self._source is not None
                return self._source.read(0, self._source.size)
            data = to_memory(writing)
            self._become(Source(data, self.path or ""), writing, self.path or "")
            return data

    def _signer(self, sign: bool, key: Key | None) -> Signer | None:
        if sign:
            return Signer.wrap(key)
        if key is not None:
            raise BadValue("a key was given together with sign=False; leave one of them out")
        warnings.warn(
            "saved without signatures: nobody can tell who wrote this artifact, and whoever changes it can "
            "recompute its hashes",
            UnsignedWarning,
            stacklevel=3,
        )
        return None

    def _writing(self, signer: Signer | None) -> Writing | None:
        """What is to be written; None when it is what is there already."""
        old = self._document
        same = (
            old is not None
            and old.signed == (signer is not None)
            and old.public_key == (None if signer is None else signer.public_key)
        )
        drafts = [*self._drafts]
        version = self._version(signer)
        if old is not None:
            if same:
                self._require_whole()
            else:
                self._require_checked()
            if same and not drafts and version is None:
                return None
        if version is not None:
            drafts.append(Draft(b"META", version.encode(), lineage.METADATA, uuid.uuid4().bytes, _now()))
        return Writing(
            self._identity,
            signer,
            drafts,
            old,
            again=old is not None and not same,
            version=version,
            asked=self._next,
        )

    def _version(self, signer: Signer | None) -> Version | None:
        version, before = self._next, self.version
        if version is None:
            if before is None or not self._drafts:
                return None
            version = Version(before.name, before.sequence + 1, before.root, before.fence)
        elif before is not None and (
            (version.name, version.sequence, version.parent)
            != (before.name, before.sequence + 1, before.root)
            or version.fence < before.fence
        ):
            raise BadValue(
                f"version {version.sequence} of {version.name!r} does not follow version {before.sequence} of "
                f"{before.name!r}, which this artifact is; to go on under another name, copy() it"
            )
        voucher = "" if signer is None or signer.voucher is None else signer.voucher.hex()
        return replace(version, at=time.time(), voucher=voucher)

    def _become(self, written: Source, writing: Writing | None, path: str | os.PathLike[str]) -> Saved:
        """Go on from what was just written, without believing that it is what was meant: it is checked when used."""
        version = self.version if writing is None else writing.version
        if writing is None:
            assert self._document is not None
            footer = self._document.footer
            root, digest, size = self._document.header.root, footer.digest, footer.size
        else:
            root, digest, size = writing.root, writing.digest, writing.size
            self._source, self._parsed = written, None
            written_ids = {draft.block_id for draft in writing.drafts}
            # What was added while this was being written is for the next time.
            self._drafts = [draft for draft in self._drafts if draft.block_id not in written_ids]
            self._next = None if self._next is writing.asked else self._next
            self._findings = None
        sequence = 0 if version is None else version.sequence
        return Saved(os.fspath(path), root.hex(), digest.hex(), size, sequence)


def _now() -> int:
    return time.time_ns() // 1000
