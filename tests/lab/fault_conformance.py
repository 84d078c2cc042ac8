"""What must hold for every fault on every driver. A test file subclasses FaultConformance and says which faults.

One lab serves all tests of a class. A fault must be seen when it is there, and only then: its proofs must fail on nodes
that nothing was done to, and its proofs of healing while it lasts. Besides, whoever does it is interrupted and killed.

    class TestDiskFaultsInContainers(FaultConformance):
        driver_name = "docker"
        specs = ("disk-full@node1", "read-only")

        @classmethod
        def shape(cls) -> Topology:
            return replace(replicated(3), state_mib=64)

A fault's proofs are asked of new objects too, of the same spec and seed, in another process than the one that did it.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar

import fault_holder
import pytest

from laila.lab import drivers, faults, procid, registry
from laila.lab.drivers.base import Driver, NodeState
from laila.lab.faults import Fault, FaultSpec, NoBite, NotHealed, hands, ledger
from laila.lab.procid import ProcessId
from laila.lab.topology import Topology, replicated

SEED = 11
HOLDER = Path(__file__).with_name("fault_holder.py")
SHORT = 0.5
"""Seconds that a proof may take which is expected to fail."""


class FaultConformance:
    """`driver_name` is the driver's name, `specs` the faults as they are written."""

    driver_name: ClassVar[str]
    specs: ClassVar[tuple[str, ...]]
    turns: ClassVar[tuple[str, ...]] = ()
    """Faults that are held at once (`SPEC+SPEC`) by controllers that are interrupted and killed; else one by one."""
    momentary: ClassVar[frozenset[str]] = frozenset({"reset", "restart", "kill-holder"})
    """Kinds that are over by themselves, so that their healing needs nothing."""
    heals_alone: ClassVar[bool] = False
    """They end with the controller that does them, whatever it dies of, without `heal_all`."""

    @classmethod
    def shape(cls) -> Topology:
        return replicated(3)

    @classmethod
    def make(cls) -> Driver:
        """A new run, registered, nothing made yet."""
        shape = cls.shape()
        controller = ProcessId.of(os.getpid())
        run = registry.Run(registry.new_run_id(), cls.driver_name, shape.to_dict(), "check", controller)
        run.save()
        return drivers.make(run, shape)

    def agents(self, driver: Driver) -> list[int]:
        """Pids of fault agents of this run that live on this machine."""
        return agents_of(driver.run.run_id)

    def kill_agents(self, driver: Driver) -> None:
        """SIGKILL them all, so that none of them undoes anything."""
        kill_agents_of(driver.run.run_id)

    # -- the lab

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "spec" in metafunc.fixturenames:
            metafunc.parametrize("spec", self.specs)
        if "turn" in metafunc.fixturenames:
            metafunc.parametrize("turn", self.turns or self.specs)

    @pytest.fixture(scope="class")
    @classmethod
    def home(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("class-home")

    @pytest.fixture(autouse=True)
    def _same_home(self, home: Path, lab_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LAILA_LAB_HOME", str(home))

    @pytest.fixture(scope="class")
    @classmethod
    def driver(cls, home: Path) -> Iterator[Driver]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LAILA_LAB_HOME", str(home))
            made = cls.make()
            try:
                made.prepare()
                for name in made.topology.names:
                    made.start(name)
                for name in made.topology.names:
                    fault_holder.scene_of(made, SEED).ready(name)
                yield made
            finally:
                patch.setenv("LAILA_LAB_HOME", str(home))
                left = made.remove()
                made.close()
        assert left == []

    @pytest.fixture(autouse=True)
    def _healthy(self, driver: Driver, _same_home: None) -> Iterator[None]:
        """Before a test, and what a failed test left is mended after it."""
        self.ready(driver)
        yield
        assert ledger.heal_all(driver) == []

    def ready(self, driver: Driver) -> None:
        scene = fault_holder.scene_of(driver, SEED)
        fallen = [name for name in driver.topology.names if driver.state(name) is not NodeState.RUNNING]
        for name in fallen:
            if driver.state(name) is NodeState.PAUSED:
                driver.resume(name)
            else:
                driver.start(name)
        for name in fallen:
            scene.ready(name)

    # -- the promises

    def test_it_can_be_done_here(self, driver: Driver, spec: str) -> None:
        why = faults.KINDS[FaultSpec.parse(spec).kind].hindrance(driver)
        assert why == "", why

    def test_it_is_seen_while_it_lasts_and_only_then(
        self, driver: Driver, spec: str, record_property: Callable[[str, object], None]
    ) -> None:
        with made(driver, spec) as (fault,):
            with hurried(fault), pytest.raises(NoBite):
                fault.prove()
            began = time.monotonic()
            entry = ledger.inject(fault)
            bitten = time.monotonic()
            assert [one.id for one in ledger.open_entries(driver.run)] == [entry.id]
            proof = fault.prove()
            assert any(letter.isdigit() for letter in proof), f"no number in the proof: {proof}"
            if fault.kind not in self.momentary:
                with hurried(fault), pytest.raises(NotHealed):
                    fault.prove_healed()
            healing = time.monotonic()
            ledger.heal(fault, entry)
            healed = time.monotonic()
            fault.heal()
            fault.undo(driver, entry.facts)
            over = fault.prove_healed()
            assert any(letter.isdigit() for letter in over), f"no number in the proof of healing: {over}"
            took = f"done in {bitten - began:.3f} s, undone in {healed - healing:.3f} s"
            print(f"\n{spec}: {proof}; {over}; {took}")
            record_property("fault", f"{spec}: {proof}; {over}; {took}")

    def test_it_heals_when_its_controller_is_interrupted(self, driver: Driver, turn: str) -> None:
        with holding(driver, turn) as holder:
            interrupt(holder)
        assert ledger.open_entries(driver.run) == []
        self.healed(driver, turn)

    def test_it_heals_when_its_controller_is_killed(self, driver: Driver, turn: str) -> None:
        with holding(driver, turn) as holder:
            holder.kill()
            holder.wait()
        if self.heals_alone:
            self.healed(driver, turn)
        assert len(ledger.open_entries(driver.run)) == len(turn.split("+"))
        assert ledger.heal_all(driver) == []
        assert ledger.open_entries(driver.run) == []
        if not self.heals_alone:
            self.healed(driver, turn)

    def test_it_heals_when_its_controller_and_its_agents_are_killed(self, driver: Driver, turn: str) -> None:
        with holding(driver, turn) as holder:
            self.kill_agents(driver)
            holder.kill()
            holder.wait()
        assert ledger.heal_all(driver) == []
        assert ledger.heal_all(driver) == [], "nothing is left to be healed"
        self.healed(driver, turn)

    def healed(self, driver: Driver, turn: str) -> None:
        with made(driver, turn) as several:
            for fault in several:
                fault.prove_healed()


@contextmanager
def made(driver: Driver, turn: str) -> Iterator[list[Fault]]:
    """Faults that are not done yet."""
    scene = fault_holder.scene_of(driver, SEED)
    try:
        yield fault_holder.made(scene, turn)
    finally:
        hands.dismiss(scene)


@contextmanager
def hurried(fault: Fault) -> Iterator[None]:
    """Its proofs give up soon."""
    within, fault.scene.within = fault.scene.within, SHORT
    yield
    fault.scene.within = within


@contextmanager
def beginning(driver: Driver, turn: str, *holder: object) -> Iterator[subprocess.Popen[str]]:
    """Another controller that is about to do these faults; `fault_holder` says what it prints when."""
    words = [sys.executable, HOLDER, driver.run.run_id, turn, SEED, *holder]
    with subprocess.Popen(
        [str(word) for word in words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as holder:
        try:
            yield holder
        finally:
            if holder.poll() is None:
                holder.kill()


@contextmanager
def holding(driver: Driver, turn: str, *holder: object) -> Iterator[subprocess.Popen[str]]:
    """Another controller that has said its line: it holds these faults, which have bitten."""
    with beginning(driver, turn, *holder) as program:
        assert program.stdout is not None
        ready, _, _ = select.select([program.stdout], [], [], 90)
        proof = program.stdout.readline() if ready else ""
        if not proof:
            program.kill()
            pytest.fail(f"the controller did not do {turn}:\n{program.communicate()[1]}")
        yield program


def interrupt(holder: subprocess.Popen[str]) -> None:
    """Ctrl-C as a terminal does it: everybody in the foreground gets it. It ends, and of nothing else."""
    os.killpg(holder.pid, signal.SIGINT)
    _, complaint = holder.communicate(timeout=60)
    assert "KeyboardInterrupt" in complaint, complaint


def agents_of(run_id: str) -> list[int]:
    """Pids of fault agents of a run that live on this machine, in whatever container."""
    return [pid for pid in procid.marked(run_id) if b"agent.py" in _command(pid)]


def kill_agents_of(run_id: str) -> None:
    for pid in agents_of(run_id):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
