"""Saved histories: those of known verdict get it, whatever the order of their lines, and no line makes a judge fall."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from history_support import read, seeded, write

from laila.lab import workloads
from laila.lab.checkers import history
from laila.lab.checkers.history import judge_history
from laila.lab.checkers.operations import INVOKED, Op
from laila.lab.checkers.verdict import Judgement, Verdict, worst

FOLDER = Path(__file__).resolve().parents[1] / "histories"
FILES = sorted(FOLDER.glob("*.jsonl"))


def lines_of(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def expected(file: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(lines_of(file)[0])
    assert told["what"] == "expect"
    return told


def agrees(found: list[Judgement], told: dict[str, Any]) -> bool:
    """Whether the worst verdict is as told, and somebody says it for the reason that is told."""
    if worst(found).value != told["verdict"]:
        return False
    said = [one for one in found if one.verdict.value == told["verdict"]]
    said = [one for one in said if told.get("check", one.check) == one.check]
    if "kind" in told:
        return any(one.why is not None and one.why.kind == told["kind"] for one in said)
    return any(told.get("reason", "") in one.reason for one in said)


# -- of known verdict ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_history_is_judged_as_it_is_known(file: Path) -> None:
    found = judge_history(lines_of(file))
    assert agrees(found, expected(file)), [str(one) for one in found]
    for one in found:
        if one.why is not None:
            assert one.why.offender in one.why.operations
            assert len(one.why.operations) <= 4
            assert len(one.why.text) < 800


def test_there_are_enough_of_every_sort() -> None:
    told = [expected(file) for file in FILES]
    counts = Counter(one["verdict"] for one in told)
    assert sum(counts.values()) >= 30
    assert min(counts["ok"], counts["illegal"], counts["unknown"]) >= 10
    for name in workloads.WORKLOADS:
        assert {one["verdict"] for one in told if one["workload"] == name} >= {"ok", "illegal"}, name
    for file, one in zip(FILES, told, strict=True):
        assert file.stem.startswith((one["workload"], "damaged", "unknown"))
        assert ("-right" in file.stem) == (one["verdict"] == "ok")
        assert ("kind" in one) == (one["verdict"] == "illegal")


def test_every_kind_of_fault_that_a_judge_can_name_has_a_history() -> None:
    from laila.lab.checkers import (
        atomic,
        convergence,
        guarded,
        integrity,
        locks,
        peering,
        sessions,
        sets,
        swap_reasons,
        zones,
    )

    words = {"CHECK", "CHECK_END", "DURING", "CLOSING", "READ", "WRITE", "MARK", "USUAL"}
    judges = (atomic, convergence, guarded, integrity, locks, peering, sessions, sets, swap_reasons, zones)
    kinds = {
        value
        for judge in judges
        for name, value in vars(judge).items()
        if name.isupper() and isinstance(value, str) and name not in words | {"OK", "FAIL", "UNKNOWN"}
    }
    shown = {expected(file)["kind"] for file in FILES if "kind" in expected(file)}
    unshown = {locks.NO_ORDER, sessions.NO_NUMBER, "acquire", "release"}
    assert kinds - shown <= unshown, "a kind of fault without a saved history"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_order_of_lines_does_not_matter(file: Path) -> None:
    if file.stem.startswith("damaged"):
        return  # its number of a line would change
    lines = lines_of(file)
    for seed in range(5):
        seeded(seed).shuffle(lines)
        assert agrees(judge_history(lines), expected(file))


# -- lines --------------------------------------------------------------------------------------------------


def line(op: Op, workload: str = "register") -> str:
    return json.dumps({"what": INVOKED, "workload": workload, "phase": "p", **op.to_record()})


def whole(count: int) -> list[str]:
    """A right history of one register, among other lines."""
    from laila.lab.checkers.integrity import sealed

    lines = [json.dumps({"what": "step", "t": 0.0, "text": "begin"})]
    for turn in range(count):
        value = sealed(f"v{turn}")
        lines += [line(write(value, turn, turn + 0.3)), line(read(value, turn + 0.4, turn + 0.6))]
    return lines


def test_other_lines_are_passed_over_and_bytes_are_as_good_as_text() -> None:
    found = judge_history(whole(3))
    assert [one.verdict for one in found] == [Verdict.OK, Verdict.OK]
    assert {one.workload for one in found} == {"register"}
    assert judge_history(text.encode() + b"\n" for text in whole(3)) == found
    assert judge_history([*whole(3), "", "  \n"]) == found


def test_a_history_without_operations_is_unknown() -> None:
    for lines in ([], ['{"what": "step"}'], ["", "\n"]):
        (found,) = judge_history(lines)
        assert found.verdict is Verdict.UNKNOWN
        assert "no operation of a workload" in found.reason


def test_each_workload_is_judged_with_its_own_options() -> None:
    def told(most: float) -> list[Judgement]:
        lines = [json.dumps({"what": "workload", "workload": "convergence", "options": {"within": most}})]
        for at, node, digests in (
            (0, "n1", "a"),
            (0, "n2", "b"),
            (3, "n2", "b"),
            (4, "n1", "a"),
            (4, "n2", "a"),
            (5, "n2", "a"),
        ):
            op = Op(f"{node}/0", node, "digest", "all", None, {"x": digests}, at, at + 0.1)
            lines.append(line(op, "convergence"))
        return judge_history([*whole(3), *lines])

    assert [one.workload for one in told(5.0)] == ["register", "register", "convergence"]
    assert worst(told(5.0)) is Verdict.OK
    assert worst(told(2.0)) is Verdict.ILLEGAL
    wrong = judge_history(['{"what": "workload", "workload": "convergence", "options": {"with": 1}}'])
    assert "convergence has no option with" in wrong[0].reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "no JSON"),
        ('{"what": "invoke"', "no JSON"),
        ("\x00\x00\x00", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("3", "no record"),
        ("null", "no record"),
        ("[]", "no record"),
        ('{"what": "invoke"}', "no 'workload'"),
        ('{"what": "invoke", "workload": "register", "client": "a"}', "no 'start'"),
        ('{"what": "invoke", "workload": ["register"]}', "no record"),
        ('{"what": "workload", "workload": 3, "options": {}}', "a workload has a name"),
        ('{"what": "workload", "workload": "register", "options": 3}', "a workload has a name"),
    ],
)
def test_a_line_that_says_nothing_is_named_with_its_number(text: str, reason: str) -> None:
    found = judge_history([*whole(200), text, *whole(1)[1:]])
    damaged = [one for one in found if one.check == history.CHECK]
    assert [one.name for one in damaged] == ["line 402"]
    assert reason in damaged[0].reason
    assert worst(found) is Verdict.UNKNOWN


@pytest.mark.parametrize(
    "changes",
    [
        {"start": "soon"},
        {"start": None},
        {"start": True},
        {"end": None},
        {"end": "late"},
        {"outcome": "maybe"},
        {"outcome": 1},
        {"client": 3},
        {"key": None},
        {"op": "fly"},
        {"op": "cas", "value": "a"},
        {"op": "cas", "value": ["a", "b"], "result": "yes"},
        {"op": "list", "result": 3},
        {"op": "acquire", "result": "7"},
        {"op": "peers", "result": "node1"},
        {"op": "digest", "result": ["a"]},
    ],
)
def test_a_record_that_cannot_be_is_no_record(changes: dict[str, Any]) -> None:
    record = {**json.loads(line(write("a", 0, 1))), **changes}
    found = judge_history([*whole(3), json.dumps(record)])
    assert [one.name for one in found if one.check == history.CHECK] == ["line 8"]


def test_many_damaged_lines_are_counted() -> None:
    found = judge_history([*whole(3), *["{"] * 30])
    damaged = [one for one in found if one.check == history.CHECK]
    assert len(damaged) == history.TOLD + 1
    assert damaged[-1].reason == f"{30 - history.TOLD} more lines cannot be read, the last of them is line 37"


def test_a_history_that_is_not_whole_accuses_nobody() -> None:
    """The line that is missing may be the write."""
    lines = [text for file in FILES if expected(file)["verdict"] == "illegal" for text in lines_of(file)]
    assert worst(judge_history(lines)) is Verdict.ILLEGAL
    found = judge_history([*lines, lines[-1][:-9]])
    assert worst(found) is Verdict.UNKNOWN
    assert any("cannot be read and may be what is missing" in one.reason for one in found)


def test_no_damage_makes_a_judge_fall() -> None:
    chance = seeded(6)
    for file in FILES:
        if file.stem.startswith("cas-unknown"):
            continue  # takes long on purpose
        data = file.read_bytes()
        for _ in range(6):
            hurt = bytearray(data)
            for _ in range(chance.randrange(1, 6)):
                hurt[chance.randrange(len(hurt))] = chance.randrange(256)
            cut = chance.randrange(1, len(hurt) + 1)
            found = judge_history(bytes(hurt[:cut]).split(b"\n"))
            assert found
            assert all(isinstance(one.verdict, Verdict) for one in found)
