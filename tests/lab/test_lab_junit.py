"""junit.xml: what a CI system counts is what the run said, and no text can break the file."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as xml

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laila.lab import junit
from laila.lab.result import Result, StepResult

JUDGED = {
    "check": "linearizable register",
    "name": "a",
    "verdict": "ok",
    "operations": 7,
    "faults": 0,
    "reason": "",
    "why": None,
}
WHY = {"kind": "a stale value", "text": "the read began later", "rows": []}


def result(*steps: StepResult, **more: Any) -> Result:
    return Result(
        "run-1", "replicated", "docker", "", ("a", "b"), 7, "laila lab check", 1.8e9, 12.5, steps, **more
    )


def suite(made: Result) -> xml.Element:
    root = xml.fromstring(junit.render(made))  # noqa: S314  our own
    assert root.tag == "testsuites"
    (found,) = root
    return found


def ended(case: xml.Element) -> str:
    """How readers of these files count it."""
    return next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")


def cases(made: Result) -> dict[str, xml.Element]:
    return {str(case.get("name")): case for case in suite(made).iter("testcase")}


@pytest.mark.parametrize(
    ("state", "tag"), [("ok", "passed"), ("failed", "failure"), ("error", "error"), ("skipped", "skipped")]
)
def test_each_step_is_a_case(state: str, tag: str) -> None:
    case = cases(result(StepResult("k", "the step", state, "said", 1.0, 2.5, ("evidence",))))["the step"]
    assert (ended(case), case.get("time"), case.get("classname")) == (
        tag,
        "2.500",
        "laila.lab.replicated.steps",
    )
    if tag in ("failure", "error"):
        assert (case[0].get("message"), case[0].text) == ("said", "said\nevidence")
    elif tag == "skipped":
        assert case[0].get("message") == "said"


@pytest.mark.parametrize(("verdict", "tag"), [("ok", "passed"), ("illegal", "failure"), ("unknown", "error")])
def test_each_judgement_is_a_case(verdict: str, tag: str) -> None:
    one = {
        **JUDGED,
        "verdict": verdict,
        "workload": "register",
        "reason": "capped" if verdict == "unknown" else "",
    }
    one["why"] = WHY if verdict == "illegal" else None
    case = cases(result(StepResult("k", "step", "ok", ""), facts={"judgements": [one]}))[
        "linearizable register a"
    ]
    assert (ended(case), case.get("classname")) == (tag, "laila.lab.replicated.judgements.register")
    assert {
        "ok": "7 operations judged",
        "illegal": "a stale value: the read began later",
        "unknown": "capped",
    }[verdict] in str(case[0].text)


@pytest.mark.parametrize(
    ("states", "tag"),
    [(("ok",), "passed"), (("ok", "failed"), "failure"), (("ok", "skipped"), "error"), ((), "error")],
)
def test_the_verdict_is_a_case_so_that_skipping_all_is_not_green(states: tuple[str, ...], tag: str) -> None:
    steps = [StepResult(str(n), f"step {n}", state, "") for n, state in enumerate(states)]
    assert ended(cases(result(*steps))["verdict"]) == tag


def test_counts_are_those_of_the_cases_and_properties_repeat_the_run() -> None:
    steps = [
        StepResult(str(n), f"step {n}", state, "")
        for n, state in enumerate(("ok", "failed", "error", "skipped"))
    ]
    found = suite(result(*steps, left_behind=("container x",)))
    how = [ended(case) for case in found.iter("testcase")]
    counted = {
        "tests": len(how),
        "failures": how.count("failure"),
        "errors": how.count("error"),
        "skipped": how.count("skipped"),
    }
    assert {name: int(str(found.get(name))) for name in counted} == counted
    assert (found.get("time"), found.get("timestamp")) == ("12.500", "2027-01-15T08:00:00")
    properties = {one.get("name"): one.get("value") for one in found.iter("property")}
    assert properties == {
        "verdict": "failed",
        "run": "run-1",
        "seed": "7",
        "driver": "docker",
        "nodes": "a, b",
        "command": "laila lab check",
    }
    assert "container x" in str(found.findtext("system-err"))


def test_names_are_the_same_in_every_run() -> None:
    steps = (StepResult("k", "step", "ok", "took 3 s", 0.0, 3.0),)
    first, second = (result(*steps), result(StepResult("k", "step", "failed", "took 5 s", 1.0, 5.0)))
    assert list(cases(first)) == list(cases(second))


@given(st.text())
def test_no_text_breaks_the_file(text: str) -> None:
    case = cases(result(StepResult("k", "step", "failed", text, evidence=(text,))))["step"]
    assert xml.tostring(case)
    if not any(ord(char) < 32 for char in text):
        assert case[0].get("message") == junit.clean(text)
