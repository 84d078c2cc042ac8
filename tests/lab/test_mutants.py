"""Nodes that are broken on purpose, each caught by the standard check, as a person runs it; no alarm about whole ones.

A mutant is one thing broken in every program of the nodes (tests/lab/mutants). The checks run side by side, because
they wait more than they work.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from laila.lab.faults import KINDS
from laila.lab.faults.placing import PlacingFault

MUTANTS = Path(__file__).parent / "mutants"
AT_ONCE = 2
SEEDS = range(20)
NEED_ROOT = frozenset({"hasty"})


@dataclass(frozen=True)
class Caught:
    """What is broken, in which topology, and by which steps it may be found."""

    what: str
    topology: str
    steps: tuple[str, ...]


CASES: Mapping[str, Caught] = {
    "nolock": Caught("no lock", "shared-volume", ("volume",)),
    "clinging": Caught("a lock without fencing", "shared-volume", ("exclusion", "judge-lock")),
    "stampede": Caught("registration without a lock", "shared-volume", ("registrations",)),
    "stale": Caught("a stale cache", "shared-volume", ("fresh",)),
    "gullible": Caught("verification skipped", "shared-volume", ("damage",)),
    "oneeyed": Caught("one-way peering", "replicated", ("links", "lists")),
    "halved": Caught("half a quorum", "replicated", ("registers", "judge-register", "judge-set")),
    "selfish": Caught("reads without write-back", "replicated", ("registers", "reads")),
    "hasty": Caught(
        "writes acknowledged before fsync",
        "replicated",
        ("durable", "trial", "judge-register", "judge-set", "judge-sessions", "judge-convergence"),
    ),
}


@dataclass(frozen=True)
class Checked:
    code: int
    seconds: float
    result: dict[str, Any]
    said: str

    def steps(self, state: str) -> list[str]:
        return [step["key"] for step in self.result.get("steps", ()) if step["state"] == state]


def check(home: Path, name: str, *words: str, mutant: str = "") -> Checked:
    """`laila lab check …`, with a home and a folder of its own."""
    (home / name).mkdir(parents=True)
    environment = {**os.environ, "LAILA_LAB_HOME": str(home / name / "home")}
    environment.pop("CI", None)  # what this machine cannot do is not the question here
    if mutant:
        paths = [str(MUTANTS / mutant), str(MUTANTS), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    argv = [sys.executable, "-m", "laila.cli.main", "lab", "check", *words]
    began = time.monotonic()
    done = subprocess.run(
        [*argv, "--driver", "process", "--out", str(home / name / "runs"), "--json"],
        capture_output=True,
        text=True,
        timeout=600,
        env=environment,
        check=False,
    )
    result = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}
    return Checked(done.returncode, time.monotonic() - began, result, done.stderr[-3000:])


@pytest.fixture(scope="module")
def caught(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future[Checked]]:
    home = tmp_path_factory.mktemp("mutants")
    pool = ThreadPoolExecutor(AT_ONCE)
    wanted = [name for name in CASES if name not in NEED_ROOT or os.geteuid() == 0]
    futures = {
        name: pool.submit(check, home, name, CASES[name].topology, "--fail-fast", "--seed", "1", mutant=name)
        for name in wanted
    }
    pool.shutdown(wait=False)
    return futures


@pytest.mark.parametrize("mutant", CASES)
def test_a_broken_node_is_caught_by_the_standard_check(
    caught: dict[str, Future[Checked]], mutant: str
) -> None:
    if mutant not in caught:
        pytest.skip("it needs a disk that can lose power, and that needs root")
    found = caught[mutant].result()
    assert found.code == 1, f"{CASES[mutant].what} was not caught: {found.said}"
    assert set(found.steps("failed")) & set(CASES[mutant].steps), found.result["sentence"]


def test_the_page_names_the_mutants_and_what_catches_them() -> None:
    page = (Path(__file__).parents[2] / "docs" / "lab.md").read_text()
    assert re.findall(r"^\| `(\w+)` \| .* \| .* \|$", page.partition("| mutant |")[2], re.MULTILINE)[:9] == [
        *CASES
    ]
    assert {path.parent.name for path in MUTANTS.glob("*/sitecustomize.py")} <= set(
        re.findall(r"`(\w+)`", page)
    )


def schedules() -> list[str]:
    """Every kind of fault that plain processes can have, some in each run, two at once now and then."""
    here = sorted(kind for kind, fault in KINDS.items() if not issubclass(fault, PlacingFault))
    kinds = ["latency" if kind == "loss" else kind for kind in here]
    turns = [[kinds[(2 * seed) % len(kinds)], kinds[(2 * seed + 1) % len(kinds)]] for seed in SEEDS]
    return [("+" if seed % 5 == 4 else ",").join(turn) for seed, turn in zip(SEEDS, turns, strict=True)]


def topology(seed: int, faults: str) -> str:
    """One that has what these faults strike."""
    if "kill-holder" in faults:
        return "shared-volume"
    if any(kind in faults for kind in ("flip", "rollback", "truncate")):
        return "replicated"
    return ("replicated", "shared-volume")[seed % 2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Future[Checked]]:
    home = tmp_path_factory.mktemp("whole")
    pool = ThreadPoolExecutor(AT_ONCE)
    futures = [
        pool.submit(
            check, home, f"seed{seed}", topology(seed, faults), "--faults", faults, "--seed", str(seed)
        )
        for seed, faults in zip(SEEDS, schedules(), strict=True)
    ]
    pool.shutdown(wait=False)
    return futures


@pytest.mark.parametrize("seed", SEEDS)
def test_whole_nodes_raise_no_alarm(whole: list[Future[Checked]], seed: int) -> None:
    found = whole[seed].result()
    assert found.code == 0, f"{found.result.get('sentence')}\n{found.said}\n{found.result.get('command')}"
    judged = found.result["facts"]["judgements"]
    assert {one["verdict"] for one in judged} == {"ok"}
