"""A container test that cannot run is a skip that says why, and in CI a failure: silence must not look like success."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1] / "container" / "test_docker_driver.py"


@pytest.mark.parametrize(("ci", "code", "word"), [("", 0, "skipped"), ("true", 1, "must run in CI")])
def test_without_an_engine(tmp_path: Path, ci: str, code: int, word: str) -> None:
    environment = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/no-engine.sock", "CI": ci}
    words = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(TESTS), "-k", "absent"]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False, timeout=60)
    assert (done.returncode, word in done.stdout, "no container engine answers" in done.stdout) == (
        code,
        True,
        True,
    )
