"""Runs on record, and processes that are told from others with the same number."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from laila.errors import BadConfig, LabError
from laila.lab import procid, registry, standing, topology
from laila.lab.drivers import engine
from laila.lab.procid import ProcessId
from laila.lab.registry import Run


def made(**changes: object) -> Run:
    run = Run(registry.new_run_id(), "process", {"name": "x"}, "check", ProcessId.of(os.getpid()))
    return dataclasses.replace(run, **changes)  # type: ignore[arg-type]  # fields of Run


def test_a_run_is_found_again_with_its_facts() -> None:
    run = made().with_facts(ports={"node1": [1, 2]})
    run.save()
    assert registry.load(run.run_id) == run
    assert registry.runs() == [run]
    run.forget()
    assert registry.runs() == []


def test_run_ids_are_never_the_same() -> None:
    assert len({registry.new_run_id() for _ in range(1000)}) == 1000


@pytest.mark.parametrize("wrong", ["nope", "../etc", "a/b"])
def test_an_unknown_run_is_answered_with_those_that_exist(wrong: str) -> None:
    run = made()
    run.save()
    with pytest.raises(BadConfig, match=run.run_id):
        registry.load(wrong)


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"run_id": "x"})])
def test_a_damaged_record_does_not_hide_the_others(lab_home: Path, text: str) -> None:
    run = made()
    run.save()
    (lab_home / "20200101-000000-00000000").mkdir()
    (lab_home / "20200101-000000-00000000" / "run.json").write_text(text, encoding="utf-8")
    assert registry.runs() == [run]


def test_gc_goes_on_after_a_run_that_it_cannot_remove(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose record names what does not exist, or whose ledger is damaged."""
    monkeypatch.setattr(engine, "connect", lambda timeout: (_ for _ in ()).throw(LabError("no engine")))
    with subprocess.Popen(["true"]) as process:
        dead = ProcessId.of(process.pid)
    shape = topology.replicated().to_dict()
    runs = [made(controller=dead, topology=shape) for _ in range(3)]
    runs[0] = dataclasses.replace(runs[0], driver="none")
    for run in runs:
        run.save()
    (runs[1].path / "faults").mkdir()
    (runs[1].path / "faults" / "x.json").write_text('{"kind": ')
    done = {one.run_id: one.left for one in standing.collect()}
    assert [bool(done[run.run_id]) for run in runs] == [True, True, False]
    assert {run.run_id for run in registry.runs()} == {run.run_id for run in runs[:2]}


def test_a_run_is_abandoned_when_its_controller_is_dead_and_it_was_not_meant_to_stay() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        controller = ProcessId.of(process.pid)
        run = made(controller=controller)
        assert not run.abandoned
        process.communicate(b"\n")
    assert run.abandoned
    assert not registry.stand(run).abandoned


def test_another_process_with_the_same_pid_is_another_process() -> None:
    own = ProcessId.of(os.getpid())
    assert own.alive
    assert not dataclasses.replace(own, started="1").alive
    assert not dataclasses.replace(own, host="elsewhere:boot").alive
    assert ProcessId.from_text(str(own)) == own
    assert ProcessId.from_text("rubbish") is None


def test_a_zombie_is_not_alive() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE)
    own = ProcessId.of(process.pid)
    assert process.stdout is not None
    process.stdout.read()  # its end, so it has ended or is about to
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not own.alive
    process.stdout.close()
    process.wait()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_processes_of_a_run_are_found_by_their_environment() -> None:
    code = "input()"
    environment = {**os.environ, procid.RUN_VARIABLE: "run-x"}
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env=environment) as process:
        assert procid.marked("run-x") == [process.pid]
        assert procid.marked("run") == []
        assert ProcessId.of(process.pid).end()


def test_a_home_that_cannot_be_made_is_said_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("LAILA_LAB_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(BadConfig, match="set LAILA_LAB_HOME"):
        registry.home()
