"""`laila agents` and `laila results`: what they print, for people and for machines, and what they exit with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import laila, until

from laila.agents import DistributedAgent
from laila.artifacts import TrustSet, create_maif
from laila.secret import new_secret
from laila.transport.identity import Identity


class Shop:
    """A shared directory with two agents of one cluster and a stranger, and the commands on it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "shared"
        self.state = folder / "state"
        self.secret = new_secret()
        self.secret_file = folder / "secret"
        self.secret_file.write_text(self.secret)
        self.secret_file.chmod(0o600)
        self.first = self._agent("worker-1", ["crop", "resize"])
        self.second = self._agent("worker-2", [], expiry=0.2)
        self.stranger = DistributedAgent(
            "worker-3", self.path, identity=Identity.ephemeral(), trust=TrustSet(), node="n9"
        )
        for agent in (self.first, self.second, self.stranger):
            agent.register()
        self.first.publish_result("task-1", {"n": [1, "é"]})
        self.second.publish_result("task-1", {"n": 2})
        self.stranger.publish_result("task-2", {"evil": True})

    def _agent(self, name: str, capabilities: list[str], **options: Any) -> DistributedAgent:
        return DistributedAgent(
            name,
            self.path,
            identity=Identity.ephemeral(),
            secret=self.secret,
            capabilities=capabilities,
            node="n1",
            **options,
        )

    def run(self, command: str, *arguments: str, code: int = 0, trusted: bool = True) -> str:
        """What it prints on stdout, or on stderr when it should fail."""
        flags = ["--secret-file", str(self.secret_file)] if trusted else []
        done = laila(
            command, "--store", str(self.path), *flags, *arguments, env={"LAILA_STATE_DIR": str(self.state)}
        )
        assert done.returncode == code, done
        assert (done.stdout if code else done.stderr) == b""
        return (done.stderr if code else done.stdout).decode()

    def close(self) -> None:
        for agent in (self.first, self.second, self.stranger):
            agent.close()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    found = Shop(tmp_path_factory.mktemp("shop"))
    yield found
    found.close()


def rows(text: str) -> list[list[str]]:
    """The cells of a table, up to the first empty line."""
    return [line.split() for line in text.split("\n\n")[0].splitlines()]


def test_agents_for_people(shop: Shop) -> None:
    """A row for each agent; what is wrong with one is said below."""
    until(lambda: "expired" in shop.run("agents"), "expiry")
    text = shop.run("agents")
    head, *agents = rows(text)
    assert head == ["AGENT", "STATUS", "SEEN", "NODE", "CAPABILITIES", "SIGNED", "BY", "REGISTERED"]
    assert [row[:2] for row in agents] == [
        ["worker-1", "active"],
        ["worker-2", "expired"],
        ["worker-3", "untrusted"],
    ]
    assert agents[0][2:7] == ["0", "s", "ago", "n1", "crop,resize"] or agents[0][3:7] == [
        "s",
        "ago",
        "n1",
        "crop,resize",
    ]
    assert "worker-3: " in text
    assert "does not trust" in text


def test_agents_for_machines(shop: Shop) -> None:
    """The same as the library gives, in one object."""
    found = json.loads(shop.run("agents", "--json"))
    assert (found["store"], found["count"]) == (str(shop.path), 3)
    assert found["agents"][0]["capabilities"] == ["crop", "resize"]
    shop.second.heartbeat()
    active = json.loads(shop.run("agents", "--json", "--active", "--capability", "crop"))
    assert [one["agent_id"] for one in active["agents"]] == ["worker-1"]
    assert shop.run("agents", "--capability", "fly") == "no agent\n"


