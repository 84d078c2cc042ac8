"""The conductor: real processes on good volumes and on volumes broken on purpose, each of which must be caught."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from laila.errors import BadValue
from laila.volumes import exclusion, visibility
from laila.volumes.check import run
from laila.volumes.nodes import LOCAL, AgentNode, NodeLink
from laila.volumes.verdict import Verdict, stored

BROKEN = Path(__file__).with_name("broken_agent.py")
FAST = 1.0


def agents(*paths: Path | None, argv: Sequence[str] = LOCAL) -> list[NodeLink]:
    return [
        AgentNode(argv, name=f"n{number}", path=None if path is None else str(path))
        for number, path in enumerate(paths, 1)
    ]


def checked(path: Path, links: Sequence[NodeLink], **options: object) -> Verdict:
    try:
        return run(str(path), links, seconds=FAST, **options)  # type: ignore[arg-type]
    finally:
        for link in links:
            link.close()


def outcomes(verdict: Verdict) -> dict[str, str]:
    """The worst outcome of each check."""
    order = ("ok", "note", "unknown", "bad")
    found: dict[str, str] = {}
    for line in verdict.evidence:
        found[line.check] = max(found.get(line.check, "ok"), line.outcome, key=order.index)
    return found


def left(path: Path) -> list[str]:
    """What a check has left beside its verdict."""
    return [place.name for place in (path / ".laila").iterdir() if place.name != "volume.json"]


@pytest.fixture(params=["disk", "memory"])
def volume(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory on this machine's disk, or in its memory (tmpfs)."""
    if request.param == "disk":
        yield tmp_path
        return
    place = Path("/dev/shm", f"laila-{tmp_path.name}-{os.getpid()}")  # noqa: S108  that is the tmpfs every Linux has
    place.mkdir()
    yield place
    subprocess.run(["rm", "-r", str(place)], check=True)


def test_a_local_file_system_is_safe_and_one_kernel(volume: Path) -> None:
    """Three processes exclude each other; it says that this is no evidence for a network volume."""
    lines: list[str] = []
    verdict = checked(volume, agents(None, None, None), tell=lines.append)
    assert (verdict.answer, verdict.one_kernel) == ("SAFE", True), str(verdict)
    assert "one kernel, and no evidence for a network volume" in verdict.reason
    assert verdict.nodes == ("n1", "n2", "n3")
    assert set(outcomes(verdict)) == {
        "nodes", "one volume", "clock", "flock", "fcntl", "flock holder killed", "fcntl holder killed", "flock hammer",
        "fcntl hammer", "flock counter", "fcntl counter", "flock read-after-write", "fcntl read-after-write",
        "rename", "replace", "O_EXCL", "link",
    }  # fmt: skip
    assert {line.outcome for line in verdict.evidence} == {"ok", "note"}
    assert left(volume) == []
    assert stored(volume) == verdict
    assert len(lines) >= len(verdict.evidence)


def test_the_numbers_say_what_was_done(tmp_path: Path) -> None:
    """Evidence counts: no check passes by having done nothing."""
    verdict = checked(tmp_path, agents(None, None))
    numbers = {line.check: line.numbers for line in verdict.evidence if line.numbers}
    assert numbers["flock"] == numbers["fcntl"] == {"refused": 6, "granted": 2}
    for how in ("flock", "fcntl"):
        assert int(numbers[f"{how} hammer"]["fewest"]) >= 3
        assert int(numbers[f"{how} hammer"]["refused"]) > 0
        assert numbers[f"{how} holder killed"]["kills"] == 2
        assert int(numbers[f"{how} read-after-write"]["rounds"]) >= 3
    assert int(numbers["O_EXCL"]["rounds"]) >= 10
    assert int(numbers["link"]["rounds"]) >= 10
    assert int(numbers["rename"]["rounds"]) >= 3
    assert int(numbers["replace"]["versions"]) >= 2
    assert abs(float(numbers["clock"]["n1"])) < 1.0


def test_one_node_shows_nothing(tmp_path: Path) -> None:
    verdict = checked(tmp_path, agents(None))
    assert verdict.answer == "UNKNOWN"
    assert "one node alone" in verdict.reason
    assert stored(tmp_path) is None, "what is not known is not kept"
    assert left(tmp_path) == []


def test_one_process_twice_is_no_second_node(tmp_path: Path) -> None:
    link = AgentNode(name="n1")
    verdict = checked(tmp_path, [link, link])
    assert verdict.answer == "UNKNOWN"
    assert "one process" in verdict.reason


