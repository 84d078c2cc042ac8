"""Work that lets go of the interpreter (hashing, signing, writing), on more than one core where it is worth it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")

WORTH_IT = 4 << 20
"""Bytes of work below which threads cost more than they bring."""
SIGNATURE = 64 << 10
"""Bytes that can be hashed in the time of one small signature."""
MOST = 4


def cores() -> int:
    return min(
        MOST, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )


def shares(work: Sequence[T]) -> Iterator[Sequence[T]]:
    """The work in as many parts as there are cores."""
    size = max(1, -(-len(work) // cores()))
    for begin in range(0, len(work), size):
        yield work[begin : begin + size]


def run(jobs: Sequence[Callable[[], object]], *, weight: int) -> None:
    """Run all, side by side when `weight` bytes of work are worth it. The first error is raised when all have ended."""
    count = min(cores(), len(jobs))
    if count < 2 or weight < WORTH_IT:
        for job in jobs:
            job()
        return
    waiting = list(reversed(jobs))
    errors: list[BaseException] = []

    def work() -> None:
        while not errors:
            try:
                job = waiting.pop()
            except IndexError:
                return
            try:
                job()
            except BaseException as error:  # raised again by whoever called
                errors.append(error)

    threads = [threading.Thread(target=work, name="laila-artifact-work") for _ in range(count - 1)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