def test_results_for_people(shop: Shop) -> None:
    """A row for each result of each agent; one task's first result is printed as JSON."""
    text = shop.run("results")
    head, *results = rows(text)
    assert head == ["TASK", "AGENT", "STATUS", "SIGNED", "BY", "PUBLISHED"]
    assert [row[:3] for row in results] == [
        ["task-1", "worker-1", "ok"], ["task-1", "worker-2", "ok"], ["task-2", "worker-3", "untrusted"],
    ]  # fmt: skip
    assert "evil" not in text
    assert json.loads(shop.run("results", "task-1")) == {"n": [1, "é"]}
    assert [row[1] for row in rows(shop.run("results", "task-1", "--all"))[1:]] == ["worker-1", "worker-2"]


def test_results_for_machines(shop: Shop) -> None:
    """One object for a listing, the whole record for a task."""
    found = json.loads(shop.run("results", "--json"))
    assert (found["count"], [one["task_id"] for one in found["results"]]) == (
        3,
        ["task-1", "task-1", "task-2"],
    )
    one = json.loads(shop.run("results", "task-1", "--json"))
    assert (one["agent_id"], one["result"], one["registered"]) == ("worker-1", {"n": [1, "é"]}, True)
    both = json.loads(shop.run("results", "task-1", "--all", "--json", "--wait", "1"))
    assert [one["result"] for one in both["results"]] == [{"n": [1, "é"]}, {"n": 2}]


def test_who_is_trusted(shop: Shop) -> None:
    """Without the cluster's secret everybody is a stranger; with a key only its owner is not."""
    found = json.loads(shop.run("agents", "--json", trusted=False))
    assert {one["status"] for one in found["agents"]} == {"untrusted"}
    key = json.loads(shop.run("agents", "--json"))["agents"][0]["signer"]
    found = json.loads(shop.run("agents", "--json", "--trust", key, trusted=False))
    assert [one["status"] for one in found["agents"]] == ["active", "untrusted", "untrusted"]


def test_what_does_not_work(shop: Shop, tmp_path: Path) -> None:
    """One sentence and the exit code that fits."""
    assert "does not trust" in shop.run("results", "task-2", code=1)
    assert "'task-9' has no result" in shop.run("results", "task-9", code=1)
    assert "waited 0.3 s" in shop.run("results", "task-9", "--wait", "0.3", code=1)
    assert "cannot name a task" in shop.run("results", "../task", code=1)
    assert "--all and --wait are about one task" in shop.run("results", "--all", code=2)
    assert "out of range" in shop.run("results", "task-1", "--wait", "-1", code=2)
    assert "64 hex digits" in shop.run("agents", "--trust", "xyz", code=2)
    done = laila(
        "agents", "--store", str(tmp_path / "none"), "--json", env={"LAILA_STATE_DIR": str(tmp_path)}
    )
    assert (done.returncode, json.loads(done.stderr)["error"]["kind"]) == (1, "ArtifactNotFound")
    assert laila("agents").returncode == 2


def test_what_others_wrote_cannot_command_a_terminal(tmp_path: Path) -> None:
    """An id with escape sequences, as the seed's programs would write it, is printed without them."""
    artifact = create_maif("x")
    artifact.add_text(
        json.dumps({"agent_id": "\x1b[2Jred\n", "registered_at": "\x07", "status": "active"}),
        title="Agent Registration: x",
    )
    (tmp_path / "shared").mkdir()
    artifact.save(tmp_path / "shared" / "agent_states.maif", key=Identity.ephemeral())
    done = laila(
        "agents", "--store", str(tmp_path / "shared"), env={"LAILA_STATE_DIR": str(tmp_path / "state")}
    )
    assert done.returncode == 0
    assert rows(done.stdout.decode())[1][:2] == ["\ufffd[2Jred\ufffd", "untrusted"]
    assert b"\x1b" not in done.stdout
    assert b"\x07" not in done.stdout


def test_looking_writes_nothing(shop: Shop) -> None:
    """Neither on the volume nor, when it is said whom to trust, a key at home."""
    before = sorted((path, path.stat().st_mtime_ns) for path in shop.path.rglob("*"))
    shop.run("agents")
    shop.run("results")
    assert sorted((path, path.stat().st_mtime_ns) for path in shop.path.rglob("*")) == before
