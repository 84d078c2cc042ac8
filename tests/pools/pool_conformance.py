"""What must hold for every pool. A store's test file subclasses PoolConformance and says how to make one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from laila import errors
from laila.codec import Encoded
from laila.entries import constant
from laila.pools import MemoryPool, Pool

STRANGE_KEYS = [
    "", ".", "..", "../up", "a/b", "/etc/passwd", "nul\0inside", "\0", "CON", "a=2fb", "=", "%2f", "a.rec",
    "A", "a", "\u00e9", "e\u0301", "\u212a", "k", "line\nbreak", " ", "\U0001f600" * 40, "x" * 5000,
    "y" * 200 + "/", "-", "~",
]  # fmt: skip


def record(*buffers: bytes, head: bytes = b"head") -> Encoded:
    return Encoded(head, buffers)


def content(found: Encoded | None) -> tuple[bytes, list[bytes]] | None:
    """A record by value; pools may hand out views."""
    return None if found is None else (bytes(found.head), [bytes(buffer) for buffer in found.buffers])


def count_up(pool: Pool, times: int) -> None:
    """Add to a counter that others add to as well."""
    for _ in range(times):
        while True:
            before = pool.get("counter")
            after = Encoded(b"%d" % (1 + (0 if before is None else int(before.head))), (b"padding",))
            if pool.swap("counter", before, after):
                break


class PoolConformance:
    """Subclasses say how a pool is made in a directory of its own, and how often each thread counts."""

    each_counts: ClassVar[int] = 25

    def make(self, directory: Path) -> Pool:
        raise NotImplementedError

    @pytest.fixture
    def pool(self, tmp_path: Path) -> Iterator[Pool]:
        with self.make(tmp_path) as pool:
            yield pool

    # -- records --------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        "stored",
        [
            Encoded(b"only a head"),
            Encoded(b""),
            record(b""),
            record(b"", b"x", b"", b"y" * 63, b"z" * 64, b"w" * 65),
            Encoded(b"h" * 70_000, tuple(bytes([i]) * i for i in range(200))),
            record(bytearray(b"writable"), memoryview(b"view")[1:3]),
            record(bytes(range(256)) * 5000, b"tail"),
        ],
    )
    def test_a_record_comes_back_byte_for_byte(self, pool: Pool, stored: Encoded) -> None:
        pool.put("k", stored)
        assert content(pool.get("k")) == content(stored)
        assert content(pool.get_many(["k"])[0]) == content(stored)

    def test_a_record_of_several_chunks_comes_back_byte_for_byte(self, pool: Pool) -> None:
        big = bytes(range(256)) * (10 << 12)
        stored = record(big, b"small", big[1:], big[:-3])
        pool.put("k", stored)
        assert content(pool.get("k")) == content(stored)
        assert content(pool.get_many(["other", "k"])[1]) == content(stored)
        pool.put("k", record(b"now small"))
        assert content(pool.get("k")) == content(record(b"now small"))
        pool.put("k", stored)
        assert pool.delete("k")
        assert pool.get("k") is None

    def test_what_is_handed_out_cannot_be_written_through(self, pool: Pool) -> None:
        pool.put("k", record(bytearray(100), bytearray(2 << 20)))
        for buffer in pool.get("k").buffers:
            assert memoryview(buffer).readonly

    def test_a_put_replaces(self, pool: Pool) -> None:
        pool.put("k", record(b"one"))
        pool.put("k", record(b"two"))
        assert content(pool.get("k")) == content(record(b"two"))
        assert pool.count() == 1

    def test_a_missing_key_is_none_or_false_or_not_found(self, pool: Pool) -> None:
        assert pool.get("k") is None
        assert pool.exists("k") is False
        assert "k" not in pool
        assert 5 not in pool
        assert pool.delete("k") is False
        assert pool.delete_many(["k", "l"]) == 0
        assert pool.get_many(["k", "l"]) == [None, None]
        with pytest.raises(errors.EntryNotFound, match="'k'") as caught:
            pool["k"]
        assert caught.value.missing == ("k",)
        with pytest.raises(KeyError):
            del pool["k"]

    def test_batches_keep_the_order_and_the_last_of_equal_keys(self, pool: Pool) -> None:
        pool.put_many([("a", record(b"1")), ("b", record(b"2")), ("a", record(b"3"))])
        found = pool.get_many(["b", "missing", "a", "b"])
        assert list(map(content, found)) == [
            content(record(b"2")), None, content(record(b"3")), content(record(b"2")),
        ]  # fmt: skip
        assert pool.exists_many(["b", "missing", "a"]) == [True, False, True]
        assert pool.delete_many(["a", "a", "missing", "b"]) == 2
        assert pool.count() == 0

    def test_empty_batches_do_nothing(self, pool: Pool) -> None:
        pool.put_many([])
        assert pool.get_many([]) == []
        assert pool.exists_many([]) == []
        assert pool.delete_many([]) == 0

    def test_keys_count_nbytes_and_empty_tell_what_is_here(self, pool: Pool) -> None:
        empty = (list(pool.keys()), pool.count(), len(pool), pool.nbytes())
        assert empty == ([], 0, 0, 0)
        pool.put_many([(f"k{i}", record(bytes(1000))) for i in range(300)])
        assert sorted(pool) == sorted(f"k{i}" for i in range(300))
        assert pool.count() == len(pool) == 300
        assert 300 * 1004 <= pool.nbytes() <= 300 * 1300
        pool.put("k0", record(bytes(100)))
        assert pool.nbytes() >= 299 * 1004 + 104
        pool.empty()
        assert (list(pool.keys()), pool.count(), len(pool), pool.nbytes()) == empty

    def test_keys_do_not_mind_changes(self, pool: Pool) -> None:
        pool.put_many([(f"k{i}", record()) for i in range(20)])
        seen = []
        for number, key in enumerate(pool.keys()):
            seen.append(key)
            pool.put(f"new{number}", record())
            pool.delete(key)
        assert {f"k{i}" for i in range(20)} <= set(seen)

    def test_an_empty_pool_is_true(self, pool: Pool) -> None:
        assert pool

    def test_probe_passes_on_a_pool_that_works_and_leaves_nothing(self, pool: Pool) -> None:
        pool.probe()
        pool.probe(write=True)
        assert pool.count() == 0

    # -- swap -----------------------------------------------------------------------------------------------

    def test_a_swap_stores_only_over_what_it_expects(self, pool: Pool) -> None:
        one, two = record(b"one", b""), record(b"two")
        assert pool.swap("k", one, two) is False
        assert pool.get("k") is None
        assert pool.swap("k", None, one) is True
        assert pool.swap("k", None, two) is False
        for other in (two, Encoded(b"head"), Encoded(b"head", (b"one",)), Encoded(b"other", (b"one", b""))):
            assert pool.swap("k", other, two) is False
        assert content(pool.get("k")) == content(one)
        assert pool.swap("k", pool.get("k"), two) is True
        assert content(pool.get("k")) == content(two)
        assert pool.delete("k")
        assert pool.swap("k", two, one) is False
        assert pool.swap("k", None, one) is True
        assert pool.count() == 1
        assert pool.nbytes() >= 7

    def test_a_swap_is_local_and_takes_any_key_and_any_buffer(self, pool: Pool) -> None:
        last = MemoryPool()
        pool << last
        last.put("k", record(b"far"))
        assert pool.swap("k", record(b"far"), record(b"near")) is False
        for key in STRANGE_KEYS:
            assert pool.swap(key, None, record(bytearray(b"writable"), memoryview(b"view")[1:3]))
            assert pool.swap(key, record(memoryview(b"writable"), b"ie"), record(key.encode()))
            assert content(pool.get(key)) == content(record(key.encode()))
        assert content(last.get("k")) == content(record(b"far"))

    def test_a_swap_moves_records_of_several_chunks(self, pool: Pool) -> None:
        big = bytes(range(256)) * (10 << 12)
        one, two = record(big, b"small", big[1:]), record(big[2:], big)
        assert pool.swap("k", None, one)
        assert not pool.swap("k", record(big, b"small", big[:-1]), two)
        assert pool.swap("k", one, two)
        assert content(pool.get("k")) == content(two)
        assert pool.swap("k", two, record(b"now small"))
        assert content(pool.get("k")) == content(record(b"now small"))

    def test_threads_that_count_by_swap_lose_nothing(self, pool: Pool) -> None:
        with ThreadPoolExecutor(8) as threads:
            done = [threads.submit(count_up, pool, self.each_counts) for _ in range(8)]
            for each in done:
                each.result(120)
        assert int(pool.get("counter").head) == 8 * self.each_counts

    def test_a_swap_is_one_step_also_against_puts_and_deletes(self, pool: Pool) -> None:
        """What a put stored is never undone by a swap that did not see it."""
        stop = threading.Event()

        def swap() -> None:
            while not stop.is_set():
                pool.swap("k", record(b"old"), record(b"swapped"))

        with ThreadPoolExecutor(2) as threads:
            swapping = threads.submit(swap)
            try:
                for number in range(self.each_counts):
                    pool.put("k", record(b"old"))
                    pool.put("k", record(b"put %d" % number))
                    assert content(pool.get("k")) == content(record(b"put %d" % number))
                    pool.put("k", record(b"old"))
                    pool.delete("k")
                    assert pool.get("k") is None
            finally:
                stop.set()
            swapping.result(60)

    # -- keys -----------------------------------------------------------------------------------------------

    def test_any_text_is_a_key(self, pool: Pool) -> None:
        for key in STRANGE_KEYS:
            pool.put(key, record(key.encode()))
        assert sorted(pool.keys()) == sorted(STRANGE_KEYS)
        for key in STRANGE_KEYS:
            assert content(pool.get(key)) == content(record(key.encode()))
        for key in STRANGE_KEYS:
            assert pool.delete(key)
        assert pool.count() == 0

    @pytest.mark.parametrize("key", [7, None, b"bytes", "half a pair \ud800", "x" * 70_000])
    def test_what_cannot_be_a_key_is_refused_and_nothing_is_stored(self, pool: Pool, key: object) -> None:
        with pytest.raises(errors.BadValue):
            pool.put(key, record())
        with pytest.raises(errors.BadValue):
            pool.put_many([("good", record()), (key, record())])
        with pytest.raises(errors.BadValue):
            pool.get(key)
        with pytest.raises(errors.BadValue):
            pool.swap(key, None, record())
        assert pool.count() == 0

    # -- user level -----------------------------------------------------------------------------------------

    def test_values_and_entries_come_back_as_payloads(self, pool: Pool) -> None:
        pool["v"] = {"a": [1, 2.5, None]}
        pool["e"] = constant(("x", b"y"))
        assert pool["v"] == {"a": [1, 2.5, None]}
        assert pool["e"] == ("x", b"y")
        del pool["v"]
        assert "v" not in pool
        assert "e" in pool

    # -- closing --------------------------------------------------------------------------------------------

    def test_a_closed_pool_says_so(self, pool: Pool) -> None:
        pool.put("k", record())
        assert not pool.closed
        pool.close()
        pool.close()
        assert pool.closed
        assert "closed" in repr(pool)
        for use in (
            lambda: pool.get("k"), lambda: pool.put("k", record()), lambda: pool.delete("k"),
            lambda: pool.exists("k"), lambda: pool.get_many(["k"]), lambda: pool.put_many([("k", record())]),
            lambda: pool.delete_many(["k"]), lambda: pool.keys(), pool.count, pool.nbytes, pool.probe,
            pool.empty, lambda: pool.exists_many(["k"]), lambda: pool.swap("k", None, record()),
        ):  # fmt: skip
            with pytest.raises(errors.PoolClosed):
                use()

    # -- threads --------------------------------------------------------------------------------------------

    def test_threads_lose_nothing_and_see_whole_records(self, pool: Pool) -> None:
        start = threading.Barrier(6)

        def work(number: int) -> None:
            start.wait(10)
            for step in range(12):
                own = bytes([number]) * (1000 + step)
                pool.put_many([(f"{number}-{step}", record(own)), ("shared", record(own, own))])
                first, second = pool.get("shared").buffers
                assert bytes(first) == bytes(second)
                assert len(set(bytes(first))) == 1
                assert content(pool.get(f"{number}-{step}")) == content(record(own))
                list(pool.keys())

        with ThreadPoolExecutor(6) as threads:
            list(threads.map(work, range(6)))
        assert pool.count() == 6 * 12 + 1
        assert pool.delete_many(list(pool.keys())) == 73
        assert pool.nbytes() == 0

    # -- read-through ---------------------------------------------------------------------------------------

    def test_reads_cascade_and_fill_every_pool_on_the_way(self, pool: Pool) -> None:
        first, last = MemoryPool(), MemoryPool()
        assert (first << pool << last) is last
        last.put("k", record(b"far"))
        assert content(first.get("k")) == content(record(b"far"))
        assert last.delete("k")
        assert content(pool.get("k")) == content(record(b"far"))
        assert content(first.get("k")) == content(record(b"far"))

    def test_batches_cascade_and_fill(self, pool: Pool) -> None:
        last = MemoryPool()
        pool << last
        last.put_many([("a", record(b"far")), ("b", record(b"far"))])
        pool.put("a", record(b"near"))
        found = pool.get_many(["b", "a", "missing", "b"])
        assert list(map(content, found)) == [
            content(record(b"far")), content(record(b"near")), None, content(record(b"far")),
        ]  # fmt: skip
        last.empty()
        assert sorted(pool.keys()) == ["a", "b"]

    def test_exists_cascades_and_fills_nothing(self, pool: Pool) -> None:
        last = MemoryPool()
        pool << last
        last.put("k", record())
        assert pool.exists("k")
        assert pool.exists_many(["x", "k"]) == [False, True]
        assert pool.count() == 0

    def test_writes_and_deletes_are_local(self, pool: Pool) -> None:
        last = MemoryPool()
        pool << last
        pool.put("k", record(b"near"))
        assert last.get("k") is None
        last.put("k", record(b"far"))
        assert pool.delete("k")
        assert content(pool.get("k")) == content(record(b"far"))  # it came back from upstream
        pool.empty()
        assert last.count() == 1

    def test_a_fill_never_overwrites_what_was_written_meanwhile(self, pool: Pool) -> None:
        class Upstream(MemoryPool):
            def get(self, key: str) -> Encoded | None:
                pool.put(key, record(b"written meanwhile"))
                return record(b"old")

        pool << Upstream()
        assert content(pool.get("k")) == content(record(b"old"))
        pool.upstream = None
        assert content(pool.get("k")) == content(record(b"written meanwhile"))

    def test_a_chain_that_would_be_a_circle_is_refused(self, pool: Pool) -> None:
        second, third = MemoryPool(), MemoryPool()
        pool << second << third
        for last in (pool, second, third):
            with pytest.raises(errors.BadValue, match="circle"):
                third << pool if last is third else last << last
        assert third.upstream is None
        pool.upstream = None
        third << pool

    # -- against a model ------------------------------------------------------------------------------------

    @settings(
        max_examples=25,
        deadline=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,  # one pool for all examples: each begins by emptying it
            HealthCheck.differing_executors,  # one test, run by every subclass, on its own kind of pool
        ],
    )
    @given(data=st.data())
    def test_it_behaves_like_a_dict(self, pool: Pool, data: st.DataObject) -> None:
        pool.empty()
        model: dict[str, tuple[bytes, list[bytes]]] = {}
        keys = st.sampled_from(["", "a", "A", "/", "\0", "z" * 300, "k1", "k2"])
        records = st.builds(
            Encoded, st.binary(max_size=20), st.lists(st.binary(max_size=100), max_size=3).map(tuple)
        )
        steps = st.one_of(
            st.tuples(st.just("put"), keys, records),
            st.tuples(st.just("put_many"), st.lists(st.tuples(keys, records), max_size=5)),
            st.tuples(st.just("delete"), keys),
            st.tuples(st.just("delete_many"), st.lists(keys, max_size=5)),
            st.tuples(st.just("get_many"), st.lists(keys, max_size=5)),
            st.tuples(st.just("empty")),
        )
        for name, *arguments in data.draw(st.lists(steps, max_size=12)):
            result = getattr(pool, name)(*arguments)
            if name == "put":
                model[arguments[0]] = content(arguments[1])
            elif name == "put_many":
                model.update((key, content(stored)) for key, stored in arguments[0])
            elif name == "delete":
                assert result is (model.pop(*arguments, None) is not None)
            elif name == "delete_many":
                assert result == sum(model.pop(key, None) is not None for key in arguments[0])
            elif name == "get_many":
                assert list(map(content, result)) == [model.get(key) for key in arguments[0]]
            else:
                model.clear()
        assert {key: content(pool.get(key)) for key in pool.keys()} == model  # noqa: SIM118 - the method is tested
        assert pool.count() == len(model)
        assert pool.nbytes() >= sum(len(head) + sum(map(len, rest)) for head, rest in model.values())
