"""The commands of `laila lab` as a person types them: what they refuse, what they say, how they end.

Nodes are real, of the process driver. What is refused must be refused before anything is started.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lab_support import QUICK, evidence, lab, processes_of, states, until

from laila.errors import BadConfig, LabError
from laila.lab import cli, drivers, faults, registry
from laila.lab.checks import trials
from laila.lab.checks.trials import TrialOrder
from laila.lab.cli import common
from laila.lab.drivers import Choice
from laila.lab.drivers.base import Driver
from laila.lab.folder import Folder
from laila.lab.procid import ProcessId
from laila.lab.progress import Lines
from laila.lab.result import Result, Verdict
from laila.lab.runner import Order, check
from laila.lab.topology import HostSpec, NodeSpec, Topology, replicated, shared_volume
from laila.testing.lab import Lab

PROCESS = ("replicated", "--driver", "process")
NO_PACKETS = "no packet can be lost"
"""Why plain processes cannot have the fault `loss`."""


# -- what is refused before anything is started


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("kill@node9", "kill@node9: there is no node node9; there are node1, node2, node3"),
        ("pause,partition@node1/node7", "there is no node node7"),
        ("kill:foo=1", "kill has no option foo; it has none"),
        ("pause,latency:ms=99999", "latency: ms must be 2 to 10000, not 99999"),
        ("latency:ms=soon", "latency: ms='soon' is no float"),
        ("slow-fsync:kib=1", "slow-fsync: kib must be 4 to"),
        ("flip:files=/etc/passwd", "is not below the state directory"),
        ("disk-full:volume=nowhere", "mounts no volume 'nowhere'"),
        ("partition:shape=star", "there is no shape 'star'; there are pair"),
        ("pause+one-way:new=1", "use --driver docker for new=1"),
        (",", "names none; to break nothing write --faults none"),
    ],
)
def test_a_fault_that_is_badly_written_starts_nothing(schedule: str, message: str, tmp_path: Path) -> None:
    done = lab("check", *PROCESS, "--faults", schedule, "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "make network" not in done.stdout
    assert not (tmp_path / "out").exists()
    assert registry.runs() == []


def test_an_unknown_fault_lists_all_that_there_are(tmp_path: Path) -> None:
    done = lab("check", *PROCESS, "--faults", "kill,earthquake", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert f"unknown fault 'earthquake'; there are {', '.join(faults.KINDS)}\n" in done.stderr
    assert not (tmp_path / "out").exists()


def test_nor_does_a_lab_in_a_test_start_for_it() -> None:
    with pytest.raises(BadConfig, match="there is no node node9"):
        Lab.start("replicated", driver="process", faults="pause,kill@node9")
    assert registry.runs() == []


@pytest.mark.parametrize("schedule", ["loss", "kill+loss,pause"])
def test_a_named_fault_that_cannot_be_done_is_an_error_before_nodes_start(
    schedule: str, tmp_path: Path
) -> None:
    """Nor is the other fault of its turn done alone."""
    done = lab("check", *PROCESS, "--faults", schedule, "--json", "--out", str(tmp_path))
    assert done.returncode == 2
    told = json.loads(done.stdout)
    state = {step["key"]: (step["state"], step["detail"]) for step in told["steps"]}
    assert told["verdict"] == "unknown"
    assert told["sentence"].endswith(state["prepare"][1])
    assert state["prepare"][0] == "error"
    assert state["prepare"][1].startswith("loss cannot be done here: ")
    assert NO_PACKETS in state["prepare"][1]
    assert (state["start"][0], state["trial"][0]) == ("skipped", "skipped")
    assert not any(log.stat().st_size for log in (Path(told["folder"]) / "logs").iterdir()), (
        "a node was started"
    )
    assert registry.runs() == []
    assert processes_of(told["run_id"]) == []


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("pause,kill-holder", "kill-holder cannot be done here: none of the workloads has locks"),
        ("flip", "flip cannot be done here: .*flip:files=PATTERN"),
    ],
)
def test_a_named_fault_that_would_find_nothing_to_strike_is_an_error(schedule: str, message: str) -> None:
    with pytest.raises(LabError, match=message):
        trials.ahead(unprepared(shared_volume()), TrialOrder(faults=schedule), ("register",))


@pytest.mark.parametrize("command", ["check", "up"])
def test_an_image_that_no_node_would_be_made_of_is_refused(command: str, tmp_path: Path) -> None:
    done = lab(command, *PROCESS, "--image", "mine:1")
    assert done.returncode == 2
    assert "the process driver (asked for) makes none: leave it out, or take --driver docker" in done.stderr
    assert registry.runs() == []


@pytest.mark.parametrize(
    ("topology", "message"),
    [
        (replace(replicated(), compose="compose.yaml"), "each of its services names its own image"),
        (replace(replicated(), attach="project"), "each of its services names its own image"),
        (shared_volume(kind="glusterfs"), "they are made of laila-volumes:dev"),
    ],
    ids=["compose file", "attached", "network volume"],
)
def test_nor_is_it_for_compose_files_and_network_volumes(topology: Topology, message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        common.driver(argparse.Namespace(driver="auto", image="mine:1"), topology)


def test_nor_is_it_for_machines() -> None:
    with pytest.raises(
        BadConfig, match=r"the ssh driver \(the topology .* names the machines of its nodes\) makes none"
    ):
        common.driver(argparse.Namespace(driver="auto", image="mine:1"), on_hosts("10.0.0.1"))


KUBECONFIG = """
current-context: far
contexts: [{name: far, context: {cluster: far, user: somebody}}]
clusters: [{name: far, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: somebody, user: {token: nothing}}]
"""


def test_it_is_for_pods_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as the cluster itself, which does not answer here."""
    (tmp_path / "config").write_text(KUBECONFIG)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with pytest.raises(LabError, match=r"127\.0\.0\.1"):
        common.driver(argparse.Namespace(driver="kubernetes", image="mine:1"), replicated())


