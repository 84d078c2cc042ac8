"""What a node acknowledged survives the power failure of all nodes at once, in every durable place; and a node that
acknowledges before it fsyncs is found out.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from lab_support import until

from laila.lab import drivers, faults, registry
from laila.lab.drivers import disks
from laila.lab.drivers.base import Driver
from laila.lab.faults import FaultSpec, Scene, ledger
from laila.lab.procid import ProcessId
from laila.lab.remote import RemoteClient
from laila.lab.topology import STORE, replicated

MUTANTS = Path(__file__).parent / "mutants"
POOLS = ("durable", "files")
EACH = 6

pytestmark = pytest.mark.skipif(
    bool(disks.hindrance()) and not os.environ.get("CI"), reason=disks.hindrance()
)


@contextmanager
def three_nodes() -> Iterator[Scene]:
    """Three nodes of their own disks, which see each other, and what they wrote to come so far is on disk."""
    shape = replace(replicated(3), state_mib=32)
    run = registry.Run(registry.new_run_id(), "process", shape.to_dict(), "check", ProcessId.of(os.getpid()))
    run.save()
    with drivers.make(run, shape) as driver:
        driver.prepare()
        chance = random.Random(3)  # noqa: S311  repeatable on purpose
        scene = Scene(driver, shape.names, chance, ready=lambda node: healthy(driver, node))
        for name in shape.names:
            driver.start(name)
        for name in shape.names:
            scene.ready(name)
            subprocess.run(["sync", "-f", driver.state_path(name)], check=True)
        yield scene
        assert driver.remove() == []


def healthy(driver: Driver, node: str) -> None:
    until(lambda: driver.exec(node, ["laila", "health"]).code == 0, f"{node} to be healthy", 90)


@dataclass
class Acknowledged:
    """By node and pool the ids and fingerprints of entries, and the values of names in the replicated store."""

    entries: dict[tuple[str, str], tuple[list[str], list[str]]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)


def write(driver: Driver) -> Acknowledged:
    """Everywhere something that is acknowledged."""
    found = Acknowledged()
    client = connected(driver)
    for name in driver.topology.names:
        for pool in POOLS:
            entries = [
                {"nickname": f"{pool}-{n}", "value": {"kind": "small", "seed": n}} for n in range(EACH)
            ]
            said = client.must("memorize", **at(name), pool=pool, entries=entries, timeout=30)
            found.entries[name, pool] = (said["ids"], said["prints"])
    client.close()
    worker = opened(driver)
    for number in range(EACH):
        name, value = f"name-{number}", f"value-{number}-100"
        worker.must("replica_save", name=name, value=value, timeout=30)
        found.names[name] = value
    worker.close()
    return found


def connected(driver: Driver) -> RemoteClient:
    """A client beside node1, which sees both others."""
    client = RemoteClient(driver, "node1")
    peers = {name for name in driver.topology.names if name != "node1"}

    def seen() -> set[str]:
        listed = client.must("peers", timeout=30)["peers"]
        return {item["peer_name"] for item in listed if item["state"] == "up"}

    until(lambda: peers <= seen(), "node1 to see the others")
    return client


def at(name: str) -> dict[str, str]:
    return {} if name == "node1" else {"at": name}


def opened(driver: Driver) -> RemoteClient:
    """A worker beside node1 with the replicated store open."""
    worker = RemoteClient(
        driver, "node1", argv=["laila", "lab", "worker", "--volume", driver.state_path("node1")]
    )
    nodes = {name: driver.door(name, seen_from="node1") for name in driver.topology.names}
    replicas = [f"laila://{name}/{STORE}" for name in nodes]
    worker.must("replica_open", nodes=nodes, replicas=replicas, patience=10, timeout=30)
    return worker


def lost(driver: Driver, acknowledged: Acknowledged) -> list[str]:
    """Where something that was acknowledged is not there as it was."""
    missing = []
    client = connected(driver)
    for (name, pool), (ids, prints) in acknowledged.entries.items():
        said = client.call("remember", **at(name), pool=pool, ids=ids, timeout=30)
        if said.result.get("prints") != prints:
            missing.append(f"{name} {pool}: {said}")
    client.close()
    worker = opened(driver)
    for name, value in acknowledged.names.items():
        said = worker.call("replica_load", name=name, timeout=30)
        if said.result.get("value") != value:
            missing.append(f"replicas {name}: {said} {said.result}")
    worker.close()
    return missing


def lose_power(scene: Scene) -> str:
    fault = faults.make(scene, FaultSpec.parse("power-loss"))
    entry = ledger.inject(fault)
    proof = fault.prove()
    ledger.heal(fault, entry)
    fault.prove_healed()
    return proof


def test_what_was_acknowledged_survives_a_power_failure_of_all() -> None:
    with three_nodes() as scene:
        acknowledged = write(scene.driver)
        assert "on 3 disks (node1, node2, node3)" in lose_power(scene)
        assert lost(scene.driver, acknowledged) == []


def test_nodes_that_acknowledge_before_they_fsync_lose_what_they_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paths = [str(MUTANTS / "hasty"), str(MUTANTS), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    with three_nodes() as scene:
        acknowledged = write(scene.driver)
        lose_power(scene)
        missing = lost(scene.driver, acknowledged)
        for place in (*POOLS, "replicas"):
            assert any(place in one for one in missing), f"{place} lost nothing: {missing}"
