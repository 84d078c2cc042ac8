"""`laila lab check redis.toml`, as a person runs it: a verdict about a Redis server through a client of 31 lines.

With a client that answers from an old copy, with a server that forgets and with a client that keeps dying it is another
verdict. The checks run side by side, because they wait more than they work.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from compose_support import FOREIGN, ROOT, need_engine, project, redis_image
from lab_support import command

pytestmark = pytest.mark.container
AT_ONCE = 3
USUAL = ("--faults", "kill,pause", "--clients", "2", "--time", "5")
ALL_IS_WELL = {("register", "ok"), ("cas", "ok")}
OLD_COPY = {
    "SWAP =": "COPIES = {}\nSWAP =",
    '{"value": value': '{"value": COPIES.setdefault(asked["key"], value)',
}
DIES = {"answer, executed": "if asked['id'] > 40:\n        sys.exit('out of cheese')\n    answer, executed"}
FORGETS = {"--appendonly yes --appendfsync always": "--appendonly no"}


@dataclass(frozen=True)
class Checked:
    code: int
    result: dict[str, Any]
    said: str
    left: tuple[str, ...] = ()
    """Of a project that ran before: which of its services run afterwards, and what it still knows."""

    @property
    def judged(self) -> set[tuple[str, str]]:
        return {(one["workload"], one["verdict"]) for one in self.result["facts"]["judgements"]}

    @property
    def bites(self) -> set[str]:
        return {bite["spec"] for bite in self.result["facts"]["bites"] if bite["proof_of_healing"]}

    @property
    def offenders(self) -> set[tuple[str, Any]]:
        found = [one["why"]["rows"] for one in self.result["facts"]["judgements"] if one["why"]]
        return {(op["op"], op.get("result")) for rows in found for op in rows if op["offender"]}


def copied(folder: Path, client: dict[str, str] | None = None, compose: dict[str, str] | None = None) -> Path:
    """The files of the example, with texts replaced in the client or in the compose file."""
    shutil.copytree(FOREIGN, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name, changes in (("client.py", client or {}), ("compose.yaml", compose or {})):
        text = (folder / name).read_text()
        for old, new in changes.items():
            assert text.count(old) == 1
            text = text.replace(old, new)
        (folder / name).write_text(text)
    return folder


def check(folder: Path, topology: str, *words: str) -> Checked:
    """`laila lab check TOPOLOGY …` in this folder, with a home of its own there."""
    done = subprocess.run(
        command("check", topology, *words, "--json", "--seed", "7", "--out", "runs"),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "LAILA_LAB_HOME": str(folder / "home")},
        check=False,
    )
    result = json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}
    return Checked(done.returncode, result, done.stderr[-3000:])


def attached(folder: Path) -> Checked:
    """A check of a project that runs already."""
    with project(folder / "compose.yaml") as name:
        compose = ["docker", "compose", "-p", name, "-f", str(folder / "compose.yaml")]
        redis = [*compose, "exec", "-T", "redis", "redis-cli"]

        def said(*words: str) -> str:
            return subprocess.run(
                words, check=True, capture_output=True, text=True, timeout=30
            ).stdout.strip()

        (folder / "theirs.toml").write_text(
            (folder / "redis-beside.toml")
            .read_text()
            .replace('compose = "compose.yaml"', f'attach = "{name}"')
        )
        assert said(*redis, "set", "before", "kept") == "OK"
        found = check(folder, "theirs.toml", "--faults", "kill,pause")
        left = said(*compose, "ps", "--services", "--status", "running"), said(*redis, "get", "before")
        return Checked(found.code, found.result, found.said, left)


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future[Checked]]:
    need_engine()
    home = tmp_path_factory.mktemp("checked")
    pool = ThreadPoolExecutor(AT_ONCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDIS_IMAGE", redis_image())
        here = "redis.toml"
        old_copy, forgets = copied(home / "copy", client=OLD_COPY), copied(home / "forgets", compose=FORGETS)
        futures = {
            "here": pool.submit(check, copied(home / "here"), here, *USUAL),
            "beside": pool.submit(check, copied(home / "beside"), "redis-beside.toml", *USUAL),
            "attached": pool.submit(attached, copied(home / "attached")),
            "old copy": pool.submit(check, old_copy, here, "--faults", "none", "--time", "2"),
            "forgets": pool.submit(check, forgets, here, "--faults", "kill"),
            "dies": pool.submit(check, copied(home / "dies", client=DIES), here, "--faults", "none"),
        }
        pool.shutdown()
    return futures


@pytest.mark.parametrize("where", ["here", "beside", "attached"])
def test_a_server_that_keeps_its_promises_is_ok(checks: dict[str, Future[Checked]], where: str) -> None:
    found = checks[where].result()
    assert found.code == 0, f"{found.result.get('sentence')}\n{found.said}"
    assert (found.judged, found.bites) == (ALL_IS_WELL, {"kill", "pause"})
    counts = found.result["facts"]["trial_operations"]
    assert min(counts["register"]["ok"], counts["cas"]["ok"]) > 30


def test_a_project_that_runs_already_is_left_as_it_was(checks: dict[str, Future[Checked]]) -> None:
    assert checks["attached"].result().left == ("redis", "kept")


def test_a_client_that_answers_from_an_old_copy_is_illegal(checks: dict[str, Future[Checked]]) -> None:
    found = checks["old copy"].result()
    assert found.code == 1, f"{found.result.get('sentence')}\n{found.said}"
    assert ("register", "illegal") in found.judged
    assert {op for op, _ in found.offenders} <= {"read", "cas"}


def test_a_server_that_forgets_what_it_acknowledged_is_illegal(checks: dict[str, Future[Checked]]) -> None:
    """After the kill it is asked for what was written, and has nothing."""
    found = checks["forgets"].result()
    assert found.code == 1, f"{found.result.get('sentence')}\n{found.said}"
    assert found.bites == {"kill"}
    assert ("read", None) in found.offenders


def test_a_client_that_keeps_dying_has_shown_nothing(checks: dict[str, Future[Checked]]) -> None:
    found = checks["dies"].result()
    assert found.code == 2, f"{found.result.get('sentence')}\n{found.said}"
    assert "illegal" not in {verdict for _, verdict in found.judged}
    (trial,) = [step for step in found.result["steps"] if step["key"] == "trial"]
    assert "out of cheese" in trial["detail"]


def test_the_pages_count_the_clients_lines_rightly() -> None:
    count = sum(bool(line.strip()) for line in (FOREIGN / "client.py").read_text().splitlines())
    assert count <= 32, "it is to be a client of some 30 lines"
    pages = [ROOT / "docs" / "lab.md", ROOT / "docs" / "lab-clients.md", Path(__file__)]
    pages.append(Path(__file__).with_name("test_foreign_topology.py"))
    for page in pages:
        assert re.findall(r"client(?: of|,) (\d+) lines", page.read_text()) == [str(count)], page
