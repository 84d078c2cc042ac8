"""Our manifests on a real cluster: links, updates, deletions, evictions, drains, scaling, another secret."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from deployment import Deployment

from laila.lab.drivers.kubernetes.cluster import Cluster

THREE = ["laila-0", "laila-1", "laila-2"]


@pytest.fixture(scope="module")
def nodes(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """Three nodes that are linked; every test leaves them so."""
    with Deployment(cluster, tmp_path_factory.mktemp("k8s") / "k8s", "overlays/replicated") as made:
        made.apply()
        made.wait_rolled_out()
        made.wait_linked(THREE)
        yield made


def where(nodes: Deployment, number: int) -> str:
    return f"laila://laila-{number}.laila-peers.{nodes.namespace}.svc:7400/store"


def members(nodes: Deployment) -> list[str]:
    told = json.loads(nodes.laila("laila-0", "replicas", "members", "--json"))
    return sorted(str(one["where"] if isinstance(one, dict) else one) for one in told["members"])


def test_six_directed_links(nodes: Deployment) -> None:
    for one in THREE:
        assert nodes.sees(one) == sorted(set(THREE) - {one})


def test_a_rolling_update_under_load_loses_nothing_acknowledged(nodes: Deployment) -> None:
    before = {name: nodes.pod(name).metadata.uid for name in THREE}  # type: ignore[union-attr]
    stamp = {"laila.test/update": str(time.time())}
    nodes.edit(
        "StatefulSet", lambda thing: thing["spec"]["template"]["metadata"]["annotations"].update(stamp)
    )
    with nodes.load() as load:
        nodes.apply()
        nodes.wait_rolled_out()
    assert {nodes.pod(name).metadata.uid for name in THREE}.isdisjoint(before.values())  # type: ignore[union-attr]
    assert not [said for said in load.said if "why" in said], "a majority answered all the time"
    nodes.wait_linked(THREE)
    nodes.until(
        lambda: nodes.exec("laila-0", "laila", "replicas", "verify").code == 0, "all replicas to agree", 60
    )


def test_a_deleted_pod_comes_back_with_what_it_had(nodes: Deployment) -> None:
    identity = json.loads(nodes.laila("laila-1", "status", "--json"))["id"]
    with nodes.load():
        uid = nodes.delete_pod("laila-1", grace_period_seconds=0)
        nodes.wait_other_pod("laila-1", uid)
    assert json.loads(nodes.laila("laila-1", "status", "--json"))["id"] == identity
    nodes.wait_linked(THREE)


def test_evictions_heed_the_budget(nodes: Deployment) -> None:
    nodes.until(lambda: all(nodes.ready(name) for name in THREE), "three ready nodes", 60)
    with nodes.load():
        uid = nodes.pod("laila-2").metadata.uid  # type: ignore[union-attr]
        nodes.until(lambda: nodes.evict("laila-2") == 0, "the first eviction", 30)
        assert nodes.evict("laila-1") == 429, "a second node would go"
        nodes.wait_other_pod("laila-2", uid)
        nodes.until(lambda: nodes.evict("laila-1") == 0, "the next one to be allowed", 60)
    nodes.until(lambda: nodes.ready("laila-1"), "laila-1 to be back", 120)
    nodes.wait_linked(THREE)


def test_a_drained_machine(nodes: Deployment) -> None:
    core = nodes.cluster.core
    machines = [one.metadata.name for one in nodes.cluster.ask("list machines", core.list_node).items]
    if len(machines) < 2:
        pytest.skip(f"this cluster has one machine, {machines[0]}")
    machine = nodes.pod("laila-0").spec.node_name  # type: ignore[union-attr]
    here = [name for name in THREE if nodes.pod(name).spec.node_name == machine]  # type: ignore[union-attr]
    nodes.start_client_elsewhere(machine)
    nodes.cluster.ask("cordon", core.patch_node, machine, {"spec": {"unschedulable": True}})
    try:
        with nodes.load():
            for name in here:
                uid = nodes.pod(name).metadata.uid  # type: ignore[union-attr]
                nodes.until(lambda name=name: nodes.evict(name) == 0, f"{name} to be evicted", 120)  # type: ignore[misc]
                nodes.wait_other_pod(name, uid)
        assert all(nodes.pod(name).spec.node_name != machine for name in THREE)  # type: ignore[union-attr]
        nodes.wait_linked(THREE)
    finally:
        nodes.cluster.ask("uncordon", core.patch_node, machine, {"spec": {"unschedulable": False}})


def test_three_nodes_five_nodes_three_nodes(nodes: Deployment) -> None:
    count = {"replicas": 5}
    nodes.edit("StatefulSet", lambda thing: thing["spec"].update(count))
    five = [f"laila-{number}" for number in range(5)]
    with nodes.load():
        nodes.apply()
        nodes.wait_rolled_out()
        nodes.wait_linked(five)
        for number in (3, 4):
            nodes.laila("laila-0", "replicas", "members", "add", where(nodes, number), timeout=120)
        assert members(nodes) == [where(nodes, number) for number in range(5)]
        for number in (4, 3):
            nodes.laila("laila-0", "replicas", "members", "remove", where(nodes, number), timeout=120)
        assert members(nodes) == [where(nodes, number) for number in range(3)]
        count["replicas"] = 3
        nodes.apply()
        nodes.wait_rolled_out()
        nodes.until(lambda: nodes.pod("laila-4") is None and nodes.pod("laila-3") is None, "two to go", 120)
    assert members(nodes) == [where(nodes, number) for number in range(3)]
    nodes.wait_linked(THREE)


SAVE = """
import os, sys
from laila import ReplicatedStore
from laila.maif import create_maif

