"""Nodes are killed, paused and restarted: seen from outside, healed by whoever comes."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import ClassVar

import fault_holder
import pytest
from fault_conformance import SEED, FaultConformance, beginning
from lab_support import until

from laila.errors import BadConfig
from laila.lab import faults
from laila.lab.drivers.base import Driver, NodeState
from laila.lab.faults import Fault, FaultSpec, NoBite, ledger
from laila.lab.faults.doorbell import Doorbell
from laila.lab.faults.family import family
from laila.lab.topology import Topology, replicated


class LifeFaults(FaultConformance):
    specs: ClassVar[tuple[str, ...]] = ("kill@*", "pause@node2", "restart")
    turns: ClassVar[tuple[str, ...]] = ("kill@node1+pause@node2",)
    test_it_heals_when_its_controller_and_its_agents_are_killed = None  # they have no agents

    @classmethod
    def shape(cls) -> Topology:
        return replicated(2)

    def fault(self, driver: Driver, text: str, seed: int = SEED) -> Fault:
        return faults.make(fault_holder.scene_of(driver, seed), FaultSpec.parse(text))

    def test_clients_are_told_before_their_node_dies(self, driver: Driver) -> None:
        """And who waits for a node is asked after all of them were started."""
        told: list[str] = []
        fault = self.fault(driver, "kill@*")
        fault.scene.left = lambda node: told.append(f"left {node} {driver.state(node).value}")
        fault.scene.ready = lambda node: told.append(f"ready {node} {driver.state('node2').value}")
        entry = ledger.inject(fault)
        ledger.heal(fault, entry)
        assert told == [
            "left node1 running",
            "left node2 running",
            "ready node1 running",
            "ready node2 running",
        ]

    def test_a_node_that_died_while_it_stood_still_is_started(self, driver: Driver) -> None:
        fault = self.fault(driver, "pause@node1")
        entry = ledger.inject(fault)
        fault.prove()
        driver.kill("node1")
        with pytest.raises(NoBite, match="node1 is exited"):
            fault.prove()
        ledger.heal(fault, entry)
        assert fault.prove_healed()

    def test_a_door_is_knocked_at_from_beside_another_node(self, driver: Driver) -> None:
        """Where this machine does not reach it."""
        address = driver.address("node1")
        beside = Doorbell(driver, "node1", address.host, address.status_port, "node2", before=None)
        assert beside.ring().answered
        driver.pause("node1")
        silent = beside.ring()
        assert not silent.answered
        assert silent.seconds >= 0.9
        driver.resume("node1")
        assert beside.ring(patience=5).answered


class TestLifeOfProcesses(LifeFaults):
    driver_name = "process"

    def test_the_seed_chooses_the_node(self, driver: Driver) -> None:
        found = [self.fault(driver, "kill", seed).nodes for seed in range(20)]
        assert set(found) == {("node1",), ("node2",)}
        assert found == [self.fault(driver, "kill", seed).nodes for seed in range(20)]

    @pytest.mark.parametrize(
        ("text", "complaint"),
        [
            ("kill@node1/node2", "strikes single nodes, there are no sides; write @NODE.NODE"),
            ("kill@node7", "there is no node node7; there are node1, node2"),
            ("pause@stranger", "there is no node stranger"),
            ("restart:grace=-1", "grace must be 0.1 to 600"),
            ("restart:grace=soon", "grace='soon' is no float"),
            ("kill:down=3", "kill has no option down; it has none"),
        ],
    )
    def test_bad_words_are_told_before_anything_is_done(
        self, driver: Driver, text: str, complaint: str
    ) -> None:
        with pytest.raises(BadConfig, match=complaint):
            self.fault(driver, text)

    def test_a_node_that_does_not_end_by_itself_was_not_restarted(self, driver: Driver) -> None:
        """It stands still, so it cannot hear that it is asked to end, and is killed after its grace."""
        fault = self.fault(driver, "restart:grace=0.5@node1")
        pid = family(driver, "node1")[0].pid
        driver.exec("node1", ["sh", "-c", f"kill -STOP {pid}"])
        entry = ledger.inject(fault)
        with pytest.raises(NoBite, match="did not end within 0.5 s and was killed; .* use kill"):
            fault.prove()
        ledger.heal(fault, entry)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
    def test_a_restart_whose_controller_ends_in_the_middle_comes_to_its_end(
        self, driver: Driver, number: signal.Signals
    ) -> None:
        """The node was asked to end, and takes its time; the ledger alone knows that it must be started again."""
        before = family(driver, "node1")[0]
        os.kill(before.pid, signal.SIGSTOP)
        with beginning(driver, "restart:grace=60@node1") as controller:
            until(lambda: _asked_to_end(before.pid), "node1 to be asked to end", 60)
            os.killpg(controller.pid, number)
            going_on = threading.Timer(1.5, os.kill, (before.pid, signal.SIGCONT))
            going_on.start()
            controller.communicate(timeout=60)
        assert len(ledger.open_entries(driver.run)) == (number is signal.SIGKILL)
        assert ledger.heal_all(driver) == []
        going_on.join()
        assert driver.state("node1") is NodeState.RUNNING
        assert family(driver, "node1")[0] != before
        fault_holder.scene_of(driver, SEED).ready("node1")

    def test_the_word_of_a_driver_is_not_enough(
        self, driver: Driver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It says that the node stands still, and does nothing: the door answers."""
        fault = self.fault(driver, "pause@node1")
        monkeypatch.setattr(driver, "_signal_all", lambda name, number: None)
        monkeypatch.setattr(driver, "_stopped", lambda name: True)
        entry = ledger.inject(fault)
        assert driver.state("node1") is NodeState.PAUSED
        fault.scene.within = 1.0
        with pytest.raises(NoBite, match="the door of node1 to answer no more"):
            fault.prove()
        ledger.heal(fault, entry)

    def test_a_node_that_is_down_cannot_be_killed(self, driver: Driver) -> None:
        driver.kill("node1")
        with pytest.raises(Exception, match="node1"):
            ledger.inject(self.fault(driver, "kill@node1"))
        assert driver.state("node1") is NodeState.EXITED


def _asked_to_end(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    pending = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith("ShdPnd")]
    return bool(pending[0] & 1 << signal.SIGTERM - 1)


@pytest.mark.container
class TestLifeOfContainers(LifeFaults):
    driver_name = "docker"
