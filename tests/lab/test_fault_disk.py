"""Faults of disks, with plain processes: they bite and heal, also when a controller is killed; what they refuse."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fault_conformance import FaultConformance
from lab_support import until

from laila.errors import BadConfig, LabError
from laila.lab import drivers, faults, registry
from laila.lab.drivers import disks
from laila.lab.drivers.base import Driver, Lever, NodeState
from laila.lab.faults import FaultSpec, NoBite, NotHealed, Scene, ledger
from laila.lab.procid import ProcessId
from laila.lab.topology import Topology, VolumeSpec, replicated, shared_volume

needs_disks = pytest.mark.skipif(
    bool(disks.hindrance()) and not os.environ.get("CI"), reason=disks.hindrance()
)


@needs_disks
class TestDiskFaultsOfProcesses(FaultConformance):
    driver_name = "process"
    specs = ("power-loss", "disk-full", "read-only", "volume-gone", "slow-fsync")

    @classmethod
    def shape(cls) -> Topology:
        return replace(replicated(2), state_mib=32)


CHANCE = random.Random(1)  # noqa: S311  repeatable on purpose


def made(shape: Topology) -> Driver:
    run = registry.Run(registry.new_run_id(), "process", shape.to_dict(), "check", ProcessId.of(os.getpid()))
    run.save()
    return drivers.make(run, shape)


def started(driver: Driver, node: str) -> None:
    """Until it works: a node that comes to a full disk ends."""
    driver.start(node)
    until(lambda: driver.exec(node, ["laila", "health"]).code == 0, f"{node} to be healthy", 90)


@pytest.fixture
def volumes() -> Iterator[Scene]:
    """Two nodes without disks, with a volume of their own each, one that both mount, and a small one."""
    several = (
        VolumeSpec("mine", "/mnt/mine", nodes=("node1",)),
        VolumeSpec("shared", "/mnt/shared"),
        VolumeSpec("small", "/mnt/small", size_mib=4),
        VolumeSpec("again", "/mnt/again", read_only_of="shared"),
    )
    with made(replace(shared_volume(2), volumes=several)) as driver:
        driver.prepare()
        for name in driver.topology.names:
            driver.start(name)
        yield Scene(driver, driver.topology.names, CHANCE, within=1.0)


def fault(scene: Scene, text: str) -> faults.Fault:
    return faults.make(scene, FaultSpec.parse(text))


def goes(scene: Scene, text: str) -> tuple[str, str]:
    """Do it and undo it; both proofs."""
    one = fault(scene, text)
    entry = ledger.inject(one)
    proof = one.prove()
    with pytest.raises(NotHealed):
        one.prove_healed()
    ledger.heal(one, entry)
    return proof, one.prove_healed()


@needs_disks
def test_a_small_volume_is_filled_for_all_who_mount_it(volumes: Scene) -> None:
    """Without disks it is what `disk-full` means, and it takes no name."""
    assert fault(volumes, "disk-full").hindrance(volumes.driver) == ""
    for text in ("disk-full", "disk-full:volume=small@node2"):
        proof, healed = goes(volumes, text)
        assert "beside node1 a write of 64 KiB" in proof
        assert "beside node2 a write of 64 KiB" in proof
        assert "ENOSPC" in proof
        assert "of 4096 KiB free" in healed
    assert list(Path(volumes.driver.volume_path("node1", "small")).iterdir()) == []


@needs_disks
def test_nobody_elses_disk_is_filled(volumes: Scene) -> None:
    for text in ("disk-full:volume=shared", "disk-full:volume=again"):
        with pytest.raises(BadConfig, match=r"has no limited size .*unless you write really=1"):
            fault(volumes, text)
    with pytest.raises(BadConfig, match=r"node2 mounts no volume 'mine'; it has shared, small, again"):
        fault(volumes, "disk-full:volume=mine@node2")
    with made(replicated(2)) as plain:
        with pytest.raises(BadConfig, match=r"is on no disk of its own \(.*state_mib"):
            fault(Scene(plain, ("node1", "node2"), CHANCE), "disk-full@node1")
        kind = faults.KINDS["disk-full"]
        assert "state_mib" in kind.hindrance(plain)
        assert kind.hindrance_of(plain, FaultSpec.parse("disk-full:really=1")) == ""


@needs_disks
def test_a_file_system_that_is_not_the_one_that_was_made_is_left_alone(volumes: Scene) -> None:
    """Its mount was lost, say: beneath it is the disk of this machine."""
    from laila.lab.drivers import mounts

    one, place = fault(volumes, "disk-full@node1"), Path(volumes.driver.volume_path("node1", "small"))
    mounts.unmount(place)
    with pytest.raises(LabError, match="and not the 4 that the lab gave it; it is left alone"):
        ledger.inject(one)
    assert list(place.iterdir()) == []


@needs_disks
def test_a_volume_of_one_node_is_gone_or_read_only_and_one_of_all_processes_is_not_touched(
    volumes: Scene,
) -> None:
    place = Path(volumes.driver.volume_path("node1", "mine"))
    (place / "kept").write_text("here")
    proof, _ = goes(volumes, "volume-gone:volume=mine@node1")
    assert "1 names on device" in proof
    assert "now 0 names on device" in proof
    proof, _ = goes(volumes, "read-only:volume=mine@node1")
    assert "gets EROFS" in proof
    assert (place / "kept").read_text() == "here"
    with pytest.raises(BadConfig, match=r"shared would be struck for node2 too; use --driver docker"):
        fault(volumes, "read-only:volume=shared@node1")
    with pytest.raises(BadConfig, match="mounts again read-only as it is"):
        fault(volumes, "volume-gone:volume=again@node1")


@needs_disks
def test_what_needs_disks_says_so_where_there_are_none(volumes: Scene) -> None:
    for kind in ("power-loss", "slow-fsync"):
        assert "give the topology state_mib" in faults.KINDS[kind].hindrance(volumes.driver)


@needs_disks
def test_a_full_disk_is_healed_also_when_the_node_is_down() -> None:
    with made(replace(replicated(2), state_mib=16)) as driver:
        driver.prepare()
        started(driver, "node1")
        scene = Scene(driver, ("node1",), CHANCE)
        one = fault(scene, "disk-full")
        entry = ledger.inject(one)
        assert "ENOSPC" in one.prove()
        driver.kill("node1")
        ledger.heal(one, entry)
        driver.start("node1")
        one.prove_healed()
        assert not [path for path in driver.outside("node1").iterdir() if "ballast" in path.name]


@needs_disks
def test_a_power_failure_that_was_broken_off_ends_with_a_node_that_works() -> None:
    """Whatever was reached: frozen, without a disk, dead."""
    with made(replace(replicated(2), state_mib=16)) as driver:
        driver.prepare()
        scene = Scene(driver, ("node1",), CHANCE)
        for reached in range(4):
            if driver.state("node1") is not NodeState.RUNNING:
                driver.start("node1")
            one = fault(scene, "power-loss@node1")
            if reached > 0:
                driver.pause("node1")
            if reached > 1:
                driver.disks.cut(driver.outside("node1"))
            if reached > 2:
                driver.kill("node1")
            with pytest.raises(NoBite):
                one.prove()
            one.undo(driver, {"nodes": ["node1"]})
            assert driver.state("node1") is NodeState.RUNNING
            assert "64 KiB written and fsynced" in one.prove_healed()


@needs_disks
def test_disks_that_cannot_be_are_memory_which_can_be_full_and_keeps_nothing(tmp_path: Path) -> None:
    driver = made(replace(replicated(2), state_mib=16))
    (driver.run.path / "disks").write_text("in the way")
    with driver:
        driver.prepare()
        assert driver.run.facts[disks.FACT]["kind"] == disks.TMPFS
        started(driver, "node1")
        assert "File exists" in driver.lever(Lever.DISK)
        scene = Scene(driver, ("node1",), CHANCE, within=1.0)
        assert "of 16384 KiB free" in goes(scene, "disk-full")[1]
        for kind in ("power-loss", "slow-fsync"):
            assert "File exists" in faults.KINDS[kind].hindrance(driver)
        (driver.run.path / "disks").unlink()
        assert driver.remove() == []