def test_two_directories_are_no_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is refused, and nobody sees the other: UNSAFE, on both, and nothing is left in either."""
    monkeypatch.setattr(visibility, "SEEN", 0.5)
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    verdict = checked(tmp_path, agents(one, other))
    assert verdict.answer == "UNSAFE"
    assert "n2 does not see what n1 has written" in verdict.reason
    assert "redis, etcd or postgresql" in verdict.reason
    assert outcomes(verdict) == {"nodes": "ok", "one volume": "bad", "flock": "bad"}
    for place in (one, other):
        kept = stored(place)
        assert kept is not None
        assert kept.answer == "UNSAFE"
        assert left(place) == []


LOCKS = {
    f"{how}{what}" for how in ("flock", "fcntl") for what in ("", " hammer", " counter", " holder killed")
}
MUTANTS = {
    "no_lock": (LOCKS, "got the exclusive flock lock while n1 held the exclusive one; use locks of redis"),
    "no_flock": ({name for name in LOCKS if name.startswith("flock")}, "n2 got the exclusive flock lock"),
    "refuse_locks": (
        {"flock", "fcntl", "flock holder killed", "fcntl holder killed"},
        "n1 cannot lock by flock: ENOLCK; use locks of redis, etcd or postgresql",
    ),
    "leaky_lock": ({"flock hammer"}, "two nodes held one flock lock at the same time"),
    "stale_read": (
        {"flock counter", "fcntl counter", "flock read-after-write", "fcntl read-after-write", "rename"},
        "the lock excludes, but nodes read stale bytes under it; no lock service helps",
    ),
    "open_anyway": ({"O_EXCL"}, "O_EXCL: two nodes made the same name in"),
    "overwrite": ({"replace"}, "reads were torn"),
    "no_rename": (
        {"atomic rename"},
        "cannot rename a new version over the old one: EEXIST; artifacts are published",
    ),
    "spare": (
        {"flock holder killed", "fcntl holder killed"},
        "did not get the flock lock of n1's killed process",
    ),
}


@pytest.mark.parametrize("how", MUTANTS)
def test_a_broken_volume_is_unsafe(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way of being broken is caught, by the checks that are about it, and named in the reason."""
    monkeypatch.setattr(exclusion, "INHERIT", 0.3)
    monkeypatch.setattr(exclusion, "MAX_WAIT", 0.3)
    caught, words = MUTANTS[how]
    verdict = checked(tmp_path, agents(None, None, argv=(sys.executable, str(BROKEN), how)))
    assert verdict.answer == "UNSAFE", str(verdict)
    assert words in verdict.reason
    bad = {check for check, outcome in outcomes(verdict).items() if outcome == "bad"}
    assert bad >= caught, verdict.evidence
    if how not in ("leaky_lock", "no_lock"):  # whose counters and reads go wrong by chance
        assert bad <= caught | {"replace", "one volume"}, verdict.evidence
    kept = stored(tmp_path)
    assert kept is not None
    assert kept.answer == "UNSAFE"
    assert left(tmp_path) == []


def test_no_hard_links_are_no_fault(tmp_path: Path) -> None:
    verdict = checked(tmp_path, agents(None, None, argv=(sys.executable, str(BROKEN), "no_link")))
    assert verdict.answer == "SAFE"
    assert "the volume makes no hard links (ENOTSUP)" in [line.text for line in verdict.evidence]


DYING = """
import os, sys, time
from laila.volumes import agent, steps
def hammer(hands, step): {what}
steps.STEPS = {{**steps.STEPS, "hammer": hammer}}
print("about to go", file=sys.stderr, flush=True)
sys.exit(agent.run())
"""
FAILING = {
    "dies": ("os._exit(7)", "has ended with exit code 7 (it says: about to go)"),
    "hangs": ("time.sleep(60)", "did not answer the step 'hammer' within"),
    "rubbish": ("os.write(1, b'what?\\n'); time.sleep(60)", "answered 'what?\\n', which is no answer"),
    "an empty answer": ("return {}", "its answer lacks 'refused'"),
    "nonsense": ("return {'holds': [['n2']], 'refused': 0, 'rubbish': 0}", "cannot be read (ValueError"),
    "no space": ("raise OSError(28, 'No space left on device')", "No space left on device (ENOSPC)"),
}


