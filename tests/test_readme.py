"""The README is true: its example runs, its files exist, its commands are there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


PROGRAMS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
PRINTED = (
    "{'step': 1, 'loss': 0.5}\n",
    "['Content visible to all nodes', 'and a second text']\n{'output': 'done'}\n",
    "Critical information\n",
)


@pytest.mark.parametrize(
    ("program", "printed"), list(zip(PROGRAMS, PRINTED, strict=True)), ids=["peers", "shared", "replicas"]
)
def test_an_example_runs(program: str, printed: str, tmp_path: Path) -> None:
    assert len(program.splitlines()) <= 15
    home = {"XDG_STATE_HOME": str(tmp_path / "state"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=os.environ | home
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, printed, "")


def test_the_example_of_the_format_runs(tmp_path: Path) -> None:
    program = re.search(r"```python\n(.*?)```", (ROOT / "docs/maif.md").read_text(), re.DOTALL)
    assert program is not None
    argv = [sys.executable, "-c", program[1] + 'print(again.verify(), again.get_content_list()[0]["text"])']
    environ = os.environ | {"XDG_STATE_HOME": str(tmp_path / "state"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=environ, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True All is well.\n", "")


def test_what_it_links_to_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    for tool in re.findall(r"^\./(\S+)", TEXT, re.MULTILINE):
        assert (ROOT / tool).exists(), tool
