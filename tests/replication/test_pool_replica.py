"""Pools as replicas: in memory, in SQLite, and in a Redis that programs share."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from laila.artifacts import TrustSet
from laila.codec import Encoded
from laila.errors import ArtifactError, StorageError
from laila.pools import FilesystemPool, MemoryPool, Pool, RedisPool, SqlitePool
from laila.replication import pool as pool_module
from laila.replication.pool import PoolReplica
from laila.replication.replica import Health, Replica, Stamp
from laila.replication.shelf import PART, Slot
from laila.replication.tags import Unsure
from tests.locks.servers import RedisServer, running, started
from tests.replication.hammer import put_versions
from tests.replication.replica_conformance import PATIENCE, ROOT, ReplicaConformance, found, held
from tests.replication.versions import ME, STAMP, Author, bytes_of, put, settle, trust_of

_POOLS: dict[str, Pool] = {}
"""Of this process, by place: an opening has its own where another process could have."""


class Owning(PoolReplica):
    """Closes its pool with itself, for tests that open many."""

    def close(self) -> None:
        super().close()
        self._shelf._pool.close()


def in_sqlite(place: str, trust: TrustSet) -> Replica:
    return Owning(SqlitePool(place), trust, where=place)


def in_redis(place: str, trust: TrustSet) -> Replica:
    return Owning(RedisPool(place), trust, where=f"pool:{place.rpartition('=')[2]}")


class PoolReplicaConformance(ReplicaConformance):
    """Subclasses say how the pool at a place is opened behind the replica's back."""

    def behind(self, place: str) -> Pool:
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _remembered(self) -> None:
        self.heads: dict[bytes, Encoded] = {}

    def stored(self, place: str, name: str) -> bytes:
        with self.behind(place) as pool:
            head = pool.get(f"replica/store/head/{name}")
            slot = Slot.of(head)
            parts = [pool.get(f"{slot.body}/{part}") for part in range(slot.parts)]
            data = b"".join(bytes(part.buffers[0]) for part in parts)
        self.heads[data] = head
        return data

    def overwrite(self, place: str, name: str, data: bytes | None) -> None:
        """An older version comes back as a whole, slot and bytes, as when a pool is put back from a backup."""
        key = f"replica/store/head/{name}"
        with self.behind(place) as pool:
            if data is None:
                pool.delete(key)
                return
            if data in self.heads:
                pool.put(key, self.heads[data])
            slot = Slot.of(pool.get(key))
            for part in range(slot.parts):
                piece = data[part * PART : (part + 1) * PART]
                pool.put(f"{slot.body}/{part}", Encoded(b"laila body", (piece,)))


class KeptOpen:
    """A pool that stays open when a `with` ends: it is this process's only one."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def __enter__(self) -> Pool:
        return self.pool

    def __exit__(self, *error: object) -> None: ...


class TestInMemory(PoolReplicaConformance):
    test_processes_that_put_at_once_leave_the_greatest = None  # only this process can open it

    def opened(self, place: str, trust: TrustSet) -> Replica:
        return PoolReplica(_POOLS.setdefault(place, MemoryPool()), trust, where="pool:memory")

    def behind(self, place: str) -> Any:
        return KeptOpen(_POOLS[place])


class TestInSqlite(PoolReplicaConformance):
    opener = "tests.replication.test_pool_replica:in_sqlite"

    def opened(self, place: str, trust: TrustSet) -> Replica:
        return in_sqlite(place, trust)

    def behind(self, place: str) -> Pool:
        return SqlitePool(place)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    yield from running(RedisServer)


class TestInRedis(PoolReplicaConformance):
    opener = "tests.replication.test_pool_replica:in_redis"

    @pytest.fixture
    def place(self, server: RedisServer, tmp_path: Path) -> str:
        return server.at(pool=hashlib.sha256(str(tmp_path).encode()).hexdigest()[:16])

    def opened(self, place: str, trust: TrustSet) -> Replica:
        return in_redis(place, trust)

    def behind(self, place: str) -> Pool:
        return RedisPool(place)


# --- what pools do that directories do not


@pytest.fixture
def pool() -> Iterator[MemoryPool]:
    with MemoryPool() as pool:
        yield pool


@pytest.fixture
def replica(pool: MemoryPool, trust: TrustSet) -> Iterator[PoolReplica]:
    with contextlib.closing(PoolReplica(pool, trust, where="pool:memory")) as replica:
        replica.mark(STAMP)
        yield replica


def bodies(pool: Pool) -> list[str]:
    return sorted(key for key in pool.keys() if "/body/" in key)  # noqa: SIM118  # a pool


def test_what_was_replaced_is_removed(pool, replica, author):
    """One version's bytes are there, whatever came before it and whatever was refused."""
    for sequence in (1, 3, 2, 5, 4, 5):
        put(replica, author.version("doc", sequence))
        assert len(bodies(pool)) == 1
    with author.version("doc", 6, gone=True) as tombstone:
        replica.put(tombstone, 0)
        assert held(replica) == bytes_of(tombstone)
    assert len(bodies(pool)) == 1


