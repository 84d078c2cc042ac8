"""Faults on pods: each is seen when it is there and only then, and undone, also by others when its controller dies."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
from fault_conformance import FaultConformance, made
from lab_support import lab
from shelf import shelf

from laila.errors import LabError
from laila.lab.drivers.base import Driver, NodeState
from laila.lab.drivers.kubernetes import objects, pods
from laila.lab.drivers.kubernetes.cluster import Cluster
from laila.lab.drivers.kubernetes.driver import KubernetesDriver
from laila.lab.drivers.kubernetes.exec import Program, run_to_end
from laila.lab.faults import ledger
from laila.lab.topology import ClusterSpec, Topology, replicated

KILL_AGENTS = """
import os, signal
for pid in (one for one in os.listdir("/proc") if one.isdigit()):
    try:
        words = open(f"/proc/{pid}/cmdline").read().split("\\0")
    except OSError:
        continue
    if any(word.endswith("/agent.py") for word in words):
        os.kill(int(pid), signal.SIGKILL)
"""


class TestFaultsOfPods(FaultConformance):
    driver_name = "kubernetes"
    specs: ClassVar[tuple[str, ...]] = (
        "kill@node1",
        "pause@node2",
        "restart@node3",
        "partition@node1/node2.node3",
        "isolate@node2",
        "one-way@node1/node2",
        "latency:ms=60@node2",
        "loss:percent=25@node1",
        "bandwidth:kbit=800@node1/node3",
        "reset@node2",
        "refuse@node3",
        "delete-pod@node1",
        "drain@node2",
        "evict@node3",
        "rollout@node1",
    )
    turns: ClassVar[tuple[str, ...]] = (
        "kill@node1+pause@node2",
        "partition@node1/node2+latency:ms=60@node3",
        "evict@node2",
        "drain@node1",
    )
    momentary = FaultConformance.momentary | {"delete-pod", "evict", "rollout"}
    claims: ClassVar[str] = ""

    @pytest.fixture(scope="class")
    @classmethod
    def home(cls, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
        """What a lab needs before it is made: volumes too."""
        with shelf(cluster, 4) as cls.claims:
            yield tmp_path_factory.mktemp("class-home")

    @classmethod
    def shape(cls) -> Topology:
        return replace(replicated(3), cluster=ClusterSpec(storage_class=cls.claims))

    def kill_agents(self, driver: Driver) -> None:
        assert isinstance(driver, KubernetesDriver)
        for name in driver.topology.names:
            pod = driver.cluster.core.read_namespaced_pod(objects.pod_name(name), driver.namespace)
            for one in pod.spec.ephemeral_containers or ():
                if pods.runs(pod, one.name, ephemeral=True):
                    words = ["python3", "-c", KILL_AGENTS]
                    start = partial(
                        Program,
                        driver.cluster,
                        driver.namespace,
                        pod.metadata.name,
                        one.name,
                        words,
                        stdin=False,
                    )
                    assert run_to_end(start, 20.0, "killing agents", end=lambda: None, first=False).code == 0

    def test_a_machine_that_somebody_else_closed_is_left_alone(self, driver: Driver) -> None:
        assert isinstance(driver, KubernetesDriver)
        placed = driver.placement.pod("node1")
        assert placed is not None
        patch = partial(driver.cluster.core.patch_node, placed.machine)
        patch({"spec": {"unschedulable": True}})
        try:
            with made(driver, "drain@node1") as (fault,):
                with pytest.raises(
                    LabError, match=f"{placed.machine} is cordoned already, and not by this run"
                ):
                    ledger.inject(fault)
            assert driver.cluster.core.read_node(placed.machine).spec.unschedulable
            assert driver.placement.pod("node1") == placed
        finally:
            patch({"spec": {"unschedulable": False}})

    def test_who_finds_no_other_machine_waits_and_the_rest_stays(self, driver: Driver) -> None:
        assert isinstance(driver, KubernetesDriver)
        before = {name: driver.placement.pod(name) for name in driver.topology.names}
        where = Counter(pod.machine for pod in before.values() if pod is not None)
        full = where.most_common(1)[0][0]
        first, *rest = [name for name, pod in before.items() if pod is not None and pod.machine == full]
        others = [one.metadata.name for one in driver.cluster.core.list_node().items]
        others.remove(full)
        try:
            for machine in others:
                driver.cluster.core.patch_node(machine, {"spec": {"unschedulable": True}})
            with made(driver, f"drain@{first}") as (fault,):
                entry = ledger.inject(fault)
                assert f"{first} ran in pod {before[first]}, now in " in (proof := fault.prove())
                assert "on no machine" in proof
                assert {name: driver.placement.pod(name) for name in rest} == {
                    name: before[name] for name in rest
                }
                assert driver.state(first) is NodeState.EXITED
                ledger.heal(fault, entry)
                fault.prove_healed()
        finally:
            for machine in others:
                driver.cluster.core.patch_node(machine, {"spec": {"unschedulable": False}})

    def test_what_a_pod_wrote_before_it_was_replaced_is_kept(self, driver: Driver) -> None:
        with made(driver, "delete-pod@node2") as (fault,):
            before = driver.logs("node2")
            ledger.heal(fault, ledger.inject(fault))
        after = driver.logs("node2")
        assert after.startswith(before)
        assert after.count(b'"ready"') == before.count(b'"ready"') + 1
        assert after.count(b'"stopped"') == before.count(b'"stopped"') + 1, "its last words too"


def test_beforewithout_storage_are_not_replaced(cluster: Cluster) -> None:
    if cluster.default_class():
        pytest.skip("this cluster has a default storage class")
    done = lab("check", "replicated", "--driver", "kubernetes", "--faults", "evict")
    assert done.returncode == 2
    assert "evict cannot be done here: what nodes keep would go with their pods" in done.stdout + done.stderr


@pytest.mark.parametrize("topology", ["replicated", "shared-volume"])
def test_a_check_while_pods_are_replaced(cluster: Cluster, tmp_path: Path, topology: str) -> None:
    faults = "evict,drain,rollout,delete-pod,partition"
    with shelf(cluster, 6, shared=topology == "shared-volume") as name:
        words = ["--storage-class", name, "--shared-class", name, "--faults", faults, "--out", str(tmp_path)]
        done = lab("check", topology, "--driver", "kubernetes", *words, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = tmp_path.iterdir()
    bites = json.loads((folder / "result.json").read_text())["facts"]["bites"]
    assert sorted(bite["what"] for bite in bites) == sorted(faults.split(","))
