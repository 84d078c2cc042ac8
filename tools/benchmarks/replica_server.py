"""One server of a contender: `python -m benchmarks.replica_server NAME NUMBER PLACE`; its pid is one JSON line."""

from __future__ import annotations

import json
import os
import sys

from .processes import begin_child
from .replica_contender import Place, become, load


def main() -> None:
    """Become the server; it is ended with the harness."""
    begin_child()
    name, number, words = sys.argv[1:4]
    command = load(name)(Place.of_words(words)).serve(int(number))
    print(json.dumps({"pid": os.getpid()}), flush=True)
    become(command)


if __name__ == "__main__":
    main()