def test_a_reader_whose_bytes_were_removed_gets_the_newer_ones(pool, trust, author):
    """The slot is looked at again; nothing is suspected."""

    class Overtaken(PoolReplica):
        """Somebody puts a newer version between its look at the slot and its look at the bytes, three times."""

        left = 3

        def _slot(self, name):
            record, slot = super()._slot(name)
            if self.left:
                self.left -= 1
                put(other, author.version(name, slot.stand.sequence + 1))
            return record, slot

    with contextlib.closing(PoolReplica(pool, trust, where="pool:memory")) as other:
        other.mark(STAMP)
        put(other, author.version("doc", 1))
        with contextlib.closing(Overtaken(pool, trust, where="pool:memory")) as replica:
            copy = replica.fetch("doc", 0)
            with copy:
                assert copy.stand.sequence == 4
            replica.left = 1
            assert replica.check("doc", 0) == Health(found(other), True)
            assert found(replica).sequence == 5
    assert len(bodies(pool)) == 1


def test_readers_among_writers_see_whole_versions_that_only_rise(pool, trust, author, another):
    """In one pool, through openings that have nothing else in common."""
    stop = threading.Event()

    def read() -> int:
        highest = 0
        with contextlib.closing(PoolReplica(pool, trust, where="pool:memory")) as replica:
            while not stop.is_set():
                copy = replica.fetch("doc", 0)
                if copy is not None:
                    with copy:
                        assert copy.stand.sequence >= highest
                        highest = copy.stand.sequence
        return highest

    with contextlib.closing(PoolReplica(pool, trust, where="pool:memory")) as replica:
        replica.mark(STAMP)
        with ThreadPoolExecutor(4) as threads:
            reading = [threads.submit(read) for _ in range(2)]
            try:
                writing = [
                    threads.submit(put_versions, replica, who, "doc", 1, 60, 1) for who in (author, another)
                ]
                assert [each.result(PATIENCE)["wrong"] for each in writing] == [[], []]
            finally:
                stop.set()
            assert all(each.result(PATIENCE) for each in reading)
    assert len(bodies(pool)) == 1


def test_bytes_that_are_missing_are_noticed(pool, replica, author):
    """When they are read, checked, or put again; that heals it."""
    with author.version("doc", 1) as copy:
        stand = replica.put(copy, 0)
        pool.delete_many(bodies(pool))
        assert not replica.check("doc", 0).valid
        assert replica.put(copy, 0) == stand
    assert isinstance(found(replica), Unsure), "the mark stays until it is settled"
    settle(replica, stand.tag)
    assert replica.check("doc", 0) == Health(stand, True)
    pool.delete_many(bodies(pool))
    with pytest.raises(ArtifactError, match="not there any more"):
        replica.fetch("doc", 0)
    assert isinstance(found(replica), Unsure)


@pytest.mark.parametrize("head", [b"", b"[]", b"no json", b'{"stand": [1], "body": "", "parts": 0, "fear": null}',
                                  b'{"stand": null, "body": 7, "parts": 0, "fear": null}'])  # fmt: skip
def test_a_slot_that_cannot_be_read_counts_for_nothing(pool, replica, author, head):
    put(replica, author.version("doc", 1))
    pool.put("replica/store/head/doc", Encoded(head))
    assert isinstance(found(replica), Unsure)
    assert isinstance(replica.branches([""])[0].entries[0][1], Unsure)
    with author.version("doc", 2) as copy:
        assert replica.put(copy, 0) == copy.stand
        settle(replica, copy.stand.tag)
        assert found(replica) == copy.stand


def test_a_slot_that_the_pool_itself_finds_damaged_counts_for_nothing(tmp_path, trust, author):
    """Here a file pool, whose checksum fails: the other names are as before."""
    with FilesystemPool(tmp_path / "pool") as pool:
        with contextlib.closing(PoolReplica(pool, trust, where="pool:files")) as replica:
            replica.mark(STAMP)
            stands = {name: put(replica, author.version(name, 1)) for name in ("a", "doc", "z")}
            path = pool._file(b"replica/store/head/doc")
            data = bytearray(path.read_bytes())
            data[-3] ^= 1
            path.write_bytes(data)
            looked = replica.look(["a", "doc", "z"], 0)
            assert [looked[0], looked[2]] == [stands["a"], stands["z"]]
            assert isinstance(looked[1], Unsure)
            with author.version("doc", 1) as copy:
                assert replica.put(copy, 0) == copy.stand
                settle(replica, copy.stand.tag)
                assert replica.look(list(stands), 0) == list((stands | {"doc": copy.stand}).values())
            path = pool._file(b"replica/store/stamp")
            path.write_bytes(path.read_bytes()[:-1])
            with pytest.raises(StorageError, match="damaged"):
                replica.look(["doc"], 0)


