"""The pytest plugin, as its users have it: test files of their own, run by a pytest of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree as xml

import pytest
from lab_support import lab as laila_lab
from lab_support import processes_of

from laila.errors import BadConfig, LabError
from laila.lab import registry
from laila.lab.checkers.operations import UNKNOWN
from laila.lab.trials.invoking import ObjectInvoker
from laila.lab.workloads.base import Invocation
from laila.testing import Lab, Node, Ran, Said, ok

SHARED = 'pytest.mark.lab("shared-volume", nodes=2, driver="process")'
HEAD = f"""
import pathlib
import pytest
from laila.testing import Lab

pytestmark = {SHARED}

def note(lab, what):
    with pathlib.Path("notes").open("a") as file:
        file.write(f"{{what}} {{lab.driver.run.run_id}}\\n")
"""
ONE = f"""{HEAD}
@pytest.mark.faults("kill@node1")
def test_trial(lab, history):
    assert history() == []
    ran = lab.run("register", "lock").check()
    assert [bite["spec"] for bite in ran.bites] == ["kill@node1"]
    assert {{op.op for op in history()}} >= {{"read", "write", "acquire"}}
    note(lab, "trial")

def test_same_lab(lab, nodes, faults):
    assert lab.run("register").check().bites == ()     # the values of the test before are not in the way
    with faults("pause@node2") as proofs:
        assert nodes["node2"].state == "paused" and len(proofs) == 1
    assert nodes["node2"].state == "running"
    nodes["node1"].pause()
    nodes["node2"].kill()
    note(lab, "same")

def test_mended(lab, nodes):
    assert [node.state for node in nodes.values()] == ["running", "running"]
    host, _, port = nodes["node1"].address(7400).rpartition(":")
    assert host == "127.0.0.1" and port != "7400"
    assert nodes["node1"].exec("echo", "here").stdout == b"here\\n"
    note(lab, "mended")
    lab.run("register")
    raise AssertionError("on purpose")

def test_fresh(lab):
    note(lab, "fresh")
"""
TWO = f"""{HEAD}
def test_side_by_side(lab):
    with lab.fault("pause@node1"):
        note(lab, "beside")

@pytest.mark.lab("nowhere")
def test_unknown_topology(lab): ...

@pytest.mark.lab("shared-volume", node=2)
def test_unknown_option(lab): ...

@pytest.mark.lab("shared-volume", "replicated")
def test_two_topologies(lab): ...

@pytest.mark.faults("tickle")
def test_unknown_fault(lab): ...

@pytest.mark.faults(time=3)
def test_no_fault(lab): ...

@pytest.mark.faults("kill", time="long")
def test_no_number(lab): ...

@pytest.mark.faults("kill", seconds=3)
def test_unknown_setting(lab): ...

def test_what_cannot_be_done(lab):
    with pytest.raises(Exception, match="offers no workload 'nothing'; it offers peering"):
        lab.run("nothing", faults="pause")
    with pytest.raises(Exception, match="unknown fault 'tickle'; there are "):
        with lab.fault("tickle"):
            raise AssertionError("not here")
    with pytest.raises(Exception, match="for lab.run"):
        with lab.fault("kill,pause"):
            raise AssertionError("not here")
"""


def run(folder: Path, *words: str, timeout: float = 150, **files: str) -> subprocess.CompletedProcess[str]:
    """pytest in a folder with these test files. Its environment is this one's, with this test's home of labs."""
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *words]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=timeout, check=False)


def cases(folder: Path) -> dict[str, tuple[str, str]]:
    """Of pytest's own junit.xml: how each test ended, and what it said."""
    found = {}
    for case in xml.parse(folder / "out.xml").iter("testcase"):  # noqa: S314  our own file
        bad = [(one.tag, one.get("message", "") + (one.text or "")) for one in case]
        found[str(case.get("name"))] = bad[0] if bad else ("ok", "")
    return found


