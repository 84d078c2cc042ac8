"""The check of a shared volume with plain processes: it passes on what is right, and fails on each thing that is wrong.

The mutants are whole nodes that run with one thing broken (see mutants/); one more is a volume that is none.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lab_support import QUICK, evidence, lab, processes_of, run_check, states

from laila.lab import registry, report
from laila.lab.checkers import holds, members, versions
from laila.lab.checkers.holds import Hold
from laila.lab.checkers.members import Addition, Listing
from laila.lab.checkers.versions import Read, Write
from laila.lab.checks import ON_THE_VOLUME, READY, Step, exclusion, volume
from laila.lab.checks.outfit import READ_ONLY, SMALL
from laila.lab.drivers.process import ProcessDriver
from laila.lab.folder import Folder
from laila.lab.result import Result, Verdict
from laila.lab.topology import shared_volume

MUTANTS = Path(__file__).parent / "mutants"
SWIFT = replace(
    QUICK, volume_for=1.0, lock_for=0.6, least_holds=5, least_contended=3, fresh_for=0.6, least_reads=5,
    registrations=6, writers_killed=6,
)  # fmt: skip
NEED_ROOT = ("full", "read-only")


def on_the_volume(*keys: str) -> tuple[Step, ...]:
    """Nodes that see each other, and then these steps on their volume."""
    return (*READY[:2], *(step for step in ON_THE_VOLUME if step.key in keys))


def check_volume(
    out: Path, steps: Sequence[Step], nodes: int = 2, **changes: object
) -> tuple[Result, Folder]:
    return run_check(
        shared_volume(nodes), "process", out, effort=replace(SWIFT, **changes), steps=tuple(steps)
    )  # type: ignore[arg-type]  # fields of Effort


def break_nodes(monkeypatch: pytest.MonkeyPatch, mutant: str) -> None:
    """Every program of the nodes runs with this mutant in it."""
    paths = [str(MUTANTS / mutant), str(MUTANTS), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def records(folder: Folder, what: str, phase: str = "") -> list[dict[str, Any]]:
    found = [json.loads(line) for line in folder.history.read_text().splitlines()]
    return [record for record in found if record["what"] == what and phase in record.get("phase", "")]


def test_everything_on_a_volume_passes_and_can_be_judged_again(tmp_path: Path) -> None:
    result, folder = check_volume(tmp_path, (*READY, *ON_THE_VOLUME), nodes=3)
    found = states(result)
    for key in NEED_ROOT:
        if found[key] == "skipped":  # no right to mount here: said, and in CI a failure
            assert os.geteuid() != 0 or "mount" in evidence(result, key)
            found[key] = "ok"
    assert found == dict.fromkeys(
        ("prepare", *(step.key for step in (*READY, *ON_THE_VOLUME)), "remove"), "ok"
    ), result
    assert processes_of(result.run_id) == []
    assert registry.runs() == []
    facts = result.facts
    assert facts["volume"]["answer"] == "SAFE"
    assert facts["volume"]["one_kernel"] is True
    assert facts["locks"]["exclusive"] >= 3 * SWIFT.least_holds
    assert facts["registrations"]["acknowledged"] == 3 * SWIFT.lock_clients * SWIFT.registrations + 1
    assert (facts["writers"]["killed"], facts["passed_on"]["deaths"]) == (SWIFT.writers_killed, 4)
    assert {len(case["said"]) for case in facts["damage"]["cases"]} == {3}
    _judge_again(folder)


def _judge_again(folder: Folder) -> None:
    """From the file alone, as it was judged in the run."""
    contended = [Hold.from_record(record) for record in records(folder, "hold", "exclusion")]
    assert len(contended) > 3 * SWIFT.least_holds
    assert holds.judge(contended) == []
    inherited = [Hold.from_record(record) for record in records(folder, "hold", "passing")]
    assert sum(hold.killed for hold in inherited) == 4
    assert holds.judge_holders(inherited) == []
    for phase in ("fresh", "writers"):
        writes = [Write.from_record(record) for record in records(folder, "write", phase)]
        reads = [Read.from_record(record) for record in records(folder, "read", phase)]
        assert writes
        assert {read.how for read in reads} == {"load", "load_cached"}
        assert versions.judge(writes, reads) == []
    for phase in ("agents", "results"):
        additions = [Addition.from_record(record) for record in records(folder, "addition", f"of {phase}")]
        listings = [Listing.from_record(record) for record in records(folder, "listing", f"of {phase}")]
        assert {listing.node for listing in listings} == {"node1", "node2", "node3"}
        assert members.judge(additions, listings) == []
    ops = {record["op"] for record in records(folder, "op")}
    assert {
        "probe",
        "contend",
        "take",
        "kill",
        "create",
        "load",
        "flip",
        "cut",
        "forge",
        "copy",
        "list_all",
    } <= ops


@pytest.mark.parametrize(
    ("mutant", "step", "said"),
    [
        ("nolock", "volume", r"is UNSAFE: "),
        ("nolock", "exclusion", holds.OVERLAP),
        ("nolock", "passing", r"is told that nobody holds the lock|and yet node\d/0 got it"),
        ("sticky", "passing", r"LockTimeout|did not get the lock|after its death"),
        ("clinging", "exclusion", holds.UNRISEN),
        ("forgetful", "registrations", members.MISSING),
        ("stale", "fresh", "loads did not give the version that was just created"),
        ("torn", "writers", "cannot load after a writer on"),
        ("gullible", "damage", "served: other content"),
        ("deaf", "full", "was not refused as it should be"),
    ],
)
def test_a_node_that_is_wrong_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: str, step: str, said: str
) -> None:
    if step in NEED_ROOT and os.geteuid() != 0:
        pytest.skip("a volume with a size limit needs root")
    break_nodes(monkeypatch, mutant)
    result, folder = check_volume(tmp_path, on_the_volume(step), pass_within=2.0)
    assert result.verdict is Verdict.FAILED, result
    assert states(result)[step] == "failed"
    told = evidence(result, step)
    assert re.search(said, told), told
    assert "FAILED" in folder.report.read_text(encoding="utf-8")


def test_holders_together_are_marked_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_nodes(monkeypatch, "nolock")
    result, folder = check_volume(tmp_path, on_the_volume("exclusion"))
    (panel,) = report.volume_page.lock_lanes.panels(records(folder, "hold"))
    assert panel["overlaps"] > 0
    assert {hold[4] for row in panel["rows"] for hold in row["holds"]} & {"X", "S"}
    assert result.facts["lock_faults"] >= panel["overlaps"]


class Apart(ProcessDriver):
    """A volume that is none: every node has a directory of its own under the same name."""

    def volume_path(self, name: str, volume: str) -> str:
        place = Path(super().volume_path(name, volume)) / f"of-{name}"
        place.mkdir(exist_ok=True)
        return str(place)


class LocksApart(ProcessDriver):
    """One volume but for the lock files, which every node has for itself, as with a lock that is local to a client."""

    def volume_path(self, name: str, volume: str) -> str:
        whole = Path(super().volume_path(name, volume))
        place, common = whole / f"of-{name}", whole / "common"
        for directory in (place / exclusion.PLACE, common):
            directory.mkdir(parents=True, exist_ok=True)
        register = place / exclusion.REGISTER
        if not register.is_symlink():
            register.symlink_to(common / "register")
        return str(place)


@pytest.mark.parametrize(
    ("driver", "step", "said"),
    [
        (Apart, "volume", "UNSAFE"),
        (LocksApart, "exclusion", holds.OVERLAP),
        (LocksApart, "exclusion", holds.LOST),
    ],
)
def test_what_is_not_shared_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: type[ProcessDriver], step: str, said: str
) -> None:
    monkeypatch.setattr("laila.lab.drivers.make", driver)
    result, _ = check_volume(tmp_path, on_the_volume(step))
    assert states(result)[step] == "failed", result
    assert said in evidence(result, step)


def test_on_an_unsafe_volume_stores_refuse_and_their_steps_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("laila.lab.drivers.make", Apart)
    steps = on_the_volume("volume", "registrations", "fresh", "writers", "read-only", "damage")
    result, _ = check_volume(tmp_path, steps)
    found = states(result)
    assert found["volume"] == "failed"
    assert {found[step.key] for step in steps[3:]} == {"skipped"}
    assert "UNSAFE" in result.sentence
    assert result.verdict is Verdict.FAILED
    assert "refuse" in evidence(result, "fresh")


def test_too_little_contention_says_nothing(tmp_path: Path) -> None:
    result, _ = check_volume(tmp_path, on_the_volume("exclusion"), least_contended=10**6, lock_for=0.1)
    assert result.verdict is Verdict.UNKNOWN
    assert "too little was seen to say anything" in evidence(result, "exclusion")


def test_a_volume_that_nothing_can_be_said_of_is_no_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One node alone shows nothing; the check must not call that SAFE."""
    alone = volume.check.run
    monkeypatch.setattr(volume.check, "run", lambda path, nodes, **more: alone(path, nodes[:1], **more))
    result, _ = check_volume(tmp_path, on_the_volume("volume"))
    assert result.verdict is Verdict.UNKNOWN
    assert "nothing can be said about the volume" in evidence(result, "volume")


