"""A writer killed with -9, wherever it is, leaves the old version or the new one; over 1,000 kills."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from laila.shared import SharedArtifactStore

ROOT = Path(__file__).parents[2]
LINES, MOMENTS, AT_LEAST = 1100, 200, 1000


def kills(how: str, shared: Path, count: int) -> list[dict[str, Any]]:
    """What each kill left."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.shared.killing", how, str(shared), str(count)],
        cwd=ROOT, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == count
    return found


def test_killed_at_every_line_of_a_write(shared: Path) -> None:
    """The lines are spread over everything that our code runs in one write, from opening the store to closing it."""
    outcomes = kills("lines", shared, LINES)
    assert sum(outcome["killed"] for outcome in outcomes) > AT_LEAST
    before = 2  # one to begin with, one to count the lines
    for outcome in outcomes:
        assert outcome.get("whole"), outcome
        assert outcome["sequence"] in (before, before + 1), outcome
        assert (outcome["text"] == str(outcome["number"])) == (outcome["sequence"] == before + 1), outcome
        before = outcome["sequence"]
    published = [outcome for outcome in outcomes if outcome["text"] == str(outcome["number"])]
    assert sum(outcome["killed"] for outcome in published) > 5, "some kills came after the rename"
    assert len(published) < LINES // 2, "most came before it"
    assert not all(outcome["killed"] for outcome in outcomes), (
        "some writer came to its end: all lines had their turn"
    )
    with SharedArtifactStore(shared) as store:
        store.create("doc", "the end")
    assert [path.name for path in shared.iterdir() if path.name.endswith(".tmp")] == []


def test_killed_at_random_moments_of_writing(shared: Path) -> None:
    """Each acknowledged version is there; at most one that was not acknowledged is."""
    outcomes = kills("moments", shared, MOMENTS)
    assert all(outcome["killed"] for outcome in outcomes)
    before = 1
    for outcome in outcomes:
        assert outcome.get("whole"), outcome
        assert outcome["sequence"] - before - outcome["acknowledged"] in (0, 1), outcome
        before = outcome["sequence"]
    assert sum(outcome["acknowledged"] for outcome in outcomes) > MOMENTS // 10


def test_the_seeds_store_is_torn_by_a_kill(shared: Path) -> None:
    """The hole: written in place, a file is empty or cut off from the first byte to the last."""
    outcomes = kills("naive", shared, 80)
    torn = [outcome for outcome in outcomes if "error" in outcome]
    assert torn
    assert all(
        "ArtifactCorrupt" in outcome["error"] or "NotAnArtifact" in outcome["error"] for outcome in torn
    )
