"""The example of docs/testing.md: its test is green, and red for the right reason when the application is wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from compose_support import ROOT, need_engine

from laila.lab import registry
from laila.lab.checkers import zones

EXAMPLE = ROOT / "docs" / "examples" / "keyvalue"
DOCUMENT = ROOT / "docs" / "testing.md"
IMAGE = "laila-base:3.13"


def run(folder: Path, reads: str) -> subprocess.CompletedProcess[str]:
    """The example's tests as its owner runs them, with evidence in `folder`."""
    shutil.copytree(EXAMPLE, folder / "keyvalue", ignore=shutil.ignore_patterns("__pycache__", "lab-runs"))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", "--rootdir", "."],
        cwd=folder / "keyvalue",
        env={**os.environ, "PYTHON_IMAGE": IMAGE, "READS": reads},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.container
def test_the_example_passes(tmp_path: Path) -> None:
    need_engine(IMAGE)
    done = run(tmp_path, "leader")
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
    assert not (tmp_path / "keyvalue" / "lab-runs").exists()
    assert registry.runs() == []


@pytest.mark.container
def test_an_application_that_reads_stale_copies_is_caught(tmp_path: Path) -> None:
    """The same test, the same faults; only the application differs."""
    need_engine(IMAGE)
    done = run(tmp_path, "local")
    assert done.returncode == 1, done.stdout
    assert "verdict: illegal" in done.stdout
    assert "linearizable register" in done.stdout
    (folder,) = (tmp_path / "keyvalue" / "lab-runs").iterdir()
    assert f"{folder}/report.html" in done.stdout
    result = json.loads((folder / "result.json").read_text())
    assert result["verdict"] == "failed"
    illegal = [one for one in result["facts"]["judgements"] if one["verdict"] == "illegal"]
    assert illegal
    assert {one["why"]["kind"] for one in illegal} <= {zones.STALE, zones.BACK, zones.LOST}
    bites = [bite["spec"] for bite in result["facts"]["bites"]]
    assert bites[:2] == ["partition@leader/east", "pause@west"], "in turns, until the time is over"
    assert len(bites) > 2
    assert set(bites) == set(bites[:2])
    assert "illegal" in (folder / "report.html").read_text()
    assert (folder / "logs" / "leader.log").exists()
    assert registry.runs() == []


def test_the_document_shows_the_example_as_it_is() -> None:
    """Whole, but for the text at its top; and a person reads it in one look."""
    code = (EXAMPLE / "test_app.py").read_text(encoding="utf-8")
    code = code.partition('"""\n\n')[2]
    shown = re.findall(r"```python[^\n]*\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert code in shown
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    (settings,) = re.findall(
        r"```toml\n# app.toml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL
    )
    assert settings == (EXAMPLE / "app.toml").read_text(encoding="utf-8")
