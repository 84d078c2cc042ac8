"""File systems of a test's own: programs that run in a mount namespace, where a small tmpfs is mounted for them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def mounted(directory: Path, options: str = "size=16m", fstype: str = "tmpfs") -> list[str]:
    """What to put before a program, so that a file system is mounted at `directory` for it alone.

    Skips where that is impossible.
    """
    able = os.geteuid() == 0 and shutil.which("unshare") is not None
    if able:
        able = subprocess.run(["unshare", "-m", "true"], capture_output=True, timeout=60).returncode == 0
    if not able:
        why_not = "no mount namespace can be made here: it takes root and unshare"
        if os.environ.get("CI"):
            pytest.fail(f"these tests must run in CI, but {why_not}")
        pytest.skip(why_not)
    directory.mkdir(exist_ok=True)
    script = 'mount -t "$1" -o "$2" none "$3"; shift 3; exec "$@"'
    return ["unshare", "-m", "sh", "-euc", script, "sh", fstype, options, str(directory)]
