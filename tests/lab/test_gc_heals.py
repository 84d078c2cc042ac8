"""`laila lab gc` undoes what killed commands broke: on a lab that stays, and on what is not the lab's."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
from compose_support import IMAGE, need_engine, project
from killed_controller import breaking, collected, kill_when, run_of, silent
from lab_support import lab, processes_of

from laila.lab import registry, standing
from laila.lab.drivers.base import NodeState
from laila.lab.faults import ledger
from laila.lab.procid import ProcessId


def up(driver: str, nodes: int) -> registry.Run:
    made = lab("up", "replicated", "--driver", driver, "--nodes", str(nodes), "--json")
    assert made.returncode == 0, made.stderr
    return registry.load(json.loads(made.stdout)["run_id"])


def test_a_lab_of_processes_works_again_and_what_was_broken_to_stay_stays() -> None:
    run = up("process", 3)
    try:
        with standing.attached(run) as driver:
            first, second = driver.main_pid("node1"), driver.main_pid("node2")
            limit = files(second)
            meant = lab("fault", "inject", "pause@node3")
            assert meant.returncode == 0, meant.stderr
            with breaking("fault", "inject", "nofile@node2") as one:
                kill_when(one, run, 2, lambda: files(second) < limit)
            with breaking("fault", "inject", "pause@node1") as other:
                kill_when(other, run, 3, lambda: stands(first))
            assert files(second) < limit
            (done,) = collected()
            assert done["run_id"] == run.run_id
            assert sorted(done["healed"]) == ["nofile@node2", "pause@node1"]
            assert done["left"] == []
            assert not stands(first)
            assert files(second) == limit
            for name in ("node1", "node2"):
                assert driver.exec(name, ["laila", "health"]).code == 0
            assert driver.state("node3") is NodeState.PAUSED
            assert [entry.spec for entry in ledger.open_entries(run)] == ["pause@node3"]
            assert collected() == []
    finally:
        (ended,) = collected("--all")
    assert (ended["run_id"], ended["left"]) == (run.run_id, [])
    assert registry.runs() == []
    assert processes_of(run.run_id) == []


@pytest.mark.container
def test_containers_that_stay_reach_each_other_again() -> None:
    need_engine()
    run = up("docker", 2)
    try:
        with standing.attached(run) as driver:
            with breaking("fault", "inject", "partition@node1/node2") as controller:
                kill_when(controller, run, 1, lambda: silent(driver, "node1", "node2"))
            (done,) = collected()
            assert (done["healed"], done["left"]) == (["partition@node1/node2"], [])
            assert not silent(driver, "node1", "node2")
            assert not silent(driver, "node2", "node1")
    finally:
        collected("--all")


SERVICE = f"""
    image: {IMAGE}
    entrypoint: [sh]
    command: ["-c", "exec sleep 1000"]
    healthcheck: {{disable: true}}
"""
CLIENT = """
import json, sys
for line in sys.stdin:
    asked = json.loads(line)
    print(json.dumps({"id": asked["id"], "ok": True, "result": {"value": None}}), flush=True)
"""


@pytest.mark.container
def test_a_project_of_somebody_is_as_it_was_before_a_check_that_was_killed(tmp_path: Path) -> None:
    need_engine()
    file = tmp_path / "compose.yaml"
    file.write_text("services:\n" + "".join(f"  {name}:{SERVICE}" for name in "abc"))
    (tmp_path / "client.py").write_text(CLIENT)
    with project(file) as name:
        mine = tmp_path / "mine.toml"
        client = '[client]\nargv = ["python3", "client.py"]\nwhere = "here"\nworkloads = ["register"]\n'
        mine.write_text(f'attach = "{name}"\n{client}')
        before = containers(name)
        words = (
            "check",
            str(mine),
            "--faults",
            "pause@c+partition@a/b",
            "--time",
            "60",
            "--out",
            str(tmp_path),
        )
        with breaking(*words) as controller:
            run = run_of(controller)
            with standing.attached(run) as driver:
                kill_when(
                    controller,
                    run,
                    2,
                    lambda: driver.state("c") is NodeState.PAUSED and silent(driver, "a", "b"),
                )
                (done,) = collected()
                assert (done["run_id"], done["left"]) == (run.run_id, [])
                assert not silent(driver, "a", "b")
                assert not silent(driver, "b", "a")
                assert driver.state("c") is NodeState.RUNNING
        assert containers(name) == before
        assert registry.runs() == []
        assert processes_of(run.run_id) == []


def test_only_what_nobody_means_any_more_is_an_orphan(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as doer:
        by = str(ProcessId.of(doer.pid))
        entry = ledger.Entry(tmp_path / "x.json", "pause", "pause@a", ("a",), by=by)
        late = ledger.Entry(tmp_path / "y.json", "pause", "pause@a", ("a",), until=time.time() - 120)
        soon = ledger.Entry(tmp_path / "z.json", "pause", "pause@a", ("a",), until=time.time() + 1)
        assert [one.orphaned for one in (entry, late, soon)] == [False, True, False]
        doer.kill()
    assert entry.orphaned
    entry.hand_over()
    assert not entry.orphaned
    assert "by" in json.loads(entry.path.read_text())


def containers(name: str) -> list[str]:
    """Ids and states of a project's."""
    words = ["docker", "ps", "-a", "--filter", f"label=com.docker.compose.project={name}"]
    shown = ["--format", "{{.ID}} {{.Names}} {{.State}}"]
    told = subprocess.run([*words, *shown], capture_output=True, text=True, check=True, timeout=60)
    return sorted(told.stdout.splitlines())


def stands(pid: int) -> bool:
    """Whether the process stands still."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "T"


def files(pid: int) -> int:
    """How many files it may open."""
    import resource

    return resource.prlimit(pid, resource.RLIMIT_NOFILE)[0]
