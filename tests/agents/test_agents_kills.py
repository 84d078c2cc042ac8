"""Agents killed with -9 anywhere: what was acknowledged is there, nothing is torn, and others go on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agents.support import ROOT


@pytest.mark.parametrize(("how", "kills"), [("lines", 120), ("moments", 60)])
def test_killed_anywhere(shared: Path, how: str, kills: int) -> None:
    """After each kill our reader and the seed's find every acknowledged registration and result, whole."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.agents.killing", how, str(shared), str(kills)],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one for one in found if one["missing"] or one["torn"]] == []
    assert sum(one["killed"] for one in found) > len(found) // 4, "the kills did not hit"
    assert found[-1]["acknowledged"] > 20, "nothing was acknowledged, so nothing was shown"
