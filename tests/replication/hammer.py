"""Another process that works on a replica.

    python -m tests.replication.hammer MODULE:FUNCTION PLACE put SEED NAME FIRST COUNT STEP
    python -m tests.replication.hammer MODULE:FUNCTION PLACE cast COUNT

MODULE:FUNCTION(PLACE, trust) opens the replica. `put` puts versions FIRST, FIRST + STEP, … of NAME, a tombstone among
every five, and looks after each: what it sees must never become less. `cast` counts a ballot up COUNT times. One JSON
object on stdout tells how it went.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

from laila.replication.replica import Replica
from laila.replication.tags import Stand, Tag
from tests.replication.versions import ANOTHER, ME, Author, trust_of

TRUST = trust_of(ME, ANOTHER)


def put_versions(
    replica: Replica, author: Author, name: str, first: int, count: int, step: int
) -> dict[str, Any]:
    """What is wrong, and the greatest tag that was put."""
    wrong, highest, mine = [], None, None
    for number in range(count):
        sequence = first + number * step
        with author.version(name, sequence, f"{author.key[:8]} {sequence}", gone=number % 5 == 4) as copy:
            there, tag = replica.put(copy, 0), copy.stand.tag
            if there.tag < tag:
                wrong.append(f"put {tag}, and then it had {there.tag}")
            mine = tag if mine is None else max(mine, tag)
        (found,) = replica.look([name], 0)
        if not isinstance(found, Stand):
            wrong.append(f"it said {found}")
            continue
        for what, seen in (("put", there.tag), ("look", found.tag)):
            if highest is not None and seen < highest:
                wrong.append(f"{what} says {seen} after {highest}")
            highest = seen if highest is None else max(highest, seen)
    return {"wrong": wrong, "mine": words(mine), "seen": words(highest)}


def cast_counts(replica: Replica, count: int) -> dict[str, Any]:
    """Count up `count` times, however often it takes; how often another one was quicker."""
    lost = 0
    for _ in range(count):
        while True:
            before = replica.ballot()
            if replica.cast(before, b"%d" % (int(before or b"0") + 1)):
                break
            lost += 1
    return {"lost": lost}


def words(tag: Tag | None) -> list[Any] | None:
    return None if tag is None else [tag.sequence, tag.writer, tag.digest]


def main() -> None:
    opener, place, what, *arguments = sys.argv[1:]
    module, _, function = opener.partition(":")
    replica: Replica = getattr(importlib.import_module(module), function)(place, TRUST)
    try:
        if what == "put":
            seed, name, *numbers = arguments
            result = put_versions(replica, Author(seed.encode(), TRUST), name, *map(int, numbers))
        else:
            result = cast_counts(replica, int(arguments[0]))
    finally:
        replica.close()
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
