"""Nodes as pods keep every promise of a driver; and what is theirs alone."""

from __future__ import annotations

import os
from typing import ClassVar

import pytest
from driver_conformance import DriverConformance

from laila.lab import registry, standing
from laila.lab.drivers.base import Driver, Lever, NodeState
from laila.lab.drivers.kubernetes import objects
from laila.lab.drivers.kubernetes.driver import KubernetesDriver
from laila.lab.procid import ProcessId
from laila.lab.topology import replicated


class TestKubernetesDriver(DriverConformance):
    driver_name: ClassVar[str] = "kubernetes"

    def test_its_nodes_are_restricted_until_a_fault_needs_more(self, driver: Driver, node: str) -> None:
        assert isinstance(driver, KubernetesDriver)
        with self.make() as other:
            assert isinstance(other, KubernetesDriver)
            other.prepare()
            other.start("node1")
            level = other.cluster.core.read_namespace(other.namespace).metadata.labels
            assert level["pod-security.kubernetes.io/enforce"] == "restricted"
        assert driver.lever(Lever.PACKETS) == ""

    def test_a_rollout_restart_brings_another_pod(self, driver: Driver, node: str) -> None:
        assert isinstance(driver, KubernetesDriver)
        before, words = driver.ips(node), driver.logs(node).count(b'"ready"')
        driver.placement.roll(node)
        driver.start(node)
        self.healthy(driver, node)
        assert driver.ips(node) != before
        assert driver.logs(node).count(b'"ready"') == words + 1, "what the first pod wrote is kept"


@pytest.mark.parametrize("with_record", [True, False])
def test_what_a_dead_controller_left_is_collected(with_record: bool) -> None:
    """By its record, and by its namespace alone when the record is lost too."""
    shape = replicated(2)
    run = registry.Run(
        registry.new_run_id(), "kubernetes", shape.to_dict(), "check", ProcessId.of(os.getpid())
    )
    run.save()
    driver = KubernetesDriver(run, shape)
    driver.prepare()
    driver.start("node1")
    assert standing.collect() == [], "a living run is left alone"
    dead = ProcessId(1 << 22, "1", run.controller.host)
    gone = registry.Run(run.run_id, run.driver, run.topology, "check", dead, facts=driver.run.facts)
    gone.save()
    if not with_record:
        note = {"metadata": {"annotations": {objects.CONTROLLER: str(dead)}}}
        driver.cluster.core.patch_namespace(driver.namespace, note)
        gone.forget()
    assert [(one.run_id, one.left) for one in standing.collect()] == [(run.run_id, ())]
    assert driver.remains() == []
    assert driver.state("node1") is NodeState.ABSENT
    driver.close()
