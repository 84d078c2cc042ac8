"""Faults of the network: who is parted from whom, on links that a program carries, and what cannot be done."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest
from fault_conformance import FaultConformance, made

from laila.errors import BadConfig, LabError
from laila.lab import drivers, faults, registry
from laila.lab.drivers.base import Driver, Lever
from laila.lab.faults import FaultSpec, Scene, ledger, sides
from laila.lab.procid import ProcessId
from laila.lab.topology import Topology, replicated

LINK_FAULTS = ("bandwidth", "isolate", "latency", "one-way", "partition", "refuse", "reset")


class TestNetworkFaultsOfProcesses(FaultConformance):
    driver_name = "process"
    heals_alone = True
    specs: ClassVar[tuple[str, ...]] = (
        "partition",
        "isolate@node2",
        "one-way@node1/node2",
        "latency:ms=60:jitter=20@node2",
        "bandwidth:kbit=800@node1/node3",
        "reset@node2",
        "reset:again=1@node1/node2",
        "refuse@node3",
    )
    turns: ClassVar[tuple[str, ...]] = ("partition@node1/node2+latency:ms=60@node1/node3+refuse@node2/node3",)
    test_it_heals_when_its_controller_and_its_agents_are_killed = None  # they have no agents

    def test_loss_cannot_be_done_and_it_says_what_to_do(self, driver: Driver) -> None:
        why = faults.KINDS["loss"].hindrance(driver)
        assert "no packet can be lost; use --driver docker" in why

    def test_only_new_connections_cannot_be_told_from_others(self, driver: Driver) -> None:
        with pytest.raises(BadConfig, match="use --driver docker for new=1"):
            faults.make(scene(driver), FaultSpec.parse("one-way:new=1"))


class TestShapesOfPartitions(FaultConformance):
    """Five nodes, so that every shape differs from the others; and more faults at once than three have links for."""

    driver_name = "process"
    heals_alone = True
    specs: ClassVar[tuple[str, ...]] = ()
    turns: ClassVar[tuple[str, ...]] = ("isolate@node1+one-way@node2/node3+reset:again=1@node2/node4",)
    test_it_can_be_done_here = None
    test_it_is_seen_while_it_lasts_and_only_then = None
    test_it_heals_when_its_controller_and_its_agents_are_killed = None

    @classmethod
    def shape(cls) -> Topology:
        return replicated(5)

    @pytest.mark.parametrize("shape", sides.SHAPES)
    def test_a_shape_cuts_what_it_says_and_nothing_else(self, driver: Driver, shape: str) -> None:
        """By its proofs, and by programs beside the nodes that know nothing of faults."""
        every = set(itertools.permutations(driver.topology.names, 2))
        with made(driver, f"partition:shape={shape}") as (fault,):
            entry = ledger.inject(fault)
            struck = set(fault.sides.struck)
            assert struck < every
            proof = fault.prove()
            assert connected(driver) == every - struck
            ledger.heal(fault, entry)
            print(f"\n{shape}: {proof}; {fault.prove_healed()}")
        assert connected(driver) == every


DIALS = """
import concurrent.futures, socket, sys
def dial(door):
    try:
        socket.create_connection(door.rsplit(":", 1), 1.0).close()
    except OSError:
        return False
    return True
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    print(*map(int, pool.map(dial, sys.argv[1:])))
"""


def connected(driver: Driver) -> set[tuple[str, str]]:
    """Ways on which a new connection is made now, each dialed from beside its beginning."""

    def seen_from(name: str) -> set[tuple[str, str]]:
        others = [other for other in driver.topology.names if other != name]
        doors = [driver.door(other, seen_from=name) for other in others]
        told = driver.exec(name, ["python", "-c", DIALS, *doors], timeout=60)
        assert told.code == 0, told.stderr
        return {(name, other) for other, got in zip(others, told.stdout.split(), strict=True) if got == b"1"}

    with ThreadPoolExecutor(5) as pool:
        return set().union(*pool.map(seen_from, driver.topology.names))


@pytest.fixture
def driver() -> Iterator[Driver]:
    """Of a run in which nothing was made."""
    shape = replicated(5)
    run = registry.Run(registry.new_run_id(), "process", shape.to_dict(), "check", ProcessId.of(os.getpid()))
    run.save()
    found = drivers.make(run, shape)
    yield found
    found.close()


def scene(driver: Driver, seed: int = 1) -> Scene:
    return Scene(driver, driver.topology.names, random.Random(seed))  # noqa: S311  a seed that is told


def of(driver: Driver, text: str, seed: int = 1) -> sides.Sides:
    fault = faults.make(scene(driver, seed), FaultSpec.parse(text))
    found: sides.Sides = fault.sides  # type: ignore[attr-defined]  # every fault of the network has them
    return found


def links(text: str) -> set[tuple[str, str]]:
    """`12 34`: node1 with node2, node3 with node4."""
    return {(f"node{word[0]}", f"node{word[1]}") for word in text.split()}


@pytest.mark.parametrize(
    ("text", "struck", "shaded"),
    [
        ("partition@node2", "12 23 24 25", "2"),
        ("partition@node1.node2", "13 14 15 23 24 25", "12"),
        ("partition@node1/node3", "13", "13"),
        ("partition@node1/node2.node3", "12 13", "1"),
        ("partition@node1/node2/node3", "12 13 23", "123"),
        ("partition@*", "12 13 14 15 23 24 25 34 35 45", "12345"),
        ("latency@node1.node2.node3.node4.node5", "12 13 14 15 23 24 25 34 35 45", "12345"),
        ("isolate@node1.node2", "12 13 14 15 23 24 25", "12"),
    ],
)
def test_both_ways_between_the_groups_are_struck(driver: Driver, text: str, struck: str, shaded: str) -> None:
    found = of(driver, text)
    assert set(found.links) == links(struck)
    assert set(found.struck) == {way for a, b in links(struck) for way in ((a, b), (b, a))}
    assert set(found.nodes) == {f"node{one}" for one in shaded}
    every = set(itertools.permutations(driver.topology.names, 2))
    assert set(found.free) == every - set(found.struck)


def test_one_way_strikes_one_way(driver: Driver) -> None:
    assert of(driver, "one-way@node1/node2.node3").struck == (("node1", "node2"), ("node1", "node3"))
    assert set(of(driver, "one-way@node5").struck) == {("node5", f"node{n}") for n in range(1, 5)}
    assert set(of(driver, "one-way@node1/node2").free_links) == set(
        of(driver, "partition@node1/node2").free_links
    )


def degrees(found: sides.Sides) -> list[int]:
    """With how many others each node is connected still, fewest first."""
    return sorted(sum(name in link for link in found.free_links) for name in found.ends)


@pytest.mark.parametrize(
    ("shape", "count", "still"),
    [
        ("pair", 1, [3, 3]),
        ("halves", 6, [1, 1, 2, 2, 2]),
        ("majority", 6, [1, 1, 2, 2, 2]),
        ("bridge", 4, [2, 2, 2, 2]),
        ("ring", 5, [2, 2, 2, 2, 2]),
    ],
)
def test_shapes(driver: Driver, shape: str, count: int, still: list[int]) -> None:
    found = of(driver, f"partition:shape={shape}")
    assert len(found.links) == count
    assert degrees(found) == still


def test_a_bridge_joins_two_halves(driver: Driver) -> None:
    found = of(driver, "partition:shape=bridge")
    (bridge,) = set(driver.topology.names) - set(found.ends)
    assert bridge not in found.nodes
    assert sum(bridge in link for link in found.free_links) == 4


def test_a_ring_is_one_ring(driver: Driver) -> None:
    near = of(driver, "partition:shape=ring").free_links
    reached = {"node1"}
    for _ in range(5):
        reached |= {b for a, b in (*near, *((b, a) for a, b in near)) if a in reached}
    assert reached == set(driver.topology.names)


def test_the_seed_chooses_and_chooses_the_same_again(driver: Driver) -> None:
    for text in ("partition", "partition:shape=halves", "isolate", "latency"):
        assert of(driver, text, 3) == of(driver, text, 3)
        assert len({of(driver, text, seed) for seed in range(20)}) > 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("partition@node9", "there is no node node9; there are node1, node2"),
        ("partition@node1/node1", "node1 cannot be on two sides"),
        ("partition@node1/*", r"there is no node \*; .* \* alone is all"),
        ("partition:shape=star", "no shape 'star'; there are pair, halves, majority, bridge, ring"),
        ("partition:shape=ring@node1", "a shape chooses its nodes itself"),
        ("isolate@node1/node2", "isolation has no sides"),
        ("one-way@node1/node2/node3", "from one group to one other"),
        ("latency:ms=0", "ms must be 2 to 10000, not 0"),
        ("latency:ms=fast", "'fast' is no float"),
        ("loss:percent=101", "percent must be 1 to 100"),
        ("bandwidth:kbit=1", "kbit must be 64 to"),
        ("refuse:hard=1", "refuse has no option hard; it has none"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_does(driver: Driver, text: str, why: str) -> None:
    with pytest.raises(BadConfig, match=why):
        faults.make(scene(driver), FaultSpec.parse(text))


def test_a_small_lab_has_no_ring() -> None:
    shape = replicated(3)
    run = registry.Run(registry.new_run_id(), "process", shape.to_dict(), "check", ProcessId.of(os.getpid()))
    small = drivers.make(run, shape)
    with pytest.raises(BadConfig, match="a ring needs 4 nodes or more, not 3"):
        of(small, "partition:shape=ring")
    assert len(of(small, "partition:shape=bridge").links) == 1
    small.close()


def test_processes_have_links_and_no_packets(driver: Driver) -> None:
    assert driver.lever(Lever.LINKS) == ""
    assert driver.lever(Lever.PACKETS) != ""
    for kind in LINK_FAULTS:
        assert faults.KINDS[kind].hindrance(driver) == ""
    with pytest.raises(LabError):
        driver.agent("node1")
