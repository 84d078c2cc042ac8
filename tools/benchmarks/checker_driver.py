"""A process that judges: `python -m benchmarks.checker_driver NAME WORK COUNT FILE`; NAME `make` only writes FILE."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from . import checker_works
from .driver import say
from .processes import begin_child

SWAPS = 0.5


def main() -> None:
    """Do the work that the arguments name."""
    begin_child()
    name, work, count, file = sys.argv[1:5]
    try:
        if name == "make":
            checker_works.write_lines(Path(file), int(count))
            say({"made": True})
        elif work == "file":
            say(dict(checker_works.judged_file(work, Path(file), int(count))))
        else:
            judge = checker_works.zones if name == "laila" else checker_works.search
            share = SWAPS if work == "swaps" else 0.0
            say(dict(checker_works.judged(work, judge, int(count), share)))
    except Exception as error:  # any failure of any contender is reported
        say({"error": f"{type(error).__name__}: {error}"})
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
