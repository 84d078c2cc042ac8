"""The process that does a work on artifacts: `python -m benchmarks.artifact_driver NAME WORK SECONDS FOLDER`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .artifact_contender import load
from .artifact_works import WORKS
from .driver import say
from .processes import begin_child


def main() -> None:
    """Do the work that the arguments name; its numbers are one JSON line."""
    begin_child()
    name, work, seconds, folder = sys.argv[1:5]
    try:
        say(dict(WORKS[work](load(name)(), Path(folder), float(seconds))))
    except Exception as error:  # any failure of any contender is reported
        say({"error": f"{type(error).__name__}: {error}"})
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