with ReplicatedStore(os.environ["LAILA_REPLICATED"].split(","), background=False) as store:
    artifact = create_maif("test")
    artifact.add_text(sys.argv[1])
    store.save(sys.argv[1], artifact)
    for name in store.names():
        store.load(name)
    print(*store.names())
"""
BELIEVED = """
import glob, os
from pathlib import Path
from laila.artifacts import Artifact, TrustSet
from laila.shared.voucher_file import VoucherFile

replica = Path("/var/lib/laila/replica")
trust = TrustSet(secret=Path(os.environ["LAILA_SECRET_FILE"]).read_text().strip())
trust.learn(VoucherFile(replica).read())
print(len([Artifact.load(path, trust=trust) for path in replica.glob("*.maif")]))
"""


def test_another_secret_in_three_rounds(cluster: Cluster, tmp_path: Path) -> None:
    """Nodes of two rounds are peers, so links stay; what was signed in every round is believed in the end, and the old
    secret opens nothing.
    """
    with Deployment(cluster, tmp_path / "k8s", "overlays/replicated") as nodes:

        def save(pod: str, name: str) -> str:
            return nodes.exec(pod, "python3", "-c", SAVE, name).stdout.decode()

        nodes.apply()
        nodes.wait_rolled_out()
        nodes.wait_linked(THREE)
        assert "before" in save("laila-0", "before")
        first = (nodes.place / "secret/secret.txt").read_text()
        seen = set()
        for word in ("announce", "switch", "retire"):
            nodes.new_secret(word)
            nodes.apply()
            half = nodes.until(lambda: (nodes.nodes().status.updated_replicas or 0) >= 1, "one new pod", 120)
            nodes.wait_rolled_out()
            nodes.wait_linked(THREE)
            seen.add(nodes.secret_name())
            assert half < 120
            assert {"before", word} <= set(save("laila-1", word).split())
            if word == "switch":
                for pod in THREE:
                    nodes.until(
                        lambda pod=pod: nodes.exec(pod, "python3", "-c", BELIEVED).code == 0, "belief", 60
                    )
        assert len(seen) == 3, "every round is a Secret of its own"
        now = nodes.exec("laila-0", "cat", "/run/secrets/laila/secret").stdout.decode()
        assert now == (nodes.place / "secret/secret.txt").read_text() != first
        assert nodes.exec("laila-2", "laila", "replicas", "verify").code == 0
