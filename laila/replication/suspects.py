"""Names of which a replica lost something: a file each, which outlives the process, with the reason in it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ..pools.disk import sync_directory

_MOST = 2000


class Suspects:
    """The marks in `directory`. Raises OSError. What cannot be written there counts in this process all the same."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._prefix = f"{directory}/"
        self._unwritten: dict[str, str] = {}

    def reason(self, name: str) -> str | None:
        """Why this name is suspect; None when it is not."""
        try:
            descriptor = os.open(self._prefix + name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return self._unwritten.get(name)
        try:
            text = os.read(descriptor, _MOST).decode("utf-8", "replace")
        finally:
            os.close(descriptor)
        return text or "what was here was damaged or lost"

    def mark(self, name: str, reason: str) -> None:
        """Durably. Raises OSError; this process keeps it in mind then."""
        self._unwritten[name] = reason
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._prefix + name, flags, 0o666)
        try:
            with contextlib.suppress(OSError):  # on a full disk the mark counts without its reason
                os.truncate(descriptor, 0)
                os.write(descriptor, reason.encode()[:_MOST])
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(self._directory)
        self._unwritten.pop(name, None)

    def keep_in_mind(self, name: str, reason: str) -> None:
        """For this process alone, where nothing can be written."""
        self._unwritten[name] = reason

    def clear(self, name: str) -> None:
        """A power cut may bring the mark back, which costs a comparison."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._prefix + name)  # noqa: PTH108  # as above: a name that was checked
        self._unwritten.pop(name, None)

    def names(self) -> set[str]:
        try:
            found = os.listdir(self._directory)  # noqa: PTH208  # names are wanted
        except FileNotFoundError:
            found = []
        return {*found, *self._unwritten}
