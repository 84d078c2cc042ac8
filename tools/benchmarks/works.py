"""The works, each done by one connected client. A work returns numbers by metric; answers are checked.

Rates are over a fixed time rather than a fixed count, as contenders differ by a factor of a thousand.
"""

from __future__ import annotations

import functools
import gc
import os
import statistics
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from . import memory
from .contender import SMALL, Contender

MANY = 1000
WINDOW = 32
ARRAY_BYTES = 64 * 1024 * 1024
MIB = 1024 * 1024
SLICES = 5
ROUNDS = 4
SLOW_ROUNDS = 4.0  # seconds after which no further round begins

Numbers = dict[str, float]


@dataclass(frozen=True, slots=True)
class Settings:
    """How long to measure each rate, in seconds; the server's process id."""

    seconds: float
    server_pid: int


def rate(operation: Callable[[], object], seconds: float, each: int = 1) -> float:
    """Operations per second, the median of SLICES slices of `seconds`; one call of `operation` counts as `each`.

    A median, because two processes that wake each other run at one of two speeds, as the scheduler puts them on one
    core or on two, and a mean over a change is neither. A slow contender gets fewer slices.
    """
    step = max(1, 10 // each)
    begin = time.perf_counter()
    rates: list[float] = []
    while len(rates) < SLICES and time.perf_counter() - begin < 2 * seconds:
        calls, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds / SLICES:
            for _ in range(step):
                operation()
            calls += step
        rates.append(calls * each / elapsed)
    return statistics.median(rates)


def check(condition: bool, what: str) -> None:
    """A wrong answer is worth no number."""
    if not condition:
        raise ValueError(f"wrong answer: {what}")


def sequential(client: Contender, settings: Settings) -> Numbers:
    """Get, then put, one 100-byte dict after the other."""
    key = client.put(SMALL)
    check(client.get(key) == SMALL, "get after put")
    for operation in (lambda: client.get(key), lambda: client.put(SMALL)):
        rate(operation, settings.seconds / 10)
    return {
        "seq.get": rate(lambda: client.get(key), settings.seconds),
        "seq.put": rate(lambda: client.put(SMALL), settings.seconds),
    }


def stored(client: Contender) -> list[str]:
    """Keys of MANY values, each another."""
    return [client.put({**SMALL, "count": number}) for number in range(MANY)]


def counts(values: list[Any]) -> list[int]:
    """What tells the stored values apart."""
    return [value["count"] for value in values]


def pipeline(client: Contender, settings: Settings) -> Numbers:
    """MANY gets, WINDOW of them under way at a time."""
    keys = stored(client)
    windows = [keys[at : at + WINDOW] for at in range(0, MANY, WINDOW)]
    check(counts(client.get_window(windows[0])) == list(range(WINDOW)), "a window of gets")

    def all_windows() -> None:
        for window in windows:
            client.get_window(window)

    return {"pipeline.get": rate(all_windows, settings.seconds, MANY)}


def batch(client: Contender, settings: Settings) -> Numbers:
    """MANY gets in one call."""
    keys = stored(client)
    check(counts(client.get_many(keys)) == list(range(MANY)), "many in one call")
    return {"batch.get": rate(lambda: client.get_many(keys), settings.seconds, MANY)}


def bulk(client: Contender, settings: Settings) -> Numbers:
    """A 64 MiB array there and back: MB/s, and peak memory over idle on each side in units of the array.

    Memory is that of the first round; idle is before the array is made, so the array that the caller holds counts
    as 1. Speed is the median of the rounds after it: the first also grows the kernel's buffers. Each
    round's value is dropped before the next, so that fresh memory does not weigh more than the transfer.
    """
    import numpy as np

    client.get_array(client.put_array(client.prepare(np.zeros(MIB // 8))))  # warm: imports, buffers
    gc.collect()
    sides = {"client": os.getpid(), "server": settings.server_pid}
    idle = {side: memory.resident(pid) for side, pid in sides.items()}
    peaks: Numbers = {}
    rates: dict[str, list[float]] = {"put": [], "get": []}

    def timed(name: str, operation: Callable[[], Any]) -> Any:
        gc.collect()
        for pid in sides.values():
            memory.reset_peak(pid)
        begin = time.perf_counter()
        result = operation()
        rates[name].append(ARRAY_BYTES / 1e6 / (time.perf_counter() - begin))
        for side, pid in sides.items():
            peaks.setdefault(f"bulk.{name}.{side}", (memory.peak(pid) - idle[side]) / ARRAY_BYTES)
        return result

    begin = time.perf_counter()
    for number in range(ROUNDS):
        array = np.random.default_rng(number).random(ARRAY_BYTES // 8)
        checksum = zlib.crc32(array.data)
        prepared = client.prepare(array)
        key = timed("put", functools.partial(client.put_array, prepared))
        del array, prepared
        got = timed("get", functools.partial(client.get_array, key))
        check(got.dtype == np.float64 and zlib.crc32(got.data) == checksum, "a 64 MiB array")
        del got
        client.forget(key)
        if time.perf_counter() - begin > SLOW_ROUNDS:
            break
    speeds = {f"bulk.{name}": statistics.median(each[1:] or each) for name, each in rates.items()}
    return speeds | peaks


def idle(client: Contender, settings: Settings) -> Numbers:
    """Resident MiB of a server with one peer connected that asked once, and of that peer."""
    client.get(client.put(SMALL))
    time.sleep(1.0)
    return {
        "idle.server": memory.resident(settings.server_pid) / MIB,
        "idle.client": memory.resident(os.getpid()) / MIB,
    }


WORKS: dict[str, Callable[[Contender, Settings], Numbers]] = {
    "seq": sequential,
    "pipeline": pipeline,
    "batch": batch,
    "bulk": bulk,
    "idle": idle,
}
