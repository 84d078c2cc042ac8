"""Containers that somebody else started, as nodes: testcontainers start them, the lab breaks them, and they stay."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from compose_support import ROOT, need_engine

from laila.errors import BadConfig, LabError
from laila.lab import registry, standing
from laila.lab.drivers import engine
from laila.testing import Invocation, Lab, Node, Said, ok

pytestmark = pytest.mark.container
IMAGE = "laila-base:3.13"
APP = ROOT / "docs" / "examples" / "keyvalue" / "app.py"
PORT = 8000


@pytest.fixture(scope="module")
def containers() -> Iterator[dict[str, Any]]:
    """A leader and a follower of the example, as users of testcontainers start them; and one on another network."""
    need_engine(IMAGE)
    os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.network import Network
    from testcontainers.core.wait_strategies import HttpWaitStrategy

    testcontainers_config.ryuk_disabled = True

    def node(name: str) -> Any:
        return (
            DockerContainer(IMAGE)
            .with_volume_mapping(str(APP), "/app.py", "ro")
            .with_env("ME", name)
            .with_env("LEADER", "leader")
            .with_env("FOLLOWERS", "east")
            .with_command(["python3", "/app.py"])
            .with_exposed_ports(PORT)
            .waiting_for(HttpWaitStrategy(PORT).for_status_code(200))
        )

    with Network() as network:
        leader = node("leader").with_network(network).with_network_aliases("leader")
        east = node("east").with_network(network).with_network_aliases("east")
        with leader, east, DockerContainer(IMAGE).with_command(["sleep", "600"]) as other:
            yield {"leader": leader, "east": east, "other": other}


@pytest.fixture(scope="module")
def pair(containers: dict[str, Any]) -> dict[str, Any]:
    return {name: containers[name] for name in ("leader", "east")}


@pytest.fixture
def lab(pair: dict[str, Any], tmp_path: Path) -> Iterator[Lab]:
    with Lab.adopt(pair, seed=3, out=tmp_path) as adopted:
        yield adopted
    assert statuses(pair) == {"leader": "running", "east": "running"}
    assert registry.runs() == []
    assert labelled(adopted) == []


def statuses(pair: dict[str, Any]) -> dict[str, str]:
    wrapped = {name: one.get_wrapped_container() for name, one in pair.items()}
    for one in wrapped.values():
        one.reload()
    return {name: one.status for name, one in wrapped.items()}


def labelled(lab: Lab) -> list[Any]:
    """What the engine has of a run."""
    client = engine.connect()
    try:
        label = {"label": f"{engine.RUN_LABEL}={lab.driver.run.run_id}"}
        return [
            *client.containers.list(all=True, filters=label),
            *client.networks.list(filters=label),
            *client.volumes.list(filters=label),
        ]
    finally:
        client.close()


class Client:
    def __init__(self, node: Node) -> None:
        self.node = node

    def invoke(self, op: Invocation) -> Said:
        method, body = ("PUT", json.dumps(op.value).encode()) if op.op == "write" else ("GET", None)
        said = ask(self.node, method, op.key, body)
        return ok(said if op.op == "read" else None)


def ask(node: Node, method: str, key: str, body: bytes | None = None) -> Any:
    request = urllib.request.Request(f"http://{node.address(PORT)}/{key}", body, method=method)
    with urllib.request.urlopen(request, timeout=2) as answer:  # noqa: S310  http it is
        return json.loads(answer.read())


def refused(node: Node, key: str) -> bool:
    """Whether the node says that it cannot."""
    try:
        ask(node, "GET", key)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 503
    return False


def test_a_trial_on_them(lab: Lab) -> None:
    ran = lab.run("register", client=Client, faults="partition@leader/east,kill@east").check()
    assert [bite["what"] for bite in ran.bites] == ["partition", "kill"]
    assert ":8000 answered in" in ran.bites[1]["proof"]
    facts = json.loads((ran.folder / "environment.json").read_text())["driver"]
    assert facts["name"] == "adopted"
    assert facts["nodes are"] == "containers of somebody else"


def test_faults_of_every_kind_bite_and_heal(lab: Lab) -> None:
    """Measured by the lab's own proofs, and by what the application says."""
    east = lab.nodes["east"]
    assert ask(east, "GET", "x") is None
    with lab.fault("partition@leader/east"):
        assert refused(east, "x")
    assert ask(east, "GET", "x") is None
    with lab.fault("one-way@leader/east"):
        assert refused(east, "x")
    with lab.fault("latency:ms=150@east") as proofs:
        began = time.monotonic()
        assert ask(east, "GET", "x") is None
        assert time.monotonic() - began > 0.25, proofs
    with lab.fault("pause@east"):
        assert east.state == "paused"
        with pytest.raises(OSError, match="timed out"):
            ask(east, "GET", "x")
    with lab.fault("isolate@leader"):
        assert refused(east, "x")
    assert ask(east, "GET", "x") is None