def on_hosts(address: str) -> Topology:
    found = replicated()

    def moved(node: NodeSpec) -> NodeSpec:
        return replace(node, host=HostSpec(address, known_hosts="/dev/null"))

    return replace(found, nodes=tuple(map(moved, found.nodes)), stranger=moved(found.stranger))


# -- what falls away


def unprepared(topology: Topology) -> Driver:
    """A process driver of which nothing is made yet."""
    run = registry.Run(
        registry.new_run_id(), "process", topology.to_dict(), "check", ProcessId.of(os.getpid())
    )
    return drivers.make(run, topology)


def tried(order: TrialOrder, out: Path) -> tuple[Result, Folder, list[str]]:
    """A check in this process, and what its progress said."""
    said = io.StringIO()
    done, folder = check(
        Order(replicated(), Choice("process", "a test"), 7, "a test", str(out), effort=QUICK, trial=order),
        Lines(said),
    )
    return done, folder, said.getvalue().splitlines()


@pytest.mark.parametrize(
    ("asked", "ci", "verdict"),
    [("all", "", Verdict.OK), (None, "", Verdict.OK), (None, "true", Verdict.UNKNOWN)],
    ids=["all", "usual", "usual in CI"],
)
def test_what_falls_away_is_said_before_the_run_and_counted(
    asked: str | None, ci: str, verdict: Verdict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of `all`, and of the faults that come when nobody says which."""
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(
        faults, "KINDS", {kind: faults.KINDS[kind] for kind in ("reset", "loss", "kill-holder")}
    )
    done, _, said = tried(TrialOrder(("register",), asked, usual=("reset", "loss")), tmp_path)
    skipped = [line for line in said if line.startswith("cannot be done here, skipped: loss: ")]
    assert len(skipped) == 1
    assert NO_PACKETS in skipped[0]
    prepared = next(n for n, line in enumerate(said) if "make network" in line)
    assert said.index(skipped[0]) < prepared, said
    idle = [line for line in said if line.startswith("left out: kill-holder: ")]
    assert len(idle) == (asked == "all")
    assert [bite["what"] for bite in done.facts["bites"]] == ["reset"]
    assert states(done)["cannot"] == "skipped"
    assert evidence(done, "cannot").startswith("loss: ")
    assert {key for key, state in states(done).items() if state != "ok"} == {"cannot"}, done
    assert done.verdict is verdict


def test_all_where_nothing_can_be_done_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "KINDS", {"loss": faults.KINDS["loss"]})
    done, _, _ = tried(TrialOrder(("register",), "all"), tmp_path)
    assert done.verdict is Verdict.UNKNOWN
    assert states(done)["prepare"] == "error"
    assert evidence(done, "prepare") == "none of the faults can be done here: see `laila lab doctor`"


def test_all_are_those_that_can_be_done_and_each_other_one_is_named() -> None:
    driver = unprepared(replace(replicated(), state_mib=64, clocks=True))
    found = trials.ahead(driver, TrialOrder(faults="all"), ("register", "set"))
    done = {spec.kind for turn in found.turns for spec in turn}
    assert done | set(found.skipped) | set(found.idle) == set(faults.KINDS)
    assert {"kill", "pause", "partition", "flip"} <= done
    assert NO_PACKETS in found.skipped["loss"]
    assert list(found.idle) == ["kill-holder", "delete-pod", "drain", "evict", "rollout"]
    assert found.idle["evict"] == "nodes of the process driver are no pods"
    assert "kill-holder" not in trials.ahead(driver, TrialOrder(faults="all"), ("lock",)).idle


def test_a_schedule_without_a_fault_is_an_error() -> None:
    with pytest.raises(BadConfig, match="no fault is named"):
        trials.well_written(unprepared(replicated()), TrialOrder(faults=""))


def test_what_is_badly_written_is_refused_before_it_is_played_too() -> None:
    """A lab in a test is given faults long after its nodes were started."""
    with pytest.raises(BadConfig, match="there is no node node9"):
        trials.ahead(unprepared(replicated()), TrialOrder(faults="pause,kill@node9"), ("register",))


# -- laila lab doctor


def told(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


def findings(done: subprocess.CompletedProcess[str], about: str) -> dict[str, dict[str, Any]]:
    return {one["what"]: one for one in told(done)["findings"] if one["about"] == about}


def test_doctor_says_what_each_driver_can_do() -> None:
    done = lab("doctor", "--json")
    assert done.returncode == 0, done.stderr
    assert told(done)["usable"] is True
    assert list(findings(done, "driver")) == list(drivers.DRIVERS)
    assert findings(done, "driver")["process"]["fine"] is True
    assert list(findings(done, "process")) == list(faults.KINDS)
    loss = findings(done, "process")["loss"]
    assert loss["fine"] is False
    assert NO_PACKETS in loss["remedy"]
    ssh = findings(done, "driver")["ssh"]
    assert ssh["fine"] is None, "without hosts nothing is known"
    assert "names hosts" in ssh["remedy"]
    assert registry.runs() == []


def test_doctor_shows_it_to_people() -> None:
    done = lab("doctor")
    assert done.returncode == 0
    assert "  ✔ process" in done.stdout
    assert "  ? ssh" in done.stdout
    assert f"process, loss: {faults.KINDS['loss'].links_cannot}" in done.stdout  # type: ignore[attr-defined]  # of its kind


def test_ssh_without_its_package_is_not_usable() -> None:
    code = (
        "import sys; sys.modules['paramiko'] = None; from laila.cli.main import main; "
        "sys.exit(main(['lab', 'doctor', '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    ssh = findings(done, "driver")["ssh"]
    assert ssh["fine"] is False
    assert ssh["detail"] == "the ssh driver needs paramiko: pip install 'laila-kit[lab]'"


def test_doctor_ends_with_2_where_no_driver_can_have_the_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network volume needs an engine, and there is none."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no-engine.sock")
    volume = '[[volumes]]\nname = "shared"\nat = "/mnt/shared"\nkind = "glusterfs"\n'
    nodes = "".join(f'[[nodes]]\nname = "node{number}"\n' for number in (1, 2, 3))
    (tmp_path / "mine.toml").write_text(nodes + volume)
    done = lab("doctor", str(tmp_path / "mine.toml"), "--json")
    assert done.returncode == 2
    assert told(done)["usable"] is False
    assert not any(one["fine"] for one in findings(done, "driver").values())
    assert "no glusterfs volume" in findings(done, "driver")["process"]["detail"]


def test_doctor_of_a_topology_that_is_not_there() -> None:
    done = lab("doctor", "nope")
    assert done.returncode == 2
    assert "there are replicated, shared-volume" in done.stderr


# -- laila lab fault


@pytest.fixture(scope="module")
def standing_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("standing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAILA_LAB_HOME", str(home))
        up = lab("up", *PROCESS, "--json")
        assert up.returncode == 0, up.stderr
        run_id = told(up)["run_id"]
        try:
            yield home
        finally:
            down = lab("down", run_id)
        assert down.returncode == 0, down.stderr
        assert processes_of(run_id) == []


@pytest.fixture
def standing(standing_home: Path, lab_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A lab of plain processes that stays, with nothing broken before and after."""
    monkeypatch.setenv("LAILA_LAB_HOME", str(standing_home))
    assert broken() == []
    yield
    assert lab("fault", "heal").returncode == 0
    assert broken() == []


def broken() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = told(lab("fault", "list", "--json"))["broken"]
    return found


def state_of(node: str) -> str:
    return next(str(one["state"]) for one in told(lab("status", "--json"))["nodes"] if one["name"] == node)


def test_faults_are_listed_without_a_lab() -> None:
    done, listed = lab("fault", "list"), told(lab("fault", "list", "--json"))
    assert done.returncode == 0
    assert "No lab stands here (laila lab up)" in done.stderr
    assert [one["kind"] for one in listed["kinds"]] == list(faults.KINDS)
    assert {one["hindrance"] for one in listed["kinds"]} == {None}
    assert all(line.split()[0] in done.stdout for line in faults.KINDS)
    assert (listed["run_id"], listed["broken"]) == (None, [])


@pytest.mark.usefixtures("standing")
def test_with_a_lab_the_list_says_what_cannot_be_done_on_it() -> None:
    listed = {one["kind"]: one for one in told(lab("fault", "list", "--json"))["kinds"]}
    assert listed["pause"]["hindrance"] == ""
    assert NO_PACKETS in listed["loss"]["hindrance"]
    assert listed["latency"]["options"]["ms"].endswith("(default 100.0 ms)")
    rows = {line.split()[0]: line for line in lab("fault", "list").stdout.splitlines() if line.strip()}
    assert rows["pause"].rstrip().endswith("yes")
    assert NO_PACKETS in rows["loss"]


@pytest.mark.usefixtures("standing")
def test_a_fault_by_hand_bites_until_it_is_healed() -> None:
    done = lab("fault", "inject", "pause@node2", "--json")
    assert done.returncode == 0, done.stderr
    made = told(done)
    assert (made["fault"], made["nodes"]) == ("pause@node2", ["node2"])
    assert "node2 stands still" in made["proof"]
    assert state_of("node2") == "paused"
    assert [(one["id"], one["fault"]) for one in broken()] == [(made["id"], "pause@node2")]
    assert f"broken now: {made['id']} pause@node2 on node2" in lab("fault", "list").stdout
    wrong = lab("fault", "heal", "nobody")
    assert wrong.returncode == 2
    assert f"nothing is broken by 'nobody'; there are {made['id']}" in wrong.stderr
    assert state_of("node2") == "paused"
    healed = lab("fault", "heal", made["id"])
    assert (healed.returncode, healed.stdout) == (0, "healed: pause@node2\n")
    assert state_of("node2") == "running"
    again = lab("fault", "heal")
    assert (again.returncode, again.stdout) == (0, "nothing is broken\n")


@pytest.mark.usefixtures("standing")
def test_a_fault_for_some_seconds_ends_by_itself() -> None:
    done = lab("fault", "inject", "pause@node3", "--for", "8")
    assert done.returncode == 0, done.stderr
    assert "pause@node3 on node3 for 8 s" in done.stdout
    assert state_of("node3") == "paused"
    (one,) = broken()
    assert one["seconds_left"] <= 8
    until(lambda: state_of("node3") == "running", "node3 to go on by itself")
    until(lambda: not broken(), "nothing to be broken")


@pytest.mark.usefixtures("standing")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["earthquake"], "unknown fault 'earthquake'; there are bandwidth, "),
        (["kill@node9"], "there is no node node9; there are node1, node2, node3"),
        (["latency:ms=1e9"], "ms must be 2 to 10000"),
        (["loss"], "loss cannot be done here: "),
        (["pause@node1", "--for", "0"], "--for takes seconds above 0, not 0"),
        (["Kill!"], "is no fault; write KIND, KIND@NODE"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_and_breaks_nothing(words: list[str], message: str) -> None:
    done = lab("fault", "inject", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert broken() == []


def test_no_lab_no_fault() -> None:
    for words in (["inject", "pause"], ["heal"]):
        done = lab("fault", *words)
        assert done.returncode == 2
        assert "no lab stands on this machine; start one with `laila lab up`" in done.stderr


# -- check --workloads --clients, recheck, report


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a small check said."""
    place = tmp_path_factory.mktemp("ran")
    words = ["--workloads", "register,set", "--clients", "2", "--faults", "reset", "--seed", "7", "--json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAILA_LAB_HOME", str(place / "home"))
        done = lab("check", *PROCESS, *words, "--out", str(place / "runs"))
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = told(done)
    return {**found, "said": done.stderr}


@pytest.fixture
def folder(ran: dict[str, Any], tmp_path: Path) -> Path:
    """Its folder, to do with what one likes."""
    return Path(shutil.copytree(ran["folder"], tmp_path / "run"))


def test_workloads_and_clients_are_as_they_were_asked_for(ran: dict[str, Any]) -> None:
    lines = (Path(ran["folder"]) / "history.jsonl").read_text().splitlines()
    invoked = [record for record in map(json.loads, lines) if record["what"] == "invoke"]
    clients = {re.match(r"node\d/\w+/\d+", record["client"])[0] for record in invoked}  # type: ignore[index]  # all match
    nodes, works = ("node1", "node2", "node3"), ("register", "set")
    assert clients == {f"{node}/{work}/{number}" for node in nodes for work in works for number in (0, 1)}
    assert [key for key in (step["key"] for step in ran["steps"]) if key.startswith("judge-")] == [
        "judge-register",
        "judge-set",
    ]
    assert "--workloads register,set --clients 2 --seed 7" in ran["command"]
    assert [bite["what"] for bite in ran["facts"]["bites"]] == ["reset"]


def test_a_check_says_what_its_driver_does_not_show(ran: dict[str, Any]) -> None:
    """Faults may limit what the topology does not."""
    line = next(
        line for line in ran["said"].splitlines() if line.startswith("not shown by the process driver")
    )
    assert "the topology's limits of memory, CPU and processes are not applied" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workloads", "register,chess"], "offers no workload 'chess'; it offers "),
        (["--clients", "0"], "--clients takes a number of 1 or more, not 0"),
        (["--time", "-1"], "--time takes seconds of 0 or more, not -1"),
        (["--time", "nan"], "--time takes seconds of 0 or more, not nan"),
    ],
)
def test_what_a_check_cannot_play_is_refused(words: list[str], message: str, tmp_path: Path) -> None:
    done = lab("check", *PROCESS, *words, "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def texts(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_recheck_judges_again_and_leaves_the_folder_alone(folder: Path) -> None:
    before = texts(folder)
    done, found = lab("recheck", str(folder)), lab("recheck", str(folder), "--json")
    assert (done.returncode, found.returncode) == (0, 0), done.stderr
    assert (told(found)["verdict"], told(found)["same"]) == ("ok", True)
    assert {one["workload"] for one in told(found)["judgements"]} == {"register", "set"}
    assert texts(folder) == before


def made_wrong(folder: Path) -> None:
    """The last read gives what the first one gave, long after it was replaced."""
    path = folder / "history.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    reads = [
        one for one in records if one["what"] == "invoke" and one["op"] == "read" and one["outcome"] == "ok"
    ]
    last = reads[-1]
    stale = next(
        one for one in reads if one["key"] == last["key"] and one["result"] not in (None, last["result"])
    )
    last["result"] = stale["result"]
    path.write_text("".join(json.dumps(one) + "\n" for one in records))


def test_recheck_ends_with_1_on_a_history_that_cannot_be(folder: Path) -> None:
    made_wrong(folder)
    before = texts(folder)
    found = lab("recheck", str(folder), "--json")
    assert found.returncode == 1, found.stdout
    assert (told(found)["verdict"], told(found)["same"]) == ("failed", False)
    assert texts(folder) == before
    written = lab("recheck", str(folder), "--write")
    assert written.returncode == 1
    after = texts(folder)
    changed = {name for name, text in after.items() if before.get(name) != text}
    assert changed == {"report.html", "junit.xml"}
    assert b"<failure" in after["junit.xml"]
    assert b"<failure" not in before["junit.xml"]


def test_recheck_ends_with_2_where_nothing_can_be_known(folder: Path, tmp_path: Path) -> None:
    (folder / "result.json").unlink()
    found = lab("recheck", str(folder), "--json")
    assert found.returncode == 2
    assert told(found)["verdict"] == "unknown"
    nothing = lab("recheck", str(tmp_path))
    assert nothing.returncode == 2
    assert "is no folder of a run: it has no history.jsonl" in nothing.stderr


def test_report_draws_the_page_again(folder: Path, tmp_path: Path) -> None:
    drawn = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    done = lab("report", str(folder))
    assert (done.returncode, done.stdout) == (0, f"report: {folder / 'report.html'}\n")
    assert b"node1" in (folder / "report.html").read_bytes()
    assert len((folder / "report.html").read_bytes()) > len(drawn) // 2
    other = tmp_path / "other.html"
    before = texts(folder)
    found = lab("report", str(folder), "--out", str(other), "--json")
    assert (found.returncode, told(found)) == (0, {"report": str(other)})
    assert other.read_bytes() == before["report.html"]
    assert texts(folder) == before


def test_a_report_that_cannot_be_drawn(folder: Path, tmp_path: Path) -> None:
    for words, message in (
        ([str(tmp_path)], "is no folder of a run: it has no history.jsonl"),
        ([str(folder), "--out", "/proc/nowhere/page.html"], "choose another with --out"),
    ):
        done = lab("report", *words)
        assert done.returncode == 2
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


# -- help


def parsers(parser: argparse.ArgumentParser, words: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield words, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield from parsers(sub, f"{words} {name}".strip())


def every_command() -> dict[str, argparse.ArgumentParser]:
    top = argparse.ArgumentParser(prog="laila")
    cli.add_parser(top.add_subparsers())
    return {words: parser for words, parser in parsers(top, "") if words}


def test_these_are_all_commands() -> None:
    """The list below is of what there is."""
    groups = {
        "lab",
        "lab check",
        "lab up",
        "lab status",
        "lab down",
        "lab logs",
        "lab exec",
        "lab gc",
        "lab doctor",
    }
    faults_ = {"lab fault", "lab fault inject", "lab fault heal", "lab fault list"}
    others = {"lab recheck", "lab report", "lab client", "lab worker", "lab subject"}
    assert set(every_command()) == groups | faults_ | others


@pytest.mark.parametrize("words", list(every_command()))
def test_every_help_has_examples(words: str) -> None:
    """--help of each command shows how it is used."""
    examples = every_command()[words].format_help().partition("\nexamples:\n")[2]
    assert f"laila {words}" in examples


def test_help_is_what_a_person_gets() -> None:
    done = lab("fault", "inject", "--help")
    assert done.returncode == 0
    assert "\nexamples:\n" in done.stdout
