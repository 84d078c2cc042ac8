"""Files are damaged beneath nodes: seen beside them, put back by whoever comes, and never over what the system did."""

from __future__ import annotations

import hashlib
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import fault_holder
import pytest
from fault_conformance import SEED, FaultConformance, beginning, interrupt
from lab_support import until

from laila.errors import BadConfig
from laila.lab import faults
from laila.lab.drivers.base import Driver
from laila.lab.faults import Fault, FaultSpec, NoBite, NotHealed, ledger, surgery
from laila.lab.topology import Topology, replicated

ONE, TWO = "probe/one.bin", "probe/two.bin"
LIVE = "probe/live"
AGED = f"rollback:files={LIVE}:after=0.1@node1"


class DamageFaults(FaultConformance):
    specs: ClassVar[tuple[str, ...]] = (
        "flip:files=probe/*.bin:count=2@node1",
        "truncate:files=probe/*.bin@*",
    )
    turns: ClassVar[tuple[str, ...]] = ("flip:files=probe/one.bin@node1+truncate:files=probe/two.bin@*",)
    test_it_heals_when_its_controller_and_its_agents_are_killed = None  # they have no agents

    @classmethod
    def shape(cls) -> Topology:
        return replicated(2)

    @pytest.fixture(autouse=True)
    def originals(self, driver: Driver, _healthy: None) -> Iterator[dict[str, bytes]]:
        """Files that nobody but the test cares for, on every node; what a fault kept of them is gone afterwards."""
        chance = random.Random(SEED)  # noqa: S311  a seed that is told
        bytes_of = {ONE: chance.randbytes(5000), TWO: chance.randbytes(70_000)}
        for node in driver.topology.names:
            assert driver.exec(node, ["mkdir", "-p", f"{driver.state_path(node)}/probe"]).code == 0
            for path, data in bytes_of.items():
                driver.write(node, path, data)
        yield bytes_of
        assert ledger.heal_all(driver) == []
        for node in driver.topology.names:
            kept = driver.exec(node, ["ls", "-A", driver.state_path(node)]).stdout.decode().split()
            assert surgery.KEPT not in kept

    def fault(self, driver: Driver, text: str) -> Fault:
        return faults.make(fault_holder.scene_of(driver, SEED), FaultSpec.parse(text))

    def test_one_bit_is_flipped_in_place(self, driver: Driver, originals: dict[str, bytes]) -> None:
        """The file is the same one, with its owner, mode and time; one bit of it is not."""
        look = ["stat", "-c", "%i %u %a %y %s", f"{driver.state_path('node1')}/{ONE}"]
        before = driver.exec("node1", look).stdout
        fault = self.fault(driver, f"flip:files={ONE}@node1")
        entry = ledger.inject(fault)
        assert driver.exec("node1", look).stdout == before
        now = driver.read("node1", ONE)
        assert sum(bin(a ^ b).count("1") for a, b in zip(now, originals[ONE], strict=True)) == 1
        ledger.heal(fault, entry)
        assert driver.exec("node1", look).stdout == before
        assert driver.read("node1", ONE) == originals[ONE]

    def test_a_file_that_the_system_replaced_is_left_alone(self, driver: Driver) -> None:
        for what, do in {
            "replaced by the system": lambda: driver.write("node1", ONE, b"newer"),
            "removed by the system": lambda: driver.exec(
                "node1", ["rm", f"{driver.state_path('node1')}/{ONE}"]
            ),
        }.items():
            driver.write("node1", ONE, b"as it was")
            fault = self.fault(driver, f"truncate:files={ONE}@node1")
            entry = ledger.inject(fault)
            do()
            assert fault.prove().endswith(f"{what.split()[0]} since")
            ledger.heal(fault, entry)
            assert what in fault.prove_healed()
            there = surgery.digests(driver, "node1", [ONE])[0]
            assert there == (surgery.GONE if "removed" in what else hashlib.sha256(b"newer").hexdigest())

    def test_an_older_version_is_put_back(self, driver: Driver) -> None:
        driver.write("node1", ONE, b"older")

        def renew() -> None:
            copied = f"{driver.state_path('node1')}/{surgery.KEPT}/*/old/1"
            until(lambda: driver.exec("node1", ["sh", "-c", f"test -e {copied}"]).code == 0, "a copy of both")
            driver.write("node1", ONE, b"the newer one")

        writer = threading.Thread(target=renew)
        fault = self.fault(driver, "rollback:files=probe/*.bin:after=0.2@node1")
        writer.start()
        entry = ledger.inject(fault)
        writer.join()
        assert driver.read("node1", ONE) == b"older"
        assert "put back as it was" in fault.prove()
        with pytest.raises(NotHealed, match=ONE):
            fault.prove_healed()
        ledger.heal(fault, entry)
        assert driver.read("node1", ONE) == b"the newer one"
        assert (
            f"{ONE} of node1 is {hashlib.sha256(b'the newer one').hexdigest()[:8]} again"
            in fault.prove_healed()
        )

    def test_what_never_changes_cannot_be_rolled_back(self, driver: Driver) -> None:
        fault = self.fault(driver, f"rollback:files={ONE}:after=0@node1")
        fault.scene.within = 0.5
        with pytest.raises(
            NoBite, match="waited 0.5 s for 1 of the 1 files probe/one.bin of node1 to change"
        ):
            fault.inject()
        fault.heal()

    def test_a_node_that_is_down_is_healed_too(self, driver: Driver, originals: dict[str, bytes]) -> None:
        fault = self.fault(driver, f"flip:files={ONE}@node1")
        entry = ledger.inject(fault)
        driver.kill("node1")
        ledger.heal(fault, entry)
        assert driver.read("node1", ONE) == originals[ONE]
        self.ready(driver)
        fault.prove_healed()

    def test_without_a_file_nothing_is_damaged(self, driver: Driver) -> None:
        with pytest.raises(NoBite, match="node1 has no file nothing/here that could be damaged"):
            self.fault(driver, "flip:files=nothing/here@node1").inject()
        for outside in ("/etc/passwd", "../secrets/*"):
            with pytest.raises(BadConfig, match="not below the state directory"):
                self.fault(driver, f"flip:files={outside}@node1")

    def test_the_seed_chooses_the_file_and_the_bit(self, driver: Driver) -> None:
        proofs = []
        for _ in range(2):
            fault = self.fault(driver, "flip:files=probe/*")
            entry = ledger.inject(fault)
            proofs.append(fault.prove())
            ledger.heal(fault, entry)
        assert proofs[0] == proofs[1]


