"""Disks of containers: they can be full, slow, read-only and without power, one node alone; nothing is left of them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fault_conformance import FaultConformance
from lab_support import lab, until

from laila.errors import LabError
from laila.lab import drivers, faults, registry
from laila.lab.drivers import disks
from laila.lab.drivers.base import Driver, Lever
from laila.lab.faults import FaultSpec, NotHealed, Scene, hands, ledger
from laila.lab.faults.beside import written
from laila.lab.procid import ProcessId
from laila.lab.topology import Topology, VolumeSpec, replicated, shared_volume

pytestmark = [
    pytest.mark.container,
    pytest.mark.usefixtures("engine"),
    pytest.mark.skipif(bool(disks.hindrance()) and not os.environ.get("CI"), reason=disks.hindrance()),
]
SMALL = VolumeSpec("small", "/mnt/small", size_mib=4)


@contextmanager
def scene_of(driver: Driver) -> Iterator[Scene]:
    chance = random.Random(1)  # noqa: S311  repeatable on purpose
    scene = Scene(driver, driver.topology.names, chance, within=5.0)
    try:
        yield scene
    finally:
        hands.dismiss(scene)


@contextmanager
def broken(driver: Driver, text: str) -> Iterator[str]:
    """A fault that has bitten; its proof. Afterwards it is healed, and that is proved."""
    with scene_of(driver) as scene:
        fault = faults.make(scene, FaultSpec.parse(text))
        entry = ledger.inject(fault)
        try:
            yield fault.prove()
            scene.within = 1.0
            with pytest.raises(NotHealed):
                fault.prove_healed()
        finally:
            scene.within = 5.0
            ledger.heal(fault, entry)
        fault.prove_healed()


class TestDiskFaultsOfContainers(FaultConformance):
    driver_name = "docker"
    specs = ("power-loss", "read-only", "slow-fsync")

    @pytest.fixture(autouse=True)
    def _needs_engine(self, engine: Any) -> None:
        """Before the lab is made."""

    @classmethod
    def shape(cls) -> Topology:
        shape = shared_volume(2)
        return replace(shape, volumes=(*shape.volumes, SMALL), state_mib=32)

    def test_the_disk_of_one_node_is_full_and_the_others_is_not(self, driver: Driver) -> None:
        with broken(driver, "disk-full@node1") as proof:
            assert "beside node1 a write of 64 KiB in /var/lib/laila gets ENOSPC" in proof
            assert written(driver, "node2", "/var/lib/laila") == ""

    def test_a_small_volume_is_full_for_all_who_mount_it(self, driver: Driver) -> None:
        with broken(driver, "disk-full:volume=small@node2") as proof:
            assert "beside node1 a write of 64 KiB in /mnt/small gets ENOSPC" in proof
            assert written(driver, "node2", "/mnt/small") == "ENOSPC"

    @pytest.mark.parametrize("kind", ["read-only", "volume-gone"])
    def test_a_shared_volume_is_struck_for_one_node_alone(self, driver: Driver, kind: str) -> None:
        driver.exec("node2", ["touch", "/mnt/shared/kept"])
        with broken(driver, f"{kind}:volume=shared@node1") as proof:
            assert "gets EROFS" in proof
            assert ("now 0 names" in proof) == (kind == "volume-gone")
            assert written(driver, "node2", "/mnt/shared") == ""
            seen = driver.exec("node1", ["ls", "/mnt/shared"]).stdout.split()
            assert (b"kept" in seen) == (kind == "read-only")

    def test_the_disk_is_the_nodes_own_and_of_that_size(self, driver: Driver) -> None:
        assert driver.disks.holds("node1", driver.outside("node1"))
        assert not driver.disks.holds("node2", driver.outside("node1"))
        owner = driver.exec("node1", ["stat", "-c", "%u:%g %a", "/var/lib/laila"]).stdout.strip()
        assert owner == b"10001:0 770"
        assert (24 << 20) < os.statvfs(driver.outside("node1")).f_blocks * 4096 < (32 << 20)


def made(shape: Topology) -> Driver:
    run = registry.Run(registry.new_run_id(), "docker", shape.to_dict(), "check", ProcessId.of(os.getpid()))
    run.save()
    return drivers.make(run, shape)


def test_without_disks_state_is_in_memory_that_outlives_a_killed_node(engine: Any) -> None:
    driver = made(replace(replicated(2), state_mib=16))
    (driver.run.path / "disks").write_text("in the way")
    try:
        with driver:
            driver.prepare()
            assert "File exists" in driver.lever(Lever.DISK)
            driver.start("node1")
            until(lambda: driver.exec("node1", ["laila", "health"]).code == 0, "node1 to be healthy", 90)
            driver.write("node1", "kept", b"here")
            driver.kill("node1")
            driver.start("node1")
            assert driver.read("node1", "kept") == b"here"
            until(lambda: driver.exec("node1", ["laila", "health"]).code == 0, "node1 to be healthy", 90)
            with broken(driver, "disk-full@node1") as proof:
                assert "ENOSPC" in proof
            with scene_of(driver) as scene, pytest.raises(LabError, match="File exists"):
                ledger.inject(faults.make(scene, FaultSpec.parse("slow-fsync@node1")))
            (driver.run.path / "disks").unlink()
            assert driver.remove() == []
    finally:
        driver.close()


def test_gc_removes_the_disks_of_a_killed_run(engine: Any) -> None:
    program = (
        "import os, signal\n"
        "from dataclasses import replace\n"
        "from laila.lab import drivers, registry\n"
        "from laila.lab.procid import ProcessId\n"
        "from laila.lab.topology import replicated\n"
        "shape = replace(replicated(2), state_mib=16)\n"
        "run = registry.Run(registry.new_run_id(), 'docker', shape.to_dict(), 'check', ProcessId.of(os.getpid()))\n"
        "run.save()\n"
        "driver = drivers.make(run, shape)\n"
        "driver.prepare()\n"
        "driver.start('node1')\n"
        "print(run.run_id, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run_id = done.stdout.strip()
    assert run_id in loops()
    collected = lab("gc")
    assert run_id in collected.stdout + collected.stderr
    assert run_id not in loops()
    assert run_id not in Path("/proc/self/mounts").read_text()
    assert registry.runs() == []


def loops() -> str:
    return subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout
