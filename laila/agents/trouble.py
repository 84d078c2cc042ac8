"""What the system says when something cannot be written, as one sentence that says what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ..shared.trouble import storage_error, told


@contextlib.contextmanager
def writing(doing: str) -> Iterator[None]:
    """Map the system's errors to StorageError, also that a directory is missing: it was there a moment ago."""
    try:
        with told(doing):
            yield
    except FileNotFoundError as error:
        raise storage_error(doing, error) from error
