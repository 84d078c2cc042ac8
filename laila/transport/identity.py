"""A node's identity: an Ed25519 key that lives in the node's state directory, or only as long as the process."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..errors import BadConfig, StorageError
from ..ids import node_id

KEY_FILE = "identity.key"


class Identity:
    """The key and the node id that follows from it."""

    __slots__ = ("key", "node_id", "persistent")

    def __init__(self, key: Ed25519PrivateKey, *, persistent: bool = False) -> None:
        self.key = key
        self.node_id = node_id(key.public_key().public_bytes_raw())
        self.persistent = persistent

    def __repr__(self) -> str:
        return f"Identity({self.node_id}, {'persistent' if self.persistent else 'ephemeral'})"

    @classmethod
    def ephemeral(cls) -> Identity:
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load_or_create(cls, directory: str | os.PathLike[str]) -> Identity:
        """The identity in `directory`; made and fsynced there at the first start.

        Raises: StorageError when the directory cannot be written or read, BadConfig when the file holds no key.
        """
        path = Path(directory) / KEY_FILE
        try:
            if not path.exists():
                _create(path)
            pem = path.read_bytes()
        except OSError as error:
            raise StorageError(
                f"the node's identity {path} cannot be kept there: {error.strerror}; "
                "give a state directory that this user can write",
                reason=error.strerror or "",
            ) from error
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise BadConfig(
                f"{path} holds no private key; restore it, or remove it to start as a new node"
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise BadConfig(f"{path} holds a key of another kind than Ed25519")
        return cls(key, persistent=True)


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    temporary = path.with_name(f".{KEY_FILE}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was first: its key counts
            os.link(temporary, path)
    finally:
        temporary.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
