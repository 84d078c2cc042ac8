"""Real network volumes: nodes in containers serve and mount them, and `laila volume check` tells them apart."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from volume_nodes import Cluster, cluster

import laila
from laila.lab.drivers.base import NodeState
from laila.lab.topology import NETWORK_KINDS, shared_volume
from laila.volumes.verdict import BAD, SAFE, UNSAFE, Verdict

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("volumes_image")]
IMAGE = shared_volume().volumes_image
FUSE = {
    "glusterfs": "fuse.glusterfs",
    "glusterfs-default": "fuse.glusterfs",
    "sshfs": "fuse.sshfs",
    "s3fs": "fuse.s3fs",
}


@pytest.fixture(scope="module")
def nodes(
    request: pytest.FixtureRequest, volumes_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Three nodes on a volume of the kind that the test names, the same for all tests of that kind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAILA_LAB_HOME", str(tmp_path_factory.mktemp("volumes-home")))
        with cluster(request.param) as made:
            yield made


@pytest.fixture
def container(nodes: Cluster, engine: Any) -> Any:
    """The engine's view of node2."""
    labels = [f"laila.lab.run={nodes.driver.run.run_id}", "laila.lab.node=node2"]
    (found,) = engine.containers.list(filters={"label": labels})
    return found


def on(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("nodes", kinds, indirect=True, scope="module")


def bad(verdict: Verdict) -> set[str]:
    """The trials that the volume failed."""
    return {line.check for line in verdict.evidence if line.outcome == BAD}


@on("docker")
def test_a_docker_volume_is_safe_and_says_that_it_is_one_kernel(nodes: Cluster) -> None:
    verdict = nodes.check(4)
    assert verdict.answer == SAFE, verdict.to_dict()
    assert verdict.one_kernel
    assert "one kernel" in verdict.reason


@on("glusterfs")
def test_strict_glusterfs_is_safe_between_mounts_of_its_own(nodes: Cluster) -> None:
    verdict = nodes.check(8)
    assert verdict.answer == SAFE, verdict.to_dict()
    assert not verdict.one_kernel
    assert verdict.mount.fstype == "fuse.glusterfs"


@on("sshfs", "s3fs")
def test_volumes_that_lock_nobody_out_are_unsafe(nodes: Cluster) -> None:
    verdict = nodes.check(4)
    assert verdict.answer == UNSAFE, verdict.to_dict()
    assert verdict.mount.fstype == FUSE[nodes.kind]
    assert {"flock", "fcntl", "flock holder killed", "flock counter"} <= bad(verdict)
    assert ("O_EXCL" in bad(verdict)) == (nodes.kind == "s3fs"), "an object store lets two make the same name"


@on("glusterfs-default")
def test_glusterfs_with_its_caches_locks_and_shows_stale_bytes(nodes: Cluster) -> None:
    """What the strict options are for."""
    verdict = nodes.check(4)
    assert verdict.answer == UNSAFE, verdict.to_dict()
    assert "flock counter" in bad(verdict)
    assert not {"flock", "fcntl", "flock hammer"} & bad(verdict), "its locks do exclude"


@on("glusterfs")
def test_nodes_check_their_volume_by_peering(nodes: Cluster) -> None:
    """From inside, as an operator does it: every node offers the volumes that it mounts."""
    others = ",".join(nodes.driver.door(name) for name in nodes.names[1:])
    words = ["laila", "volume", "check", nodes.path, "--with", others, "--time", "4", "--json"]
    done = nodes.driver.exec("node1", words, timeout=90)
    assert done.code == 0, (done.stdout + done.stderr).decode()
    assert json.loads(done.stdout)["answer"] == SAFE


@on(*NETWORK_KINDS)
def test_every_node_mounts_it_and_sees_what_another_wrote(nodes: Cluster) -> None:
    """By a FUSE client of its own, also on the node that serves; written and read by the node's own user."""
    for name in nodes.names:
        mounts = nodes.shell(name, f"grep ' {nodes.path} ' /proc/self/mountinfo").stdout.decode()
        assert f" - {FUSE[nodes.kind]} " in mounts, (name, mounts)
        assert nodes.shell(name, f"echo from {name} > {nodes.path}/{name}").code == 0
    for reader in nodes.names:
        for writer in nodes.names:
            assert nodes.shell(reader, f"cat {nodes.path}/{writer}").stdout == f"from {writer}\n".encode()


@on(*NETWORK_KINDS)
def test_only_mounting_is_root_s(nodes: Cluster, container: Any) -> None:
    """One capability and one device more than a container has; and the node has not even those."""
    host = container.attrs["HostConfig"]
    assert (host["Privileged"], host["ReadonlyRootfs"]) == (False, True)
    assert [name.removeprefix("CAP_") for name in host["CapAdd"]] == ["SYS_ADMIN"]
    assert [device["PathInContainer"] for device in host["Devices"]] == ["/dev/fuse"]
    status = nodes.shell("node2", "cat /proc/$(pgrep -o -u 10001 -f 'laila node')/status").stdout.decode()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["10001"] * 4
    assert int(fields["CapEff"], 16) == 0
    assert fields["NoNewPrivs"] == "1"


@on("sshfs")
def test_what_daemons_leave_is_reaped(nodes: Cluster) -> None:
    listed = nodes.shell("node2", "(sleep 0.1 &); sleep 0.5; ps -eo stat=,comm=").stdout.decode().splitlines()
    assert any(line.split()[1] == "tini" for line in listed)
    assert [line for line in listed if line.startswith("Z")] == []


@on("glusterfs")
def test_a_node_is_paused_while_its_programs_wait_for_the_volume(nodes: Cluster) -> None:
    """None of them can be frozen while it waits for a daemon that is frozen already."""
    writing = f"while :; do echo x > {nodes.path}/paused; done"
    for _ in range(3):
        channel = nodes.driver.open("node2", ["sh", "-c", writing])
        nodes.driver.pause("node2")
        assert nodes.driver.state("node2") is NodeState.PAUSED
        nodes.driver.resume("node2")
        channel.close(0.1)
    nodes.driver.kill("node2")  # and with it what still writes
    nodes.start("node2")


@on("glusterfs")
def test_a_killed_node_comes_back_to_its_brick(nodes: Cluster) -> None:
    """The others go on; what they wrote meanwhile is there for the one that returns, and then it is enough again."""
    for turn, victim in enumerate(("node2", "node1")):
        survivor = "node3"
        nodes.driver.kill(victim)
        written = nodes.shell(survivor, f"echo {turn} > {nodes.path}/meanwhile-{turn}")
        assert written.code == 0, written.stderr
        nodes.start(victim)
        assert nodes.shell(victim, f"cat {nodes.path}/meanwhile-{turn}").stdout == f"{turn}\n".encode()


@on("glusterfs")
def test_a_minority_cannot_write_and_the_majority_brings_it_back(nodes: Cluster) -> None:
    for name in ("node1", "node2"):
        nodes.driver.kill(name)
    refused = nodes.shell("node3", f"echo alone > {nodes.path}/minority")
    assert refused.code != 0
    assert b"not connected" in refused.stderr
    nodes.start("node1", "node2")
    assert nodes.shell("node3", f"echo together > {nodes.path}/majority").code == 0
    assert nodes.shell("node1", f"cat {nodes.path}/majority").stdout == b"together\n"
    assert nodes.shell("node1", f"ls {nodes.path}/minority").code != 0


@on("sshfs", "glusterfs")
def test_a_node_ends_in_order_with_its_own_exit_code(nodes: Cluster) -> None:
    """SIGTERM reaches the node through what started it, and nothing that it mounted holds it back."""
    started = time.monotonic()
    assert nodes.driver.stop("node3", grace=15) == 0
    assert time.monotonic() - started < 14
    log = nodes.driver.logs("node3").decode()
    assert '"stopped"' in log.splitlines()[-1]
    nodes.start("node3")


def run_once(engine: Any, secret: Path, **environment: str) -> tuple[int, str]:
    """The image by itself: exit code and log."""
    container = engine.containers.run(
        IMAGE,
        detach=True,
        network_mode="none",
        hostname="node1",
        cap_add=["SYS_ADMIN"],
        devices=["/dev/fuse"],
        volumes={str(secret): {"bind": "/run/secrets/laila_secret", "mode": "ro"}},
        environment=environment,
        extra_hosts={"node1": "127.0.0.1"},
        labels={"laila.test": "volumes"},
    )
    try:
        return container.wait(timeout=60)["StatusCode"], container.logs().decode()
    finally:
        container.remove(force=True, v=True)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(laila.new_secret())
    path.chmod(0o444)
    tmp_path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({"VOLUME_KIND": "nfs", "VOLUME_NODES": "node1"}, "VOLUME_KIND=nfs is none of glusterfs"),
        ({"VOLUME_KIND": "s3fs", "VOLUME_NODES": "a,b"}, "node1, is none of VOLUME_NODES=a,b"),
        (
            {"VOLUME_KIND": "s3fs", "VOLUME_NODES": "far,node1", "VOLUME_WAIT": "1"},
            "waited 1 s for far to serve the bucket",
        ),
        (
            {"VOLUME_KIND": "glusterfs", "VOLUME_NODES": "node1,far,away", "VOLUME_WAIT": "1"},
            "waited 1 s for far to join",
        ),
        ({"VOLUME_KIND": "sshfs", "VOLUME_NODES": "node1"}, "there is no key"),
    ],
    ids=["kind", "name", "server", "peer", "key"],
)
def test_a_volume_that_cannot_be_had_is_said_and_ends_the_node(
    engine: Any, secret: Path, environment: dict[str, str], complaint: str
) -> None:
    code, log = run_once(engine, secret, **environment)
    assert code == 1, log
    assert complaint in log
    assert '"ready"' not in log


def test_the_node_s_own_exit_code_is_the_container_s(engine: Any, secret: Path) -> None:
    secret.chmod(0o644)
    secret.write_text("password")
    code, log = run_once(engine, secret, VOLUME_KIND="s3fs", VOLUME_NODES="node1")
    assert "s3fs volume at /mnt/shared" in log
    assert "too weak" in log
    assert code == 2
