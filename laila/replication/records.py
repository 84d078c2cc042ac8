"""What a directory replica keeps about itself: its stamp, the membership that it learned, the acceptor's ballot,
vouchers that were made anew.

Each is a file that is replaced all at once. Reading is cheap while nothing changed: a fingerprint tells. What cannot be
read is not taken for nothing: a replica that does not know what it promised must not go on as if it had not.
"""

from __future__ import annotations

import hashlib
import json
import os

from ..artifacts import TrustSet
from ..errors import ArtifactError, StorageError, UntrustedSigner
from ..shared.fingerprint import Fingerprint
from ..shared.voucher_file import VoucherFile
from .copies import Copy
from .incoming import write_durably
from .layout import Layout, contents, told
from .replica import Stamp

MEMBERSHIP = "laila-membership"
BLANK = Stamp()
_DAMAGED = "EBADMSG"
_CHECKSUM = 32


class Records:
    """The records below one directory. Who writes has the lock of the record. Raises StorageError.

    Safe under threads: what was read last is kept as one value, together with its file's fingerprint.
    """

    def __init__(self, layout: Layout, trust: TrustSet) -> None:
        self._layout = layout
        self._trust = trust
        self._stamp: tuple[Stamp, Fingerprint | None] = (BLANK, None)
        self._learned: tuple[int, bytes | None, Fingerprint | None] = (0, None, None)
        self.vouchers = VoucherFile(layout.root)

    @property
    def last_stamp(self) -> Stamp:
        """The one that was read last."""
        return self._stamp[0]

    def stamp(self) -> Stamp:
        """Blank when there is none."""
        path, (stamp, known) = self._layout.stamp, self._stamp
        with told(f"read {path}"):
            try:
                fingerprint = Fingerprint.of_status(os.lstat(path))
                if known is not None and known.proves(fingerprint):
                    return stamp
                data = contents(path)
            except FileNotFoundError:
                self._stamp = (BLANK, None)
                return BLANK
        stamp = self._parsed(data)
        self._stamp = (stamp, fingerprint)
        return stamp

    def same_stamp(self) -> bool:
        """Whether what is there now has the stamp that was read last, and that was not blank."""
        before = self._stamp[0]
        self._stamp = (before, None)
        now = self.stamp()
        if before == BLANK or (now.store, now.replica) != (before.store, before.replica):
            self._stamp = (before, None)
            return False
        return True

    def write_stamp(self, stamp: Stamp) -> None:
        words = {
            "store": stamp.store,
            "replica": stamp.replica,
            "rebuilding": stamp.rebuilding,
            "life": stamp.life,
        }
        write_durably(self._layout.incoming, self._layout.stamp, json.dumps(words).encode())

    def membership(self) -> tuple[int, bytes | None]:
        """Its number, and the document; 0 and None when none was learned. Raises UntrustedSigner for a stranger's."""
        path, (number, document, known) = self._layout.membership, self._learned
        with told(f"read {path}"):
            try:
                fingerprint = Fingerprint.of_status(os.lstat(path))
                if known is not None and known.proves(fingerprint):
                    return number, document
                data = contents(path)
            except FileNotFoundError:
                self._learned = (0, None, None)
                return 0, None
        if data != document:
            number, document = self.number_of(data), data
        self._learned = (number, document, fingerprint)
        return number, document

    def write_membership(self, document: bytes) -> None:
        write_durably(self._layout.incoming, self._layout.membership, document)

    def number_of(self, document: bytes) -> int:
        """The number of the membership that was learned. Raises UntrustedSigner, StorageError when it is damaged."""
        try:
            with Copy.of_bytes(MEMBERSHIP, document, self._trust) as copy:
                return copy.stand.sequence
        except UntrustedSigner:  # it is whole, and whoever asks is a stranger to it
            raise
        except ArtifactError as error:
            raise StorageError(
                f"{self._layout.membership} is damaged, so nobody knows which membership holds here ({error}); let the "
                "replica learn it again",
                reason=_DAMAGED,
            ) from error

    def ballot(self) -> bytes | None:
        with told(f"read {self._layout.ballot}"):
            try:
                raw = contents(self._layout.ballot)
            except FileNotFoundError:
                return None
        if hashlib.sha256(raw[_CHECKSUM:]).digest() != raw[:_CHECKSUM]:
            raise StorageError(
                f"{self._layout.ballot} is damaged: it would forget what it promised; replace this replica",
                reason=_DAMAGED,
            )
        return raw[_CHECKSUM:]

    def write_ballot(self, ballot: bytes) -> None:
        data = hashlib.sha256(ballot).digest() + ballot
        write_durably(self._layout.incoming, self._layout.ballot, data)

    def _parsed(self, data: bytes) -> Stamp:
        try:
            words = json.loads(data)
            store, replica, rebuilding = words["store"], words["replica"], words["rebuilding"]
            life = words.get("life", "")
            if [type(store), type(replica), type(rebuilding), type(life)] != [str, str, bool, str]:
                raise ValueError("a field is of the wrong type")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(
                f"{self._layout.stamp} is damaged, so nobody knows which replica this is; remove it, and let the "
                "replica be replaced",
                reason=_DAMAGED,
            ) from error
        return Stamp(store, replica, rebuilding, life)
