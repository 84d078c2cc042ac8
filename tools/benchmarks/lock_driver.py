"""A process that locks: `python -m benchmarks.lock_driver NAME WORK SECONDS FOLDER PORT`.

`alone`: nobody else wants the lock; cycles of acquire and release per second. Any other work is one of
several processes: it says that it is ready, waits for a line with the time to begin, and until the end it
acquires, holds, releases, and does as long something else. While it holds, it adds to a counter that all
processes share, in two steps: when the counter ends below the cycles, two held the lock at once.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from pathlib import Path

from .driver import say
from .lock_contender import LockContender, Place, load
from .processes import begin_child
from .works import Numbers, rate

HELD = {"held20us": 20e-6, "held1ms": 1e-3}  # seconds
SPIN = 100e-6  # shorter than this is spent computing, longer waiting, as for a disk


def alone(contender: LockContender, seconds: float) -> Numbers:
    """Cycles per second where nobody else wants the lock."""
    acquire, release = contender.acquire, contender.release

    def cycle() -> None:
        acquire()
        release()

    rate(cycle, seconds / 10)
    return {"alone.cycles": rate(cycle, seconds)}


def spend(seconds: float) -> None:
    """Be busy for so long."""
    if seconds > SPIN:
        time.sleep(seconds)
        return
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def contend(
    contender: LockContender, held: float, begin: float, seconds: float, counter: mmap.mmap
) -> Numbers:
    """Cycles done, and the longest time between asking for the lock and having it."""
    cycles, longest = 0, 0.0
    time.sleep(max(0.0, begin - time.perf_counter()))
    end = begin + seconds
    while (asked := time.perf_counter()) < end:
        contender.acquire()
        longest = max(longest, time.perf_counter() - asked)
        seen = int.from_bytes(counter[:8], "little")
        spend(held)
        counter[:8] = (seen + 1).to_bytes(8, "little")
        contender.release()
        cycles += 1
        spend(held)
    return {"cycles": cycles, "longest": longest}


def shared_counter(folder: Path) -> mmap.mmap:
    """Eight bytes that all processes of a run see."""
    descriptor = os.open(folder / "counter", os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(descriptor, mmap.PAGESIZE)
    counter = mmap.mmap(descriptor, mmap.PAGESIZE)
    os.close(descriptor)
    return counter


def main() -> None:
    """Do the work that the arguments name."""
    begin_child()
    name, work, seconds, folder, port = sys.argv[1:6]
    place = Place(Path(folder), int(port) if port else None)
    try:
        contender = load(name)(place)
        if work == "alone":
            say(dict(alone(contender, float(seconds))))
        else:
            contender.acquire()
            contender.release()
            counter = shared_counter(place.folder)
            say({"ready": True})
            begin = float(json.loads(sys.stdin.readline()))
            numbers = contend(contender, HELD[work], begin, float(seconds), counter)
            say({**numbers, "counted": int.from_bytes(counter[:8], "little")})
    except Exception as error:  # any failure of any contender is reported
        say({"error": f"{type(error).__name__}: {error}"})
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
