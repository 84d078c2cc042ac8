"""Vouching anew for whoever signed the artifacts below a directory, while their cluster changes its secret."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..artifacts import TrustSet
from ..artifacts.head import read_head
from ..artifacts.signing import vouch
from ..errors import ArtifactError
from .place import SUFFIX
from .trouble import told
from .voucher_file import VoucherFile


@dataclass(frozen=True, slots=True)
class Renewed:
    """What was found below a directory."""

    files: int
    """Artifacts whose signer is believed."""
    strangers: int
    """Artifacts that are damaged, unsigned, or signed by nobody who is believed under any of the secrets."""
    signers: int
    """Keys that are vouched for under every secret now."""

    def words(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        others = (
            f"; {self.strangers} others are signed by nobody who is believed, or damaged"
            if self.strangers
            else ""
        )
        return f"{self.signers} signers of {self.files} artifacts are vouched for under every secret{others}"


def renew(directory: Path, secrets: Sequence[str]) -> Renewed:
    """Vouch under each of the secrets for who is believed under one of them. Vouchers of other secrets go.

    Only heads are read. May be repeated, and be done while the artifacts are in use. Raises StorageError.
    """
    book = VoucherFile(directory)
    trust = TrustSet(secret=secrets[0], also_accept=secrets[1:])
    trust.learn(book.read())
    keys: set[bytes] = set()
    files = strangers = 0
    with told(f"read {directory}"):
        for path in _artifacts(directory):
            try:
                head = read_head(path)
                head.require(trust)
            except FileNotFoundError:  # it was replaced, or removed, just now
                continue
            except ArtifactError:
                strangers += 1
                continue
            files += 1
            if head.signer:
                keys.add(bytes.fromhex(head.signer))
    book.write({*trust.learned.pairs(), *((key, vouch(secret, key)) for key in keys for secret in secrets)})
    return Renewed(files, strangers, len(keys))


def _artifacts(directory: Path) -> Iterator[Path]:
    """Every artifact below, also tombstones and what agents keep, and without what was set aside as damaged."""

    def stop(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # agents come and go meanwhile
            raise error

    for folder, folders, names in os.walk(directory, onerror=stop):
        folders[:] = [one for one in folders if one not in ("quarantine", "set-aside", "incoming")]
        yield from (Path(folder, name) for name in names if name.endswith(SUFFIX))
