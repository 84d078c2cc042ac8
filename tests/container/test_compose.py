"""The compose files work by themselves, and say the same as the lab's topologies."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

import laila
from laila.lab.topology import Topology, replicated, shared_volume

ROOT = Path(__file__).parents[2]
FILES = {"replicated": replicated(), "shared-volume": shared_volume()}
pytestmark = [pytest.mark.container, pytest.mark.usefixtures("engine")]


class Project:
    """One compose project of its own name and secret."""

    def __init__(self, file: str, secret: Path) -> None:
        self.name = f"laila-test-{uuid.uuid4().hex[:8]}"
        self.file = ROOT / "compose" / f"{file}.yaml"
        self.secret = secret

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "compose", "-p", self.name, "-f", str(self.file), *arguments],
            capture_output=True,
            text=True,
            timeout=180,
            check=check,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LAILA_SECRET_FILE": str(self.secret)},
        )

    def seen_by(self, node: str) -> set[str]:
        """The peers that a node's own command lists as up."""
        listed = json.loads(self.run("exec", "-T", node, "laila", "peers", "--json").stdout)
        peers = listed["peers"] if isinstance(listed, dict) else listed
        return {peer["peer_name"] for peer in peers if peer["state"] == "up"}


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    assert shutil.which("docker"), "compose tests need the docker command"
    path = tmp_path / "secret.txt"
    path.write_text(laila.new_secret())
    path.chmod(0o444)
    return path


@pytest.fixture(params=FILES)
def project(request: pytest.FixtureRequest, secret: Path) -> Iterator[Project]:
    made = Project(request.param, secret)
    try:
        yield made
    finally:
        made.run("down", "--volumes", "--timeout", "5", check=False)


def test_up_wait_is_all_it_takes(project: Project) -> None:
    """Healthy, peered in every direction, working on each other's memory; nothing of ours but the image is used."""
    project.run("up", "--wait", "--wait-timeout", "120", "--no-build")
    names = {"node1", "node2", "node3"}
    for node in names:
        end = time.monotonic() + 20  # ready means usable; links come up beside it
        while project.seen_by(node) != names - {node}:
            assert time.monotonic() < end, f"{node} sees {project.seen_by(node)}"
            time.sleep(0.2)
    project.run(
        "exec",
        "-T",
        "node1",
        "laila",
        "memorize",
        '{"a": 1}',
        "--nickname",
        "x",
        "--pool",
        "durable",
        "--at",
        "node2",
    )
    found = project.run(
        "exec", "-T", "node3", "laila", "remember", "--nickname", "x", "--pool", "durable", "--at", "node2"
    ).stdout
    assert json.loads(found) == {"a": 1}
    if project.file.stem == "shared-volume":
        project.run("exec", "-T", "node1", "sh", "-c", "echo shared > /mnt/shared/note")
        assert project.run("exec", "-T", "node2", "cat", "/mnt/shared/note").stdout == "shared\n"


def test_a_missing_secret_is_said(tmp_path: Path) -> None:
    made = Project("replicated", tmp_path / "nowhere.txt")
    try:
        done = made.run("up", "--wait", "--no-build", check=False)
        assert done.returncode != 0
        assert "nowhere.txt" in done.stderr
    finally:
        made.run("down", "--volumes", check=False)


@pytest.mark.parametrize("name", FILES)
def test_files_and_topologies_say_the_same(name: str, secret: Path) -> None:
    """Nodes, pools, peers, limits and volumes of the compose file are those of the lab's topology."""
    config = json.loads(Project(name, secret).run("config", "--format", "json").stdout)
    topology: Topology = FILES[name]
    places = {"state": "/var/lib/laila", **{volume.name: volume.at for volume in topology.volumes}}
    assert set(config["services"]) == {node.name for node in topology.nodes}
    for node in topology.nodes:
        service = config["services"][node.name]
        environment = service["environment"]
        assert environment["LAILA_NAME"] == node.name
        assert set(environment["LAILA_POOLS"].split(",")) == {pool.text(places) for pool in node.pools}
        assert {peer.split(":")[0] for peer in environment["LAILA_PEERS"].split(",")} == set(node.peers)
        limits = service["deploy"]["resources"]["limits"]
        assert float(limits["cpus"]) == topology.resources.cpus
        assert int(limits["memory"]) == topology.resources.memory_mib << 20
        assert int(limits["pids"]) == topology.resources.pids
        assert service["image"] == topology.image
        mounted = {volume["target"] for volume in service["volumes"]}
        shared = [volume.at for volume in topology.volumes_of(node.name)]
        assert mounted == {"/var/lib/laila", *shared}
        assert environment.get("LAILA_VOLUMES", "") == ",".join(shared)
        replicas = [replica.text(places) for replica in node.replicas]
        assert environment.get("LAILA_REPLICAS", "") == ",".join(replicas)
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["restart"] == "unless-stopped"
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["healthcheck"]["test"] == ["CMD", "laila", "health"]
        assert service["stop_grace_period"] == "30s"
        assert [one["source"] for one in service["secrets"]] == ["laila_secret"]
        assert environment["LAILA_SECRET_FILE"] == "/run/secrets/laila_secret"  # noqa: S105  a path
    assert all(network["internal"] for network in config["networks"].values())