def test_bytes_that_nobody_names_are_swept_when_they_are_old(pool, replica, author, monkeypatch):
    """Not those that may be a version on its way, nor those in quarantine."""
    put(replica, author.version("doc", 1))
    put(replica, author.version("bad", 1))
    replica.distrust("bad", "somebody said so")
    kept = bodies(pool)
    with author.version("doc", 2) as copy:
        on_its_way = replica._shelf.store(copy)
    assert len(bodies(pool)) == 3
    list(replica.scrub())
    list(replica.scrub())
    assert len(bodies(pool)) == 3
    monkeypatch.setattr(pool_module, "STRAY", -1.0)
    list(replica.scrub())
    assert bodies(pool) == kept
    assert not replica._shelf.whole(on_its_way)
    assert replica.quarantined() == ["bad"]


def test_what_is_in_quarantine_can_be_read_by_people(pool, replica, author):
    put(replica, author.version("doc", 1, "what it said"))
    replica.distrust("doc", "somebody said so")
    (key,) = [key for key in pool if "/quarantine/" in key]
    note = json.loads(pool.get(key).head)
    assert note["reason"] == "somebody said so"
    assert b"what it said" in bytes(pool.get(f"{note['body']}/0").buffers[0])


def test_a_full_pool_is_enospc_and_the_old_version_stays(trust, author):
    with MemoryPool(max_bytes=20_000) as pool:
        with contextlib.closing(PoolReplica(pool, trust, where="pool:small")) as replica:
            replica.mark(STAMP)
            stand = put(replica, author.version("doc", 1))
            with author.version("doc", 2, "x" * 30_000) as copy, pytest.raises(StorageError) as caught:
                replica.put(copy, 0)
            assert caught.value.reason == "ENOSPC"
            assert replica.check("doc", 0) == Health(stand, True)
            assert len(bodies(pool)) == 1


def test_stores_in_one_pool_do_not_see_each_other(pool, replica, trust, author):
    with contextlib.closing(PoolReplica(pool, trust, where="pool:memory", store="other")) as other:
        put(replica, author.version("doc", 1))
        assert other.stamp().replica == ""
        other.mark(replace(STAMP, store="another-store"))
        assert found(other) is None
        assert other.names(0).live == []


def test_a_pool_that_reads_through_to_another_is_refused(pool, replica):
    """What the other one has is not what this one has."""
    with MemoryPool() as upstream:
        pool << upstream
        with pytest.raises(StorageError, match="without upstream"):
            found(replica)


def test_only_pools_behind_a_network_are_remote(pool, server, tmp_path, trust):
    with RedisPool(server.url) as redis, SqlitePool(tmp_path / "pool") as sqlite:
        replicas = [PoolReplica(each, trust, where="x") for each in (pool, sqlite, redis)]
        assert [replica.remote for replica in replicas] == [False, False, True]


def test_a_server_that_comes_back_empty_counts_for_nothing(trust, author):
    """And while it is away every call is a StorageError."""
    with contextlib.closing(started(RedisServer)) as own, RedisPool(own.url) as pool:
        with contextlib.closing(PoolReplica(pool, trust, where="pool:redis")) as replica:
            replica.mark(STAMP)
            put(replica, author.version("doc", 1))
            own.stop()
            with author.version("doc", 2) as copy:
                for call in (lambda: found(replica), lambda: replica.put(copy, 0), replica.stamp, replica.ballot,
                             lambda: list(replica.scrub()), lambda: replica.fetch("doc", 0)):  # fmt: skip
                    with pytest.raises(StorageError):
                        call()
            own.start()
            assert replica.stamp() == Stamp()
            assert isinstance(found(replica), Unsure)
            with pytest.raises(ArtifactError):
                replica.fetch("doc", 0)


