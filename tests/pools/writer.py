"""A process that works on a pool, for tests that need several, or one to kill.

python writer.py KIND PATH sequence         writes rounds for ever, prints each when its puts returned
python writer.py KIND PATH many NAME COUNT  puts COUNT entries of its own, each time a shared one
python writer.py KIND PATH count COUNT      adds to a counter by swap, COUNT times
python writer.py KIND PATH fork             uses the pool in a forked child while the parent goes on
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from laila.codec import Encoded
from laila.pools import FilesystemPool, Pool, PostgresPool, RedisPool, S3Pool, SqlitePool

KINDS: dict[str, Callable[[str], Pool]] = {
    "filesystem": FilesystemPool,
    "sqlite": SqlitePool,
    "redis": RedisPool,
    "postgres": PostgresPool,
    "s3": S3Pool,
}
BATCH = [f"batch{i}" for i in range(4)]


def of_round(number: int) -> Encoded:
    """What a round stores: its number, and blocks whose bytes and sizes follow from it."""
    sizes = (number * 37 % 5000, number * 7919 % 300_000)
    return Encoded(b"%d" % number, tuple(bytes([(number + i) % 256]) * size for i, size in enumerate(sizes)))


def sequence(pool: Pool) -> None:
    number = 0
    while True:
        number += 1
        pool.put(f"single{number % 3}", of_round(number))
        pool.put_many([(key, of_round(number)) for key in BATCH])
        os.write(1, b"%d\n" % number)


def many(pool: Pool, name: str, count: int) -> None:
    for number in range(count):
        pool.put(f"{name}-{number}", of_round(number))
        pool.put("shared", of_round(number))


def count_up(pool: Pool, times: int) -> None:
    for _ in range(times):
        while True:
            before = pool.get("counter")
            after = Encoded(b"%d" % (1 + (0 if before is None else int(before.head))))
            if pool.swap("counter", before, after):
                break


def connections(pool: Pool) -> set[object]:
    return set(pool._database._idle) if isinstance(pool, SqlitePool) else set()


def fork(pool: Pool) -> None:
    pool.put("before", of_round(1))
    parents = connections(pool)
    child = os.fork()
    if child == 0:
        pool.put("child", of_round(2))
        good = pool.get("before") is not None and not parents & connections(pool)
        pool.close()
        os._exit(0 if good else 1)
    for number in range(20):
        pool.put(f"parent{number}", of_round(number))
    _, status = os.waitpid(child, 0)
    assert status == 0, status
    pool.put("after", of_round(3))
    assert pool.count() == 23, pool.count()
    assert pool.get("child") is not None


if __name__ == "__main__":
    with KINDS[sys.argv[1]](sys.argv[2]) as opened:
        if sys.argv[3] == "sequence":
            sequence(opened)
        elif sys.argv[3] == "many":
            many(opened, sys.argv[4], int(sys.argv[5]))
        elif sys.argv[3] == "count":
            count_up(opened, int(sys.argv[4]))
        else:
            fork(opened)
