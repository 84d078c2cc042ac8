"""The main job with real containers, as a person runs it; and that nothing of it is ever left."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from lab_support import command, evidence, forgetful, interrupted, lab, only, run_check, states

from laila.lab import registry
from laila.lab.checkers import registers
from laila.lab.result import Verdict
from laila.lab.topology import replicated

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("engine")]


def left(engine: Any, run_id: str) -> list[str]:
    """What the engine still has of a run."""
    mine = {"label": f"laila.lab.run={run_id}"}
    every = engine.containers.list(all=True, filters=mine) + engine.networks.list(filters=mine)
    return [thing.name for thing in every + engine.volumes.list(filters=mine)]


def test_the_main_job_in_containers(engine: Any, tmp_path: Path) -> None:
    """The whole of it, with 64 MiB arrays, by the command that people use."""
    done = lab("check", "replicated", "--out", str(tmp_path), "--json", timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert (result["verdict"], result["driver"]) == ("ok", "docker")
    assert {step["state"] for step in result["steps"]} == {"ok"}
    assert result["facts"]["acknowledged"] >= 50
    assert max(result["facts"]["crash"]["lost_seen"].values()) < 6
    bites = {one["what"]: one for one in result["facts"]["bites"]}
    assert set(bites) == {
        "kill -9",
        "paused",
        "cut off",
        "one-way",
        "latency",
        "reset",
        "power-loss",
        "slow-fsync",
    }
    assert len({bites[what]["node"] for what in ("kill -9", "paused", "cut off")}) == 3
    assert {one["verdict"] for one in result["facts"]["judgements"]} == {"ok"}
    assert "it sees nobody; what is asked through it ends with" in bites["cut off"]["proof"]
    history = (Path(result["folder"]) / "history.jsonl").read_text(encoding="utf-8")
    judged = registers.judge_lines(history.splitlines())
    assert [one.verdict for one in judged] == [registers.Verdict.OK] * 4
    assert (result["facts"]["replica_promises"]["wrong"], result["facts"]["replica_damage"]["served"]) == (
        0,
        0,
    )
    assert left(engine, result["run_id"]) == []
    assert (Path(result["folder"]) / "report.html").stat().st_size > 10_000
    assert b'"ready"' in (Path(result["folder"]) / "logs" / "node1.log").read_bytes()


def test_all_nodes_of_a_shared_volume_see_the_same_file(engine: Any) -> None:
    up = lab("up", "shared-volume", "--driver", "docker", "--json")
    run_id = json.loads(up.stdout)["run_id"]
    assert lab("exec", "node1", "--", "sh", "-c", "echo hello > /mnt/shared/file").returncode == 0
    assert lab("exec", "node3", "--", "cat", "/mnt/shared/file").stdout == "hello\n"
    assert lab("exec", "node2", "--", "sh", "-c", "echo more >> /mnt/shared/file").returncode == 0
    assert lab("down").returncode == 0
    assert left(engine, run_id) == []


def test_a_durable_pool_that_forgets_is_caught_in_containers(engine: Any, tmp_path: Path) -> None:
    result, _ = run_check(forgetful(), "docker", tmp_path, steps=only("crash", "durable"))
    assert result.verdict is Verdict.FAILED
    assert states(result)["durable"] == "failed"
    assert "are lost" in evidence(result, "durable")
    assert left(engine, result.run_id) == []


def test_two_runs_of_containers_side_by_side_never_meet(engine: Any, tmp_path: Path) -> None:
    found = []
    threads = [
        threading.Thread(
            target=lambda n=n: found.append(
                run_check(replicated(2), "docker", tmp_path / str(n), steps=only("crash"))[0]
            )
        )
        for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.verdict for result in found] == [Verdict.OK, Verdict.OK], found
    assert [left(engine, result.run_id) for result in found] == [[], []]


@pytest.mark.parametrize("after", ["make network", "start nodes"])
def test_an_interrupted_run_of_containers_leaves_nothing(engine: Any, tmp_path: Path, after: str) -> None:
    words = ["check", "replicated", "--driver", "docker", "--out", str(tmp_path)]
    code, output = interrupted(words, lambda line: after in line, signal.SIGINT)
    assert code == 2, output
    (folder,) = tmp_path.iterdir()
    assert left(engine, folder.name) == []
    assert registry.runs() == []


@pytest.mark.parametrize("with_record", [True, False])
def test_gc_removes_containers_of_a_killed_run(engine: Any, tmp_path: Path, with_record: bool) -> None:
    """By its record, and by the engine's labels alone when the record is lost too."""
    words = command("check", "replicated", "--driver", "docker", "--out", str(tmp_path))
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        assert any("start nodes" in line for line in killed.stdout)
        assert json.loads(lab("gc", "--json").stdout) == [], "a living run is left alone"
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    (run,) = registry.runs()
    if not with_record:
        run.forget()
    assert len(left(engine, run.run_id)) > 8
    done = json.loads(lab("gc", "--json").stdout)
    assert done == [{"run_id": run.run_id, "driver": "docker", "left": [], "healed": []}]
    assert left(engine, run.run_id) == []
