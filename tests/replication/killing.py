"""Programs that are killed with SIGKILL at every line of a replica's code, and what they leave.

    python -m tests.replication.killing put|care|ballot PLACE KILLS

Runs in a process of its own, because it forks: each victim is a child that opens the replica as a new program would.
One JSON object per kill goes to stdout.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from laila.replication.directory import DirectoryReplica
from laila.replication.incoming import sweep
from laila.replication.tags import Stand
from tests.replication.versions import ANOTHER, ME, STAMP, Author, settle, trust_of
from tests.shared.killing import ROOT, in_child, kill_me_at, killed, read_all

CODE = (f"{ROOT}/laila/replication/", f"{ROOT}/laila/pools/")
"""Where a kill may leave something; reading heads and taking locks has its own tests."""
TRUST = trust_of(ME, ANOTHER)
AUTHOR = Author(ME, TRUST)


class Victims:
    """Each does one thing to the replica at `place`, and says so when it is done. `number` counts from 1."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.witness = DirectoryReplica(place, TRUST)
        self.witness.mark(STAMP)
        self.begin()

    def begin(self) -> None:
        """What is there before the first victim."""

    def prepare(self, number: int) -> Callable[[DirectoryReplica], object]:
        """What a victim is to do; made before the lines are counted."""
        raise NotImplementedError

    def look(self) -> dict[str, Any]:
        """What is there, by one who saw everything and by one who comes new."""
        found: dict[str, Any] = {"swept": sweep(Path(self.place, ".laila", "incoming"), older=-1.0)}
        for who, replica in (("witness", self.witness), ("newcomer", DirectoryReplica(self.place, TRUST))):
            found[who] = self.seen(replica)
        replica.close()
        return found

    def seen(self, replica: DirectoryReplica) -> Any:
        (one,) = replica.look(["doc"], 0)
        if not isinstance(one, Stand):
            return str(one)
        return [
            one.sequence,
            one.gone,
            replica.check("doc", 0).valid,
            replica.names(0).live == ([] if one.gone else ["doc"]),
        ]


class Puts(Victims):
    """A put of version `number`: every third one is a tombstone."""

    def prepare(self, number: int) -> Callable[[DirectoryReplica], object]:
        copy = AUTHOR.version("doc", number, "x" * 5000, gone=number % 3 == 0)
        return lambda replica: replica.put(copy, 0)


class Cares(Victims):
    """Distrust, a put and a settling, so that in the end version 1000 + `number` counts."""

    def begin(self) -> None:
        with AUTHOR.version("doc", 1) as copy:
            self.witness.put(copy, 0)

    def prepare(self, number: int) -> Callable[[DirectoryReplica], object]:
        copy = AUTHOR.version("doc", 1000 + number)

        def work(replica: DirectoryReplica) -> None:
            replica.distrust("doc", "as a test")
            replica.put(copy, 0)
            settle(replica, copy.stand.tag)

        return work


class Ballots(Victims):
    """Ballots that are as long as their number says."""

    def prepare(self, number: int) -> Callable[[DirectoryReplica], object]:
        return lambda replica: replica.cast(replica.ballot(), b"%d" % number * 500)

    def seen(self, replica: DirectoryReplica) -> Any:
        ballot = replica.ballot() or b""
        number = ballot[: len(ballot) // 500].decode()
        return [int(number or 0), ballot == number.encode() * 500]


def at_lines(victims: Victims, kills: int) -> Iterator[dict[str, Any]]:
    """Kills spread evenly over all lines that a victim runs, and over once more when that came to its end."""

    def victim(number: int, line: int) -> Callable[[int], None]:
        work = victims.prepare(number)

        def run(pipe: int) -> None:
            lines = kill_me_at(line, CODE)
            replica = DirectoryReplica(victims.place, TRUST)
            work(replica)
            sys.settrace(None)
            os.write(pipe, b"%d" % lines[0])

        return run

    for number in (1, 2):  # the first one has more to make
        pid, pipe = in_child(victim(number, 0))
        total = int(read_all(pipe))
        killed(pid)
    step = max(1.0, total / (kills * 0.9))
    place = start = 1.0
    for number in range(3, kills + 3):
        pid, pipe = in_child(victim(number, int(place)))
        died = killed(pid)
        yield {
            "number": number,
            "line": int(place),
            "killed": died,
            "done": bool(read_all(pipe)),
            **victims.look(),
        }
        place += step
        if not died:
            start += step / 2
            place = start


def main() -> None:
    what, place, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
    kinds: dict[str, type[Victims]] = {"put": Puts, "care": Cares, "ballot": Ballots}
    with contextlib.closing(DirectoryReplica(place, TRUST)):
        for outcome in at_lines(kinds[what](place), kills):
            print(json.dumps(outcome), flush=True)


if __name__ == "__main__":
    main()