def test_what_was_acknowledged_survives_kill_9(tmp_path, trust, author):
    """At random instants: the version is the acknowledged one or the next, whole, and nothing is suspected."""
    place, acknowledged = str(tmp_path / "pool"), 0
    with contextlib.closing(in_sqlite(place, trust)) as replica:
        replica.mark(STAMP)
        for seed in range(6):
            with subprocess.Popen(
                [sys.executable, "-m", "tests.replication.test_pool_replica", place, str(acknowledged + 1)],
                cwd=ROOT, stdout=subprocess.PIPE,
            ) as process:  # fmt: skip
                first = process.stdout.readline()
                time.sleep(random.Random(seed).uniform(0, 0.05))  # noqa: S311  # repeatable, not secret
                process.kill()
                rest = process.stdout.read()
            acknowledged = int((first + rest).rsplit(b"\n", 2)[-2])
            now = found(replica)
            assert now.sequence in (acknowledged, acknowledged + 1)
            assert replica.check("doc", 0) == Health(now, True)
            assert replica.branches([""])[0].count == 1
            acknowledged = now.sequence
    assert acknowledged > 6


def keep_putting(place: str, first: int) -> None:
    trust = trust_of(ME)
    author, replica = Author(ME, trust), in_sqlite(place, trust)
    for sequence in itertools.count(first):
        with author.version("doc", sequence, gone=sequence % 5 == 4) as copy:
            replica.put(copy, 0)
        os.write(1, b"%d\n" % sequence)


if __name__ == "__main__":
    keep_putting(sys.argv[1], int(sys.argv[2]))


# ---- swaps whose outcome is unknown ----


class Lossy(MemoryPool):
    """Loses the answer of a swap, once: after it was done, or instead of it."""

    lose = ""
    done = True

    def swap(self, key, before, after):
        if not self.lose or self.lose not in key:
            return super().swap(key, before, after)
        self.lose = ""
        if self.done:
            assert super().swap(key, before, after)
        raise StorageError("the link broke; it may have been done all the same", reason="ECONNRESET")


@pytest.fixture
def lossy(trust):
    with (
        contextlib.closing(Lossy()) as pool,
        contextlib.closing(PoolReplica(pool, trust, where="p")) as replica,
    ):
        replica.mark(STAMP)
        yield pool, replica


def test_a_put_whose_answer_was_lost_keeps_its_bytes(lossy, author):
    """It was taken, so it is acknowledged; the bytes of the older one go."""
    pool, replica = lossy
    put(replica, author.version("doc", 1))
    pool.lose = "/head/"
    with author.version("doc", 2) as copy:
        assert replica.put(copy, 0) == copy.stand
        assert replica.look(["doc"], 0) == [copy.stand]
        assert replica.check("doc", 0).valid
    assert len([key for key in pool.keys() if "/body/" in key]) == 1  # noqa: SIM118  # a pool


def test_a_put_that_may_come_yet_keeps_its_bytes(lossy, author):
    pool, replica = lossy
    stand = put(replica, author.version("doc", 1))
    pool.lose, pool.done = "/head/", False
    with author.version("doc", 2) as copy, pytest.raises(StorageError, match="the link broke"):
        replica.put(copy, 0)
    assert replica.look(["doc"], 0) == [stand]
    assert replica.check("doc", 0).valid
    assert len([key for key in pool.keys() if "/body/" in key]) == 2  # noqa: SIM118  # a pool


def test_a_membership_whose_answer_was_lost_is_learned(lossy, author):
    pool, replica = lossy
    pool.lose = "/membership"
    replica.learn(first := author.membership(1))
    assert replica.membership() == first
    pool.lose, pool.done = "/membership", False
    with pytest.raises(StorageError):
        replica.learn(author.membership(2))
    assert replica.membership() == first
    replica.learn(third := author.membership(3))
    assert replica.membership() == third


def test_what_is_set_aside_without_an_answer_is_in_quarantine(lossy, author):
    pool, replica = lossy
    put(replica, author.version("doc", 1))
    pool.lose = "/head/"
    replica.distrust("doc", "a test")
    assert isinstance(replica.look(["doc"], 0)[0], Unsure)
    assert replica.quarantined() == ["doc"]
    assert any("/body/" in key for key in pool.keys())  # noqa: SIM118  # a pool


def test_a_look_at_a_slot_that_cannot_be_read_changes_nothing(tmp_path, trust, author):
    """It may be whole again in the next instant; to replace it is for a put, or a scrub."""
    with (
        FilesystemPool(tmp_path / "pool") as pool,
        contextlib.closing(PoolReplica(pool, trust, where="p")) as replica,
    ):
        replica.mark(STAMP)
        stand = put(replica, author.version("doc", 1))
        path = pool._file(b"replica/store/head/doc")
        data = path.read_bytes()
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        assert isinstance(replica.look(["doc"], 0)[0], Unsure)
        assert replica.names(0).unsure == ["doc"]
        path.write_bytes(data)
        assert replica.look(["doc"], 0) == [stand]
        path.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
        assert not dict(replica.scrub())["doc"].valid
        assert path.read_bytes() != data, "now it has a mark"
        assert replica.look(["doc"], 0)[0].mark