def notes(folder: Path) -> dict[str, str]:
    return dict(line.split() for line in (folder / "notes").read_text().splitlines())


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Two files by two workers of pytest-xdist."""
    folder = tmp_path_factory.mktemp("session")
    (folder / "home").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAILA_LAB_HOME", str(folder / "home"))
        done = run(
            folder, "-n", "2", "--dist", "loadfile", "--junit-xml", "out.xml", test_one=ONE, test_two=TWO
        )
    return folder, done.stdout + done.stderr


def test_what_passes_and_what_does_not(session: tuple[Path, str]) -> None:
    folder, said = session
    ended = {name: how for name, (how, _) in cases(folder).items()}
    good = {"test_trial", "test_same_lab", "test_fresh", "test_side_by_side", "test_what_cannot_be_done"}
    assert {name for name, how in ended.items() if how == "ok"} == good, said
    assert ended["test_mended"] == "failure"
    assert cases(folder)["test_mended"][1].startswith("AssertionError: on purpose")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("unknown_topology", "unknown topology 'nowhere'; there are replicated, shared-volume"),
        ("unknown_option", "the marker lab has no node; it has driver and nodes"),
        ("two_topologies", "the marker lab takes one topology"),
        ("unknown_fault", "unknown fault 'tickle'; there are "),
        ("no_fault", "the marker faults takes faults as texts"),
        ("no_number", "time and clients of the marker faults are numbers"),
        ("unknown_setting", "the marker faults has no seconds; it has time and clients"),
    ],
)
def test_markers_are_checked(session: tuple[Path, str], name: str, text: str) -> None:
    folder, _ = session
    how, said = cases(folder)[f"test_{name}"]
    assert how == "error"
    assert text in said
    assert "Traceback" not in said
    assert "plugin.py" not in said


def test_a_lab_goes_on_until_a_test_fails(session: tuple[Path, str]) -> None:
    told = notes(session[0])
    assert told["trial"] == told["same"] == told["mended"]
    assert len({told["trial"], told["fresh"], told["beside"]}) == 3


def test_only_failed_tests_leave_evidence(session: tuple[Path, str]) -> None:
    folder, said = session
    by_hand, run_folder = sorted((folder / "lab-runs").iterdir())
    assert by_hand.name.startswith("test_mended-")
    assert run_folder.name.startswith(f"{by_hand.name}-")
    assert "exec echo here" in (by_hand / "history.jsonl").read_text()
    assert str(run_folder / "report.html") in said
    files = {str(path.relative_to(run_folder)) for path in run_folder.rglob("*") if path.is_file()}
    logs = {"logs/node1.log", "logs/node2.log"}
    assert files >= {"report.html", "history.jsonl", "junit.xml", "result.json", "environment.json", *logs}
    assert "pytest 'test_one.py::test_mended' --lab-seed" in (run_folder / "report.html").read_text()


def test_nothing_is_left_behind(session: tuple[Path, str]) -> None:
    folder, _ = session
    assert list((folder / "home").iterdir()) == []
    assert [pid for run_id in set(notes(folder).values()) for pid in processes_of(run_id)] == []


FAILS = f"""{HEAD}
def test_it(lab, nodes):
    with lab.fault("pause"):
        (paused,) = [name for name, node in nodes.items() if node.state == "paused"]
    pathlib.Path("paused").write_text(f"{{paused}} {{lab.seed}}")
    note(lab, "kept")
    raise AssertionError("on purpose")
"""


BY_HAND = f"""{HEAD}
def test_by_hand(lab, nodes, faults):
    with faults("pause@node2"):
        pass
    nodes["node1"].kill()
    with lab.fault("partition@node1/node2"):
        raise AssertionError("not here")

@pytest.mark.lab("broken.toml", driver="process")
def test_no_lab(lab): ...

def test_well(lab, nodes, faults):
    with faults("pause@node2"):
        nodes["node1"].exec("true")
"""
BROKEN = """
[[nodes]]
name = "left"

