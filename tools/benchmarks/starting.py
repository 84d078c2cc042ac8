"""What `import laila` costs: an interpreter that does it beside one that does nothing, in turns."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time

from . import environments
from .works import Numbers

RUNS = 10
MODULES = """import json, sys
bare = len(sys.modules)
import laila
print(json.dumps([len(sys.modules) - bare, "numpy" in sys.modules]))
"""


def start_up(contender: str, home: str) -> Numbers:
    """Milliseconds of bare Python and of `import laila`, their ratio, the modules it brings."""
    python = environments.python("laila-core" if contender == "laila-core" else "peers")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment["HOME"] = home

    def run(code: str) -> tuple[float, str]:
        begin = time.perf_counter()
        done = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=home
        )
        return time.perf_counter() - begin, done.stdout

    modules, numpy = json.loads(run(MODULES)[1])  # also writes the bytecode
    pairs = [(run("pass")[0], run("import laila")[0]) for _ in range(RUNS)]
    bare, imported = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "import.bare": bare * 1000,
        "import.ms": imported * 1000,
        "import.ratio": imported / bare,
        "import.modules": float(modules),
        "import.numpy": float(numpy),
    }