class TestDamageToProcesses(DamageFaults):
    driver_name = "process"
    specs: ClassVar[tuple[str, ...]] = (*DamageFaults.specs, AGED)
    turns: ClassVar[tuple[str, ...]] = (*DamageFaults.turns, AGED)

    @pytest.fixture(autouse=True)
    def renewed(self, driver: Driver, originals: dict[str, bytes]) -> Iterator[None]:
        """A file that the system renews once, as soon as somebody keeps a copy of it."""
        state, over = Path(driver.state_path("node1")), threading.Event()
        driver.write("node1", LIVE, b"version 0")

        def renew() -> None:
            seen: set[Path] = set()
            while not over.wait(0.02):
                now = (state / LIVE).read_bytes()
                for copy in set(state.glob(f"{surgery.KEPT}/*/old/0")) - seen:
                    with suppress(OSError):
                        if copy.read_bytes() == now:
                            seen.add(copy)
                            driver.write("node1", LIVE, b"version %d" % len(seen))

        system = threading.Thread(target=renew)
        system.start()
        yield
        over.set()
        system.join()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
    def test_a_controller_ends_while_it_keeps_an_older_version(
        self, driver: Driver, originals: dict[str, bytes], number: signal.Signals
    ) -> None:
        """It waits for the file to change, and has done nothing to it yet: no copy is left."""
        kept = Path(driver.state_path("node1")) / surgery.KEPT
        with beginning(driver, f"rollback:files={ONE}:after=60@node1") as controller:
            until(lambda: [*kept.glob("*/old/0")], "a copy of it", 60)
            if number is signal.SIGINT:
                interrupt(controller)
            else:
                controller.kill()
                controller.wait()
        assert bool(ledger.open_entries(driver.run)) == kept.exists() == (number is signal.SIGKILL)
        assert ledger.heal_all(driver) == []
        assert not kept.exists()
        assert driver.read("node1", ONE) == originals[ONE]


@pytest.mark.container
class TestDamageToContainers(DamageFaults):
    driver_name = "docker"
