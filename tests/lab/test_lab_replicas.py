"""The check of a replicated store with plain processes, end to end; and that its history can be judged again."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from lab_support import QUICK, evidence, processes_of, run_check, states, with_node

from laila.lab import registry
from laila.lab.checkers import registers
from laila.lab.checks import INSIDE, ON_REPLICAS, READY, job
from laila.lab.folder import Folder
from laila.lab.result import Result, Verdict
from laila.lab.topology import Topology, replicated

MUTANTS = Path(__file__).parent / "mutants"
SWIFT = replace(QUICK, replica_for=0.5, fault_for=0.5, least_replica_ops=10, converge_within=20.0)
STEPS = (*READY[:2], *ON_REPLICAS, *INSIDE)
KEYS = tuple(step.key for step in ON_REPLICAS)


def swift(nodes: int = 3) -> Topology:
    """Nodes that see soon that another one is gone."""
    return replace(replicated(nodes), dead_after=1.5)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Folder]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAILA_LAB_HOME", str(tmp_path_factory.mktemp("home")))
        found = run_check(swift(), "process", tmp_path_factory.mktemp("out"), effort=SWIFT, steps=STEPS)
        assert registry.runs() == []
    return found


def test_replicas_agree_while_nodes_are_killed_paused_and_cut_off(ran: tuple[Result, Folder]) -> None:
    result, folder = ran
    assert {key: states(result)[key] for key in (*KEYS, "inside")} == dict.fromkeys(
        (*KEYS, "inside"), "ok"
    ), result
    assert result.verdict is Verdict.OK
    assert "their replicas answer as one store" in result.sentence
    assert processes_of(result.run_id) == []
    assert [one["what"] for one in result.facts["bites"]] == ["kill -9", "paused", "cut off"]
    assert len({one["node"] for one in result.facts["bites"]}) == 3
    assert all("the others saw it go" in one["proof"] for one in result.facts["bites"])
    assert "it sees nobody; what is asked through it ends with" in result.facts["bites"][2]["proof"]
    phases = result.facts["registers"]["phases"]
    for phase in ("before", "kill -9", "after kill -9", "paused", "cut off", "after cut off", "after"):
        assert phases[phase] >= SWIFT.least_replica_ops, phase
    assert result.facts["replica_damage"]["served"] == 0
    assert "The replicated store, through every node" in folder.report.read_text(encoding="utf-8")


def test_the_saved_history_is_judged_again_and_a_changed_one_is_not(ran: tuple[Result, Folder]) -> None:
    """What the run has judged is in its file; one answer changed in it, and it is illegal."""
    result, folder = ran
    lines = folder.history.read_text(encoding="utf-8").splitlines()
    found = registers.judge_lines(lines)
    assert [one.verdict for one in found] == [registers.Verdict.OK] * result.facts["registers"]["names"]
    assert sum(one.reads for one in found) == result.facts["registers"]["reads"]
    records = [json.loads(line) for line in lines]
    last = max((r for r in records if r["what"] == registers.GOT), key=lambda r: r["began"][0])
    last["value"] = None
    changed = registers.judge_lines(json.dumps(record) for record in records)
    (wrong,) = [one for one in changed if one.verdict is registers.Verdict.ILLEGAL]
    assert wrong.name == last["name"]
    assert wrong.why is not None
    assert wrong.why.kind == registers.LOST


def test_a_store_that_takes_one_replica_for_a_quorum_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(MUTANTS / "loner"), str(MUTANTS), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    result, folder = run_check(swift(), "process", tmp_path, effort=SWIFT, steps=STEPS[:3])
    assert result.verdict is Verdict.FAILED, result
    assert states(result)["registers"] == "failed"
    said = evidence(result, "registers")
    assert "answers on" in said
    assert any(kind in said for kind in (registers.STALE, registers.BACK, registers.LOST))
    (why,) = result.facts["registers"]["why"][:1]
    assert 2 <= len(why["rows"]) <= 4
    assert json.dumps(why["text"]).strip('"') in folder.report.read_text(encoding="utf-8")


def test_replicas_are_checked_where_three_nodes_serve_them() -> None:
    keys = [step.key for step in job(replicated())]
    assert keys[keys.index(KEYS[0]) :][: len(KEYS)] == [*KEYS]
    assert keys[-1] == "inside"
    assert not set(KEYS) & {step.key for step in job(replicated(2))}
    assert not set(KEYS) & {step.key for step in job(with_node(replicated(), "node2", replicas=()))}


def test_a_run_in_which_too_little_went_through_says_nothing(tmp_path: Path) -> None:
    effort = replace(SWIFT, least_replica_ops=10**6, op_timeout=1.0)
    result, _ = run_check(swift(), "process", tmp_path, effort=effort, steps=STEPS[:3])
    assert result.verdict is Verdict.UNKNOWN
    assert "are needed to say anything" in evidence(result, "registers")