@pytest.mark.parametrize(("ci", "verdict"), [("", Verdict.OK), ("true", Verdict.UNKNOWN)])
def test_what_this_machine_cannot_do_is_skipped_and_said_and_in_ci_no_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ci: str, verdict: Verdict
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr("laila.lab.drivers.mounts.mount", lambda *words: "must be superuser to use mount.")
    result, _ = check_volume(tmp_path, on_the_volume(*NEED_ROOT))
    assert [states(result)[key] for key in NEED_ROOT] == ["skipped", "skipped"]
    assert result.verdict is verdict
    assert "must be superuser" in evidence(result, "full")
    assert "must be superuser" in evidence(result, "read-only")
    assert ("Not shown here: a full volume" in result.sentence) == (verdict is Verdict.OK)


def test_the_volumes_of_the_check_are_not_part_of_the_topology() -> None:
    """They would have to be in the compose files too."""
    assert {SMALL, READ_ONLY}.isdisjoint(volume.name for volume in shared_volume().volumes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["replicated", "--volume", "glusterfs", "--driver", "process"], "--volume goes with shared-volume"),
        (["shared-volume", "--volume", "nfs", "--driver", "process"], "docker, glusterfs"),
        (["shared-volume", "--volume", "glusterfs", "--driver", "process"], "use --driver docker"),
    ],
)
def test_volumes_that_cannot_be_had_are_said_in_one_line(words: list[str], message: str) -> None:
    done = lab("check", *words)
    assert (done.returncode, message in done.stderr, len(done.stderr.splitlines())) == (2, True, 1), (
        done.stderr
    )
    assert registry.runs() == []
