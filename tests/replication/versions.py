"""Versions for tests: authors with fixed keys, which other processes can have as well, and what they write."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from laila.artifacts import Signer, TrustSet
from laila.artifacts import create_maif as new_artifact
from laila.replication.copies import Copy
from laila.replication.membership import encode
from laila.replication.replica import Replica, Stamp
from laila.replication.tags import Stand, Tag, Unsure
from laila.replication.views import Member, View
from laila.secret import new_secret

ME, ANOTHER, STRANGER = b"m" * 32, b"a" * 32, b"s" * 32
"""Seeds of keys."""
STORE, REPLICA = "5" * 32, "6" * 32
STAMP = Stamp(STORE, REPLICA)


def signer_of(seed: bytes) -> Signer:
    return Signer(Ed25519PrivateKey.from_private_bytes(seed))


OLD_SECRET, NEW_SECRET = new_secret(), new_secret()
"""Of a cluster that changes from one to the other."""


def trust_of(*seeds: bytes) -> TrustSet:
    return TrustSet([signer_of(seed) for seed in seeds])


class Author:
    """Who signs with the key of a seed."""

    def __init__(self, seed: bytes, trust: TrustSet) -> None:
        self.signer = signer_of(seed)
        self.trust = trust

    @property
    def key(self) -> str:
        """The public key, hex."""
        return self.signer.public_key.hex()

    def version(self, name: str, sequence: int, text: str = "", *, gone: bool = False, size: int = 0) -> Copy:
        """A version that says `text`, or a tombstone, or one with `size` bytes of content that do not repeat."""
        artifact = new_artifact("tester")
        if size:
            artifact.add_binary(b"".join(number.to_bytes(8, "big") for number in range(size // 8)))
        elif not gone:
            artifact.add_text(text or f"version {sequence} of {name}")
        artifact.name_as(name, sequence=sequence, gone=gone)
        return Copy.encode(name, artifact, self.signer, self.trust)

    def unnamed(self, text: str = "by the seed's program") -> bytes:
        """The file that a program writes which knows nothing of versions."""
        artifact = new_artifact("tester")
        artifact.add_text(text)
        return artifact.to_bytes(key=self.signer)

    def membership(self, number: int, store: str = STORE) -> bytes:
        """A membership document."""
        view = View(store, number, (Member(REPLICA, "/the/replica"),))
        return encode(view, self.signer, trust_of(ME, ANOTHER, STRANGER), by="a test")


def bytes_of(copy: Copy) -> bytes:
    return b"".join(bytes(piece) for _, piece in copy.chunks())


def text_of(copy: Copy) -> str:
    (item,) = copy.artifact().get_content_list()
    return str(item["text"])


def put(replica: Replica, copy: Copy, number: int = 0) -> Stand:
    """Put and close it."""
    with copy:
        return replica.put(copy, number)


def settle(replica: Replica, tag: Tag | None, name: str = "doc", number: int = 0) -> None:
    """With the mark that it tells now."""
    (found,) = replica.look([name], number)
    replica.settle(name, tag, found.mark if isinstance(found, Unsure) else "")


def tampered(copy: Copy, at: int = 700) -> Copy:
    """The same with one bit of its bytes turned."""
    data = bytearray(bytes_of(copy))
    data[at] ^= 1
    return Copy(copy.name, copy.stand, data)
