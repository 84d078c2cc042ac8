"""What must hold for a pool that processes share, and for one on a disk: kills, others, full and damaged disks."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import writer
from pool_conformance import PoolConformance, content, record

import laila
from laila import errors
from laila.pools import Pool

PROCESSES = 4


@contextlib.contextmanager
def somebody_else(directory: Path) -> Iterator[None]:
    """Whoever may only read the directory: another user if we are root, else we without the right."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
    else:
        places = [directory, *directory.rglob("*")]
        for path in places:
            path.chmod(0o555 if path.is_dir() else 0o444)
        try:
            yield
        finally:
            for path in places:
                path.chmod(0o755 if path.is_dir() else 0o644)


class SharedPoolConformance(PoolConformance):
    """A subclass names its `kind`, whether a batch is all or nothing, and where a store is if not at its path."""

    kind: ClassVar[str]
    atomic_batches: ClassVar[bool]
    kills: ClassVar[int] = 20
    entries_each: ClassVar[int] = 40

    def address(self, path: Path) -> str:
        """What the pool is opened with; each path is a store of its own."""
        return str(path)

    def open(self, path: Path) -> Pool:
        return writer.KINDS[self.kind](self.address(path))

    def make(self, directory: Path) -> Pool:
        return self.open(directory / "pool")

    @pytest.fixture
    def filled(self, tmp_path: Path) -> Path:
        """A pool in a directory of its own, written and closed."""
        path = tmp_path / "home" / "pool"
        with self.open(path) as pool:
            pool.put_many([(f"k{i}", writer.of_round(i)) for i in range(20)])
        return path

    def start(self, path: Path, *arguments: str) -> subprocess.Popen[bytes]:
        package = Path(laila.__path__[0]).parent
        return subprocess.Popen(
            [sys.executable, "-W", "error", writer.__file__, self.kind, self.address(path), *arguments],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(package)},
        )

    def test_entries_are_there_when_it_is_opened_again(self, filled: Path) -> None:
        with self.open(filled) as pool:
            assert pool.count() == 20
            assert all(content(pool.get(f"k{i}")) == content(writer.of_round(i)) for i in range(20))

    def test_two_pools_on_one_store_see_each_other(self, filled: Path) -> None:
        with self.open(filled) as one, self.open(filled) as two:
            one.put("new", record(b"x"))
            assert content(two.get("new")) == content(record(b"x"))
            assert two.delete("k0")
            assert not one.exists("k0")

    # -- processes ------------------------------------------------------------------------------------------

    def test_kill_9_loses_nothing_acknowledged_and_tears_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "pool"
        for seed in range(self.kills):
            acknowledged = self.kill_a_writer(path, random.Random(seed))  # noqa: S311 - repeatable, not secret
            with self.open(path) as pool:
                self.check_after_kill(pool, acknowledged)
                pool.put("still writable", record())
                pool.empty()

    def kill_a_writer(self, path: Path, chance: random.Random) -> int:
        """The number of the last round that it acknowledged."""
        with self.start(path, "sequence") as process:
            first = process.stdout.readline()
            assert first == b"1\n", "the writer did not start"
            time.sleep(chance.uniform(0, 0.06))
            process.kill()
            rest = process.stdout.read()
        return int((first + rest).rsplit(b"\n", 2)[-2])

    def check_after_kill(self, pool: Pool, acknowledged: int) -> None:
        under_way = acknowledged + 1
        for number in range(max(1, acknowledged - 2), acknowledged + 1):
            found = pool.get(f"single{number % 3}")
            assert found is not None
            assert int(found.head) in {number, under_way if under_way % 3 == number % 3 else number}
            assert content(found) == content(writer.of_round(int(found.head)))
        batch = pool.get_many(writer.BATCH)
        assert None not in batch
        assert {int(found.head) for found in batch} <= {acknowledged, under_way}
        for found in batch:
            assert content(found) == content(writer.of_round(int(found.head)))
        if self.atomic_batches:
            assert len({found.head for found in batch}) == 1

    def test_processes_lose_none_of_each_others_writes(self, tmp_path: Path) -> None:
        path = tmp_path / "pool"
        processes = [self.start(path, "many", str(name), str(self.entries_each)) for name in range(PROCESSES)]
        for process in processes:
            process.communicate(timeout=60)
            assert process.returncode == 0
        with self.open(path) as pool:
            assert pool.count() == PROCESSES * self.entries_each + 1
            for name in range(PROCESSES):
                for number in range(self.entries_each):
                    assert content(pool.get(f"{name}-{number}")) == content(writer.of_round(number))
            assert content(pool.get("shared")) == content(writer.of_round(self.entries_each - 1))

    def test_processes_that_count_by_swap_lose_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "pool"
        processes = [self.start(path, "count", str(self.each_counts)) for _ in range(PROCESSES)]
        for process in processes:
            process.communicate(timeout=120)
            assert process.returncode == 0
        with self.open(path) as pool:
            assert int(pool.get("counter").head) == PROCESSES * self.each_counts

    def test_a_forked_child_and_its_parent_both_go_on(self, tmp_path: Path) -> None:
        process = self.start(tmp_path / "pool", "fork")
        process.communicate(timeout=60)
        assert process.returncode == 0


