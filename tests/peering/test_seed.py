"""The program of the public library's ninth tutorial, verbatim."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SEEDS = Path(__file__).parents[1] / "seeds"
PROGRAM = SEEDS / "tutorial_09.py"
DOCUMENT = SEEDS / "tutorial-09-peer-to-peer.txt"
PROSE = re.compile(
    r"^(Tutorial 9|LAILA policies|Prerequisites|No credentials|Setup|Step \d|The remote process|After printing|"
    r"The main process creates|The main process|Open a TCP|Setting active_policy|Peering is symmetric|Remove the local)"
)


def plain(lines: list[str]) -> list[str]:
    """Lines without the white space that the document lost and the program restored."""
    return [" ".join(line.split()) for line in lines if line.strip()]


def test_the_program_is_the_documents() -> None:
    """Nothing but indentation was restored: the document without its prose is the program, line by line."""
    document = plain(DOCUMENT.read_text().splitlines())
    document = document[: document.index("Summary¶")]
    program = plain(PROGRAM.read_text().splitlines())
    assert [line for line in document if not PROSE.match(line)] == program


def test_the_tutorial_runs_verbatim() -> None:
    """Both processes fetch what only the other one holds."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-5:] == [
        "  {'message': 'Hello from the remote process'}",
        "Remote subprocess retrieved from main:",
        "  {'message': 'Hello from the main process'}",
        "Local connection removed.",
        "Remote subprocess terminated.",
    ]
    assert "ENTRY_ID: f69bf63a-dc0f-5a54-a7bc-92438d0f83df" in done.stdout
