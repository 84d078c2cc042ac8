"""The main job with plain processes, end to end: it passes on what is right, and fails on each thing that is wrong.

The mutants are wrong by configuration alone: real nodes that forget, refuse, let everybody in, or keep to themselves.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from lab_support import (
    QUICK,
    command,
    evidence,
    forgetful,
    interrupted,
    lab,
    only,
    processes_of,
    run_check,
    states,
    until,
    with_node,
)

from laila.lab import registry, standing
from laila.lab.checks import MAIN_JOB, ON_THE_VOLUME, job
from laila.lab.result import Verdict
from laila.lab.topology import replicated, shared_volume

ALL = ("prepare", "start", "links", "lists", "memory", "stranger", "crash", "durable", "inside", "remove")


def test_the_main_job_passes_and_leaves_its_folder_and_nothing_else(tmp_path: Path) -> None:
    result, folder = run_check(replicated(), "process", tmp_path, steps=MAIN_JOB)
    assert states(result) == dict.fromkeys(ALL, "ok"), result
    assert result.verdict is Verdict.OK
    assert registry.runs() == []
    assert processes_of(result.run_id) == []
    files = {str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file()}
    logs = {f"logs/{name}.log" for name in ("node1", "node2", "node3", "stranger")}
    assert files == {"report.html", "junit.xml", "history.jsonl", "result.json", "environment.json", *logs}
    assert json.loads(folder.result.read_text())["verdict"] == "ok"
    records = [json.loads(line) for line in folder.history.read_text().splitlines()]
    assert {"op", "link", "lost", "healed", "kill", "refused", "up"} <= {record["what"] for record in records}
    worked = {(r["client"], r["at"]) for r in records if r["what"] == "op" and r["op"] == "remember"}
    assert worked >= set(replicated().directed_links())
    assert result.facts["acknowledged"] >= QUICK.least_writes
    assert result.facts["cut_calls"] > 0


def test_the_shared_volume_topology_passes_the_same_steps(tmp_path: Path) -> None:
    result, _ = run_check(shared_volume(2), "process", tmp_path, steps=MAIN_JOB)
    assert states(result) == dict.fromkeys(ALL, "ok"), result


def test_what_is_checked_goes_by_what_the_nodes_share() -> None:
    """All of them peer; one volume for all, and replicas, are checked too; of a network volume nothing else is."""
    keys = {kind: [step.key for step in job(shared_volume(kind=kind))] for kind in ("docker", "glusterfs")}
    volume = [step.key for step in ON_THE_VOLUME]
    peering = ["memory", "stranger", "crash", "durable"]
    replicas = ["registers", "reads", "converge", "promises", "hurt"]
    tried = [f"judge-{name}" for name in ("peering", "sessions", "register", "set", "convergence")]
    on_a_volume = [
        f"judge-{name}" for name in ("peering", "sessions", "register", "cas", "lock", "registrations")
    ]
    assert [step.key for step in job(replicated())] == [
        "start",
        "links",
        "lists",
        *peering,
        *replicas,
        "trial",
        *tried,
        "cannot",
        "inside",
    ]
    assert [step.key for step in job(replicated(2))] == ["start", "links", "lists", *peering, "inside"]
    assert keys["docker"] == [
        "start",
        "links",
        "lists",
        *volume,
        *peering,
        "trial",
        *on_a_volume,
        "cannot",
        "inside",
    ]
    assert keys["glusterfs"] == ["start", "links", "lists", *volume, "inside"]


def test_a_durable_pool_that_forgets_is_caught(tmp_path: Path) -> None:
    result, folder = run_check(forgetful(), "process", tmp_path, steps=only("crash", "durable"))
    assert result.verdict is Verdict.FAILED
    assert states(result)["durable"] == "failed"
    assert "acknowledged durable writes are lost" in evidence(result, "durable")
    assert "FAILED" in folder.report.read_text()
    assert registry.runs() == []


def test_a_node_that_lets_the_stranger_in_is_caught(tmp_path: Path) -> None:
    open_house = replicated()
    open_house = replace(open_house, stranger=replace(open_house.stranger, secret="main"))  # noqa: S106  a name
    result, _ = run_check(open_house, "process", tmp_path, steps=only("stranger"))
    assert result.verdict is Verdict.FAILED
    assert states(result) == {
        "prepare": "ok",
        "start": "ok",
        "links": "ok",
        "stranger": "failed",
        "remove": "ok",
    }
    assert "took the stranger for a peer" in evidence(result, "stranger")


def test_a_node_that_refuses_its_peers_is_caught(tmp_path: Path) -> None:
    grumpy = with_node(replicated(), "node2", access=("deny * *", "allow lab-client read,write *"))
    result, _ = run_check(grumpy, "process", tmp_path, steps=only("memory"))
    assert result.verdict is Verdict.FAILED
    assert states(result)["memory"] == "failed"
    assert "AccessDenied" in evidence(result, "memory")


def test_nodes_that_do_not_accept_each_other_are_named(tmp_path: Path) -> None:
    split = with_node(replicated(), "node3", secret="other")  # noqa: S106  a name
    result, _ = run_check(split, "process", tmp_path, effort=replace(QUICK, ready_within=4.0))
    assert result.verdict is Verdict.FAILED
    assert states(result)["links"] == "failed"
    assert states(result)["crash"] == "skipped"
    said = evidence(result, "links")
    assert "4 of 6 directed links did not come up within 4 s" in said
    assert re.search("node3 does not see node1; its log says: .* does not share this secret", said)
    assert "node1 does not see node2" not in said


def test_a_node_that_cannot_start_makes_it_unknown_with_the_nodes_own_words(tmp_path: Path) -> None:
    broken = with_node(replicated(), "node2", access=("this is no rule",))
    result, _ = run_check(broken, "process", tmp_path)
    assert result.verdict is Verdict.UNKNOWN
    assert states(result)["start"] == "error"
    assert "node2 ended right after its start" in evidence(result, "start")
    assert "access" in evidence(result, "start")


def test_a_run_that_did_too_little_says_nothing(tmp_path: Path) -> None:
    result, _ = run_check(
        replicated(2), "process", tmp_path, effort=replace(QUICK, least_writes=10**6), steps=only("crash")
    )
    assert result.verdict is Verdict.UNKNOWN
    assert "are needed to say anything" in evidence(result, "crash")


def test_two_runs_side_by_side_never_meet(tmp_path: Path) -> None:
    found = []
    threads = [
        threading.Thread(
            target=lambda n=n: found.append(run_check(replicated(2), "process", tmp_path / str(n))[0])
        )
        for n in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.verdict for result in found] == [Verdict.OK, Verdict.OK]
    assert registry.runs() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", ["make network", "start nodes", "both ends"])
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, number: signal.Signals, after: str) -> None:
    words = ["check", "replicated", "--driver", "process", "--out", str(tmp_path)]
    code, output = interrupted(words, lambda line: after in line, number)
    assert code == 2, output
    assert "interrupted" in output
    assert registry.runs() == []
    (folder,) = tmp_path.iterdir()
    assert processes_of(folder.name) == []
    assert json.loads((folder / "result.json").read_text())["verdict"] == "unknown"
    assert (folder / "report.html").exists()


def test_an_interrupted_up_leaves_nothing() -> None:
    code, output = interrupted(
        ["up", "--driver", "process"], lambda line: "make network" in line, signal.SIGINT
    )
    assert (code, "interrupted" in output) == (2, True), output
    assert registry.runs() == []


def test_gc_removes_what_a_killed_run_left_and_leaves_living_runs_alone(tmp_path: Path) -> None:
    up = lab("up", "--nodes", "2", "--driver", "process", "--json")
    standing_run = json.loads(up.stdout)["run_id"]
    words = command("check", "replicated", "--nodes", "2", "--driver", "process", "--out", str(tmp_path))
    with (
        subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as killed,
        subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as living,
    ):
        for process in (killed, living):
            assert process.stdout is not None
            assert any("both ends" in line for line in process.stdout)
        (dead_run,) = (run for run in registry.runs() if run.controller.pid == killed.pid)
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        assert len(processes_of(dead_run.run_id)) >= 2
        done = json.loads(lab("gc", "--json").stdout)
        assert done == [{"run_id": dead_run.run_id, "driver": "process", "left": [], "healed": []}]
        assert processes_of(dead_run.run_id) == []
        assert living.communicate(timeout=120)[0]
        assert living.returncode == 0
    assert [run.run_id for run in registry.runs()] == [standing_run]
    assert lab("gc").stdout == "nothing to remove\n"
    assert lab("gc", "--all").returncode == 0
    assert registry.runs() == []


def test_a_lab_that_stays_is_served_by_other_commands() -> None:
    up = lab("up", "--nodes", "2", "--driver", "process")
    assert up.returncode == 0, up.stderr
    status = json.loads(lab("status", "--json").stdout)
    assert [(node["name"], node["state"], node["peers"]) for node in status["nodes"]] == [
        ("node1", "running", ["node2"]),
        ("node2", "running", ["node1"]),
    ]
    assert "node2" in lab("exec", "node1", "--", "laila", "peers").stdout
    assert lab("exec", "node1", "--", "sh", "-c", "exit 7").returncode == 7
    assert '"ready"' in lab("logs", "node1").stdout
    assert lab("logs", "node9").returncode == 2
    down = lab("down")
    assert (down.returncode, down.stdout) == (0, f"down: {status['run_id']}\n")
    assert processes_of(status["run_id"]) == []
    assert "no lab stands" in lab("status").stderr


def test_keep_leaves_the_nodes_until_they_are_taken_down(tmp_path: Path) -> None:
    result, _ = run_check(replicated(2), "process", tmp_path, keep=True, steps=only("lists"))
    assert result.verdict is Verdict.OK
    assert len(processes_of(result.run_id)) == 3, "two nodes, and the program that carries their links"
    standing.down(registry.load(result.run_id))
    assert processes_of(result.run_id) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "nope", "--driver", "process"], "there are replicated, shared-volume"),
        (["check", "replicated", "--driver", "magic"], "there are auto, docker, process"),
        (["check", "replicated", "--driver", "process", "--nodes", "1"], "2 to 32"),
        (
            ["check", "replicated", "--driver", "process", "--out", "/proc/nowhere"],
            "choose another with --out",
        ),
        (
            ["check", "replicated", "--driver", "docker", "--image", "no/such:image"],
            "docker driver cannot work here",
        ),
        (["up", "nope"], "there are replicated, shared-volume"),
        (["down", "nope"], "no lab 'nope'"),
        (["exec", "node1"], "say what to run"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_with_exit_2(words: list[str], message: str) -> None:
    done = lab(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert registry.runs() == []


def test_auto_falls_back_to_processes_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")
    words = ["check", "replicated", "--nodes", "2", "--out", str(tmp_path)]
    code, output = interrupted(words, lambda line: "make network" in line, signal.SIGINT)
    assert code == 2
    assert "process driver (no containers: no container engine answers" in output
    until(lambda: registry.runs() == [], "the run to be gone")