[[nodes]]
name = "right"
pools = [{name = "durable", kind = "sqlite", path = "/dev/null/no.sqlite"}]
"""


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """What tests that never call `lab.run` leave."""
    folder = tmp_path_factory.mktemp("by-hand")
    (folder / "broken.toml").write_text(BROKEN)
    (folder / "home").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAILA_LAB_HOME", str(folder / "home"))
        done = run(folder, "--junit-xml", "out.xml", test_it=BY_HAND)
    return folder, done.stdout + done.stderr


def evidence(folder: Path, name: str) -> tuple[Path, dict[str, Any], list[dict[str, Any]]]:
    """The folder of that name, its result, and the lines of its history."""
    (found,) = [path for path in (folder / "lab-runs").iterdir() if path.name.startswith(name)]
    lines = (found / "history.jsonl").read_text().splitlines()
    return found, json.loads((found / "result.json").read_text()), [json.loads(line) for line in lines]


def test_what_a_failed_test_did_by_hand_is_kept(by_hand: tuple[Path, str]) -> None:
    folder, said = by_hand
    left, result, history = evidence(folder, "test_by_hand-")
    assert cases(folder)["test_by_hand"][0] == "failure", said
    assert str(left / "report.html") in said
    assert result["verdict"] == "failed"
    why = "partition@node1/node2: nothing runs at one end of node1-node2"
    assert result["steps"][0]["detail"] == f"laila.errors.LabError: {why}"
    (bite,) = result["facts"]["bites"]
    assert (bite["spec"], bite["nodes"], bool(bite["proof_of_healing"])) == ("pause@node2", ["node2"], True)
    told = [(one["what"], one.get("node", "")) for one in history]
    assert told[:2] == [("up", "node1"), ("up", "node2")]
    assert told[2:] == [("fault", "node2"), ("heal", "node2"), ("kill", "node1"), ("note", "")]
    assert history[-1]["text"] == why
    assert [one["t"] for one in history] == sorted(one["t"] for one in history)
    logs = {path.name: path.read_text() for path in (left / "logs").iterdir()}
    assert all(logs[f"{node}.log"] and "no log" not in logs[f"{node}.log"] for node in ("node1", "node2"))
    page = (left / "report.html").read_text()
    assert "pause@node2" in page
    assert "pytest 'test_it.py::test_by_hand' --lab-seed" in page


def test_a_lab_that_does_not_start_leaves_its_nodes_last_words(by_hand: tuple[Path, str]) -> None:
    folder, said = by_hand
    left, result, history = evidence(folder, "broken-")
    how, told = cases(folder)["test_no_lab"]
    assert (how, result["verdict"]) == ("error", "failed")
    assert f"evidence: {left / 'report.html'}" in told
    assert str(left / "report.html") in said.partition("= labs =")[2]
    assert "/dev/null/no.sqlite" in (left / "logs" / "right.log").read_text()
    assert history


def test_what_went_well_by_hand_leaves_nothing(by_hand: tuple[Path, str]) -> None:
    folder, said = by_hand
    assert cases(folder)["test_well"][0] == "ok", said
    assert len(list((folder / "lab-runs").iterdir())) == 2
    assert list((folder / "home").iterdir()) == []


def test_a_lab_without_the_fixture_leaves_the_same(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="mine") as caught:
        with Lab.start("shared-volume", nodes=2, driver="process", out=tmp_path) as lab:
            with lab.fault("pause@node1"):
                raise AssertionError("mine")
    (left,) = tmp_path.iterdir()
    assert caught.value.__notes__ == [f"evidence: {left / 'report.html'}"]
    result = json.loads((left / "result.json").read_text())
    assert [bite["spec"] for bite in result["facts"]["bites"]] == ["pause@node1"]
    assert result["steps"][0]["detail"] == "AssertionError: mine"
    assert registry.runs() == []


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_a_lab_can_be_kept_after_a_failure(tmp_path: Path, workers: tuple[str, ...]) -> None:
    done = run(tmp_path, "--lab-keep", "failed", "--lab-seed", "17", *workers, test_it=FAILS)
    run_id = notes(tmp_path)["kept"]
    assert done.returncode == 1
    assert (
        f"look at it with `laila lab status {run_id}`, end it with `laila lab down {run_id}`" in done.stdout
    )
    assert (tmp_path / "paused").read_text().split()[1] == "17"
    status = laila_lab("status", run_id)
    assert re.findall(r"node\d +running", status.stdout), status.stderr
    assert len(processes_of(run_id)) >= 2
    down = laila_lab("down", run_id)
    assert down.returncode == 0, down.stderr
    assert processes_of(run_id) == []
    assert registry.runs() == []


def test_an_interrupted_session_leaves_nothing(tmp_path: Path) -> None:
    text = f"{HEAD}\ndef test_it(lab):\n    note(lab, 'up')\n    import time\n    time.sleep(60)\n"
    (tmp_path / "test_it.py").write_text(text)
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "notes").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, 2)
        said = process.communicate(timeout=60)[0].decode()
    assert process.returncode == 2, said
    assert processes_of(notes(tmp_path)["up"]) == []
    assert registry.runs() == []


def test_the_plugin_imports_nothing_heavy() -> None:
    """Everybody who has laila-kit has it in every pytest."""
    asked = "import sys, laila.testing.plugin; print([n for n in ('laila.lab', 'numpy', 'docker') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_seed_repeats_its_choices(tmp_path: Path) -> None:
    with Lab.start("shared-volume", nodes=2, driver="process", seed=5, out=tmp_path) as lab:

        def chosen() -> list[str]:
            found = []
            for _ in range(4):
                with lab.fault("pause"):
                    found += [name for name, node in lab.nodes.items() if node.state == "paused"]
            return found

        first = chosen()
        lab.begin(lab.name, lab.command, lab.order)
        assert chosen() == first
        with pytest.raises(LabError, match="power-loss cannot be done here: "):
            lab.run("register", faults="power-loss")
        with pytest.raises(BadConfig, match="unknown workload 'nothing'"):
            lab.run("nothing", client=Hangs)
        ran = lab.run("register", client=Rubbish)
        assert (ran.ok, ran.verdict) == (False, "unknown")
        with pytest.raises(
            AssertionError, match=r"(?s)verdict: unknown.* gave 5 instead of ok\(…\).*report: .*again: "
        ):
            ran.check()
    assert registry.runs() == []


class Rubbish:
    """A store that is right, but for what each client says first."""

    data: ClassVar[dict[str, Any]] = {}

    def __init__(self, node: Node) -> None:
        self.first = True

    def invoke(self, op: Invocation) -> Any:
        first, self.first = self.first, False
        if first:
            return 5
        if op.op == "write":
            self.data[op.key] = op.value
        return ok(self.data.get(op.key))


class Hangs:
    """Comes back after a while, when nobody waits any more."""

    def __init__(self, node: Node | None = None) -> None:
        self.closed = False

    def invoke(self, op: Invocation) -> Said:
        time.sleep(1.0)
        return ok()

    def close(self) -> None:
        self.closed = True


def test_a_client_that_does_not_come_back_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("laila.lab.trials.invoking.MARGIN", 0.1)
    client = Hangs()
    invoker = ObjectInvoker(client)
    told = invoker.invoke(Invocation("read", "x"), 0.1)
    assert (told.outcome, invoker.gone) == (UNKNOWN, True)
    assert told.died.startswith("invoke(read) did not come back within 0.2 s")
    invoker.close()
    assert told.ended - told.started < 0.9
    deadline = time.monotonic() + 10
    while not client.closed and time.monotonic() < deadline:
        time.sleep(0.02)
    assert client.closed


def test_a_run_without_judgements_is_never_ok(tmp_path: Path) -> None:
    assert Ran("", (), (), tmp_path).verdict == "unknown"
