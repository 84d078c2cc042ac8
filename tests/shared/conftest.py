"""Stores in temporary directories. Every test has a state directory of its own: nobody's memory or key is touched."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from laila.shared import SharedArtifactStore


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's identity, cache and memory of versions are."""
    directory = tmp_path / "state"
    monkeypatch.setenv("LAILA_STATE_DIR", str(directory))
    monkeypatch.delenv("LAILA_SECRET_FILE", raising=False)
    return directory


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The shared directory."""
    return tmp_path / "shared"


@pytest.fixture
def open_store(shared: Path) -> Iterator[Callable[..., SharedArtifactStore]]:
    """Opens stores on `shared`, or elsewhere; closes them in the end."""
    with contextlib.ExitStack() as stack:

        def open_one(path: Path | None = None, *args: Any, **options: Any) -> SharedArtifactStore:
            return stack.enter_context(SharedArtifactStore(path or shared, *args, **options))

        yield open_one


@pytest.fixture
def store(open_store: Callable[..., SharedArtifactStore]) -> SharedArtifactStore:
    return open_store()


@pytest.fixture
def another(open_store: Callable[..., SharedArtifactStore], tmp_path: Path) -> SharedArtifactStore:
    """What another node has: the same volume and key, but a cache and a memory of its own."""
    return open_store(None, tmp_path / "another-cache")
