"""Nicknames mean pools; mistakes are told at once; closing closes what is owned."""

from __future__ import annotations

import threading

import pytest

from laila import errors
from laila.codec import Encoded
from laila.pools import MemoryPool
from laila.router import Router


def test_the_default_is_a_fresh_memory_pool_called_alpha() -> None:
    with_default = Router()
    assert isinstance(with_default.alpha_pool, MemoryPool)
    assert (
        with_default.pool()
        is with_default.pool(None)
        is with_default.pool("alpha")
        is with_default.alpha_pool
    )
    assert Router().alpha_pool is not with_default.alpha_pool
    own = MemoryPool()
    assert Router(own).alpha_pool is own


def test_extend_takes_the_pool_and_its_nickname_by_keyword_and_returns_the_pool() -> None:
    router, pool = Router(), MemoryPool()
    assert router.extend(pool=pool, pool_nickname="scratch") is pool
    assert router.pool("scratch") is pool
    assert dict(router.pools) == {"alpha": router.alpha_pool, "scratch": pool}


def test_without_a_nickname_a_pool_is_known_by_its_id() -> None:
    router, pool = Router(), MemoryPool()
    router.extend(pool)
    assert router.pool(pool.global_id) is pool


def test_a_nickname_that_means_another_pool_is_refused_unless_replaced() -> None:
    router, first, second = Router(), MemoryPool(), MemoryPool()
    router.extend(first, "p")
    router.extend(first, "p")
    with pytest.raises(errors.BadValue, match=r"'p' already means .*replace=True"):
        router.extend(second, "p")
    assert router.pool("p") is first
    router.extend(second, "p", replace=True)
    assert router.pool("p") is second


def test_an_unknown_nickname_lists_what_there_is_the_closest_first() -> None:
    router = Router()
    router.extend(MemoryPool(), "durable")
    router.extend(MemoryPool(), "zeta")
    with pytest.raises(errors.UnknownPool) as caught:
        router.pool("durabel")
    assert str(caught.value) == (
        "no pool is called 'durabel'; did you mean 'durable'? Pools here: durable, alpha, zeta"
    )
    with pytest.raises(KeyError, match="Pools here: alpha, durable, zeta"):
        router.pool("qqq")
    with pytest.raises(errors.UnknownPool):
        router.pool(["unhashable"])


def test_a_long_list_of_pools_is_cut() -> None:
    router = Router()
    for number in range(50):
        router.extend(MemoryPool(), f"p{number:02}")
    with pytest.raises(errors.UnknownPool, match=r"p18 and 31 more$"):
        router.pool("qqq")


@pytest.mark.parametrize("nickname", ["", "*", 5, "a\nb", "x" * 256])
def test_what_cannot_be_a_nickname_is_refused(nickname: object) -> None:
    with pytest.raises(errors.BadValue):
        Router().extend(MemoryPool(), nickname)


@pytest.mark.parametrize("pool", [None, {}, MemoryPool])
def test_what_is_no_pool_is_refused(pool: object) -> None:
    router = Router()
    with pytest.raises(errors.BadValue, match=r"pool must be a pool such as MemoryPool\(\)"):
        router.extend(pool)
    with pytest.raises(errors.BadValue):
        router.alpha_pool = pool


def test_another_alpha_pool_can_be_assigned() -> None:
    router, pool = Router(), MemoryPool()
    before = router.alpha_pool
    router.alpha_pool = pool
    assert router.pool() is router.pool("alpha") is pool
    router.close()
    assert before.closed
    assert pool.closed


def test_remove_gives_the_pool_back_open() -> None:
    router, pool = Router(), MemoryPool()
    router.extend(pool, "one")
    router.extend(pool, "two")
    assert router.remove("one") is pool
    assert router.pool("two") is pool
    router.remove("two")
    with pytest.raises(errors.UnknownPool):
        router.remove("two")
    with pytest.raises(errors.BadValue, match="alpha"):
        router.remove("alpha")
    router.close()
    assert not pool.closed


def test_close_closes_what_is_owned_also_when_one_fails() -> None:
    class Failing(MemoryPool):
        def _close(self) -> None:
            raise errors.StorageError("the disk is gone", reason="EIO")

    router, owned, shared = Router(), MemoryPool(), MemoryPool()
    router.extend(owned, "owned")
    router.extend(Failing(), "failing")
    router.extend(shared, "shared", own=False)
    with pytest.raises(errors.StorageError, match="the disk is gone"):
        router.close()
    router.close()
    assert owned.closed
    assert router.alpha_pool.closed
    assert not shared.closed
    with pytest.raises(errors.Closed):
        router.extend(MemoryPool())


def test_pools_is_a_snapshot_that_cannot_be_changed() -> None:
    router = Router()
    before = router.pools
    router.extend(MemoryPool(), "later")
    assert list(before) == ["alpha"]
    with pytest.raises(TypeError):
        before["x"] = MemoryPool()  # type: ignore[index]  # that it is refused is the point


def test_lookups_go_on_while_pools_come_and_go() -> None:
    router, stop, failures = Router(), threading.Event(), []
    router.extend(MemoryPool(), "steady").put("k", Encoded(b"x"))

    def look() -> None:
        while not stop.is_set():
            try:
                assert router.pool("steady").get("k") == Encoded(b"x")
                assert router.pool().get("k") is None
            except Exception as error:
                failures.append(error)
                return

    def change(number: int) -> None:
        for step in range(200):
            router.extend(MemoryPool(), f"{number}-{step}")
            if step % 2:
                router.remove(f"{number}-{step}")

    readers = [threading.Thread(target=look) for _ in range(2)]
    writers = [threading.Thread(target=change, args=(number,)) for number in range(3)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert failures == []
    assert len(router.pools) == 2 + 3 * 100
