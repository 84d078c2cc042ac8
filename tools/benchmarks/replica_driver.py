"""The client process: `python -m benchmarks.replica_driver NAME WORKS SECONDS NAMES PLACE PIDS`.

WORKS is `durable,crowd`; PIDS are the servers'. Prints the numbers as one JSON line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from .driver import say
from .processes import begin_child
from .replica_contender import OWN_WORKS, Place, ReplicaContender, load
from .replica_works import WORKS, Settings
from .works import Numbers


def attempt(work: str, contender: ReplicaContender, settings: Settings) -> dict[str, object]:
    """A work's numbers, or under `failed.<work>` why there are none; the works after it are still tried."""
    try:
        return dict(find(work)(contender, settings))
    except Exception as error:  # any failure of any contender is reported
        return {f"failed.{work}": f"{type(error).__name__}: {error}"}


def find(work: str) -> Callable[[Any, Settings], Numbers]:
    """What does a work."""
    if work not in OWN_WORKS:
        return WORKS[work]
    from . import replica_quorum  # imports laila, which the others' processes need not

    return replica_quorum.WORKS[work]


def main() -> None:
    """Do the works that the arguments name, in their order."""
    begin_child()
    name, works, seconds, names, place, pids = sys.argv[1:7]
    settings = Settings(float(seconds), tuple(map(int, pids.split(","))) if pids else (), int(names))
    try:
        contender = load(name)(Place.of_words(place))
        contender.connect()
        numbers: dict[str, object] = {}
        for work in works.split(","):
            numbers |= attempt(work, contender, settings)
        say(numbers)
    except Exception as error:  # the harness names the contender and goes on
        say({"error": f"{type(error).__name__}: {error}"})
    sys.stdout.flush()
    os._exit(0)  # no contender's threads hold up the next


if __name__ == "__main__":
    main()
