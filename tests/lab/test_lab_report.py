"""The report says what the history says, needs nothing but itself, and draws in a real browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from laila.lab import report
from laila.lab.history import History
from laila.lab.remote import Outcome
from laila.lab.result import Result, StepResult, Verdict

EVENTS: list[dict[str, Any]] = [
    {"t": 0.1, "what": "up", "text": "", "node": "a"},
    {"t": 0.2, "what": "up", "text": "", "node": "b"},
    {"t": 1.0, "what": "link", "text": "", "node": "a", "peer": "b"},
    {"t": 1.1, "what": "link", "text": "", "node": "b", "peer": "a"},
    {"t": 4.0, "what": "kill", "text": "", "node": "b"},
    {"t": 4.5, "what": "lost", "text": "", "node": "a", "peer": "b"},
    {"t": 6.0, "what": "up", "text": "", "node": "b"},
    {"t": 7.0, "what": "healed", "text": "", "node": "a", "peer": "b"},
    {"t": 7.2, "what": "link", "text": "", "node": "b", "peer": "a"},
]


def result(*states: str, detail: str = "as it should", evidence: tuple[str, ...] = (), **more: Any) -> Result:
    keys = ("start", "links", "memory", "crash", "durable")
    steps = tuple(
        StepResult(key, f"step {key}", state, detail, n * 2.0, 2.0, evidence)
        for n, (key, state) in enumerate(zip(keys, states, strict=False))
    )
    fields: dict[str, Any] = {"facts": {}, "left_behind": (), **more}
    return Result(
        "run", "replicated", "process", "a test", ("a", "b"), 7, "repeat", 0.0, 10.0, steps, **fields
    )


def page(made: Result, folder: Path) -> Path:
    with History(folder / "history.jsonl") as history:
        history.events.extend(EVENTS)
        history.op(
            "remember", Outcome(history.began + 2, history.began + 3), client="a", at="b", phase="memory"
        )
        text = report.render(made, history, {"topology": {"stranger": {"name": "stranger"}}})
    path = folder / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("states", "left", "verdict", "code"),
    [
        (("ok", "ok"), (), Verdict.OK, 0),
        (("ok", "failed", "skipped"), (), Verdict.FAILED, 1),
        (("error", "failed"), (), Verdict.FAILED, 1),
        (("ok", "error", "skipped"), (), Verdict.UNKNOWN, 2),
        (("ok", "skipped"), (), Verdict.UNKNOWN, 2),
        ((), (), Verdict.UNKNOWN, 2),
        (("ok", "ok"), ("container x",), Verdict.UNKNOWN, 2),
    ],
)
def test_only_steps_that_were_all_shown_are_ok(
    states: tuple[str, ...], left: tuple[str, ...], verdict: Verdict, code: int
) -> None:
    made = result(*states, left_behind=left)
    assert (made.verdict, made.verdict.exit_code) == (verdict, code)


def test_a_node_lives_in_spans() -> None:
    assert report.life("b", EVENTS, 10.0) == [
        {"from": 0.2, "to": 4.0, "ended": "killed"},
        {"from": 6.0, "to": 10.0, "ended": ""},
    ]


def test_who_saw_whom_ends_with_a_loss_or_with_the_own_death() -> None:
    assert report.sight("a", "b", EVENTS, 10.0) == [
        {"from": 1.0, "to": 4.5, "ended": "lost"},
        {"from": 7.0, "to": 10.0, "ended": ""},
    ]
    assert report.sight("b", "a", EVENTS, 10.0) == [
        {"from": 1.1, "to": 4.0, "ended": "died"},
        {"from": 7.2, "to": 10.0, "ended": ""},
    ]


def test_operations_are_counted_where_they_worked() -> None:
    ops = [
        {"at": "b", "op": "remember", "outcome": "ok", "end": 0.0, "phase": "memory"},
        {"at": "b", "op": "remember", "outcome": "EntryNotFound", "end": 0.0, "phase": "memory"},
        {"at": "b", "op": "remember", "outcome": "EntryNotFound", "end": 10.0, "phase": "after"},
        {"at": "b", "op": "peers", "outcome": "ok", "end": 5.0, "phase": "lists"},
        {"at": "a", "op": "remember", "outcome": "ok", "end": 5.0, "phase": "memory"},
    ]
    counted = report.work("b", ops, 10.0)
    assert (sum(counted["good"]), sum(counted["bad"])) == (2, 1)
    assert (counted["good"][0], counted["bad"][-1]) == (2, 1)


def test_lost_writes_are_not_called_kept() -> None:
    tile = report.tiles(result("failed", facts={"acknowledged": 1000, "lost": 4}), 2, EVENTS)[-1]
    assert tile == {"number": "4", "text": "of 1,000 acknowledged writes lost", "bad": True}


def test_the_page_stands_alone_and_nothing_in_it_can_break_out(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x>"
    text = page(result("ok", "failed", detail=evil, evidence=(evil,)), tmp_path).read_text(encoding="utf-8")
    assert text.count("<script") == 2
    assert "<img" not in text
    assert not re.search(r'(src|href)="', text)
    assert "default-src 'none'" in text
    data = re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert json.loads(data[1])["result"]["steps"][1]["evidence"] == [evil]
    assert "@@" not in text


@pytest.mark.skipif(
    shutil.which("chromium") is None and not os.environ.get("CI"), reason="no chromium here; CI must have one"
)
@pytest.mark.parametrize(("state", "headline"), [("ok", "OK"), ("failed", "FAILED"), ("error", "UNKNOWN")])
def test_a_browser_draws_it(tmp_path: Path, state: str, headline: str) -> None:
    path = page(result("ok", "ok", state, detail="said <so>", evidence=("because",)), tmp_path)
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
    assert f"<h1>{headline}</h1>" in drawn
    assert "kill −9" in drawn  # noqa: RUF001  typeset in the page
    assert drawn.count("<b>sees it</b>") == 2
    assert ("could not be judged" in drawn, ": failed</h3>" in drawn) == (state == "error", state == "failed")
    assert "said &lt;so&gt;" in drawn
    assert 'href="logs/a.log"' in drawn
