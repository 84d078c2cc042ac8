"""The filesystem pool keeps both conformance suites, and its own rules about files."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import shutil
from pathlib import Path

import pytest
from durable_conformance import DurablePoolConformance
from pool_conformance import content, record

from laila import errors
from laila.pools import FilesystemPool
from laila.pools import filesystem as filesystem_module
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
        for each in tmp_path.iterdir():
            shutil.rmtree(each) if each.is_dir() else each.unlink()
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


def test_writers_wait_for_a_swap_and_a_swap_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So nothing changes between its look and its rename; who waits for too long says so, and nothing has changed."""
    monkeypatch.setattr(filesystem_module, "_WAIT_SECONDS", 0.1)
    with FilesystemPool(tmp_path) as pool:
        pool.put("k", record(b"old"))
        changes = [
            lambda: pool.put("k", record(b"new")), lambda: pool.put_many([("new", record()), ("k", record(b"new"))]),
            lambda: pool.delete("k"), pool.empty, lambda: pool.swap("k", record(b"old"), record(b"new")),
        ]  # fmt: skip
        with (tmp_path / ".swap").open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            for change in changes:
                with pytest.raises(errors.StorageError) as caught:
                    change()
                assert caught.value.reason == "EBUSY"
            fcntl.flock(held, fcntl.LOCK_SH)
            with pytest.raises(errors.StorageError):
                changes[-1]()
            assert (list(pool), content(pool.get("k"))) == (["k"], content(record(b"old")))
            changes[0]()
        assert pool.swap("k", record(b"new"), record(b"swapped"))


def test_where_nothing_can_be_locked_a_swap_is_refused_and_writers_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlockable(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    with FilesystemPool(tmp_path) as pool:
        pool.put("k", record(b"old"))
        monkeypatch.setattr(fcntl, "flock", unlockable)
        pool.put("k", record(b"new"))
        with pytest.raises(errors.StorageError) as caught:
            pool.swap("k", record(b"new"), record())
        assert caught.value.reason == "ENOLCK"
        assert content(pool.get("k")) == content(record(b"new"))
