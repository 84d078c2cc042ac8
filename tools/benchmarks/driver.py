"""The client process: `python -m benchmarks.driver NAME WORKS SECONDS ADDRESS`.

WORKS is `seq,batch` or `clients:16`. Prints the numbers as one JSON line. With `clients:N` it is one of
several: N threads, each a client of its own, connect; then it says it is ready, waits for a line on stdin,
and all threads get for SECONDS.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

from .contender import SMALL, Address, Contender, load
from .processes import begin_child
from .works import WORKS, Settings


def say(message: dict[str, object]) -> None:
    """One line to the harness."""
    print(json.dumps(message), flush=True)


def crowd(kind: type[Contender], address: Address, size: int, seconds: float) -> dict[str, object]:
    """`size` clients at once; how many gets they did and in what time."""
    barrier = threading.Barrier(size + 1)
    go = threading.Event()
    done: list[int] = []
    errors: list[Exception] = []
    ends: list[float] = []

    def one() -> None:
        try:
            client = kind()
            client.connect(address)
            key = client.put(SMALL)
            barrier.wait(60)
            go.wait()
            operations, end = 0, time.perf_counter() + seconds
            while time.perf_counter() < end:
                client.get(key)
                operations += 1
            ends.append(time.perf_counter())
            done.append(operations)
        except Exception as error:  # any failure of any contender is reported, and stops the others
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=one, daemon=True) for _ in range(size)]
    for thread in threads:
        thread.start()
    try:
        barrier.wait(60)
    except threading.BrokenBarrierError:
        raise errors[0] if errors else TimeoutError("the clients did not connect within 60 s") from None
    say({"ready": size})
    sys.stdin.readline()
    begin = time.perf_counter()
    go.set()
    for thread in threads:
        thread.join(seconds + 60)
    if errors or len(done) < size:
        raise errors[0] if errors else TimeoutError(f"{size - len(done)} of {size} clients hang")
    return {"operations": sum(done), "seconds": max(ends) - begin}


def attempt(work: str, client: Contender, settings: Settings) -> dict[str, object]:
    """A work's numbers, or under `failed.<work>` why there are none; the works after it are still tried."""
    try:
        return dict(WORKS[work](client, settings))
    except Exception as error:  # any failure of any contender is reported
        return {f"failed.{work}": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Do the works that the arguments name, in their order."""
    begin_child()
    name, works, seconds, encoded = sys.argv[1:5]
    address: Address = json.loads(encoded)
    kind = load(name)
    try:
        if works.startswith("clients:"):
            say(crowd(kind, address, int(works.partition(":")[2]), float(seconds)))
        else:
            client = kind()
            client.connect(address)
            settings = Settings(seconds=float(seconds), server_pid=int(address["pid"]))
            numbers: dict[str, object] = {}
            for work in works.split(","):
                numbers |= attempt(work, client, settings)
            say(numbers)
    except Exception as error:  # the harness names the contender and goes on
        say({"error": f"{type(error).__name__}: {error}"})
    sys.stdout.flush()
    os._exit(0)  # no contender's threads hold up the next


if __name__ == "__main__":
    main()
