"""The filesystem pool keeps both conformance suites, and its own rules about files."""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
from pathlib import Path

import pytest
from durable_conformance import DurablePoolConformance
from pool_conformance import content, record

from laila import errors
from laila.pools import FilesystemPool
from laila.pools.recordfile import MAP_MINIMUM


class TestFilesystemPool(DurablePoolConformance):
    kind = "filesystem"
    atomic_batches = False

    def test_what_a_killed_writer_left_is_removed_and_what_a_live_one_has_is_not(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "pool"
        with self.start(path, "sequence") as process:
            process.stdout.readline()
            process.kill()
        (killed,) = (path / ".tmp").iterdir()
        with FilesystemPool(path) as alive:
            assert not killed.exists()
            alive.put("k", record())
            (own,) = (path / ".tmp").iterdir()
            FilesystemPool(path).close()
            assert own.exists()
            alive.put("k", record())
        assert list((path / ".tmp").iterdir()) == []


def test_names_stay_inside_the_directory(tmp_path: Path) -> None:
    with FilesystemPool(tmp_path / "pool") as pool:
        for key in ("../../escape", "/absolute", "..", "a/../../b", "x" * 5000 + "/.."):
            pool.put(key, record())
        outside = [path for path in tmp_path.iterdir() if path.name != "pool"]
        assert outside == []
        assert pool.count() == 5


def test_a_file_is_on_disk_before_it_gets_its_name_and_the_name_before_put_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls are real; they are only noted down."""
    calls = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        calls.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().relative_to(tmp_path)}")
        real_fsync(descriptor)

    def replace(source: Path, target: Path) -> None:
        calls.append(f"rename {source.relative_to(tmp_path)} {target.relative_to(tmp_path)}")
        real_replace(source, target)

    with FilesystemPool(tmp_path) as pool:
        pool.put("k", record(b"first"))
        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(os, "replace", replace)
        pool.put("k", record(b"second"))
        (file,) = tmp_path.glob("??/k.rec")
        final, shard = file.relative_to(tmp_path), file.parent.relative_to(tmp_path)
        temporary = calls[0].removeprefix("sync ")
        assert temporary.startswith(".tmp/")
        assert calls == [f"sync {temporary}", f"rename {temporary} {final}", f"sync {shard}"]


def test_a_fill_that_comes_second_does_not_replace_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FilesystemPool(tmp_path) as pool:
        pool.put("k", record(b"written"))
        monkeypatch.setattr(pool, "_exists", lambda key: False)  # as it was an instant before that write
        pool._put_new([("k", record(b"filled"))])
        assert content(pool.get("k")) == content(record(b"written"))
        assert [path.name for path in tmp_path.glob(".tmp/*/*")] == ["lock"]


def test_a_directory_that_was_emptied_by_hand_takes_entries_again(tmp_path: Path) -> None:
    with FilesystemPool(tmp_path) as pool:
        pool.put("k", record())
        for directory in tmp_path.iterdir():
            shutil.rmtree(directory)
        assert pool.get("k") is None
        with pytest.raises(errors.StorageError, match="ENOENT"):
            pool.put("k", record())
        with contextlib.suppress(errors.StorageError):
            pool.put("k", record())
        pool.put("k", record(b"again"))
        assert content(pool.get("k")) == content(record(b"again"))


def test_a_big_buffer_is_the_mapped_file_and_survives_a_replacement(tmp_path: Path) -> None:
    with FilesystemPool(tmp_path) as pool:
        pool.put("k", record(b"a" * MAP_MINIMUM))
        old = pool.get("k").buffers[0]
        assert isinstance(old.obj, mmap.mmap)
        pool.put("k", record(b"b" * MAP_MINIMUM))
        pool.delete("k")
        assert bytes(old) == b"a" * MAP_MINIMUM


def test_opening_an_existing_directory_makes_nothing_in_it(tmp_path: Path) -> None:
    FilesystemPool(tmp_path).close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_directorys_place_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "pool").write_text("")
    with pytest.raises(errors.StorageError, match="ENOTDIR"):
        FilesystemPool(tmp_path / "pool")


def test_a_file_under_another_entrys_name_is_corrupt(tmp_path: Path) -> None:
    with FilesystemPool(tmp_path) as pool:
        pool.put("a", record(b"of a"))
        pool.put("b", record(b"of b"))
        (a,), (b,) = tmp_path.glob("??/a.rec"), tmp_path.glob("??/b.rec")
        b.write_bytes(a.read_bytes())
        with pytest.raises(errors.Corrupt, match="holds another key"):
            pool.get("b")
        assert content(pool.get("a")) == content(record(b"of a"))


def test_strangers_files_are_not_entries_and_are_left_alone(tmp_path: Path) -> None:
    with FilesystemPool(tmp_path) as pool:
        pool.put("k", record())
        (file,) = tmp_path.glob("??/k.rec")
        (tmp_path / "README").write_text("not an entry")
        (file.parent / "notes.txt").write_text("not an entry")
        (tmp_path / "lost+found").mkdir()
        assert list(pool) == ["k"]
        pool.empty()
        assert sorted(path.name for path in tmp_path.rglob("*.txt")) == ["notes.txt"]