class DurablePoolConformance(SharedPoolConformance):
    """A pool on a disk."""

    @pytest.fixture
    def foreign_directory(self) -> Iterator[Path]:
        """A directory that others may read; pytest's own are private."""
        with tempfile.TemporaryDirectory() as name:
            Path(name).chmod(0o755)
            yield Path(name)

    def test_missing_directories_are_made(self, tmp_path: Path) -> None:
        with self.open(tmp_path / "a" / "b" / "pool") as pool:
            pool.put("k", record())

    # -- disks ----------------------------------------------------------------------------------------------

    def test_a_full_disk_is_enospc_and_the_old_value_stays(self, small_disk: Path) -> None:
        with self.open(small_disk / "pool") as pool:
            pool.put("k", record(b"old"))
            for put in (
                lambda: pool.put("k", record(bytes(3 << 20))),
                lambda: pool.put_many([("k", record(b"new")), ("big", record(bytes(3 << 20)))]),
                lambda: [pool.put(f"filler{i}", record(bytes(60_000))) for i in range(100)],
            ):
                with pytest.raises(errors.StorageError) as caught:
                    put()
                assert caught.value.reason == "ENOSPC", caught.value
                assert str(small_disk) in str(caught.value)
                assert content(pool.get("k")) == content(record(b"old"))
                assert not pool.exists("big")
            kept = pool.count()
        with self.open(small_disk / "pool") as pool:
            assert pool.count() == kept
            assert content(pool.get("k")) == content(record(b"old"))
            assert all(pool.get(key) is not None for key in pool.keys())  # noqa: SIM118

    def test_a_read_only_file_system_is_read_and_writing_is_erofs(
        self, filled: Path, read_only_view: Callable[[Path], Path]
    ) -> None:
        before = sorted(filled.parent.rglob("*"))
        path = read_only_view(filled.parent) / filled.name
        with self.open(path) as pool:
            pool.probe()
            assert pool.count() == 20
            assert all(content(pool.get(f"k{i}")) == content(writer.of_round(i)) for i in range(20))
            for use in (
                lambda: pool.put("k1", record()), lambda: pool.put_many([("new", record())]),
                lambda: pool.delete("k1"), pool.empty, lambda: pool.probe(write=True),
                lambda: pool.swap("k1", writer.of_round(1), record()),
            ):  # fmt: skip
                with pytest.raises(errors.StorageError) as caught:
                    use()
                assert caught.value.reason == "EROFS", caught.value
            assert pool.exists("k1")
        assert sorted(filled.parent.rglob("*")) == before

    def test_missing_permission_is_eacces_and_reads_go_on(self, foreign_directory: Path) -> None:
        path = foreign_directory / "pool"
        with self.open(path) as pool:
            pool.put("k", record(b"old"))
        with somebody_else(foreign_directory), self.open(path) as pool:
            for use in (lambda: pool.put("k", record(b"new")), lambda: pool.delete("k")):
                with pytest.raises(errors.StorageError) as caught:
                    use()
                assert caught.value.reason == "EACCES", caught.value
            assert content(pool.get("k")) == content(record(b"old"))

    def test_a_read_only_view_follows_a_writer_elsewhere(
        self, filled: Path, read_only_view: Callable[[Path], Path]
    ) -> None:
        path = read_only_view(filled.parent) / filled.name
        with self.open(path) as reader:
            assert reader.count() == 20
            for step in range(3):
                with self.open(filled) as pool:
                    pool.put("k1", record(b"%d" % step))
                    assert content(reader.get("k1")) == content(record(b"%d" % step))
                    pool.put("k1", record(b"again"))
                    assert content(reader.get("k1")) == content(record(b"again"))
                assert content(reader.get("k1")) == content(record(b"again"))

    def test_a_read_only_view_is_read_also_after_a_kill(
        self, tmp_path: Path, read_only_view: Callable[[Path], Path]
    ) -> None:
        path = tmp_path / "home" / "pool"
        acknowledged = self.kill_a_writer(path, random.Random(7))  # noqa: S311 - repeatable, not secret
        with self.open(read_only_view(path.parent) / "pool") as pool:
            self.check_after_kill(pool, acknowledged)

    def test_a_store_that_went_away_is_an_error_not_an_absence(self, filled: Path) -> None:
        with self.open(filled) as pool:
            filled.rename(filled.with_name("gone"))
            for use in (
                lambda: pool.get("k1"), lambda: pool.get("missing"), lambda: pool.put("k1", record()),
                lambda: pool.exists("missing"), pool.count, pool.probe,
            ):  # fmt: skip
                with pytest.raises(errors.StorageError):
                    use()
            filled.with_name("gone").rename(filled)
            assert pool.count() == 20

    # -- damage ---------------------------------------------------------------------------------------------

    def files(self, path: Path) -> Iterator[Path]:
        return (file for file in sorted([path, *path.rglob("*")]) if file.is_file() and file.stat().st_size)

    def test_damage_is_never_a_wrong_value(self, filled: Path) -> None:
        """Bits flip, tails are cut off: an entry is then right, or Corrupt, or gone, never something else."""
        chance = random.Random(5)  # noqa: S311 - repeatable, not secret
        outcomes = set()
        for file in list(self.files(filled))[:6] * (60 if self.kind == "sqlite" else 10):
            good = file.read_bytes()
            bad = bytearray(good)
            place = chance.randrange(len(bad))
            if chance.random() < 0.8:
                bad[place] ^= 1 << chance.randrange(8)
            else:
                del bad[place:]
            file.write_bytes(bad)
            try:
                with self.open(filled) as pool:
                    for i in range(20):
                        outcomes.add(self.outcome(pool, f"k{i}", writer.of_round(i)))
            except (errors.Corrupt, errors.BadValue, errors.StorageError) as error:
                outcomes.add(
                    type(error).__name__ if str(filled) in str(error) else f"does not name it: {error}"
                )
            file.write_bytes(good)
            for extra in filled.parent.glob("pool-*"):
                extra.unlink()
        assert {"right", "Corrupt"} <= outcomes
        assert outcomes <= {"right", "Corrupt", "gone", "BadValue", "StorageError"}

    def outcome(self, pool: Pool, key: str, expected: object) -> str:
        try:
            found = pool.get(key)
        except errors.Corrupt as error:
            return "Corrupt" if str(pool.path) in str(error) else f"does not name it: {error}"
        if found is None:
            return "gone"
        return "right" if content(found) == content(expected) else "wrong"
