"""The server process of one contender: `python -m benchmarks.server NAME`; its address is one JSON line."""

from __future__ import annotations

import json
import os
import sys

from .contender import Address, load
from .processes import begin_child


def main() -> None:
    """Serve until killed, or until the harness is gone."""
    begin_child()

    def announce(address: Address) -> None:
        print(json.dumps({"pid": os.getpid(), **address}), flush=True)

    load(sys.argv[1])().serve(announce)


if __name__ == "__main__":
    main()
