"""Damaged files, kept aside for people: nothing here is read, served or removed by the replica."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from ..pools.disk import sync_directory
from .layout import SUFFIX, is_name


class Quarantine:
    """The files in `directory`, `<name>.<random>.maif`. Raises OSError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def take(self, path: str, name: str) -> None:
        """Move a file here, if it is there, durably. Under the lock of the name."""
        with contextlib.suppress(FileNotFoundError):
            Path(path).rename(self._directory / f"{name}.{secrets.token_hex(4)}{SUFFIX}")
            sync_directory(self._directory)
            sync_directory(Path(path).parent)

    def names(self) -> list[str]:
        """Of what lies here, sorted."""
        try:
            files = os.listdir(self._directory)  # noqa: PTH208  # names are wanted
        except FileNotFoundError:
            return []
        found = {file.removesuffix(SUFFIX).rpartition(".")[0] for file in files if file.endswith(SUFFIX)}
        return sorted(name for name in found if is_name(name))
