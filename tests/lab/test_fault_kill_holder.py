"""A client dies while it holds a lock: only one that surely held it, and the others go on."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pytest
from fault_conformance import SEED, FaultConformance, holding, interrupt
from lab_support import until

from laila.lab import faults
from laila.lab.drivers.base import Driver
from laila.lab.faults import FaultSpec, NoBite, NotHealed, Scene, ledger
from laila.lab.faults.holder import KillHolder
from laila.lab.remote import RemoteClient
from laila.lab.topology import Topology, shared_volume

LOCK = {"locks": "locks", "name": "the lock"}


class Contenders:
    """One client beside each node; they take one lock in turn, until they are told to end or die."""

    def __init__(self, driver: Driver) -> None:
        self.holders: dict[str, tuple[str, int]] = {}
        self.doomed: list[str] = []
        self._over = threading.Event()
        self._clients = {
            f"client of {node}": RemoteClient(
                driver, node, argv=["laila", "lab", "worker", "--volume", driver.volume_path(node, "shared")]
            )
            for node in driver.topology.names
        }
        self.pids = {name: client.must("hello", timeout=60)["pid"] for name, client in self._clients.items()}
        self._threads = [threading.Thread(target=self._contend, args=pair) for pair in self._clients.items()]
        for thread in self._threads:
            thread.start()

    def _contend(self, name: str, client: RemoteClient) -> None:
        while not self._over.is_set():
            taken = client.call("take", **LOCK, wait=20, timeout=20)
            if not taken.ok:
                return
            self.holders[name] = (client.node, self.pids[name])
            self._over.wait(0.1)
            del self.holders[name]
            client.call("give", **LOCK)

    def gone(self) -> list[str]:
        return [name for name, client in self._clients.items() if client.gone]

    def close(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
        for client in self._clients.values():
            client.close()


class KillsOfHolders(FaultConformance):
    specs: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def shape(cls) -> Topology:
        return shared_volume(2)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """The promises of the suite do not fit: there is nothing to be healed, and who holds is known here alone."""

    test_it_can_be_done_here = None
    test_it_is_seen_while_it_lasts_and_only_then = None
    test_it_heals_when_its_controller_is_interrupted = None
    test_it_heals_when_its_controller_is_killed = None
    test_it_heals_when_its_controller_and_its_agents_are_killed = None

    @pytest.fixture
    def contenders(self, driver: Driver) -> Iterator[Contenders]:
        made = Contenders(driver)
        yield made
        made.close()

    def test_a_holder_dies_and_the_next_one_gets_the_lock(
        self, driver: Driver, contenders: Contenders
    ) -> None:
        scene = Scene(
            driver,
            driver.topology.names,
            random.Random(SEED),  # noqa: S311  a seed that is told
            holders=lambda: dict(contenders.holders),
            doomed=contenders.doomed.append,
        )
        fault = faults.make(scene, FaultSpec.parse("kill-holder"))
        with pytest.raises(NoBite, match="nobody was killed"):
            fault.prove()
        entry = ledger.inject(fault)
        proof = fault.prove()
        (victim,) = contenders.doomed
        assert f"{victim} (pid {contenders.pids[victim]} beside" in proof
        assert fault.nodes == (victim.removeprefix("client of "),)
        until(lambda: contenders.gone() == [victim], "the program to be gone", timeout=5)
        over = fault.prove_healed()
        assert over.startswith(f"{({*contenders.pids} - {victim}).pop()} holds a lock ")
        ledger.heal(fault, entry)
        assert ledger.open_entries(driver.run) == []
        assert contenders.gone() == [victim]
        print(f"\n{proof}; {over}")


class TestKillsOfHoldersInProcesses(KillsOfHolders):
    driver_name = "process"

    @pytest.fixture
    def client(self, driver: Driver) -> Iterator[tuple[RemoteClient, int]]:
        made = RemoteClient(driver, "node1", argv=["laila", "lab", "worker", "--volume", "."])
        yield made, made.must("hello", timeout=60)["pid"]
        made.close()

    def test_who_lets_go_in_time_is_not_killed(
        self, driver: Driver, client: tuple[RemoteClient, int]
    ) -> None:
        """It is listed when it is chosen, and not any more when it stands still: it goes on."""
        program, pid = client
        looks = 0

        def holders() -> Mapping[str, tuple[str, int]]:
            nonlocal looks
            looks += 1
            return {"the client": ("node1", pid)} if looks % 2 else {}

        fault = self.fault(driver, holders)
        with pytest.raises(NoBite, match=r"was caught while it held a lock; [1-9]\d* were tried"):
            fault.inject()
        fault.heal()
        assert program.call("hello").ok

    def test_nobody_holds_anything(self, driver: Driver) -> None:
        with pytest.raises(NoBite, match="no client beside node1, node2 was caught .*; 0 were tried"):
            self.fault(driver, dict).inject()

    def test_others_get_nothing_after_a_holder_died(
        self, driver: Driver, client: tuple[RemoteClient, int]
    ) -> None:
        _, pid = client
        fault = self.fault(driver, lambda: {"the client": ("node1", pid)})
        fault.inject()
        fault.prove()
        with pytest.raises(NotHealed, match="anybody to hold a lock after the client was killed"):
            fault.prove_healed()
        fault.heal()

    def test_who_was_stopped_by_a_controller_that_died_goes_on(
        self, driver: Driver, client: tuple[RemoteClient, int]
    ) -> None:
        program, pid = client
        fault = self.fault(driver, lambda: {"the client": ("node1", pid)})
        facts: dict[str, object] = {}
        fault._keep = facts.update  # the ledger's end of it
        fault.scene.holders = once_then(fault.scene.holders(), KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            fault.inject()
        assert state(pid) == "T"
        KillHolder.undo(driver, {**facts, "started": "1"})
        assert state(pid) == "T", "it has the pid of another one"
        KillHolder.undo(driver, facts)
        assert program.call("hello").ok
        fault.heal()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
    def test_a_controller_ends_after_it_has_stopped_a_holder(
        self, driver: Driver, client: tuple[RemoteClient, int], number: signal.Signals
    ) -> None:
        """Before it knows whether to kill it. Interrupted it lets it go on; killed, whoever reads the ledger does."""
        program, pid = client
        with holding(driver, "kill-holder", "the client", "node1", pid) as controller:
            assert state(pid) == "T"
            if number is signal.SIGINT:
                interrupt(controller)
            else:
                controller.kill()
                controller.wait()
                assert state(pid) == "T"
                assert len(ledger.open_entries(driver.run)) == 1
                assert ledger.heal_all(driver) == []
        assert ledger.open_entries(driver.run) == []
        assert state(pid) != "T"
        assert program.call("hello").ok

    def fault(self, driver: Driver, holders: object) -> faults.Fault:
        chance = random.Random(SEED)  # noqa: S311  a seed that is told
        scene = Scene(driver, driver.topology.names, chance, holders=holders, within=1.0)
        return faults.make(scene, FaultSpec.parse("kill-holder"))


@pytest.mark.container
class TestKillsOfHoldersInContainers(KillsOfHolders):
    driver_name = "docker"


def once_then(first: object, error: type[BaseException]) -> object:
    """A function that returns this, and from then on raises that."""
    answers = iter([first])

    def ask() -> object:
        for answer in answers:
            return answer
        raise error

    return ask


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
