"""On which volumes a store locks by flock: those known to exclude, with a warning where nobody knows, and no others."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from laila.errors import LockUnavailable, StorageError, UnsafeVolume
from laila.mounts import mount_of
from laila.shared import SharedArtifactStore, admission
from laila.volumes.verdict import SAFE, UNKNOWN, UNSAFE, Verdict, keep
from tests.shared.child import run
from tests.shared.mounts import mounted


def judge(shared: Path, answer: str) -> None:
    shared.mkdir(exist_ok=True)
    keep(shared, Verdict(answer, "both nodes held the lock at once", (), mount_of(shared), ("a", "b")))


def test_a_volume_that_is_known_unsafe_is_refused(shared: Path) -> None:
    judge(shared, UNSAFE)
    with pytest.raises(UnsafeVolume) as caught:
        SharedArtifactStore(shared)
    said = str(caught.value)
    assert "both nodes held the lock at once" in said
    assert all(url in said for url in ("redis://", "etcd://", "postgresql://"))
    assert isinstance(caught.value, StorageError)


def test_it_is_taken_with_a_lock_service_elsewhere(shared: Path) -> None:
    judge(shared, UNSAFE)
    with SharedArtifactStore(shared, locks="redis://127.0.0.1:1/0?timeout=1", timeout=1.0) as store:
        assert store.names() == []
        with pytest.raises(LockUnavailable):
            store.create("doc", "one")


@pytest.mark.parametrize("answer", [SAFE, None], ids=["checked", "one kernel"])
def test_a_safe_volume_is_taken_without_a_word(shared: Path, answer: str | None) -> None:
    if answer is not None:
        judge(shared, answer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with SharedArtifactStore(shared) as store:
            store.create("doc", "one")


WARNED = """
import sys, warnings
from laila.shared import SharedArtifactStore, UnprobedVolume
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        with SharedArtifactStore(sys.argv[1]) as store:
            store.create("doc", "one")
for warning in caught:
    assert issubclass(warning.category, UnprobedVolume) and issubclass(warning.category, UserWarning)
    print(warning.filename, warning.message)
"""


def test_a_volume_that_nobody_checked_is_warned_of_once(shared: Path) -> None:
    """ramfs: a real file system that is on no list."""
    said = run(WARNED, shared, before=mounted(shared, "mode=755", "ramfs")).splitlines()
    assert len(said) == 1
    assert f"laila volume check {shared} --with NODE" in said[0]
    assert said[0].startswith("<string>"), "it points at who opened the store"


def test_a_verdict_of_unknown_warns_too(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_warned", set())
    judge(shared, UNKNOWN)
    with pytest.warns(UserWarning, match="laila volume check"), SharedArtifactStore(shared) as store:
        store.create("doc", "one")
