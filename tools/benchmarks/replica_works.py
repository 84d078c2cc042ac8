"""Works that every contender does: durable puts and gets of 1 KB, one after the other and by many threads at once."""

from __future__ import annotations

import itertools
import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .replica_contender import ReplicaContender
from .works import Numbers, check

SIZE = 1024
NAMES = 16  # that are put again and again
CROWD = 16
FEWEST = 5
PATIENCE = 60.0

Operation = Callable[[int], object]  # is given the number of the turn


@dataclass(frozen=True, slots=True)
class Settings:
    """How long to measure each rate, in seconds; the servers' process ids; how many names a store has."""

    seconds: float
    pids: tuple[int, ...]
    names: int


def in_turns(
    operations: Mapping[str, Operation],
    seconds: float,
    prepare: Operation = lambda turn: None,
) -> dict[str, list[float]]:
    """Each operation once, again and again in every order, for that long together; seconds of every call.

    So what else the machine does, and what the call before left behind, meets all of them alike. `prepare` goes before
    each turn, untimed. The first turn warms up and is not counted.
    """
    times: dict[str, list[float]] = {name: [] for name in operations}
    end = 0.0
    for number, order in enumerate(itertools.cycle(itertools.permutations(operations))):
        prepare(number)
        for name in order:
            begin = time.perf_counter()
            operations[name](number)
            times[name].append(time.perf_counter() - begin)
        end = end or time.perf_counter() + seconds
        if number >= FEWEST and time.perf_counter() > end:
            return {name: each[1:] for name, each in times.items()}
    raise AssertionError("there was nothing to do")


def durable(contender: ReplicaContender, settings: Settings) -> Numbers:
    """Milliseconds of a put and of a get, one after the other."""
    names = [f"durable-{number}" for number in range(NAMES)]
    values = [os.urandom(SIZE) for _ in names]
    for name, value in zip(names, values, strict=True):
        contender.put(name, value)
        check(contender.get(name) == value, "get after put")
    puts = in_turns({"put": lambda n: contender.put(names[n % NAMES], values[n % NAMES])}, settings.seconds)
    gets = in_turns({"get": lambda n: contender.get(names[n % NAMES])}, settings.seconds)
    return {f"durable.{name}": middle(times) * 1000 for name, times in (puts | gets).items()}


def crowd(contender: ReplicaContender, settings: Settings) -> Numbers:
    """Puts and gets per second of CROWD threads, each with a name of its own."""
    value = os.urandom(SIZE)

    def put(number: int) -> object:
        return contender.put(f"crowd-{number}", value)

    def get(number: int) -> object:
        return contender.get(f"crowd-{number}")

    return {
        "crowd.put": at_once(put, settings.seconds),
        "crowd.get": at_once(get, settings.seconds),
    }


def at_once(operation: Operation, seconds: float) -> float:
    """Calls per second of CROWD threads together; each thread gives its own number."""
    go = threading.Barrier(CROWD + 1)
    calls, errors = [0] * CROWD, []
    ends = [0.0] * CROWD

    def work(number: int) -> None:
        try:
            operation(number)
            go.wait(PATIENCE)
            end = time.perf_counter() + seconds
            while (now := time.perf_counter()) < end:
                operation(number)
                calls[number] += 1
            ends[number] = now
        except Exception as error:  # any failure of any contender is reported
            errors.append(error)
            go.abort()

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(CROWD)]
    for thread in threads:
        thread.start()
    try:
        go.wait(PATIENCE)
    except threading.BrokenBarrierError:
        raise errors[0] if errors else TimeoutError("the first calls took too long") from None
    begin = time.perf_counter()
    for thread in threads:
        thread.join(seconds + PATIENCE)
    if errors or 0.0 in ends:
        raise errors[0] if errors else TimeoutError("a call hangs")
    return sum(calls) / (max(ends) - begin)


def middle(times: list[float]) -> float:
    """The median."""
    return statistics.median(times)


WORKS: dict[str, Callable[[ReplicaContender, Settings], Numbers]] = {"durable": durable, "crowd": crowd}
