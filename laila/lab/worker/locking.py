"""Operations on locks: take one and keep it, let go, and contend for one, counting up a register that only the lock
protects.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

from laila.errors import BadValue, DeadlineExceeded
from laila.lab.worker.bench import Bench, Words, number, span, text
from laila.locks import Hold

MOST = 4000
"""Acquisitions that one call tells of; more would not fit in a line."""
_REGISTER = "{:020d} {:020d}\n"


def take(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Acquire `name` and keep it. `wait`: seconds, at most the timeout."""
    place, name = text(words, "locks"), text(words, "name")
    if name in bench.holds:
        raise BadValue(f"{name!r} is held by this worker already")
    lock = bench.service(place).lock(name)
    asked = time.monotonic()
    wait = min(number(words, "wait", timeout), timeout)
    hold = lock.acquire(wait, shared=bool(words.get("shared")), purpose="a check of the lab")
    got = time.monotonic()
    bench.holds[name] = hold
    return {"token": hold.token, "asked": asked, "got": got}


def give(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Let go of it; says whether it was still held, and why not."""
    hold = bench.holds.pop(text(words, "name"))
    loss = hold.loss
    gave = time.monotonic()
    hold.release()
    return {"gave": gave, "loss": loss}


def holder(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Who holds it, as far as is known here; null for nobody."""
    found = bench.service(text(words, "locks")).lock(text(words, "name")).holder()
    if found is None:
        return {"holder": None}
    return {"holder": {"node": found.node, "pid": found.pid, "token": found.token, "text": str(found)}}


def contend(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """For `seconds`, take the lock again and again, exclusively or (with chance `shared`) with others.

    Each hold reads the register, waits for a random time of `held` seconds, reads it again, and if it is exclusive
    writes the next number with its own token. Every hold is told as
    `[shared, token, asked, got, gave, found, left, wrote, loss]`.
    """
    lock = bench.service(text(words, "locks")).lock(text(words, "name"))
    register = bench.path(text(words, "register"))
    chance = random.Random(number(words, "seed"))  # noqa: S311  repeatable on purpose
    held, pause = span(words, "held"), span(words, "pause")
    readers, until = number(words, "shared", 0.0), time.monotonic() + min(number(words, "seconds"), timeout)
    wait = number(words, "wait", timeout)
    holds: list[list[Any]] = []
    while time.monotonic() < until and len(holds) < MOST:
        shared = chance.random() < readers
        asked = time.monotonic()
        hold = lock.acquire(wait, shared=shared, purpose="a check of the lab")
        try:
            holds.append(_once(hold, register, asked, chance.uniform(*held)))
        finally:
            hold.release()
        time.sleep(chance.uniform(*pause))
    return {"holds": holds}


def _once(hold: Hold, register: Path, asked: float, seconds: float) -> list[Any]:
    got = time.monotonic()
    found = read_register(register)
    time.sleep(seconds)
    left, wrote = read_register(register), None
    if not hold.shared and found is not None:
        wrote = found[0] + 1
        write_register(register, wrote, hold.token)
    loss = hold.loss
    return [hold.shared, hold.token, asked, got, time.monotonic(), found, left, wrote, loss]


def register(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """What the register holds: `[number, token]`, null when it cannot be read. `write` sets it first."""
    path = bench.path(text(words, "register"))
    if "write" in words:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_register(path, *(int(word) for word in words["write"]))
    return {"register": read_register(path)}


def read_register(path: Path) -> tuple[int, int] | None:
    try:
        found = path.read_bytes().split()
        return (int(found[0]), int(found[1])) if len(found) == 2 else None
    except (OSError, ValueError):
        return None


def write_register(path: Path, value: int, token: int) -> None:
    """As an ordinary program would: open, write, close. No temporary file, no rename, no sync."""
    path.write_text(_REGISTER.format(value, token), encoding="ascii")


def kill(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """SIGKILL another worker beside this node, and wait until it is gone; when, as `[before, after]`."""
    pid = int(number(words, "pid"))
    if not {b"lab", b"worker"} <= set(_command(pid).split(b"\0")):
        raise BadValue(f"process {pid} is no worker of the lab")
    deadline, before = time.monotonic() + timeout, time.monotonic()
    os.kill(pid, signal.SIGKILL)
    while _command(pid):
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"waited {timeout:g} s for process {pid} to die of SIGKILL")
        time.sleep(0.001)
    return {"killed": [before, time.monotonic()]}


def _command(pid: int) -> bytes:
    """Its command line; empty when it is gone, or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


OPERATIONS = {operation.__name__: operation for operation in (take, give, holder, contend, register, kill)}
