"""Writers and replicas killed (-9) at random instants, 200 times: what is promised of what was acknowledged."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from laila.artifacts import load_maif
from laila.lab.checkers.registers import Read, Verdict, Write, judge_all
from laila.lab.clocks import Moment
from tests.replication.fleet import NODES, trust_of

KILLS = 200
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Told:
    """What the clients noted."""

    writes: list[Write] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    forgotten: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)

    def read(self, path: Path) -> None:
        begun: dict[str, dict[str, Any]] = {}
        for line in path.read_text().splitlines():
            words = json.loads(line)
            if "id" in words:
                begun[words["id"]] = words
            elif "did" in words:
                self._ended(path.stem, begun.pop(words["did"]), words)
            elif "failed" in words:
                self.failures.append(words["error"])
        for words in begun.values():
            if words["do"] == "save":
                self._wrote(path.stem, words, None)

    def _ended(self, client: str, begun: dict[str, Any], ended: dict[str, Any]) -> None:
        end = Moment.at(ended["at"])
        if begun["do"] == "save":
            self._wrote(client, begun, end)
        elif begun["do"] == "load":
            began = Moment.at(begun["at"])
            self.reads.append(Read(client, client, begun["name"], ended["value"], began, end))
        else:
            self.forgotten.add(begun["name"])

    def _wrote(self, client: str, begun: dict[str, Any], end: Moment | None) -> None:
        self.writes.append(Write(client, client, begun["name"], begun["value"], Moment.at(begun["at"]), end))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Told]:
    root = tmp_path_factory.mktemp("fleet")
    argv = [sys.executable, "-m", "tests.replication.fleet", str(root), str(KILLS), "4"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=400, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-4000:]
    told = Told()
    for path in sorted((root / "logs").iterdir()):
        told.read(path)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert sum(result["killed"].values()) >= KILLS
    assert min(result["killed"].values()) >= KILLS // 8
    acknowledged = [write for write in told.writes if write.ended is not None]
    assert len(acknowledged) > 100
    assert len(told.reads) > 100
    assert len(told.forgotten) > 10
    return root, result, told


def test_histories_are_linearizable(run: tuple[Path, dict[str, Any], Told]) -> None:
    """What was read and written while processes died, and what is there at the end."""
    _, result, told = run
    last = Moment.at(result["ended"])
    names = {write.name for write in told.writes}
    final = [Read("the end", "", name, result["final"].get(name), last, last) for name in names]
    for judgement in judge_all(told.writes, [*told.reads, *final]):
        assert judgement.verdict is Verdict.OK, str(judgement)


def test_no_forgotten_name_is_back(run: tuple[Path, dict[str, Any], Told]) -> None:
    _, result, told = run
    assert not told.forgotten & set(result["final"])


def test_replicas_agree_after_one_repair(run: tuple[Path, dict[str, Any], Told]) -> None:
    _, result, _ = run
    assert result["repair"]["ok"], result["repair"]
    for name, replicas in result["agree"].items():
        assert len(replicas) == NODES
        assert len({row["digest"] for row in replicas.values()}) == 1, name
        assert all(row["valid"] and not row["error"] for row in replicas.values()), (name, replicas)


def test_no_file_is_torn_and_one_version_is_one_file(run: tuple[Path, dict[str, Any], Told]) -> None:
    root, _, _ = run
    trust = trust_of(root)
    bytes_of: dict[tuple[str, int, str, str], set[bytes]] = defaultdict(set)
    count = 0
    for number in range(NODES):
        for path in (root / f"replica{number}").rglob("*.maif"):
            artifact = load_maif(path, trust=trust)
            tag = (artifact.name or "", artifact.sequence, artifact.signer or "", artifact.digest)
            bytes_of[tag].add(path.read_bytes())
            count += 1
            assert "quarantine" not in path.parts
    assert count >= NODES * 4
    assert all(len(found) == 1 for found in bytes_of.values())