def test_they_are_left_as_they_were_found(pair: dict[str, Any], tmp_path: Path) -> None:
    lab = Lab.adopt(pair, out=tmp_path)
    lab.nodes["east"].kill()
    lab.nodes["leader"].pause()
    assert statuses(pair) == {"leader": "paused", "east": "exited"}
    lab.close()
    assert statuses(pair) == {"leader": "running", "east": "running"}
    assert not list(tmp_path.iterdir())


def test_another_command_ends_it_too(pair: dict[str, Any], tmp_path: Path) -> None:
    """As gc and `laila lab down` do, by the record alone."""
    lab = Lab.adopt(pair, out=tmp_path)
    lab.nodes["east"].pause()
    run_id = lab.driver.run.run_id
    assert run_id in lab.keep()
    standing.down(registry.load(run_id))
    assert statuses(pair) == {"leader": "running", "east": "running"}
    assert registry.runs() == []


def test_containers_are_found_by_object_id_and_name(pair: dict[str, Any], tmp_path: Path) -> None:
    wrapped = pair["leader"].get_wrapped_container()
    name = pair["east"].get_wrapped_container().name
    for leader in (wrapped, wrapped.id, wrapped.short_id):
        with Lab.adopt({"leader": leader, "east": name}, out=tmp_path) as lab:
            assert ask(lab.nodes["leader"], "GET", "x") is None
            assert lab.nodes["east"].exec("echo", "here").stdout == b"here\n"


def test_what_cannot_be_a_node_is_refused(containers: dict[str, Any], tmp_path: Path) -> None:
    from testcontainers.core.container import DockerContainer

    leader, other = containers["leader"], containers["other"]
    name = leader.get_wrapped_container().name
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({}, BadConfig, "no container is given"),
        ({"leader": 5}, BadConfig, "leader: 5 is no container; give one of testcontainers"),
        ({"leader": DockerContainer(IMAGE)}, LabError, "leader does not run: start its container"),
        ({"leader": "laila-none"}, LabError, "leader: the engine does not give the container laila-none"),
        ({"leader": leader, "again": name}, BadConfig, "leader and again are the same container"),
        ({"Leader_1": leader}, BadConfig, "Leader_1"),
        (
            {"leader": leader, "other": other},
            LabError,
            "leader shares no network with other, .*with_network",
        ),
    ]
    for given, error, text in wrong:
        with pytest.raises(error, match=text):
            Lab.adopt(given, out=tmp_path)
    with DockerContainer(IMAGE).with_command(["sleep", "60"]).with_kwargs(network_mode="host") as own:
        with pytest.raises(LabError, match="other has no network of its own .it has `host`"):
            Lab.adopt({"leader": leader, "other": own}, out=tmp_path)
        own.get_wrapped_container().kill()
        with pytest.raises(LabError, match="other is exited, not running"):
            Lab.adopt({"leader": leader, "other": own.get_wrapped_container().id}, out=tmp_path)
    assert registry.runs() == []


def test_a_container_that_would_vanish_is_not_killed(tmp_path: Path, containers: dict[str, Any]) -> None:
    from testcontainers.core.container import DockerContainer

    with DockerContainer(IMAGE).with_command(["sleep", "60"]).with_kwargs(auto_remove=True) as one:
        with Lab.adopt({"one": one}, out=tmp_path) as lab:
            with pytest.raises(LabError, match="cannot kill one: the engine removes its container"):
                lab.nodes["one"].kill()
            with lab.fault("pause@one"):
                assert lab.nodes["one"].state == "paused"


def test_those_that_their_owner_removed_are_no_trouble(tmp_path: Path, containers: dict[str, Any]) -> None:
    from testcontainers.core.container import DockerContainer

    with DockerContainer(IMAGE).with_command(["sleep", "60"]) as one:
        lab = Lab.adopt({"one": one}, out=tmp_path)
    lab.close()
    assert registry.runs() == []


def test_without_a_client_it_says_what_to_do(lab: Lab) -> None:
    with pytest.raises(BadConfig, match=r"a client in Python: lab.run\('register', client=Client\)"):
        lab.run("register")
    with pytest.raises(BadConfig, match="say which workload"):
        lab.run(client=Client)
