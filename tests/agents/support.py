"""Children with interpreters of their own, the seed's class as a negative control, and what tests do to files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SEED = ROOT / "tests" / "seeds" / "multi_node.py"
PATIENCE = 60.0


def seed_class() -> Any:
    """`DistributedAgent` as the seed's author wrote it."""
    source, usage, _ = SEED.read_text(encoding="utf-8").partition("# Usage")
    assert usage, "the seed's program has no usage at its end any more"
    names: dict[str, Any] = {}
    exec(compile(source, str(SEED), "exec"), names)  # noqa: S102  # the program under test
    return names["DistributedAgent"]


def start(code: str, *arguments: object, before: Sequence[str] = (), **env: str) -> subprocess.Popen[str]:
    """`python -c code arguments`, from the root of the checkout; `before`: a command that runs it."""
    return subprocess.Popen(
        [*before, sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        cwd=ROOT, env={**os.environ, **env}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(child: subprocess.Popen[str]) -> str:
    """What it printed. Raises AssertionError when it failed or does not end."""
    try:
        out, err = child.communicate(timeout=PATIENCE)
    finally:
        child.kill()
    assert child.returncode == 0, f"{child.returncode}: {err[-3000:]}"
    return out


def run(code: str, *arguments: object, before: Sequence[str] = (), **env: str) -> str:
    """Run it to its end; what it printed."""
    return finish(start(code, *arguments, before=before, **env))


def until(true: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    """The first true value of `true()`; fails with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, f"within {seconds} s there was not: {what}"
        time.sleep(0.02)
    return value


def _may_mount() -> bool:
    try:
        return (
            subprocess.run(["unshare", "-m", "true"], capture_output=True, timeout=PATIENCE).returncode == 0
        )
    except OSError:
        return False


mounts = pytest.mark.skipif(not _may_mount(), reason="needs the right to mount: run as root")
"""For tests that mount something in a mount namespace of their own."""


def ids(agents: list[dict[str, Any]]) -> list[str]:
    return [one["agent_id"] for one in agents]


def flip(path: Path, at: int) -> None:
    """Another byte at this offset, in place."""
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x41]))
