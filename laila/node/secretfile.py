"""The file that holds the shared secret. The secret itself is never part of a message here."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from laila.errors import BadConfig, WeakSecret
from laila.secret import check_secret

CONTAINER_SECRET = Path("/run/secrets/laila_secret")
"""Where container engines put it; used when nothing else is said."""
SECRETS_DIR = Path("/run/secrets")
MAX_BYTES = 4096


def read_secret(path: Path) -> str:
    """The secret in `path`, one line. Raises BadConfig with half a sentence that says what to do."""
    text = _line(path)
    if not text:
        raise BadConfig(f"{path} is empty; fill it with `laila secret new > {path}`")
    return _checked(text, path)


def command_secret(flag: str | None) -> str:
    """The secret that a command goes by: of its `--secret-file`, of LAILA_SECRET_FILE, or where container engines put
    it. Raises BadConfig that says which of these it was.
    """
    source, path = _place(flag)
    try:
        return read_secret(path)
    except BadConfig as error:
        raise BadConfig(f"secret_file ({source}): {error}") from error


def is_known(flag: str | None) -> bool:
    """Whether a command was told of a secret, or finds one where container engines put it."""
    source, path = _place(flag)
    return source != "default" or path.exists()


def _place(flag: str | None) -> tuple[str, Path]:
    given = (("--secret-file", flag), ("LAILA_SECRET_FILE", os.environ.get("LAILA_SECRET_FILE")))
    return next(((source, Path(text)) for source, text in given if text), ("default", CONTAINER_SECRET))


def read_further(path: Path) -> str | None:
    """The secret in `path`, or None where the file is empty: a place kept free for the next change of the secret."""
    text = _line(path)
    return _checked(text, path) if text else None


def _line(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadConfig(
            f"{path} cannot be read: {error.strerror}; name a file made by `laila secret new > FILE`"
        ) from error
    if len(content) > MAX_BYTES:
        raise BadConfig(
            f"{path} is longer than {MAX_BYTES} bytes; name a file made by `laila secret new > FILE`"
        )
    try:
        return content.decode("utf-8").strip()
    except UnicodeDecodeError:
        raise BadConfig(f"{path} is no text; name a file made by `laila secret new > FILE`") from None


def _checked(text: str, path: Path) -> str:
    try:
        return check_secret(text)
    except WeakSecret as error:
        raise BadConfig(f"{path}: {error}") from None


def exposure(path: Path) -> str | None:
    """A warning if others on this machine can read the file, unless a container engine wrote it so."""
    if path.resolve().is_relative_to(SECRETS_DIR) or path.absolute().is_relative_to(SECRETS_DIR):
        return None
    if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        return f"every user of this machine can read {path}; run: chmod 600 {path}"
    return None
