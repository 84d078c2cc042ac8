"""Real places for pools to live in: directories, a file system that is full, one that is read-only."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("pool_conformance", "durable_conformance", "served_conformance")


def unmount(path: Path) -> None:
    """Raises if a test left a file open there; it is gone in any case."""
    if subprocess.run(["umount", str(path)], timeout=10).returncode != 0:
        subprocess.run(["umount", "--lazy", str(path)], check=True, timeout=10)
        raise AssertionError(f"something in {path} was still open")


@pytest.fixture
def mounts() -> Iterator[Callable[..., None]]:
    """`mounts(*arguments, target)` mounts, and unmounts at the end; skips where that is not allowed."""
    with contextlib.ExitStack() as stack:

        def mount(*arguments: str | Path) -> None:
            absent = pytest.fail if os.environ.get("CI") else pytest.skip  # what CI must run does not vanish
            if os.geteuid() != 0:
                absent("mounting a file system needs root")
            done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, timeout=10)
            if done.returncode != 0:
                absent(f"mount is not allowed here: {done.stderr.strip()}")
            stack.callback(unmount, Path(arguments[-1]))

        yield mount


@pytest.fixture
def small_disk(tmp_path: Path, mounts: Callable[..., None]) -> Path:
    """A file system of 2 MiB."""
    path = tmp_path / "small"
    path.mkdir()
    mounts("-t", "tmpfs", "-o", "size=2m", "tmpfs", path)
    return path


@pytest.fixture
def read_only_view(tmp_path: Path, mounts: Callable[..., None]) -> Callable[[Path], Path]:
    """Shows a directory a second time, where nothing can be written."""

    def view(directory: Path) -> Path:
        path = tmp_path / "read-only"
        path.mkdir()
        mounts("--bind", directory, path)
        subprocess.run(["mount", "-o", "remount,ro,bind", str(path)], check=True, timeout=10)
        return path

    return view
