"""What the judges of the lab are given: histories of a right system, and how they are judged.

Each operation is done at one instant and seen as lasting around it, so about a dozen go on at once; one in a thousand
changes is never answered. Every value is written once and carries its checksum, as the workloads write it.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from laila.lab.checkers import atomic, history, integrity, swap_model, swaps
from laila.lab.checkers.operations import OK, UNKNOWN, Op
from laila.lab.checkers.verdict import Judgement, Verdict, worst
from laila.lab.checkers.wing_gong import Bounds

from . import memory
from .works import Numbers, check

KEYS = tuple(f"register-{number}" for number in range(4))
NODES = ("node1", "node2", "node3")
CLIENTS = 12
MIB = 1024 * 1024
PATIENT = Bounds(seconds=600.0, points=4_000_000)  # a bench measures how long it takes

Judge = Callable[[Sequence[Op]], list[Judgement]]


def zones(ops: Sequence[Op]) -> list[Judgement]:
    """Registers by zones."""
    return atomic.judge_all(ops)


def search(ops: Sequence[Op]) -> list[Judgement]:
    """Registers, with or without swaps, by the search for an order."""
    found = []
    for key, of_key in atomic.by_key(ops, ("read", "write", "cas")).items():
        calls = [call for op in of_key if (call := swap_model.call_of(op)) is not None]
        done = swap_model.decide(calls, PATIENT)
        found.append(Judgement(swaps.CHECK, key, done.verdict, len(calls), reason=done.reason))
    return found


def register(count: int, share_of_swaps: float = 0.0) -> Iterator[Op]:
    """Reads and writes of a few names, and swaps; in the order of their instants."""
    chance = random.Random(count)  # noqa: S311  repeatable on purpose
    there: dict[str, str | None] = dict.fromkeys(KEYS)
    clients = [(f"{NODES[n % 3]}/register/{n // 3}", NODES[n % 3]) for n in range(CLIENTS)]
    for number in range(count):
        (client, node), key, dice = (
            clients[number % CLIENTS],
            KEYS[chance.randrange(len(KEYS))],
            chance.random(),
        )
        start, end = (number - chance.random() * 6) / 1e4 + 1, (number + chance.random() * 6) / 1e4 + 1
        known = chance.random() > 0.001
        last, outcome = (end, OK) if known else (math.inf, UNKNOWN)
        value = integrity.sealed(f"{client}.0.{number}:xxxxxxxxxxxxxxxx")
        if dice < 0.4 * (1 - share_of_swaps):
            there[key] = value if known or chance.random() < 0.5 else there[key]
            yield Op(client, node, "write", key, value, None, start, last, outcome)
        elif dice < 0.4 * (1 - share_of_swaps) + share_of_swaps:
            old = there[key] if chance.random() < 0.7 else "another"
            fits = old == there[key]
            there[key] = value if fits and (known or chance.random() < 0.5) else there[key]
            yield Op(client, node, "cas", key, [old, value], fits if known else None, start, last, outcome)
        else:
            yield Op(client, node, "read", key, None, there[key], start, end)


def write_lines(path: Path, count: int) -> None:
    """The same as a run keeps it."""
    with path.open("w", encoding="utf-8") as file:
        for op in register(count):
            record = {"what": "invoke", "workload": "register", **op.to_record()}
            file.write(json.dumps(record, separators=(",", ":")) + "\n")


def judged(work: str, judge: Judge, count: int, share_of_swaps: float = 0.0) -> Numbers:
    """Operations that are in memory."""
    ops = list(register(count, share_of_swaps))
    return _timed(work, count, lambda: judge(ops))


def judged_file(work: str, path: Path, count: int) -> Numbers:
    """From the lines of a saved history, with integrity as well."""

    def judge() -> list[Judgement]:
        with path.open("rb") as file:
            return history.judge_history(file)

    return _timed(work, count, judge)


def _timed(work: str, count: int, judge: Callable[[], list[Judgement]]) -> Numbers:
    """The peak is all that the process had resident, with the operations that it judged."""
    begin, worked = time.perf_counter(), time.process_time()
    found: Any = judge()
    seconds, computing = time.perf_counter() - begin, time.process_time() - worked
    check(worst(found) is Verdict.OK, f"a right history is {worst(found).value}")
    peak = memory.peak(os.getpid()) / MIB
    numbers = {"rate": count / seconds, "seconds": seconds, "computing": computing, "peak": peak}
    return {f"{work}.{name}": number for name, number in numbers.items()}
