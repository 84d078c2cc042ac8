"""Memory, processes and files run out: seen from outside, healed by whoever comes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import fault_holder
import pytest
from fault_conformance import SEED, FaultConformance
from lab_support import until

from laila.errors import LabError
from laila.lab import faults
from laila.lab.drivers import cgroups
from laila.lab.drivers.base import Driver
from laila.lab.faults import FaultSpec, ledger
from laila.lab.faults.nofile import files
from laila.lab.topology import ClientSpec, Topology, replicated


class LimitFaults(FaultConformance):
    specs: ClassVar[tuple[str, ...]] = ("oom@node1", "nofile@node2")
    turns: ClassVar[tuple[str, ...]] = ("oom@node1+nofile@node2",)
    test_it_heals_when_its_controller_and_its_agents_are_killed = None  # they have no agents

    @classmethod
    def shape(cls) -> Topology:
        return replicated(2)

    def test_limits_are_what_they_were(self, driver: Driver) -> None:
        """Also those that the driver set itself, and the numbers of files of every process."""
        before = [driver.usage("node1"), [one.soft for one in files(driver, "node2")]]
        scene = fault_holder.scene_of(driver, SEED)
        for spec in self.specs:
            fault = faults.make(scene, FaultSpec.parse(spec))
            entry = ledger.inject(fault)
            fault.prove()
            ledger.heal(fault, entry)
        now = driver.usage("node1")
        limits = [(u.memory_limit, u.swap_limit, u.pids_limit) for u in (before[0], now)]
        assert limits[0] == limits[1]
        assert [one.soft for one in files(driver, "node2")] == before[1]


class ProcessLimits(FaultConformance):
    """Nodes of which nothing is asked but to live: laila's own page needs a thread for an answer."""

    specs: ClassVar[tuple[str, ...]] = ("pids@*",)
    test_it_heals_when_its_controller_and_its_agents_are_killed = None

    @classmethod
    def shape(cls) -> Topology:
        return replace(replicated(2), client=ClientSpec(("true",)))

    def ready(self, driver: Driver) -> None:
        super().ready(driver)
        for name in driver.topology.names:
            until(lambda: b'"event": "ready"' in driver.logs(name), f"{name} to have all its threads")  # noqa: B023  asked at once


class TestLimitsOfProcesses(LimitFaults):
    driver_name = "process"

    def test_a_limited_process_goes_back_to_its_own_control_groups(self, driver: Driver) -> None:
        pid = driver.main_pid("node1")
        before = _groups(pid)
        driver.limit("node1", memory=256 << 20, pids=64)
        assert [line for line in _groups(pid) if f"{driver.run.run_id}-node1" in line]
        assert [line for line in driver.remains() if "control group" in line]
        assert driver.usage("node1").pids_limit == 64
        assert driver.usage("node1").memory_limit == 256 << 20
        driver.limit("node1", memory=0, pids=0)
        assert _groups(pid) == before
        assert not [line for line in driver.remains() if "control group" in line]

    def test_without_root_it_says_what_to_do(self, monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
        monkeypatch.setattr(cgroups.os, "geteuid", lambda: 1000)
        assert "run the lab as root" in faults.KINDS["oom"].hindrance(driver)
        with pytest.raises(LabError, match="node1: limits of processes need root"):
            driver.limit("node1", pids=100)
        assert faults.KINDS["nofile"].hindrance(driver) == ""


class TestProcessLimitsOfProcesses(ProcessLimits):
    driver_name = "process"


@pytest.mark.container
class TestLimitsOfContainers(LimitFaults):
    driver_name = "docker"


@pytest.mark.container
class TestProcessLimitsOfContainers(ProcessLimits):
    driver_name = "docker"


def _groups(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii").splitlines()
