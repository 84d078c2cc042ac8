"""The works on artifacts, each done in a process of its own. A work returns numbers by metric; contents are checked."""

from __future__ import annotations

import functools
import gc
import os
import shutil
import statistics
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import memory
from .artifact_contender import ArtifactContender, CachingContender
from .works import MIB, SLOW_ROUNDS, Numbers, check, rate

LARGE = 64 * MIB
PIECES = 16
ROUNDS = 4
APPENDS = 1000
BLOCKS = 1000
KIB = 1024


def record(number: int, size: int) -> str:
    """A text of `size` characters that no other number has."""
    return f"{number:08d} ".ljust(size, "x")


def large(contender: ArtifactContender, folder: Path, seconds: float) -> Numbers:
    """64 MiB in one block."""
    return bulk(contender, folder, "large", 1)


def pieces(contender: ArtifactContender, folder: Path, seconds: float) -> Numbers:
    """64 MiB in PIECES blocks."""
    return bulk(contender, folder, "pieces", PIECES)


def bulk(contender: ArtifactContender, folder: Path, work: str, count: int) -> Numbers:
    """64 MiB: MB/s of create, sign, save without fsync, and of load and verify; peak memory of each.

    Memory is that of the first round, over what was resident before the data was made, in units of the data: the
    caller's own counts as 1, and so do the pages of a mapped file. Speed is the median of the rounds after it.
    """
    path = folder / "bulk.maif"
    contender.save(path, [bytes(KIB)])
    contender.verify(path)
    gc.collect()
    idle = memory.resident(os.getpid())
    peaks: Numbers = {}
    rates: dict[str, list[float]] = {"save": [], "verify": []}

    def timed(name: str, operation: Callable[[], object]) -> None:
        gc.collect()
        memory.reset_peak(os.getpid())
        begin = time.perf_counter()
        operation()
        rates[name].append(LARGE / 1e6 / (time.perf_counter() - begin))
        peaks.setdefault(f"{work}.{name}.peak", (memory.peak(os.getpid()) - idle) / LARGE)

    begin = time.perf_counter()
    for _ in range(ROUNDS):
        path.unlink()  # not yet written back: what is measured is no disk
        data = [os.urandom(LARGE // count) for _ in range(count)]
        checksums = [zlib.crc32(block) for block in data]
        timed("save", functools.partial(contender.save, path, data))
        data.clear()
        timed("verify", functools.partial(contender.verify, path))
        check([zlib.crc32(block) for block in contender.contents(path)] == checksums, "64 MiB")
        if time.perf_counter() - begin > SLOW_ROUNDS:
            break
    return {f"{work}.{name}": statistics.median(each[1:] or each) for name, each in rates.items()} | peaks


def small(contender: ArtifactContender, folder: Path, seconds: float) -> Numbers:
    """1 KiB of text: milliseconds of create, sign, save, durable, each over the one before."""
    path, text = folder / "small.maif", record(0, KIB)
    contender.save_durably(path, text)
    check(contender.contents(path) == [text.encode()], "1 KiB of text")
    contender.verify(path)
    rate(lambda: contender.save_durably(path, text), seconds / 5)
    return {"small.ms": 1000 / rate(lambda: contender.save_durably(path, text), 2 * seconds)}


def appends(contender: ArtifactContender, folder: Path, seconds: float) -> Numbers:
    """Seconds for 1,000 texts of 200 characters, each added to what was loaded and saved durably."""
    path = folder / "appends.maif"
    texts = [record(number, 200) for number in range(APPENDS)]
    begin = time.perf_counter()
    for text in texts:
        contender.append(path, text)
    took = time.perf_counter() - begin
    contender.verify(path)
    check(contender.contents(path) == [text.encode() for text in texts], "1,000 appends")
    return {"appends.seconds": took}


def blocks(contender: ArtifactContender, folder: Path, seconds: float) -> Numbers:
    """1,000 blocks of 1 KiB: blocks per second, saved at once, and then loaded and verified; and both together."""
    path = folder / "blocks.maif"
    data = [record(number, KIB).encode() for number in range(BLOCKS)]
    contender.save(path, data)
    check(contender.contents(path) == data, "1,000 blocks")
    times: list[tuple[float, float]] = []
    begin = time.perf_counter()
    while len(times) < ROUNDS and time.perf_counter() - begin < SLOW_ROUNDS:
        path.unlink()
        started = time.perf_counter()
        contender.save(path, data)
        saved = time.perf_counter()
        contender.verify(path)
        times.append((saved - started, time.perf_counter() - saved))
    save, verify = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "blocks.both": BLOCKS / statistics.median(sum(each) for each in times),
        "blocks.save": BLOCKS / save,
        "blocks.verify": BLOCKS / verify,
    }


def cached(contender: CachingContender, folder: Path, seconds: float) -> Numbers:
    """Milliseconds to load an unchanged artifact of 64 MiB from the cache; then one byte of the cache is changed."""
    shared, cache = folder / "shared", folder / "cache"
    for each in (shared, cache):
        each.mkdir()
    text = os.urandom(LARGE // 2).hex()
    contender.publish(shared, cache, text)
    check(contender.cached_text() == text, "64 MiB from the cache")
    number = {"cached.ms": 1000 / rate(contender.load_cached, seconds)}
    damage(cache)
    check(contender.cached_text() == text, "64 MiB from a cache of which a byte was changed")
    shutil.rmtree(shared)
    return number


def damage(cache: Path) -> None:
    """Change a byte in the middle of the large file in `cache`, and leave its size and times as they were."""
    found = [path for path in cache.rglob("*") if path.is_file() and path.stat().st_size >= LARGE]
    check(len(found) >= 1, "the cache holds no file of 64 MiB")
    for path in found:
        status = path.stat()
        path.chmod(0o600)
        with path.open("r+b") as file:
            file.seek(LARGE // 2)
            before = file.read(1)
            file.seek(LARGE // 2)
            file.write(bytes([before[0] ^ 1]))
        path.chmod(status.st_mode)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


WORKS: dict[str, Callable[[Any, Path, float], Numbers]] = {
    "large": large,
    "pieces": pieces,
    "small": small,
    "appends": appends,
    "blocks": blocks,
    "cached": cached,
}
