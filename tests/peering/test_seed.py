"""The program of the public library's ninth tutorial, verbatim."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "seeds" / "tutorial_09.py"


def test_the_program_is_the_documents() -> None:
    """Nothing but indentation and line breaks was changed: each code line of the document stands here, in order."""
    seed = Path(__file__).parents[3] / "shared" / "seeds" / "tutorial-09-peer-to-peer.txt"
    if not seed.exists():
        return  # only developers have the document; the program itself is tested below
    document = seed.read_text().splitlines()
    wanted = [line.strip() for line in PROGRAM.read_text().splitlines() if line.strip()]
    position = 0
    for line in wanted:
        stripped = [" ".join(other.split()) for other in document[position:]]
        assert " ".join(line.split()) in stripped, line
        position += stripped.index(" ".join(line.split())) + 1


def test_the_tutorial_runs_verbatim() -> None:
    """Both processes fetch what only the other one holds."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[-5:] == [
        "  {'message': 'Hello from the remote process'}",
        "Remote subprocess retrieved from main:",
        "  {'message': 'Hello from the main process'}",
        "Local connection removed.",
        "Remote subprocess terminated.",
    ]
    assert re.search(r"ENTRY_ID: f69bf63a-dc0f-5a54-a7bc-92438d0f83df", done.stdout)
