"""Which tests go side by side when there are several workers (pytest-xdist).

What uses the engine goes one after another, and so does what uses the machine as a whole (mounts, loop devices,
namespaces); the rest goes module by module.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByRoom(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return room(nodeid.partition("::")[0])

    return ByRoom(config, log)


@functools.cache
def room(path: str) -> str:
    """Tests of one room never run at the same time."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if (
        "container/" in path or "mark.container" in text or '"gc"' in text
    ):  # gc collects whatever anybody left
        return "engine"
    long = path.endswith("test_mutants.py")  # and waits by itself for what it starts side by side
    return "machine" if path.startswith("tests/lab/") and not long else path
