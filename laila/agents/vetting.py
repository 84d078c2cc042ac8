"""Reading signed files: who stands for them, and their texts, which are handed out only when somebody trusted
does.

Two depths. `full` is the strict check of every byte and every signature (some eight verifications). The other
verifies the one signature over the file header, which covers the Merkle root, and recomputes that root from the
content: no text that the signer did not sign passes, in an eighth of the time; what it does not look at (the
provenance, the signatures of single blocks) is not handed out. Listings of thousands of files take the second.

What was verified once is known again by the SHA-256 of all its bytes. Whom to trust is asked every time.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from ..artifacts import Artifact, TrustSet
from ..artifacts.canonical import content_hash, parse_metadata
from ..artifacts.checking import Check, Finding, raise_for
from ..artifacts.lineage import Version
from ..artifacts.merkle import MerkleTree
from ..artifacts.reading import Document, Reader
from ..artifacts.source import Source
from ..errors import ArtifactCorrupt, NotAnArtifact, UntrustedSigner
from ..ids import node_id
from ..shared.trouble import STALE, told

MAX_FILE = 32 << 20
"""Bytes of a registration or a result that are read; a summary may have more."""
MAX_SUMMARY = 1 << 30
_PIECE = 1 << 20
_REMEMBERED, _REMEMBERED_SIZE = 20_000, 16 << 10
_REPLACED = (
    0.01,
    0.03,
    0.1,
)  # seconds; a file that is being replaced can be missing for a moment on some volumes


@dataclass(frozen=True, slots=True)
class Text:
    """A text block."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Vetted:
    """A file that somebody trusted stands for. `digest`: the footer's SHA-256 (hex); `why`: why `signer` (hex) is
    trusted.
    """

    texts: tuple[Text, ...]
    signer: str
    why: str
    version: Version | None
    root: str
    digest: str
    created: float
    """Seconds of the epoch by the signer's clock, to put results in some order."""

    @property
    def node_id(self) -> str:
        return node_id(bytes.fromhex(self.signer))

    @property
    def signed_by(self) -> str:
        """For people: which node, and why it is believed."""
        return f"node {self.node_id}, {self.why or 'a stranger'}"

    @property
    def sequence(self) -> int:
        return 0 if self.version is None else self.version.sequence

    @property
    def fence(self) -> int:
        return 0 if self.version is None else self.version.fence


@dataclass(frozen=True, slots=True)
class _Known:
    """What was verified, apart from whether its signer is trusted."""

    texts: tuple[Text, ...]
    key: bytes
    version: Version | None
    root: str
    digest: str
    created: float
    full: bool


class Vetting:
    """Reads files for one reader, who trusts whom `trust` says. Safe under threads."""

    def __init__(self, trust: TrustSet) -> None:
        self.trust = trust
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._mutex = threading.Lock()

    def read(
        self,
        path: Path,
        *,
        full: bool = True,
        most: int = MAX_FILE,
        expected: bool = False,
        strangers: bool = False,
    ) -> Vetted | None:
        """The file at `path`; None when there is none. `expected`: one was seen there, so wait a moment for it.
        `strangers`: whoever signed it is good enough, to tell people what there is; `why` is empty then.

        Raises: NotAnArtifact, UnsupportedVersion, ArtifactCorrupt (also for what is too large to be one of ours),
        Unsigned, UntrustedSigner, StorageError.
        """
        data = self._data(path, most, _REPLACED if expected else ())
        return None if data is None else self._vet(data, path, full, strangers)

    def _vet(self, data: bytes, path: Path, full: bool, strangers: bool) -> Vetted:
        digest = hashlib.sha256(data).digest()
        with self._mutex:
            known = self._known.get(digest)
        if known is None or known.full < full:
            known = _verified(data, str(path), full)
            self._remember(digest, known, len(data))
        why = self.trust.trusts(known.key, _voucher(known.version))
        if why is None and not strangers:
            raise UntrustedSigner(
                f"{path}: it was signed by node {node_id(known.key)} (key {known.key.hex()[:16]}…), whom this reader "
                "does not trust; add the key to the trust set if it should be believed",
                path=str(path),
                signer=known.key.hex(),
            )
        signer, version = known.key.hex(), known.version
        return Vetted(known.texts, signer, why or "", version, known.root, known.digest, known.created)

    def _remember(self, digest: bytes, known: _Known, size: int) -> None:
        if size > _REMEMBERED_SIZE:
            return
        with self._mutex:
            self._known[digest] = known
            self._known.move_to_end(digest)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def _data(self, path: Path, most: int, pauses: tuple[float, ...]) -> bytes | None:
        for pause in (*pauses, None):
            try:
                with told(f"read {path}"):
                    return _content(path, most)
            except FileNotFoundError:
                if pause is None:
                    return None
            time.sleep(pause)
        return None


def _content(path: Path, most: int) -> bytes:
    """All bytes. Read anew when a network file system says that the file was replaced meanwhile."""
    try:
        return _bytes_of(path, most)
    except OSError as error:
        if error.errno not in STALE:
            raise
    return _bytes_of(path, most)


def _bytes_of(path: Path, most: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise NotAnArtifact(f"{path} is no file; see who put it there", path=str(path))
        if status.st_size > most:
            raise ArtifactCorrupt(
                f"{path} has {status.st_size} bytes; at most {most} are read: see who put it there",
                path=str(path),
            )
        pieces = []
        while piece := os.read(descriptor, _PIECE):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(descriptor)


def _verified(data: bytes, path: str, full: bool) -> _Known:
    document = Reader(Source(data, path)).read()
    key = document.public_key
    if full:
        Artifact.from_bytes(data, path=path).require()
    else:
        raise_for(Check(document).content() or _not_signed_for(document), path, key)
    assert key is not None  # its signature held
    try:
        version = document.newest()
    except ValueError as error:
        raise ArtifactCorrupt(f"{path}: its lineage cannot be read: {error}", path=path) from error
    header, digest = document.header, document.footer.digest.hex()
    return _Known(_texts(document), key, version, header.root.hex(), digest, header.created / 1e6, full)


def _not_signed_for(document: Document) -> list[Finding]:
    """Content that is not what the signed Merkle root was made of."""
    tree = MerkleTree(content_hash(document.data(one), document.metadata(one)) for one in document.blocks)
    if tree.root == document.header.root:
        return []
    return [Finding("root", "the file header", "has another Merkle root than the content makes", 152)]


def _texts(document: Document) -> tuple[Text, ...]:
    """Texts are UTF-8, whoever wrote them: a byte that is not is shown as the replacement character."""
    found = []
    for block in document.blocks:
        if block.front.kind == b"TEXT":
            try:
                title = parse_metadata(document.metadata(block)).get("title", "")
            except ValueError:
                title = ""
            found.append(Text(str(title), bytes(document.data(block)).decode("utf-8", "replace")))
    return tuple(found)


def _voucher(version: Version | None) -> bytes | None:
    return None if version is None else bytes.fromhex(version.voucher) or None
