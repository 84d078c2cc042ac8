"""Faults of the network between containers: by agents of this host, and by side containers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import fault_holder
import pytest
from fault_conformance import FaultConformance, made
from lab_support import until

from laila.errors import BadConfig, LabError
from laila.lab import faults, registry, standing
from laila.lab.drivers import agents
from laila.lab.drivers.agents import AGENT_LABEL, CHOICE
from laila.lab.drivers.base import Driver, Lever
from laila.lab.drivers.engine import RUN_LABEL
from laila.lab.faults import hands, ledger

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("engine")]


class TestNetworkFaultsOfContainers(FaultConformance):
    driver_name = "docker"
    heals_alone = True
    specs: ClassVar[tuple[str, ...]] = (
        "partition",
        "isolate@node2",
        "one-way@node1/node2",
        "one-way:new=1@node3",
        "latency:ms=60:jitter=20@node2",
        "loss:percent=25@node1",
        "bandwidth:kbit=800@node1/node3",
        "reset@node2",
        "reset:again=1@node1/node2",
        "refuse@node3",
    )
    turns: ClassVar[tuple[str, ...]] = (
        "partition@node1/node2+loss:percent=25@node1/node3+bandwidth:kbit=800@node2/node3",
    )

    def test_a_node_that_starts_anew_is_still_parted(self, driver: Driver) -> None:
        """Its network is a new one, without a rule; those of the others hold."""
        with made(driver, "partition@node1") as (fault,):
            entry = ledger.inject(fault)
            fault.prove()
            before = hands.hand(fault.scene, "node1")
            driver.kill("node1")
            driver.start("node1")
            assert before.stale
            assert hands.hand(fault.scene, "node1") is not before
            assert "timed out" in fault.prove()
            ledger.heal(fault, entry)
            fault.prove_healed()

    def test_a_node_that_is_killed_while_it_is_parted_spoils_no_proof(self, driver: Driver) -> None:
        with made(driver, "partition@node2+latency:ms=50@node1/node3") as several:
            done = [(fault, ledger.inject(fault)) for fault in several]
            driver.kill("node2")
            proofs = [fault.prove() for fault in several]
            assert "node1-node2, node2-node3 cut: its nodes do not run" in proofs[0]
            assert proofs[1].endswith("others: there are none")
            driver.start("node2")
            for fault, entry in done:
                ledger.heal(fault, entry)
                fault.prove_healed()

    def test_what_does_not_run_cannot_be_parted(self, driver: Driver) -> None:
        driver.kill("node2")
        with made(driver, "partition@node2") as (fault,):
            with pytest.raises(LabError, match="nothing runs at one end of node1-node2, node2-node3"):
                ledger.inject(fault)

    def test_a_detached_fault_outlives_its_controller_until_it_is_healed(self, driver: Driver) -> None:
        with made(driver, "partition@node3") as (fault,):
            ledger.inject(fault)
            for agent in fault.scene.agents.values():
                agent.must("detach", seconds=120)
        assert len(self.agents(driver)) >= 1
        with made(driver, "partition@node3") as (again,):
            assert "timed out" in str(again.wires.dial(("node1", "node3"), 0.8))
            assert ledger.heal_all(driver) == []
            again.prove_healed()
        until(lambda: self.agents(driver) == [], "the agents to see that nothing is left")

    def test_removal_ends_agents_that_were_detached(self) -> None:
        with self.make() as second:
            second.prepare()
            second.start("node1")
            agent = hands.Agent(second, "node1")
            agent.must("filter", fault="stays", rules=[{"peers": ["192.0.2.1"]}])
            agent.must("detach", seconds=600)
            agent.close()
            assert [one for one in second.remains() if one.startswith("fault agent")]
            assert second.remove() == []
            assert second.remains() == []

    def test_without_rights_or_image_it_says_what_to_do(
        self, driver: Driver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(CHOICE, "side")
        monkeypatch.setattr(agents, "IMAGE", "laila-faults:none")
        with standing.attached(registry.load(driver.run.run_id)) as other:
            why = other.lever(Lever.PACKETS)
            assert why.endswith("the engine has no image laila-faults:none; build it with tools/faults-image")
            assert faults.KINDS["partition"].hindrance(other) == why
            assert "only root beside the engine" in other.lever(Lever.MOUNTS)
            with pytest.raises(LabError, match="build it with tools/faults-image"):
                other.agent("node1")
        monkeypatch.setenv(CHOICE, "nowhere")
        with standing.attached(registry.load(driver.run.run_id)) as other:
            with pytest.raises(BadConfig, match="must be auto, host or side, not 'nowhere'"):
                other.lever(Lever.PACKETS)


@pytest.mark.usefixtures("faults_image")
class TestBySideContainers(FaultConformance):
    """As where this process is not root beside the engine."""

    driver_name = "docker"
    heals_alone = True
    specs: ClassVar[tuple[str, ...]] = ("latency:ms=60@node3",)
    turns: ClassVar[tuple[str, ...]] = ("partition@node1",)

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _aside(cls) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(CHOICE, "side")
            yield

    def sides(self, driver: Driver, engine: Any) -> list[Any]:
        labels = [f"{RUN_LABEL}={driver.run.run_id}", AGENT_LABEL]
        return list(engine.containers.list(filters={"label": labels}))

    @pytest.fixture(autouse=True)
    def _engine(self, engine: Any) -> None:
        self.engine = engine

    def kill_agents(self, driver: Driver) -> None:
        assert self.agents(driver) == [], "none on this host"
        sides = self.sides(driver, self.engine)
        assert sides
        for side in sides:
            side.kill()

    def test_they_have_the_network_and_nothing_else(self, driver: Driver, engine: Any) -> None:
        hands.Agent(driver, "node1").close()
        (side,) = [one for one in self.sides(driver, engine) if one.name.endswith("node1")]
        host = side.attrs["HostConfig"]
        given = sorted(name.removeprefix("CAP_") for name in host["CapAdd"])
        assert (host["CapDrop"], given) == (["ALL"], ["NET_ADMIN", "NET_RAW"])
        assert host["Privileged"] is False
        assert driver.lever(Lever.PACKETS) == ""
        assert "only root beside the engine can mount" in driver.lever(Lever.MOUNTS)
        agent = hands.Agent(driver, "node1")
        with pytest.raises(LabError, match="not in the node's files"):
            agent.must("cover", fault="x", path="/var/lib/laila")
        agent.close()

    def test_a_node_that_starts_anew_gets_another_one(self, driver: Driver, engine: Any) -> None:
        scene = fault_holder.scene_of(driver, 1)
        before = hands.hand(scene, "node2")
        (old,) = [one.id for one in self.sides(driver, engine) if one.name.endswith("node2")]
        driver.kill("node2")
        driver.start("node2")
        assert before.stale
        assert hands.hand(scene, "node2").must("hello")["devices"] != []
        (new,) = [one.id for one in self.sides(driver, engine) if one.name.endswith("node2")]
        assert new != old
        hands.dismiss(scene)
