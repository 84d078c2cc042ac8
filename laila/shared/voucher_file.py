"""The file beside shared artifacts that keeps vouchers which were made anew: `<directory>/.laila/vouchers`.

A directory of replicas has it at the same place, and so has one of agents. What is read here proves itself
(artifacts/vouchers.py), so whoever may write to the volume may add to it and gains nothing.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from ..artifacts.vouchers import MOST, RECORD, Pair, packed, unpacked
from ..pools.disk import make_directory, sync_directory
from .fingerprint import Fingerprint
from .trouble import told


class VoucherFile:
    """The vouchers below one directory. Safe under threads."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._path = Path(directory) / ".laila" / "vouchers"
        self._read: tuple[list[Pair], Fingerprint | None] = ([], None)

    def read(self) -> list[Pair]:
        """What is there, which everybody has to check; nothing when it cannot be read. Cheap while it is unchanged."""
        pairs, known = self._read
        try:
            fingerprint = Fingerprint.of_status(os.lstat(self._path))
            if known is not None and known.proves(fingerprint):
                return pairs
            with self._path.open("rb") as file:
                pairs = unpacked(file.read(MOST * RECORD))
        except OSError:
            return []
        self._read = pairs, fingerprint
        return pairs

    def write(self, pairs: Iterable[Pair]) -> None:
        """Replace all, durably: the old ones or the new ones are there. Raises StorageError."""
        with told(f"write {self._path}"):
            make_directory(self._path.parent)
            temporary = self._path.with_name(f"vouchers.{secrets.token_hex(6)}.tmp")
            try:
                with temporary.open("xb") as file:
                    file.write(packed(sorted(pairs)[:MOST]))
                    file.flush()
                    os.fsync(file.fileno())
                temporary.chmod(0o644)
                temporary.replace(self._path)
            finally:
                temporary.unlink(missing_ok=True)
            sync_directory(self._path.parent)
