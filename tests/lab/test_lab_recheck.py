"""A run is judged again from its folder: the same verdict, or what differs; and never more than the folder can tell."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import pytest
from report_support import Made, clients_at_work, run_folder, with_a_stale_read

from laila.cli.main import main
from laila.errors import BadConfig
from laila.lab.checkers import registers
from laila.lab.checkers import verdict as verdicts
from laila.lab.checkers.holds import Hold, Seen
from laila.lab.checkers.members import Addition, Listing
from laila.lab.checkers.versions import Read, Write
from laila.lab.clocks import Moment
from laila.lab.history import History
from laila.lab.recheck import recheck
from laila.lab.report import from_folder
from laila.lab.result import Result, StepResult, Verdict

ILLEGAL = verdicts.Verdict.ILLEGAL


@pytest.fixture
def good(tmp_path: Path) -> Made:
    return run_folder(tmp_path / "good", clients_at_work(1500, 15.0), 15.0)


@pytest.fixture
def bad(tmp_path: Path) -> Made:
    return run_folder(tmp_path / "bad", with_a_stale_read(clients_at_work(1500, 15.0), 7.0), 15.0)


def change(path: Path, by: Callable[[dict[str, Any]], None]) -> None:
    found = json.loads(path.read_text())
    by(found)
    path.write_text(json.dumps(found))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_good_run_is_good_again_and_its_folder_is_left_alone(good: Made) -> None:
    before = files(good.path)
    found = recheck(good.path)
    assert (found.verdict, found.same) == (Verdict.OK, True), found.text
    assert [one.to_dict() for one in found.judgements] == [one.to_dict() for one in good.judgements]
    assert found.text.startswith("ok: 5 histories of ")
    assert files(good.path) == before


def test_a_failed_run_fails_again_with_the_same_explanation(bad: Made) -> None:
    found = recheck(str(bad.path))
    assert (found.verdict, found.same) == (Verdict.FAILED, True), found.text
    (why,) = [one.why for one in found.judgements if one.why is not None]
    (was,) = [one.why for one in bad.judgements if one.why is not None]
    assert why == was
    assert f"  linearizable register {why.offender.key}: illegal, {why.kind}" in found.text


def test_a_run_that_lied_is_found_out(bad: Made) -> None:
    """Its result says that all was well, its history says otherwise."""

    def whitewash(saved: dict[str, Any]) -> None:
        for step in saved["steps"]:
            step["state"] = "ok"
        for one in saved["facts"]["judgements"]:
            one |= {"verdict": "ok", "why": None, "faults": 0}

    change(bad.path / "result.json", whitewash)
    found = recheck(bad.path)
    assert (found.verdict, found.same) == (Verdict.FAILED, False)
    assert "differs: the run said ok, now it is linearizable register" in found.text


def test_a_run_that_was_accused_wrongly_is_cleared(good: Made) -> None:
    def accuse(saved: dict[str, Any]) -> None:
        saved["facts"]["judgements"][0]["verdict"] = "illegal"
        for step in saved["steps"]:
            step["state"] = "failed" if step["key"] == "judge-register" else "ok"

    change(good.path / "result.json", accuse)
    found = recheck(good.path)
    assert (found.verdict, found.same) == (Verdict.OK, False)
    assert "differs: the run said illegal, now it is linearizable register register-0: ok" in found.text


def test_each_judgement_may_have_a_step_of_its_own(bad: Made) -> None:
    """As runs from a test have it."""

    def split(saved: dict[str, Any]) -> None:
        keys = [f"judge-register-{one['check']}-{one['name']}" for one in saved["facts"]["judgements"]]
        saved["steps"] = [{"key": key, "title": key, "state": "ok", "detail": ""} for key in keys]

    change(bad.path / "result.json", split)
    recheck(bad.path, write=True)
    root = xml.parse(bad.path / "junit.xml").getroot()  # noqa: S314  our own
    steps = [case for case in root.iter("testcase") if str(case.get("classname")).endswith(".steps")]
    failed = [str(case.get("name")) for case in steps if case.find("failure") is not None]
    (why,) = [one.why for one in bad.judgements if one.why is not None]
    assert failed == [f"judge-register-linearizable register-{why.offender.key}"]


def test_what_no_history_tells_stays_as_the_run_saw_it(good: Made) -> None:
    step = {"key": "inside", "title": "no node crashed inside", "state": "failed", "detail": "node2 did"}
    change(good.path / "result.json", lambda saved: saved["steps"].append(step))
    found = recheck(good.path)
    assert (found.verdict, found.same) == (Verdict.FAILED, True)
    assert "no node crashed inside: node2 did" in found.text


def test_judgements_that_the_run_never_made_and_those_that_are_gone_are_told(good: Made) -> None:
    def other(saved: dict[str, Any]) -> None:
        judged = saved["facts"]["judgements"]
        judged[0]["name"] = "another"

    change(good.path / "result.json", other)
    found = recheck(good.path)
    assert not found.same
    assert "differs: the run said nothing of it, now it is linearizable register register-0: ok" in found.text
    assert (
        "differs: linearizable register another: the run said ok, and it is not in the history" in found.text
    )


def test_write_puts_the_new_judgements_into_report_and_junit(bad: Made) -> None:
    change(bad.path / "result.json", lambda saved: [step.update(state="ok") for step in saved["steps"]])
    result = (bad.path / "result.json").read_bytes()
    assert recheck(bad.path, write=True).verdict is Verdict.FAILED
    assert "<h1>FAILED</h1>" in (bad.path / "report.html").read_text()
    root = xml.parse(bad.path / "junit.xml").getroot()  # noqa: S314  our own
    (step,) = [case for case in root.iter("testcase") if case.get("name") == "register: reads and writes"]
    assert [child.tag for child in step] == ["failure"]
    assert (bad.path / "result.json").read_bytes() == result, "what the run said stays"


def test_an_interrupted_run_is_unknown_and_accuses_nobody(bad: Made) -> None:
    """An operation that was under way when the run was killed is not in the history, and may have been seen."""
    (bad.path / "result.json").unlink()
    found = recheck(bad.path)
    assert (found.verdict, found.same) == (Verdict.UNKNOWN, False)
    assert ILLEGAL not in {one.verdict for one in found.judgements}
    assert "the run was interrupted" in found.text
    assert "what was under way when the run ended is missing; without it: a value older" in found.text
    recheck(bad.path, write=True)
    assert "<h1>UNKNOWN</h1>" in (bad.path / "report.html").read_text()


def test_a_damaged_history_is_never_ok(good: Made) -> None:
    history = good.path / "history.jsonl"
    lines = history.read_text().splitlines()
    lines[100] = lines[100][:20]
    history.write_text("\n".join(lines) + "\n")
    found = recheck(good.path)
    assert (found.verdict, found.same) == (Verdict.UNKNOWN, False)
    assert "line 101" in found.text


def test_a_run_without_anything_to_judge_says_so(tmp_path: Path) -> None:
    with History(tmp_path / "history.jsonl") as history:
        history.event("note", "nothing happened")
    step = StepResult("links", "every link", "ok", "")
    Result("r", "t", "process", "", ("a",), 1, "", 0.0, 1.0, (step,)).save(tmp_path / "result.json")
    found = recheck(tmp_path)
    assert (found.verdict, found.same, found.judgements) == (Verdict.UNKNOWN, False, ())
    assert found.text.startswith("unknown: nothing in this history can be judged again; the run said ok")


def test_a_folder_that_is_none_of_a_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"history\.jsonl cannot be read"):
        recheck(tmp_path)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("result.json", '{"steps": 5}'),
        ("result.json", "[" * 100_000),
        ("environment.json", '{"topology": "x", "driver": 7, "seed": []}'),
    ],
)
def test_files_that_no_run_has_written_are_refused(good: Made, file: str, text: str) -> None:
    """In words, never with a trace of calls."""
    (good.path / "result.json").unlink()
    (good.path / file).write_text(text)
    for ask in (recheck, from_folder):
        with pytest.raises(BadConfig, match=r"not what a run writes|cannot be read|no result of a run"):
            ask(good.path)


PASSED_OVER = ('{"what": ["hold"]}', '{"what": {}}')
LINE = '"what": "invoke", "node": "a", "key": "k", "end": 2, "outcome": "ok"}'


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        *PASSED_OVER,
        f'{{"workload": "sessions", "op": "write", "client": "a", "value": [], "start": 1, {LINE}',
        f'{{"workload": "register", "op": "read", "client": "a", "start": NaN, {LINE}',
        f'{{"workload": "register", "op": "read", "client": "\\ud800", "result": "\\ud800\\u001b", "start": 1, {LINE}',
    ],
    ids=["deep", "a list", "an object", "no number", "no time", "no text"],
)
def test_lines_that_no_run_has_written_are_told(
    good: Made, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (good.path / "history.jsonl").open("a") as file:
        file.write(line + "\n")
    passed_over = line in PASSED_OVER
    assert (recheck(good.path, write=True).verdict is Verdict.OK) is passed_over
    assert (main(["lab", "recheck", str(good.path)]) == 0) is passed_over
    assert main(["lab", "report", str(good.path)]) == 0
    capsys.readouterr().out.encode()


# -- what steps of a check tell of ----------------------------------------------------------------------------


def at(time: float) -> Moment:
    return Moment.at(time)


HOLDS = [
    Hold("a/0", "a", 1, at(0.0), at(1.0), at(2.0), found=Seen(0, 0), left=Seen(0, 0), wrote=1),
    Hold("b/0", "b", 2, at(0.5), at(2.1), at(3.0), found=Seen(1, 1), left=Seen(1, 1), wrote=2),
]
RECORDS: dict[str, list[tuple[str, Any]]] = {
    "exclusion": [("hold", hold) for hold in HOLDS],
    "fresh": [
        ("write", Write("a/0", "a", "p1", 1, at(0.0), at(1.0))),
        ("read", Read("b/0", "b", "load", "p1", 1, at(1.5), at(1.6))),
    ],
    "registrations of agents": [
        ("addition", Addition("a/0", "a", "one", at(0.0), at(1.0))),
        ("listing", Listing("b/0", "b", ("one",), at(1.5), at(1.6))),
    ],
    "registers": [
        ("put", registers.Write("a/0", "a", "n", "v1", at(0.0), at(1.0))),
        ("get", registers.Read("b/0", "b", "n", "v1", at(1.5), at(1.6))),
    ],
}
DAMAGE: dict[str, tuple[int, Any, str]] = {
    "exclusion": (1, replace(HOLDS[1], got=at(1.5)), "two holders at the same time"),
    "fresh": (1, Read("b/0", "b", "load", "p0", 1, at(1.5), at(1.6)), "bytes that nobody published"),
    "registrations of agents": (
        1,
        Listing("b/0", "b", (), at(1.5), at(1.6)),
        "an acknowledged registration is missing",
    ),
    "registers": (
        1,
        registers.Read("b/0", "b", "n", None, at(1.5), at(1.6)),
        "an acknowledged write that is not there",
    ),
}


def check_folder(path: Path, damaged: str = "", said: str = "ok", detail: str = "as it must be") -> Path:
    """What a check of a volume and of replicas leaves."""
    with History(path / "history.jsonl") as history:
        for phase, records in RECORDS.items():
            told = list(records)
            if phase == damaged:
                place, instead, _ = DAMAGE[phase]
                told[place] = (told[place][0], instead)
            for what, record in told:
                history.keep(what, record.to_record(0.0), phase=phase)
    steps = [StepResult(phase.split()[0], f"step {phase}", "ok", "fine") for phase in RECORDS]
    steps = [replace(s, state=said, detail=detail) if s.key == damaged.split(" ")[0] else s for s in steps]
    Result("r", "t", "process", "", ("a", "b"), 1, "", 0.0, 1.0, tuple(steps)).save(path / "result.json")
    return path


def test_what_steps_told_of_is_judged_again_too(tmp_path: Path) -> None:
    found = recheck(check_folder(tmp_path))
    assert (found.verdict, found.same) == (Verdict.OK, True), found.text
    assert {(one.check, one.name, one.operations) for one in found.judgements} == {
        ("mutual exclusion", "exclusion", 2),
        ("fresh versions", "fresh", 2),
        ("complete lists", "agents", 2),
        ("linearizable register", "n", 2),
    }


@pytest.mark.parametrize("phase", list(RECORDS))
def test_each_of_these_judges_is_asked(tmp_path: Path, phase: str) -> None:
    kind = DAMAGE[phase][2]
    found = recheck(check_folder(tmp_path, phase))
    assert (found.verdict, found.same) == (Verdict.FAILED, False)
    (one,) = [one for one in found.judgements if one.verdict is ILLEGAL]
    assert one.why is not None
    assert one.why.kind == kind
    assert re.search(f"differs: the run said ok, now it is .*: illegal, {kind}", found.text)


@pytest.mark.parametrize(("phase", "verdict"), [("exclusion", Verdict.FAILED), ("passing", Verdict.OK)])
def test_only_holders_that_counted_up_a_register_are_judged_by_it(
    tmp_path: Path, phase: str, verdict: Verdict
) -> None:
    with History(tmp_path / "history.jsonl") as history:
        for hold in (HOLDS[0], replace(HOLDS[1], found=Seen(0, 0), left=Seen(0, 0), wrote=1)):
            history.keep("hold", hold.to_record(0.0), phase=phase)
    step = StepResult(phase, phase, "ok", "")
    Result("r", "t", "process", "", ("a", "b"), 1, "", 0.0, 1.0, (step,)).save(tmp_path / "result.json")
    assert recheck(tmp_path).verdict is verdict


@pytest.mark.parametrize("phase", ["exclusion", "fresh", "registrations of agents"])
def test_a_step_that_said_the_same_is_the_same(tmp_path: Path, phase: str) -> None:
    found = recheck(check_folder(tmp_path, phase, "failed", f"1 faults, first {DAMAGE[phase][2]}"))
    assert (found.verdict, found.same) == (Verdict.FAILED, True), found.text


def test_a_step_that_failed_by_something_else_stays_failed(tmp_path: Path) -> None:
    folder = check_folder(tmp_path)

    def fail(saved: dict[str, Any]) -> None:
        saved["steps"][0] |= {"state": "failed", "detail": "the counter on node2 is wrong"}

    change(folder / "result.json", fail)
    found = recheck(folder)
    assert (found.verdict, found.same) == (Verdict.FAILED, True), found.text
