"""The report says what the history says, needs nothing but itself, and draws in a real browser."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from report_support import NODES, clients_at_work, run_folder, with_a_stale_read

from laila.errors import BadConfig
from laila.lab import evidence_page, op_columns, report, saved
from laila.lab.checkers.operations import Op
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


def test_a_node_that_is_told_to_be_up_again_goes_on() -> None:
    events = [
        {"t": t, "what": what, "text": "", "node": "a"} for t, what in ((1, "up"), (3, "up"), (5, "kill"))
    ]
    assert report.life("a", events, 10.0) == [{"from": 1, "to": 5, "ended": "killed"}]


def test_who_saw_whom_ends_with_a_loss_or_with_the_own_death() -> None:
    assert report.sight("a", "b", EVENTS, 10.0) == [
        {"from": 1.0, "to": 4.5, "ended": "lost"},
        {"from": 7.0, "to": 10.0, "ended": ""},
    ]
    assert report.sight("b", "a", EVENTS, 10.0) == [
        {"from": 1.1, "to": 4.0, "ended": "died"},
        {"from": 7.2, "to": 10.0, "ended": ""},
    ]


def test_operations_of_checks_are_drawn_where_they_worked(tmp_path: Path) -> None:
    with History(tmp_path / "history.jsonl") as history:
        began = history.began
        for op, at, phase, error, executed in (
            ("remember", "b", "memory", "", None),
            ("remember", "b", "memory", "EntryNotFound", "yes"),
            ("remember", "b", "after", "EntryNotFound", "yes"),
            ("memorize", "b", "down", "PeerLost", "maybe"),
            ("memorize", "b", "down", "PeerLost", "no"),
            ("peers", "b", "lists", "", None),
        ):
            outcome = Outcome(began + 1, began + 2, error=error, message="why", executed=executed)
            history.op(op, outcome, client="a", at=at, phase=phase, pool="durable")
        found = op_columns.data(history)
    assert (found["outcome"], found["seen"]) == ("00121", 5), "what was right to refuse went well"
    assert found["tables"]["node"] == ["b"]
    assert found["tables"]["workload"] == ["memory", "after", "down"]
    assert [found["texts"][answer] for answer in found["answer"]] == [
        "",
        "refused, as it must: EntryNotFo…",
        "EntryNotFound: why",
        "PeerLost: why",
        "PeerLost: why",
    ]


def test_columns_tell_every_operation_exactly() -> None:
    ops = [
        Op("a/register/0", "a", "write", "k", "v1", None, 1.0, 1.25),
        Op("b/register/0#2", "b", "read", "k", None, ["v1", 2], 0.5, 0.500001),
        Op("a/register/0", "a", "write", "k", "v2", None, 2.0, math.inf, "unknown", "no answer"),
    ]
    found = op_columns.columns(("register", op) for op in ops)
    assert (found["start"], found["length"], found["outcome"]) == (
        [500000, 500000, 1000000],
        [1, 250000, -1],
        "002",
    )
    kinds = [
        [found["tables"][name][n] for name, n in zip(op_columns.TABLES, kind, strict=True)]
        for kind in found["kinds"]
    ]
    assert [kinds[kind] for kind in found["kind"]] == [
        ["b/register/0#2", "b", "register", "read", "k"],
        ["a/register/0", "a", "register", "write", "k"],
        ["a/register/0", "a", "register", "write", "k"],
    ]
    assert [found["rows"][kind] for kind in found["kind"]] == ["register/0"] * 3, (
        "its place is taken by others"
    )
    told = [
        (found["texts"][value], found["texts"][answer])
        for value, answer in zip(found["value"], found["answer"], strict=True)
    ]
    assert told == [("", '["v1",2]'), ("v1", ""), ("v2", "no answer")]


def test_a_hundred_thousand_operations_are_a_page_of_a_few_megabytes(tmp_path: Path) -> None:
    ops = [
        Op(
            f"n{n % 5}/register/0",
            f"n{n % 5}",
            "write",
            f"k{n % 4}",
            f"n{n % 5}.{n}",
            None,
            n * 1e-3,
            n * 1e-3 + 2e-3,
        )
        for n in range(100_000)
    ]
    columns = op_columns.columns(("register", op) for op in ops)
    assert len(json.dumps(columns, separators=(",", ":"))) < 40 * len(ops)


BITE = {
    "what": "pause",
    "spec": "pause:for=2@b",
    "nodes": ["b"],
    "from": 2.0,
    "bitten": 2.1,
    "to": 3.0,
    "healed": 3.2,
}
OLD_BITE = {"what": "cut off", "node": "a", "from": 5.0, "to": 6.0, "healed": 6.5, "proof": "alone"}


def test_faults_are_told_whoever_did_them() -> None:
    facts = {"bites": [{**BITE, "proof": "it stands", "proof_of_healing": "it goes"}, OLD_BITE]}
    events = [
        {"t": 2.0, "what": "fault", "text": "pause:for=2@b", "node": "b"},
        {"t": 5.001, "what": "fault", "text": "a: cut off", "node": "a"},
        {"t": 8.0, "what": "fault", "text": "latency:ms=20", "node": "b"},
    ]
    first, second, third = evidence_page.faults(facts, events, 10.0)
    assert (first["label"], first["nodes"], first["proof"], first["healing"]) == (
        "pause for=2",
        ["b"],
        "it stands",
        "it goes",
    )
    assert (second["label"], second["nodes"], second["bitten"], second["healed"]) == (
        "cut off",
        ["a"],
        5.0,
        6.5,
    )
    assert (third["label"], third["from"], third["healed"], third["proof"]) == (
        "latency ms=20",
        8.0,
        10.0,
        "",
    ), "the run ended in it"


def judgement(name: str, verdict: str, **more: Any) -> dict[str, Any]:
    plain = {
        "workload": "w",
        "check": "linearizable register",
        "operations": 10,
        "faults": 0,
        "reason": "",
        "why": None,
    }
    return {**plain, "name": name, "verdict": verdict, **more}


def test_what_was_shown_is_told_by_check_the_worst_first() -> None:
    judged = [
        judgement("a", "ok"),
        judgement("b", "ok"),
        judgement("c", "illegal", faults=3),
        judgement("d", "unknown", reason="capped"),
    ]
    found = evidence_page.shown(result("ok", facts={"judgements": judged}))
    assert [(one["verdict"], one["names"], one["operations"]) for one in found] == [
        ("illegal", ["c"], 10),
        ("unknown", ["d"], 10),
        ("ok", ["a", "b"], 20),
    ]
    assert (found[0]["faults"], found[1]["said"]) == (3, "capped")
    assert [one["check"] for one in evidence_page.shown(result("ok", "failed"))] == ["step start"], (
        "else, the steps"
    )


def test_what_was_not_shown_has_its_reason_once() -> None:
    faults = {"oom": "no memory controller", "disk-full": "no loop device"}
    skipped = StepResult(
        "cannot", "all faults", "skipped", "; ".join(f"{k}: {v}" for k, v in faults.items()), excused=True
    )
    other = StepResult("full", "a full volume", "skipped", "no root", excused=True)
    made = Result(
        "r", "t", "process", "", ("a",), 1, "", 0.0, 1.0, (skipped, other), {"skipped_faults": faults}
    )
    assert evidence_page.not_shown(made, {"not shown by this driver": ["no limits"]}) == [
        {"what": "the fault oom", "why": "no memory controller"},
        {"what": "the fault disk-full", "why": "no loop device"},
        {"what": "a full volume", "why": "no root"},
        {"what": "no limits", "why": ""},
    ]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"op": "write", "value": 17}, "c writes 17"),
        ({"op": "read", "result": 17}, "c reads 17"),
        ({"op": "read"}, "c reads nothing"),
        ({"op": "cas", "value": [1, 2], "result": True}, "c swaps [1,2] → true"),
        ({"op": "acquire", "result": {"token": 3}}, 'c acquires {"token":3}'),
        ({"op": "release", "outcome": "unknown", "end": None}, "c releases (no answer)"),
        ({"op": "write", "value": "x", "outcome": "fail"}, "c writes x (refused)"),
        ({"op": "push", "value": "x"}, "c pushes x"),
    ],
)
def test_operations_are_told_in_a_few_words(fields: dict[str, Any], told: str) -> None:
    assert evidence_page.told({"client": "c", "outcome": "ok", **fields}) == told


def test_a_page_is_made_again_from_its_folder_alone(tmp_path: Path) -> None:
    made = run_folder(tmp_path / "run", clients_at_work(500, 5.0), 5.0)
    again, first = report.from_folder(made.path), (made.path / "report.html").read_text(encoding="utf-8")

    def data(page: str) -> dict[str, Any]:
        found = re.search(r'<script id="data"[^>]*>(.*?)</script>', page, re.DOTALL)
        assert found is not None
        told: dict[str, Any] = json.loads(found[1])
        return told

    before, after = data(first), data(again)
    assert set(after.pop("files")) == {
        "history.jsonl",
        "result.json",
        "environment.json",
        "junit.xml",
        *(f"logs/{n}.log" for n in NODES),
    }
    before.pop("files")
    assert after == before


def test_an_interrupted_run_still_gives_a_page_that_is_unknown(tmp_path: Path) -> None:
    made = run_folder(tmp_path / "run", clients_at_work(500, 5.0), 5.0)
    (made.path / "result.json").unlink()
    history = made.path / "history.jsonl"
    whole = history.read_bytes()
    history.write_bytes(whole[: len(whole) - 30])
    found = saved.read(made.path)
    assert (found.interrupted, found.unreadable) == (True, 1)
    assert found.result.verdict is Verdict.UNKNOWN
    assert found.result.nodes == NODES
    assert len(found.told.through.kept) + len(found.told.others.kept) == len(made.ops) - 1
    page = report.from_folder(made.path)
    assert "<h1>UNKNOWN</h1>" in page
    assert "the run was killed" in page
    (made.path / "environment.json").unlink()
    assert saved.read(made.path).result.nodes == NODES, "known by the events, too"


def test_a_folder_that_is_none_of_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"is no folder of a run, its history\.jsonl cannot be read"):
        report.from_folder(tmp_path)
    (tmp_path / "history.jsonl").write_text("")
    for text in ("[]", "{", '{"steps": 3}', '{"steps": [{"key": "a"}]}'):
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(BadConfig, match=r"result\.json"):
            report.from_folder(tmp_path)


def test_without_scripts_the_page_tells_the_verdict_and_why(tmp_path: Path) -> None:
    ops = with_a_stale_read(clients_at_work(2000, 20.0), 10.0)
    text = (run_folder(tmp_path / "run", ops, 20.0).path / "report.html").read_text(encoding="utf-8")
    bare = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert "<h1>FAILED</h1>" in bare
    plain = re.search(r"<noscript>(.*?)</noscript>", bare, re.DOTALL)
    assert plain is not None
    assert "FAILED: linearizable register" in plain[1]
    assert "ok: integrity" in plain[1]


def test_lost_writes_are_not_called_kept() -> None:
    tile = report.tiles(result("failed", facts={"acknowledged": 1000, "lost": 4}), 2, EVENTS)[-1]
    assert tile == {"number": "4", "text": "of 1,000 acknowledged writes lost", "bad": True}


def test_the_page_stands_alone_and_nothing_in_it_can_break_out(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x>"
    text = page(result("ok", "failed", detail=evil, evidence=(evil,)), tmp_path).read_text(encoding="utf-8")
    assert "<img" not in text
    assert not re.search(r'(src|href)="', text)
    assert "default-src 'none'" in text
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert text.count("<script") == len(scripts) + 1, "beside the data, only the page's own"
    for script in scripts:
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in text
    assert "'unsafe-inline'" not in text.partition("script-src")[2].partition(";")[0]
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
    assert drawn.count("<b>sees it</b>") == 2
    assert ("could not be judged" in drawn, ": failed</h3>" in drawn) == (state == "error", state == "failed")
    assert "said &lt;so&gt;" in drawn
    assert 'href="logs/a.log"' in drawn
