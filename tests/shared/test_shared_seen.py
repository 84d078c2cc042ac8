"""The memory of the highest versions seen: it only grows, whoever writes it and wherever that is killed."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from laila.errors import ArtifactNotFound, RolledBack, StorageError
from laila.shared import SharedArtifactStore
from laila.shared.seen import Mark, Seen

ROOT_A, ROOT_B = "aa" * 32, "bb" * 32


def mark(sequence: int, root: str = ROOT_A) -> Mark:
    return Mark(sequence, root)


def test_nothing_was_seen_at_first(tmp_path: Path) -> None:
    assert Seen(tmp_path).highest("doc") is None


def test_the_highest_is_remembered_by_others_too(tmp_path: Path) -> None:
    mine, theirs = Seen(tmp_path), Seen(tmp_path)
    for sequence in (1, 2, 5, 3):
        mine.note("doc", mark(sequence))
    assert mine.highest("doc") == theirs.highest("doc") == mark(5)
    theirs.note("doc", mark(7))
    assert mine.highest("doc") == mark(7)
    assert [path.name for path in (tmp_path / "doc").iterdir()] == [f"7.{ROOT_A}"]
    assert mine.highest("other") is None


def test_a_lower_one_noted_by_who_knows_nothing_changes_nothing(tmp_path: Path) -> None:
    Seen(tmp_path).note("doc", mark(5))
    Seen(tmp_path).note("doc", mark(4))
    assert Seen(tmp_path).highest("doc") == mark(5)
    assert [path.name for path in (tmp_path / "doc").iterdir()] == [f"5.{ROOT_A}"]


@pytest.mark.parametrize("fresh", [False, True], ids=["in this process", "from the disk"])
def test_two_roots_of_one_number_are_a_fork(tmp_path: Path, fresh: bool) -> None:
    seen = Seen(tmp_path)
    seen.note("doc", mark(5))
    with pytest.raises(RolledBack, match="two versions 5"):
        (Seen(tmp_path) if fresh else seen).note("doc", mark(5, ROOT_B))
    assert Seen(tmp_path).highest("doc") == mark(5)


def test_what_a_killed_writer_left_counts(tmp_path: Path) -> None:
    """Killed between adding the new one and removing the old one."""
    seen = Seen(tmp_path)
    seen.note("doc", mark(5))
    (tmp_path / "doc" / f"6.{ROOT_B}").touch()
    assert seen.highest("doc") == mark(6, ROOT_B)
    seen.note("doc", mark(7))
    assert [path.name for path in (tmp_path / "doc").iterdir()] == [f"7.{ROOT_A}"]


@pytest.mark.parametrize(
    "name", ["rubbish", "0.aa", "-1.aabbccdd", "7", "7.xyz", "007.aabbccdd", f"\u0667.{ROOT_A}"]
)
def test_other_files_say_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "doc").mkdir()
    (tmp_path / "doc" / name).touch()
    assert Seen(tmp_path).highest("doc") is None


def test_forgetting(tmp_path: Path) -> None:
    seen = Seen(tmp_path)
    seen.note("doc", mark(5))
    seen.forget("doc")
    seen.forget("doc")
    assert seen.highest("doc") is None
    seen.note("doc", mark(1, ROOT_B))
    assert seen.highest("doc") == mark(1, ROOT_B)


def test_a_memory_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "doc").write_text("a file where a directory should be")
    with pytest.raises(StorageError, match="ENOTDIR"):
        Seen(tmp_path).highest("doc")


def _note(directory: str, start: int) -> None:
    seen = Seen(Path(directory))
    for sequence in range(start, 400, 4):
        seen.note("doc", Mark(sequence, ROOT_A))


def test_many_processes_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_note, args=(str(tmp_path), start)) for start in range(1, 5)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert Seen(tmp_path).highest("doc") == mark(399)


# -- what is in between on network file systems --------------------------------------------------------


@pytest.fixture
def networked(store: SharedArtifactStore) -> SharedArtifactStore:
    """A store that takes its volume for one of many kernels, where a rename may leave nothing for a moment."""
    store._place.mount = replace(store._place.mount, fstype="fuse.glusterfs", source="server:/volume")
    return store


def back_after(seconds: float, put_back: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, put_back)
    timer.start()
    return timer


@pytest.mark.parametrize("way", ["load", "load_cached", "history"])
def test_a_file_that_is_not_there_for_a_moment(
    networked: SharedArtifactStore, shared: Path, way: str
) -> None:
    networked.create("doc", "one")
    (shared / "doc.maif").rename(shared / "away")
    timer = back_after(0.1, lambda: (shared / "away").rename(shared / "doc.maif"))
    try:
        assert getattr(networked, way)("doc")
        assert networked.exists("doc")
    finally:
        timer.join(60)


def test_an_older_version_that_is_shown_for_a_moment(networked: SharedArtifactStore, shared: Path) -> None:
    networked.create("doc", "one")
    older = (shared / "doc.maif").read_bytes()
    networked.create("doc", "two")
    (shared / "doc.maif").rename(shared / "away")
    (shared / "doc.maif").write_bytes(older)
    timer = back_after(0.1, lambda: (shared / "away").rename(shared / "doc.maif"))
    try:
        assert networked.load("doc").sequence == 2
    finally:
        timer.join(60)


def test_what_is_not_there_at_all_is_told_within_a_bounded_time(networked: SharedArtifactStore) -> None:
    begun = time.monotonic()
    with pytest.raises(ArtifactNotFound):
        networked.load("doc")
    assert not networked.exists("doc")
    assert time.monotonic() - begun < 30