@pytest.mark.parametrize("how", FAILING)
def test_a_node_that_fails_in_the_middle_leaves_it_unknown(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounded, with the reason, and the directory is gone."""
    monkeypatch.setattr("laila.volumes.nodes.PATIENCE", 0.3)
    monkeypatch.setattr("laila.volumes.party.MAX_START", 0.5)
    what, words = FAILING[how]
    links = [AgentNode(name="n1"), AgentNode((sys.executable, "-c", DYING.format(what=what)), name="n2")]
    for link in links:
        link.ask({"do": "time"}, 30)  # that it starts is not what is bounded here
    verdict = checked(tmp_path, links, patience=3.0)
    assert verdict.answer == "UNKNOWN"
    assert words in verdict.reason
    assert outcomes(verdict)["flock"] == "ok", "what was found before stays"
    assert left(tmp_path) == []


def test_a_program_that_is_no_agent_leaves_it_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laila.volumes.nodes.PATIENCE", 0.3)
    for argv, words in (
        (
            ("sh", "-c", "echo hello; sleep 5"),
            "answered 'hello\\n', which is no answer of `laila volume probe`",
        ),
        (("sh", "-c", "echo no such thing >&2; exit 3"), "exit code 3 (it says: no such thing)"),
    ):
        links = [AgentNode(name="n1"), AgentNode(argv, name="n2")]
        verdict = checked(tmp_path, links, patience=2.0)
        assert verdict.answer == "UNKNOWN"
        assert words in verdict.reason


def test_unsafe_stays_unsafe_when_a_node_dies_later(tmp_path: Path) -> None:
    """What was seen was seen."""
    argv = (sys.executable, "-c", "import sys; sys.argv = ['', 'no_lock']; import runpy; "
            f"broken = runpy.run_path({str(BROKEN)!r}); broken['break_it']('no_lock'); import os; "
            "from laila.volumes import agent, steps; "
            "steps.STEPS = {**steps.STEPS, 'race': lambda hands, step: os._exit(1)}; agent.run()")  # fmt: skip
    verdict = checked(tmp_path, agents(None, None, argv=argv))
    assert verdict.answer == "UNSAFE"
    assert outcomes(verdict)["O_EXCL"] == "unknown"


def test_a_place_that_cannot_be_written_leaves_it_unknown(tmp_path: Path) -> None:
    verdict = checked(tmp_path / "nowhere", agents(None, None))
    assert verdict.answer == "UNKNOWN"
    assert "No such file or directory (ENOENT)" in verdict.reason


def test_a_verdict_that_cannot_be_kept_is_still_given(tmp_path: Path) -> None:
    (tmp_path / ".laila" / "volume.json").mkdir(parents=True)
    verdict = checked(tmp_path, agents(None, None))
    assert verdict.answer == "SAFE"
    assert verdict.evidence[-1].check == "kept"
    assert "could not be kept" in verdict.evidence[-1].text
    assert "EISDIR" in verdict.evidence[-1].text


def test_leftovers_of_killed_checks_are_removed_after_an_hour(tmp_path: Path) -> None:
    old, fresh, other = (
        tmp_path / ".laila" / name for name in ("probe-" + "0" * 16, "probe-" + "1" * 16, "keep")
    )
    for place in (old, fresh, other):
        place.mkdir(parents=True)
        (place / "file").touch()
    for place in (old, other):
        os.utime(place, (0, time.time() - 4000))
    checked(tmp_path, agents(None, None))
    assert sorted(left(tmp_path)) == ["keep", fresh.name]


def test_the_time_is_bounded(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="out of range"):
        run(str(tmp_path), [], seconds=0.0)


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    """The command stops after the step under way, in order: no directory, no process, no verdict."""
    command = [
        sys.executable,
        "-m",
        "laila.cli.main",
        "volume",
        "check",
        str(tmp_path),
        "--with",
        "local",
        "--time",
        "60",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stderr is not None
    for line in process.stderr:
        if b"all nodes lock" in line:
            break
    assert len(left(tmp_path)) == 1
    agents_of = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(agents_of) == 2
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert list((tmp_path / ".laila").iterdir()) == []
    assert not any(Path("/proc", pid).exists() for pid in agents_of)


def test_an_agent_whose_conductor_was_killed_leaves_nothing(tmp_path: Path) -> None:
    """Its input ends: it lets go and removes what the check has left."""
    link = AgentNode()
    link.ask({"do": "begin", "path": str(tmp_path), "probe": "ab" * 8}, 5)
    link.ask({"do": "hold", "file": "lock", "how": "flock"}, 15)
    assert len(left(tmp_path)) == 1
    link.close()
    assert left(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_an_agent_that_is_told_to_end_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    step = {"do": "begin", "path": str(tmp_path), "probe": "ab" * 8}
    process = subprocess.Popen(LOCAL, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"id": 1, "step": step}).encode() + b"\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["ok"] is True
    process.send_signal(number)
    process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert left(tmp_path) == []
