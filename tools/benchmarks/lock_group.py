"""Locks between processes: laila.locks beside bare flock and the lock libraries.

Four processes take turns: each holds the lock for as long as it then does without. Throughput is the cycles of all
together; fairness is Jain's index of the cycles of each, 1 when all did as many and 1/4 when one did them all.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import environments
from .bars import Bar, ahead
from .group import Group, Plan, Step, Table
from .lock_contender import CONTENDERS
from .processes import Child, ChildFailed
from .results import Results
from .works import Numbers

PROCESSES = 4
HEAD_START = 0.05  # seconds between the word to begin and the begin, so that all have it
PATIENCE = 90.0
CONTENDED = ("held20us", "held1ms")


def _contended(work: str, words: str) -> tuple[Table, ...]:
    columns = (
        (f"{work}.cycles", "cycles/s", ",.0f"),
        (f"{work}.wait", "longest ms", ",.1f"),
    )
    fair = ((f"{work}.fairness", "Jain", ".3f"),)
    return (
        Table(f"{PROCESSES} processes, {words}", columns),
        Table(f"{PROCESSES} processes, {words}: fairness", fair, ratios=False),
    )


TABLES: dict[str, tuple[Table, ...]] = {
    "alone": (Table("lock and unlock, nobody else wants it", (("alone.cycles", "cycles/s", ",.0f"),)),),
    "held20us": _contended("held20us", "held 20 us"),
    "held1ms": _contended("held1ms", "held 1 ms"),
}

BARS: tuple[Bar, ...] = (
    Bar("alone.cycles", 0.1, "bare"),
    *ahead(("alone.cycles",), "portalocker", "portalocker-lock"),
    Bar("alone.cycles", 10, "filelock"),
    Bar("held20us.cycles", 0.5, "bare"),
    Bar("held1ms.cycles", 0.95, "bare"),
    *(Bar(f"{work}.wait", 2, "bare", at_most=True) for work in CONTENDED),
    *(Bar(f"{work}.fairness", 0.99) for work in CONTENDED),
)


def steps(plan: Plan, results: Results) -> Iterator[Step]:
    """Interleaved: all contenders do a work before the next begins."""
    if "redis" in results.contenders and plan.redis is None:
        results.remarks.append("redis-py Lock was left out: there is no redis-server")
    for repetition in range(plan.repetitions):
        for work in results.works:
            for name in results.contenders:
                if name != "redis" or plan.redis is not None:
                    yield repetition, (work,), name


def do(plan: Plan, works: tuple[str, ...], name: str) -> dict[str, Any]:
    """One contender, one work, once, with lock files of its own."""
    folder = Path(tempfile.mkdtemp(prefix="locks-", dir=plan.home))
    python = environments.python(CONTENDERS[name].environment)
    settings = {"HOME": plan.home, "TMPDIR": plan.home, "BENCH_REDIS_SERVER": plan.redis or ""}
    (work,) = works
    seconds = plan.crowd_seconds if work in CONTENDED else plan.seconds
    try:
        with contextlib.ExitStack() as stack:
            port = ""
            if name == "redis":
                server = [python, "-m", "benchmarks.server", name]
                port = str(stack.enter_context(Child(server, settings, plan.home)).read(60)["port"])
            command = [python, "-m", "benchmarks.lock_driver", name, work, str(seconds), str(folder), port]
            if work in CONTENDED:
                return dict(crowd(command, settings, plan.home, work, seconds))
            return stack.enter_context(Child(command, settings, plan.home)).read(PATIENCE)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def crowd(command: list[str], settings: dict[str, str], home: str, work: str, seconds: float) -> Numbers:
    """All processes are ready, then all begin at the same time; their cycles together."""
    with contextlib.ExitStack() as stack:
        drivers = [stack.enter_context(Child(command, settings, home)) for _ in range(PROCESSES)]
        for driver in drivers:
            driver.read(PATIENCE)
        begin = time.perf_counter() + HEAD_START
        for driver in drivers:
            driver.write(json.dumps(begin))
        done = [driver.read(seconds + PATIENCE) for driver in drivers]
    cycles = [int(one["cycles"]) for one in done]
    counted = max(int(one["counted"]) for one in done)
    if counted != sum(cycles):
        raise ChildFailed(f"two processes held the lock at once: {sum(cycles)} cycles, {counted} counted")
    return {
        f"{work}.cycles": sum(cycles) / seconds,
        f"{work}.wait": max(float(one["longest"]) for one in done) * 1000,
        f"{work}.fairness": fairness(cycles),
    }


def fairness(counts: list[int]) -> float:
    """Jain's index."""
    return sum(counts) ** 2 / (len(counts) * sum(count**2 for count in counts))


GROUP = Group(
    name="locks",
    contenders=CONTENDERS,
    works=("alone", *CONTENDED),
    tables=TABLES,
    references=(("bare", "of bare"),),
    note="Ratios are medians of the ratio within each repetition; a longest wait is better when it is shorter.",
    bars=BARS,
    steps=steps,
    do=do,
)
