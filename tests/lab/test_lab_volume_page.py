"""What the report says about a shared volume: who held the lock, what nodes said to bad files, and the numbers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from laila.lab import lock_lanes, report, volume_page
from laila.lab.checkers.holds import Hold
from laila.lab.clocks import Moment
from laila.lab.history import History
from laila.lab.result import Result, StepResult, Verdict

VERDICT = {
    "name": "shared",
    "answer": "SAFE",
    "reason": "they took turns",
    "one_kernel": True,
    "mount": {"fstype": "ext4"},
    "evidence": [{"check": "flock", "outcome": "ok", "text": "refused <while> held", "numbers": {}}],
}
CASE = {
    "what": "a bit of the header is flipped (byte 12)",
    "proof": "sha256 of other bytes",
    "said": {
        "a": [{"how": "load", "said": "ArtifactCorrupt", "good": True}],
        "b": [{"how": "load", "said": "served: other content", "good": False}],
    },
    "served": 1,
}
FACTS: dict[str, Any] = {
    "volume": VERDICT,
    "locks": {"exclusive": 400, "shared": 100},
    "passed_on": {"slowest": 0.25, "deaths": 4},
    "registrations": {"acknowledged": 90, "lost": 0},
    "fresh": {"reads": 1234, "versions": 50, "faults": 0},
    "writers": {"killed": 30, "faults": 0},
    "damage": {"cases": [{**CASE, "served": 0}], "wrong": 0},
}


def hold(client: str, token: int, got: float, gave: float, **more: Any) -> Hold:
    return Hold(client, client[0], token, Moment.at(got - 0.1), Moment.at(got), Moment.at(gave), **more)


HOLDS = [
    hold("a/0", 1, 1.0, 1.2),
    hold("b/0", 1, 1.3, 1.4, shared=True),
    hold("b/0", 2, 1.5, 1.9, killed=True),
    hold("a/0", 3, 2.0, 2.2),
    hold("b/1", 4, 2.1, 2.4),
]


def test_each_client_has_a_row_and_what_overlaps_is_marked() -> None:
    panel = lock_lanes.panel("title", HOLDS)
    assert [row["client"] for row in panel["rows"]] == ["a/0", "b/0", "b/1"]
    kinds = {(row["client"], hold[3]): hold[4] for row in panel["rows"] for hold in row["holds"]}
    assert kinds == {("a/0", 1): "x", ("a/0", 3): "X", ("b/0", 1): "s", ("b/0", 2): "k", ("b/1", 4): "X"}
    assert (panel["from"], panel["to"], panel["overlaps"]) == (0.9, 2.4, 1)
    assert panel["said"] == "4 exclusive holds, 1 shared ones, 1 holders killed; 1 overlap"
    assert panel["detail"] is None, "a few holds need no magnifying"


def test_what_is_magnified_first_is_the_first_overlap() -> None:
    many = [hold("a/0", n, n * 0.01 + 1, n * 0.01 + 1.005) for n in range(1, 200)]
    middle = lock_lanes.panel("t", many)["detail"]
    assert middle == pytest.approx([1.9075, 1.9875], abs=0.1)
    first = lock_lanes.panel("t", [*many, hold("b/0", 999, 1.503, 1.508)])["detail"]
    assert first[0] < 1.504 < first[1]


def test_panels_are_made_from_the_history(tmp_path: Path) -> None:
    with History(tmp_path / "history.jsonl") as history:
        for one in HOLDS:
            history.keep("hold", one.to_record(0.0), phase="passing")
    (panel,) = lock_lanes.panels(history.records["hold"])
    assert (panel["title"], panel["overlaps"]) == (lock_lanes.TITLES["passing"], 1)
    done = volume_page.done(history)
    assert [(phase, op.op, op.node, op.end) for phase, op in done][:2] == [
        ("passing", "hold", "a", 1.2),
        ("passing", "hold, shared", "b", 1.4),
    ]


def test_good_numbers() -> None:
    assert [(tile["number"], tile.get("bad", False)) for tile in volume_page.tiles(FACTS)] == [
        ("SAFE", False),
        ("500", False),
        ("0.25 s", False),
        ("90 / 90", False),
        ("1,234", False),
        ("30", False),
        ("1", False),
    ]


@pytest.mark.parametrize(
    ("facts", "number", "text"),
    [
        ({"volume": {**VERDICT, "answer": "UNSAFE"}}, "UNSAFE", "locks on the volume"),
        ({"lock_faults": 7, "locks": {"exclusive": 1, "shared": 0}}, "7", "faults of the lock"),
        ({"registrations": {"acknowledged": 90, "lost": 3}}, "87 / 90", "registrations there"),
        ({"fresh": {"reads": 10, "versions": 2, "faults": 4}}, "4", "stale or torn"),
        ({"writers": {"killed": 30, "faults": 2}}, "2", "bad loads after 30 killed writers"),
        ({"damage": {"cases": [CASE], "wrong": 1}}, "1 / 1", "served"),
        ({"damage": {"cases": [{**CASE, "served": 0}], "wrong": 2}}, "2", "for a wrong reason"),
    ],
)
def test_bad_numbers_are_marked(facts: dict[str, Any], number: str, text: str) -> None:
    (tile,) = volume_page.tiles(facts)
    assert (tile["number"], tile.get("bad")) == (number, True)
    assert text in tile["text"]


def test_a_topology_without_a_shared_volume_says_nothing_of_one(tmp_path: Path) -> None:
    with History(tmp_path / "history.jsonl") as history:
        assert volume_page.data({}, history) == {}
    assert volume_page.tiles({}) == []


def result(**facts: Any) -> Result:
    steps = (
        StepResult("volume", "locks on the volume exclude", "ok", "SAFE", 0.0, 1.0),
        StepResult("full", "a full volume loses nothing", "skipped", "no root", 1.0, 0.0, excused=True),
    )
    return Result("r", "shared-volume", "process", "t", ("a", "b"), 7, "repeat", 0.0, 3.0, steps, facts)


def test_a_step_that_cannot_be_done_here_is_named_in_the_verdict() -> None:
    made = result(locks={})
    assert made.verdict is Verdict.OK
    assert made.sentence.startswith("2 nodes peer with each other and share one volume")
    assert made.sentence.endswith("Not shown here: a full volume loses nothing.")


@pytest.mark.skipif(
    shutil.which("chromium") is None and not os.environ.get("CI"), reason="no chromium here; CI must have one"
)
def test_a_browser_draws_it(tmp_path: Path) -> None:
    many = [hold("a/0", n, n * 0.01 + 1, n * 0.01 + 1.005) for n in range(1, 100)]
    with History(tmp_path / "history.jsonl") as history:
        for phase, holds in (("exclusion", many), ("passing", HOLDS)):
            for one in holds:
                history.keep("hold", one.to_record(0.0), phase=phase)
        facts = {**FACTS, "damage": {"cases": [CASE], "wrong": 1}}
        page = report.render(result(**facts), history, {"topology": {"stranger": {"name": "stranger"}}})
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    assert not re.search(r'(src|href)="', page)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    drawn = subprocess.run(
        ["chromium", *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    drawn = re.sub(r"<script.*?</script>", "", drawn, flags=re.DOTALL)  # what it drew, not what it draws with
    assert '<span class="chip SAFE">SAFE</span>' in drawn
    assert "refused &lt;while&gt; held" in drawn
    assert drawn.count("<h3>") == 2
    assert "Magnified: 80 ms" in drawn
    assert "overlaps another hold</title>" in drawn
    assert "then killed</title>" in drawn
    assert "nobody held it for 100 ms" in drawn
    assert '<div class="bad"><small>load</small><b>served: other content</b></div>' in drawn
