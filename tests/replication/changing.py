"""One program that does something to the members of a store, says so line by line, and may be killed at any of them.

    python -m tests.replication.changing open|add|remove|replace|resume PLACES [WHERE [WHERE]]

PLACES is a list with commas. Each line on stdout is a JSON list: ["told", words], ["done", store, number, places] or
["failed", kind, words].
"""

from __future__ import annotations

import json
import sys
import warnings

from laila.errors import LailaError
from laila.replication.opening import MembershipDiffers
from laila.replication.store import ReplicatedStore


def say(*words: object) -> None:
    print(json.dumps(words), flush=True)


def told(words: str) -> None:
    say("told", words)


def main(what: str, places: str, *wheres: str) -> None:
    warnings.simplefilter("ignore", MembershipDiffers)
    say("told", "ready")
    sys.stdin.readline()
    try:
        with ReplicatedStore(places.split(","), background=False) as store:
            say("told", "open")
            change = {
                "open": lambda: store.view,
                "add": lambda: store.add_replica(*wheres, progress=told),
                "remove": lambda: store.remove_replica(*wheres, progress=told),
                "replace": lambda: store.replace_replica(*wheres, progress=told),
                "resume": lambda: store.resume_change(progress=told),
            }[what]
            view = change()
            say("done", view.store, view.number, [member.where for member in view.members])
    except LailaError as error:
        say("failed", type(error).__name__, str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
