"""The memory pool keeps the conformance suite, and its bounds."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pool_conformance import PoolConformance, content, record

from laila.errors import LimitExceeded
from laila.pools import DefaultPool, MemoryPool


class TestMemoryPool(PoolConformance):
    def make(self, directory: Path) -> MemoryPool:
        return MemoryPool()


def test_the_default_pool_is_in_memory() -> None:
    assert DefaultPool is MemoryPool


def test_buffers_are_kept_without_a_copy() -> None:
    buffer = bytearray(b"0123")
    pool = MemoryPool()
    pool.put("k", record(buffer))
    assert pool.get("k").buffers[0].obj is buffer


@pytest.mark.parametrize("bound", [{"max_entries": 2}, {"max_bytes": 28}])
def test_a_bound_is_an_error_that_names_it_and_changes_nothing(bound: dict[str, int]) -> None:
    pool = MemoryPool(**bound)
    pool.put_many([("a", record(b"0123456789")), ("b", record(b"0123456789"))])
    with pytest.raises(LimitExceeded, match=next(iter(bound))):
        pool.put("c", record(b"0123456789"))
    with pytest.raises(LimitExceeded):
        pool.put_many([("a", record(b"new")), ("c", record()), ("d", record(b"01234567890123456789"))])
    assert sorted(pool) == ["a", "b"]
    assert content(pool.get("a")) == content(record(b"0123456789"))
    pool.put("a", record(b"012345678"))
    pool.delete("b")
    pool.put("c", record(b"0123456789"))


def test_the_byte_count_stays_true_under_threads() -> None:
    pool, interval = MemoryPool(), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:

        def work(number: int) -> None:
            for step in range(4000):
                pool.put("k", record(bytes((step * 7 + number) % 97)))
                if step % 5 == 0:
                    pool.delete("k")

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(work, range(4)))
    finally:
        sys.setswitchinterval(interval)
    assert pool.nbytes() == sum(found.nbytes for found in pool.get_many(list(pool)))


def test_a_fill_that_does_not_fit_leaves_the_read_its_answer() -> None:
    pool, upstream = MemoryPool(max_entries=0), MemoryPool()
    pool << upstream
    upstream.put("k", record(b"far"))
    assert content(pool.get("k")) == content(record(b"far"))
    assert pool.fill_failures == 1
    assert isinstance(pool.last_fill_failure, LimitExceeded)
    assert pool.count() == 0
