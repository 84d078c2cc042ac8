"""Futures, groups, guarantee: local ones here, those of peers in tests/peering."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

import laila
from laila.errors import DeadlineExceeded, EntryNotFound, UnknownPool
from laila.futures import Future, FutureGroup, Status
from laila.macros.defaults import DefaultPolicy


def later(future: Future, value: object, seconds: float = 0.05) -> None:
    threading.Timer(seconds, future.resolve, [value]).start()


def test_wait_returns_data() -> None:
    future = Future("call")
    assert future.status is Status.PENDING
    later(future, 5)
    assert future.wait(5) == 5
    assert (future.status, future.data, future.result, future.exception) == (Status.DONE, 5, 5, None)


def test_wait_can_time_out_and_go_on() -> None:
    future = Future("the call")
    with pytest.raises(DeadlineExceeded, match=r"the call: no answer within 0\.01 s"):
        future.wait(0.01)
    later(future, 1)
    assert future.data == 1


def test_an_error_is_raised_by_every_way_to_the_value() -> None:
    future = Future()
    future.reject(EntryNotFound("gone"))
    assert future.status is Status.FAILED
    assert isinstance(future.exception, EntryNotFound)
    for way in (lambda: future.wait(), lambda: future.data, lambda: future.result):
        with pytest.raises(EntryNotFound, match="gone"):
            way()


def test_callbacks_run_once_each() -> None:
    for _ in range(200):
        future = Future()
        seen: list[int] = []
        thread = threading.Thread(target=future.resolve, args=[1])
        thread.start()
        for number in range(5):
            future.add_done_callback(lambda _, number=number, seen=seen: seen.append(number))
        thread.join()
        assert sorted(seen) == list(range(5))


def test_many_threads_wait_for_one() -> None:
    future, seen = Future(), []
    threads = [threading.Thread(target=lambda: seen.append(future.wait(5))) for _ in range(8)]
    for thread in threads:
        thread.start()
    future.resolve("x")
    for thread in threads:
        thread.join(5)
    assert seen == ["x"] * 8


def test_groups_are_ordered_and_raise_the_first_error() -> None:
    futures = [Future(str(number)) for number in range(3)]
    group = FutureGroup(futures)
    assert len(group) == 3
    assert group[1] is futures[1]
    assert group.status is Status.PENDING
    for number, future in reversed(list(enumerate(futures))):
        later(future, number)
    assert group.wait(5) == [0, 1, 2]
    broken = FutureGroup([Future(), Future()])
    broken[0].reject(EntryNotFound("first"))
    broken[1].reject(UnknownPool("second"))
    assert broken.status is Status.FAILED
    with pytest.raises(EntryNotFound, match="first"):
        broken.wait()


def test_a_group_waits_for_its_deadline_only_once() -> None:
    group = FutureGroup([Future(), Future(), Future()])
    started = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        group.wait(0.2)
    assert time.monotonic() - started < 0.5


def test_guarantee_raises_the_first_error_of_its_block() -> None:
    with DefaultPolicy() as policy, laila.using(policy):
        entry = laila.constant(1)
        with laila.guarantee:
            stored = laila.memorize(entry)
        assert stored.status is Status.DONE
        with pytest.raises(EntryNotFound, match="nothing-here"), laila.guarantee:
            laila.remember("nothing-here")
        with pytest.raises(ZeroDivisionError), laila.guarantee:
            laila.remember("nothing-here")
            raise ZeroDivisionError


def test_guarantee_blocks_nest() -> None:
    with DefaultPolicy() as policy, laila.using(policy), laila.guarantee:
        laila.memorize(laila.constant(1, nickname="a"))
        with laila.guarantee:
            inner = laila.remember(nickname="a")
        assert inner.done


def test_futures_are_awaited() -> None:
    async def main() -> None:
        with DefaultPolicy() as policy, laila.using(policy):
            entry = laila.constant([1, 2])
            assert await laila.memorize(entry) == entry.global_id
            async with laila.guarantee_async:
                future = laila.remember(entry)
            assert future.data == [1, 2]
            with pytest.raises(EntryNotFound):
                async with laila.guarantee_async:
                    laila.remember("nothing")
            assert await FutureGroup([laila.remember(entry), laila.exists(entry)]) == [[1, 2], True]

    asyncio.run(main())


def test_an_awaiting_task_can_be_cancelled() -> None:
    async def main() -> None:
        future = Future()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(future, 0.05)
        later(future, 3)
        assert await future == 3

    asyncio.run(main())


def test_a_future_keeps_nothing_alive() -> None:
    import gc
    import weakref

    with DefaultPolicy() as policy:
        reference = weakref.ref(policy.memorize(laila.constant(1)))
        gc.collect()
        assert reference() is None
