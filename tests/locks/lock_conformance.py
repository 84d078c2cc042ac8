"""What every lock service does, as one suite: subclass LockConformance and give it a `url`.

Two services on one place stand for two nodes; `Locker` is another process. Nothing is timed, all waiting is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from laila.errors import BadName, BadValue, LockLost, LockReentered, LockTimeout, LockUnavailable
from laila.locks import LockService, connect
from tests.locks.locker import Locker

SOON = 20.0
"""Seconds within which everything here happens that does not wait for a lease."""


class LockConformance:
    """Subclasses give the fixture `url`; `freed_within` is how long a dead holder may block others, in seconds."""

    freed_within = 10.0

    @pytest.fixture
    def service(self, url: str) -> Iterator[LockService]:
        with connect(url, node="here") as service:
            yield service

    @pytest.fixture
    def another(self, url: str) -> Iterator[LockService]:
        """What another node has: it shares nothing with `service` but the place."""
        with connect(url, node="another") as service:
            yield service

    @pytest.fixture
    def other(self, url: str) -> Iterator[Locker]:
        """Another process on the same place."""
        with Locker(url) as locker:
            yield locker

    # --- exclusion

    def test_who_holds_it_keeps_everybody_else_out(self, service, another):
        """Another service is refused while it is held, and gets it afterwards."""
        with service.lock("a").acquire(0):
            assert another.lock("a").try_acquire() is None
        with another.lock("a").acquire(0):
            assert service.lock("a").try_acquire() is None

    def test_other_processes_are_kept_out(self, service, other):
        """Exclusion holds in both directions between two processes."""
        with service.lock("a").acquire(0):
            assert "LockTimeout" in other("acquire", "a", 0)
        assert isinstance(other("acquire", "a", SOON), int)
        assert service.lock("a").try_acquire() is None
        other("release", "a")
        service.lock("a").acquire(SOON).release()

    def test_other_threads_are_kept_out(self, service):
        """A second thread of this process, with the same Lock object, is refused and not told that it re-enters."""
        lock = service.lock("a")
        with lock.acquire(0), ThreadPoolExecutor(1) as pool:
            assert pool.submit(lock.try_acquire).result(SOON) is None

    def test_names_do_not_disturb_each_other(self, service, another):
        """Another name is another lock."""
        with service.lock("a").acquire(0), service.lock("b").acquire(0), another.lock("c").acquire(0):
            assert another.lock("b").try_acquire() is None

    @pytest.mark.parametrize("first", [False, True])
    @pytest.mark.parametrize("second", [False, True])
    def test_shared_holds_go_with_each_other_only(self, service, another, first, second):
        """Shared with shared; every pair that has an exclusive one in it is refused."""
        self._needs_shared(service)
        with service.lock("a").acquire(0, shared=first):
            got = another.lock("a").try_acquire(shared=second)
            assert (got is not None) == (first and second)
            if got is not None:
                got.release()

    def test_a_shared_lock_is_not_given_where_there_is_none(self, service):
        """A service without shared holds says so instead of giving an exclusive one."""
        if service.capabilities.shared:
            service.lock("a").acquire(0, shared=True).release()
        else:
            with pytest.raises(LockUnavailable, match="cannot be shared"):
                service.lock("a").acquire(0, shared=True)

    def test_four_processes_never_overlap(self, url):
        """Hold intervals of four processes that hammer one lock are disjoint, and tokens rise in their order."""
        intervals = self._hammered(url, turns=25, share=0.0)
        assert len(intervals) == 100
        intervals.sort()
        for (_, end, token, _), (start, _, later, _) in itertools.pairwise(intervals):
            assert end <= start
            assert token < later

    def test_writers_never_overlap_readers(self, service, url):
        """With shared holds among them: no exclusive interval overlaps any other, and readers carry the last token."""
        self._needs_shared(service)
        intervals = sorted(self._hammered(url, turns=20, share=0.5))
        exclusive = [each for each in intervals if not each[3]]
        assert exclusive
        assert len(exclusive) < len(intervals)
        for start, end, token, _ in exclusive:
            for other_start, other_end, other_token, shared in intervals:
                if other_token == token and not shared:
                    continue
                assert other_end <= start or end <= other_start
                if end <= other_start:
                    assert other_token >= token

    def test_threads_never_overlap(self, service):
        """Eight threads with one Lock object: at most one is inside."""
        lock, inside, seen = service.lock("a"), [0], []

        def work() -> None:
            for _ in range(10):
                with lock.acquire(SOON * 3) as hold:
                    inside[0] += 1
                    seen.append((inside[0], hold.token))
                    time.sleep(0.0005)
                    inside[0] -= 1

        with ThreadPoolExecutor(8) as pool:
            for each in [pool.submit(work) for _ in range(8)]:
                each.result(SOON * 4)
        assert [count for count, _ in seen] == [1] * 80
        assert [token for _, token in seen] == sorted({token for _, token in seen})

    # --- fencing tokens

    def test_tokens_rise_with_every_exclusive_hold(self, service, another):
        """Whoever acquires, on whichever node: each token is greater than all before."""
        tokens = []
        for each in [service, another, service, service, another]:
            with each.lock("a").acquire(0) as hold:
                tokens.append(hold.token)
        assert tokens == sorted(set(tokens))

    def test_tokens_rise_over_services_and_processes(self, url, service, other):
        """A service that was closed and opened again, and another process, go on where the last one stopped."""
        with service.lock("a").acquire(0) as hold:
            first = hold.token
        service.close()
        second = other("acquire", "a", SOON)
        other("release", "a")
        with connect(url) as fresh, fresh.lock("a").acquire(SOON) as hold:
            assert first < second < hold.token

    def test_shared_holds_carry_the_last_exclusive_token(self, service, another):
        """A reader learns which writer was the last before it."""
        self._needs_shared(service)
        with service.lock("a").acquire(0) as hold:
            token = hold.token
        with (
            another.lock("a").acquire(0, shared=True) as one,
            service.lock("a").acquire(0, shared=True) as two,
        ):
            assert (one.token, two.token) == (token, token)
            assert one.shared
        with service.lock("a").acquire(0) as hold:
            assert hold.token > token
            assert not hold.shared

    # --- waiting

    def test_a_timeout_says_who_holds_it(self, service, another):
        """LockTimeout names host, node, process and purpose of the holder, and how long it waited."""
        with service.lock("a").acquire(0, purpose="a long story"):
            with pytest.raises(LockTimeout) as caught:
                another.lock("a").acquire(0.2)
        for part in ("'a'", f"pid {os.getpid()}", "node here", "a long story", "0.2 s"):
            assert part in str(caught.value)
        assert f"pid {os.getpid()}" in caught.value.holder

    def test_a_timeout_waits_that_long(self, service, another):
        """Not shorter than asked for."""
        with service.lock("a").acquire(0):
            before = time.monotonic()
            with pytest.raises(LockTimeout):
                another.lock("a").acquire(0.3)
            assert time.monotonic() - before >= 0.3

    def test_a_waiter_gets_it_when_it_is_released(self, service, another):
        """A blocked thread goes on after the release, whether its wait has an end or none."""
        for timeout in (SOON, None):
            hold = service.lock("a").acquire(0)
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(another.lock("a").acquire, timeout)
                time.sleep(0.1)
                assert not waiting.done()
                hold.release()
                got = waiting.result(SOON)
            assert got.token > hold.token
            got.release()

    def test_a_waiter_in_another_process_gets_it(self, service, other):
        """The same between processes."""
        hold = service.lock("a").acquire(0)
        other.send("acquire", "a", SOON)
        time.sleep(0.3)
        hold.release()
        assert other.answer() > hold.token

    def test_who_timed_out_left_nothing_behind(self, service, another):
        """After a timeout the lock is free for all when its holder lets go, also for the one who gave up."""
        mine, theirs = service.lock("a"), another.lock("a")
        hold = mine.acquire(0)
        for _ in range(3):
            with pytest.raises(LockTimeout):
                theirs.acquire(0.05)
        hold.release()
        mine.acquire(SOON).release()
        theirs.acquire(SOON).release()
        mine.acquire(SOON).release()

    @pytest.mark.parametrize("timeout", [-1, float("nan")])
    def test_a_timeout_that_is_no_time_is_refused(self, service, timeout):
        """BadValue, and nothing is held."""
        lock = service.lock("a")
        with pytest.raises(BadValue, match="timeout"):
            lock.acquire(timeout)
        lock.acquire(0).release()

    # --- re-entrancy

    def test_asking_again_is_refused_at_once(self, service):
        """The holder's second request raises LockReentered in whatever form, also through another Lock object."""
        lock = service.lock("a")
        with lock:
            for again in (lock, service.lock("a")):
                with pytest.raises(LockReentered, match="'a'"):
                    again.acquire(SOON)
                with pytest.raises(LockReentered):
                    again.try_acquire()
                with pytest.raises(LockReentered):
                    with again:
                        pass
        lock.acquire(0).release()

    def test_asking_again_for_a_shared_hold_is_refused(self, service):
        """A waiting writer in between would make it wait for itself."""
        self._needs_shared(service)
        with service.lock("a").shared():
            with pytest.raises(LockReentered):
                service.lock("a").acquire(SOON, shared=True)
            with pytest.raises(LockReentered):
                service.lock("a").acquire(SOON)

    def test_a_task_that_asks_again_is_refused(self, service):
        """Tasks are holders of their own: the same task is refused, another one waits."""
        lock = service.lock("a")

        async def main() -> None:
            async with lock:
                with pytest.raises(LockReentered):
                    await lock.acquire_async(SOON)
                with pytest.raises(LockTimeout):
                    await asyncio.create_task(lock.acquire_async(0.05))
                await asyncio.create_task(blocked())

        async def blocked() -> None:
            with pytest.raises(LockReentered, match="event loop"):
                lock.acquire(SOON)  # would block the loop whose other task must release
            assert lock.try_acquire() is None

        asyncio.run(asyncio.wait_for(main(), SOON))
        lock.acquire(SOON).release()  # a waiter that gave up may have it for an instant yet

    # --- holds

    def test_context_managers_release(self, service, another):
        """`with lock`, `lock.hold()` and `lock.shared()` hold inside and release at the end, also after an error."""
        lock, theirs = service.lock("a"), another.lock("a")
        ways = [lambda: lock, lock.hold, lambda: lock.hold(1, purpose="x")]
        if service.capabilities.shared:
            ways.append(lock.shared)
        for way in ways:
            with pytest.raises(ZeroDivisionError):
                with way() as hold:
                    assert not hold.lost
                    assert lock.held is hold
                    assert theirs.try_acquire() is None
                    raise ZeroDivisionError
            assert hold.lost
            assert lock.held is None
            theirs.acquire(SOON).release()

    def test_with_waits_as_long_as_the_lock_says(self, service, another):
        """The timeout given to `lock()` is the one of `with`."""
        with service.lock("a"):
            with pytest.raises(LockTimeout, match=r"0\.1 s"):
                with another.lock("a", timeout=0.1):
                    pass

    def test_a_hold_stands_until_it_is_released(self, service):
        """`lost` is False and `check` silent while held; afterwards `lost` is True and `check` raises."""
        hold = service.lock("a").acquire(0)
        assert not hold.lost
        hold.check()
        assert not service.lock("a").lost
        hold.release()
        assert hold.lost
        assert service.lock("a").lost
        with pytest.raises(LockLost, match="released"):
            hold.check()

    def test_releasing_twice_does_not_take_it_from_the_next(self, service, another):
        """A second release is nothing, even when somebody else, or the same thread anew, holds it by then."""
        hold = service.lock("a").acquire(0)
        hold.release()
        with another.lock("a").acquire(SOON) as theirs:
            hold.release()
            assert service.lock("a").try_acquire() is None
            assert not theirs.lost
        with service.lock("a").acquire(SOON) as mine:
            hold.release()
            assert service.lock("a").held is mine
            assert another.lock("a").try_acquire() is None

    def test_another_thread_may_release(self, service, another):
        """A hold may be passed on."""
        hold = service.lock("a").acquire(0)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(hold.release).result(SOON)
        another.lock("a").acquire(SOON).release()
        service.lock("a").acquire(SOON).release()

    # --- who holds it

    def test_the_holder_is_named(self, service, another):
        """Both sides see node, process, purpose and token of the exclusive holder, and nobody when it is free."""
        mine, theirs = service.lock("a"), another.lock("a")
        assert mine.holder() is None
        before = time.time()
        with mine.acquire(0, purpose="testing") as hold:
            for holder in (mine.holder(), theirs.holder()):
                assert holder is not None
                assert (holder.node, holder.pid, holder.purpose) == ("here", os.getpid(), "testing")
                assert holder.token == hold.token
                assert before - 2 <= holder.since <= time.time() + 2
        assert mine.holder() is None
        assert theirs.holder() is None

    def test_a_killed_holder_gives_it_up(self, service, other):
        """After kill -9 somebody else gets it with a greater token, and the dead one is named no longer."""
        token = other("acquire", "a", SOON)
        assert service.lock("a").holder().pid == other.pid
        other.kill()
        with service.lock("a").acquire(self.freed_within) as hold:
            assert hold.token > token
            assert service.lock("a").holder().pid == os.getpid()
        assert service.lock("a").holder() is None

    def test_a_dead_holder_is_not_named(self, service, other):
        """Also while nobody has taken the lock after it."""
        other("acquire", "a", SOON)
        other.kill()
        until = time.monotonic() + self.freed_within
        while service.lock("a").holder() is not None:
            assert time.monotonic() < until
            time.sleep(0.02)

    def test_a_purpose_may_be_any_text(self, service, another):
        """Line breaks, quotes, other alphabets and great length do no harm; what is not text is refused."""
        lock = service.lock("a")
        for purpose in ("two\nlines\0", "'quoted' \"twice\"", "ключ 鍵 🔑" * 30, "x" * 5000, "| a=b |"):
            with lock.acquire(0, purpose=purpose):
                holder = another.lock("a").holder()
                assert holder is not None
                assert holder.pid == os.getpid()
                assert "\n" not in str(holder)
        with pytest.raises(BadValue, match="purpose"):
            lock.acquire(0, purpose=b"bytes")

    # --- asyncio

    def test_async_with_holds_and_the_loop_goes_on(self, service, another):
        """While a task waits for the lock, other tasks run; then it holds it."""
        hold = service.lock("a").acquire(0)
        lock = another.lock("a")

        async def main() -> None:
            async def waiter() -> int:
                async with lock as got:
                    assert service.lock("a").try_acquire() is None
                    return got.token

            waiting = asyncio.create_task(waiter())
            ticks = 0
            while ticks < 20:
                await asyncio.sleep(0.005)
                ticks += 1
            assert not waiting.done()
            hold.release()
            assert await waiting > hold.token

        asyncio.run(asyncio.wait_for(main(), SOON))
        service.lock("a").acquire(SOON).release()

    def test_cancelling_a_wait_leaks_nothing(self, service, another):
        """Tasks that are cancelled while they wait, or just as they get it, hold nothing afterwards."""
        lock, theirs = service.lock("a"), another.lock("a")

        async def main() -> None:
            for delay in (0, 0, 0.0001, 0.0005, 0.001, 0.005, 0.02):
                hold = await theirs.acquire_async(SOON)
                waiting = [asyncio.create_task(lock.acquire_async(SOON)) for _ in range(3)]
                await asyncio.sleep(delay)
                for each in waiting[:2]:
                    each.cancel()
                await hold.release_async()
                got = await waiting[2]
                assert not got.lost
                await got.release_async()
                for each in waiting[:2]:
                    try:
                        kept = await each
                    except asyncio.CancelledError:
                        continue
                    await kept.release_async()

        asyncio.run(asyncio.wait_for(main(), SOON * 3))
        theirs.acquire(SOON).release()
        lock.acquire(SOON).release()

    def test_cancelling_as_it_is_granted_leaks_nothing(self, service, another):
        """A task that is cancelled in the moment of the grant does not keep the lock."""
        lock = service.lock("a")

        async def main() -> None:
            for delay in (0, 0.0001, 0.0003, 0.0006, 0.001, 0.002, 0.005):
                asking = asyncio.create_task(lock.acquire_async(SOON))
                await asyncio.sleep(delay)
                asking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await (await asking).release_async()
                (await lock.acquire_async(SOON)).release()

        asyncio.run(asyncio.wait_for(main(), SOON * 3))
        another.lock("a").acquire(SOON).release()

    def test_async_shared_and_timed(self, service, another):
        """`async with lock.shared()` and `lock.hold(...)`; a timeout raises in the task."""

        async def main() -> None:
            if service.capabilities.shared:
                async with service.lock("a").shared() as one, another.lock("a").shared() as two:
                    assert one.shared
                    assert two.shared
            async with service.lock("a").hold(5, purpose="async"):
                with pytest.raises(LockTimeout, match="async"):
                    await another.lock("a").acquire_async(0.05)

        asyncio.run(asyncio.wait_for(main(), SOON))

    # --- names, closing, forks

    @pytest.mark.parametrize("name", ["../escape", "", ".hidden", "a/b", "x" * 121, "line\nbreak", 7])
    def test_names_are_checked(self, service, name):
        """What is no name of a lock is BadName before anything is touched."""
        with pytest.raises(BadName):
            service.lock(name)

    @pytest.mark.parametrize("name", ["x" * 120, "ключ", "a b", "a@b,c=d~1.lock"])
    def test_every_good_name_locks(self, service, another, name):
        """Long names, other alphabets and spaces are names too."""
        with service.lock(name).acquire(0):
            assert another.lock(name).try_acquire() is None

    def test_closing_the_service_releases(self, url, service):
        """What was held through it is free for others, lost for its holder, and nothing is given any more."""
        theirs = connect(url)
        lock = theirs.lock("a")
        hold = lock.acquire(0)
        theirs.close()
        theirs.close()
        assert hold.lost
        service.lock("a").acquire(SOON).release()
        with pytest.raises(LockUnavailable, match="closed"):
            lock.acquire(0)
        with pytest.raises(LockUnavailable, match="closed"):
            theirs.lock("b")

    def test_closing_a_lock_keeps_its_holds(self, service, another):
        """`Lock.close` lets go of what is kept between acquisitions, not of what is held; it may be used again."""
        lock = service.lock("a")
        with lock.acquire(0) as hold:
            lock.close()
            assert not hold.lost
            assert another.lock("a").try_acquire() is None
        lock.close()
        with lock.acquire(SOON):
            assert another.lock("a").try_acquire() is None

    def test_closing_ends_the_waits(self, url, service):
        """A thread that waits while its service is closed ends with LockUnavailable."""
        with service.lock("a").acquire(0), ThreadPoolExecutor(1) as pool:
            theirs = connect(url)
            waiting = pool.submit(theirs.lock("a").acquire, SOON * 3)
            time.sleep(0.2)
            theirs.close()
            with pytest.raises(LockUnavailable, match="closed"):
                waiting.result(SOON)

    def test_a_forked_child_holds_nothing(self, service, other):
        """The child's copy is lost, its release changes nothing for the parent, and it is refused as anybody."""
        assert other("fork", "a") == {
            "child": {"lost": True, "held": False, "acquired": False},
            "parent lost": False,
        }
        assert service.lock("a").try_acquire() is None
        other("release", "a")
        service.lock("a").acquire(SOON).release()

    def test_threads_and_services_come_and_go(self, url):
        """Opening and closing leaves neither descriptors nor threads behind."""
        with connect(url) as service, service.lock("warm").acquire(0):
            pass
        descriptors, threads = _descriptors(), threading.active_count()
        for turn in range(5):
            with connect(url) as service:
                for name in ("a", "b", f"c{turn}"):
                    service.lock(name).acquire(SOON).release()
        assert _descriptors() <= descriptors
        until = time.monotonic() + SOON
        while threading.active_count() > threads:
            assert time.monotonic() < until
            time.sleep(0.02)

    # --- parts

    @staticmethod
    def _needs_shared(service: LockService) -> None:
        if not service.capabilities.shared:
            pytest.skip(f"{service.kind} has no shared locks, and says so")

    @staticmethod
    def _hammered(url: str, *, turns: int, share: float) -> list[list[float]]:
        """Intervals of four processes; every one of them must have had its turns."""
        lockers = [Locker(url, node=f"n{i}") for i in range(4)]
        try:
            for each in lockers:
                each.send("hammer", "a", turns, 0.001, share)
            return [interval for each in lockers for interval in each.answer(60)]
        finally:
            for each in lockers:
                each.__exit__()


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
