"""Nodes that are processes reach each other only over links that the lab carries, and so can be parted.

What faults do to these links is shown by `test_fault_network`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from lab_support import processes_of, until

from laila.errors import BadConfig, LabError
from laila.lab import drivers, registry, standing
from laila.lab.drivers.base import Lever
from laila.lab.drivers.process import ProcessDriver
from laila.lab.procid import ProcessId
from laila.lab.remote import RemoteClient
from laila.lab.topology import Topology, replicated

NAMES = ("node1", "node2", "node3")


def shape() -> Topology:
    """Nodes that see soon that another one is gone."""
    return replace(replicated(3), dead_after=1.5)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("module-home")


@pytest.fixture(autouse=True)
def _same_home(home: Path, lab_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAILA_LAB_HOME", str(home))


class Nodes:
    """Three that run, and a client beside each."""

    def __init__(self, driver: ProcessDriver) -> None:
        self.driver = driver
        self.clients: dict[str, RemoteClient] = {}

    def start(self) -> None:
        for name in NAMES:
            self.driver.start(name)
        for name in NAMES:
            self.clients[name] = RemoteClient(self.driver, name)
        self.wait(dict.fromkeys(NAMES, 2))

    def up(self, name: str) -> list[str]:
        """Whom the node itself lists as connected."""
        found = self.clients[name].must("peers", timeout=20)["peers"]
        return sorted(str(item["peer_name"]) for item in found if item["state"] == "up")

    def wait(self, counts: dict[str, int]) -> None:
        for name, count in counts.items():
            until(lambda: len(self.up(name)) == count, f"{name} to see {count} others")  # noqa: B023  asked at once

    def dialed(self, beside: str, address: str) -> str:
        """What a program beside a node gets that dials: an empty text when it is let in, else the error's name."""
        script = (
            "import socket, sys\n"
            "host, _, port = sys.argv[1].partition(':')\n"
            "try: socket.create_connection((host, int(port)), 0.7).close()\n"
            "except OSError as error: print(type(error).__name__)\n"
        )
        return self.driver.exec(beside, [sys.executable, "-c", script, address]).stdout.decode().strip()


@pytest.fixture(scope="module")
def nodes(home: Path) -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAILA_LAB_HOME", str(home))
        run = registry.Run(
            registry.new_run_id(), "process", shape().to_dict(), "check", ProcessId.of(os.getpid())
        )
        run.save()
        with drivers.make(run, shape()) as driver:
            assert isinstance(driver, ProcessDriver)
            driver.prepare()
            made = Nodes(driver)
            made.start()
            yield made
            patch.setenv("LAILA_LAB_HOME", str(home))
            for client in made.clients.values():
                client.close()


def connections(pid: int) -> set[tuple[int, int]]:
    """(own port, other port) of every established TCP connection of a process, by the kernel's word."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(str(link.readlink()))
        except OSError:
            continue  # closed meanwhile
    found = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        words = line.split()
        if words[3] == "01" and f"socket:[{words[9]}]" in inodes:
            found.add((int(words[1].rpartition(":")[2], 16), int(words[2].rpartition(":")[2], 16)))
    return found


def pid_of(nodes: Nodes, name: str) -> int:
    found = ProcessId.from_text(nodes.driver.run.facts["pids"][name])
    assert found is not None
    return found.pid


def test_no_node_has_a_connection_to_another_one_but_over_the_links(nodes: Nodes) -> None:
    """By the kernel's word: what one node holds in its hands, no other node holds at its other end."""
    held: dict[str, set[tuple[int, int]]] = {}

    def all_carried() -> bool:
        """Three links of two ends each; two nodes that have dialed each other at once may still be choosing one."""
        held.update({name: connections(pid_of(nodes, name)) for name in NAMES})
        carried = connections(nodes.driver.links.hello()["pid"])
        return sum(len({(b, a) for a, b in own} & carried) for own in held.values()) >= 6

    until(all_carried, "three links over the program")
    for name, own in held.items():
        others = set().union(*(held[other] for other in NAMES if other != name))
        assert not {(b, a) for a, b in own} & others, f"{name} reaches another node directly"


def test_what_a_node_tells_others_of_itself_leads_over_the_links(nodes: Nodes) -> None:
    """The advertised address, and every address that it dials; its own port is known to programs beside it only."""
    driver = nodes.driver
    own = {name: str(driver.address(name)) for name in NAMES}
    for name in NAMES:
        status = nodes.clients[name].must("status")["status"]
        assert status["advertise"] == driver.door(name)
        assert not {str(item["address"]) for item in status["peers"]} & set(own.values())
        told = driver.exec(name, ["env"]).stdout.decode()
        assert [other for other in NAMES if own[other] in told] == [name]
    doors = [driver.door(a, seen_from=b) for a in NAMES for b in ("", *NAMES)]
    assert len(set(doors)) == len(doors)
    assert driver.door("node1", seen_from="node1") == driver.inside("node1").peer
    with pytest.raises(BadConfig, match="it has node1, node2, node3"):
        driver.door("node1", seen_from="nope")


def test_a_cut_pair_finds_no_way_around(nodes: Nodes) -> None:
    """Each still sees the third node, which sees both; they go on dialing each other, in vain."""
    links = nodes.driver.links
    pairs = [("node1", "node2"), ("node2", "node1")]
    links.rule("pair", pairs, drop=True)
    nodes.wait({"node1": 1, "node2": 1})
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        assert [nodes.up(name) for name in NAMES] == [["node3"], ["node3"], ["node1", "node2"]]
        time.sleep(0.1)
    driver = nodes.driver
    assert nodes.dialed("node1", driver.door("node2", seen_from="node1")) == "TimeoutError"
    assert nodes.dialed("node1", driver.door("node2")) == "TimeoutError"
    assert nodes.dialed("node1", driver.door("node3", seen_from="node1")) == ""
    links.clear("pair")
    nodes.wait(dict.fromkeys(NAMES, 2))


def test_a_node_that_is_cut_off_is_reached_from_beside_it_and_from_nowhere_else(nodes: Nodes) -> None:
    driver = nodes.driver
    driver.cut("node1")
    nodes.wait({"node1": 0, "node2": 1, "node3": 1})
    assert nodes.dialed("node1", driver.inside("node1").peer) == ""
    for here, there in (("node2", "node1"), ("node1", "node2"), ("node3", "node1")):
        assert nodes.dialed(here, driver.door(there, seen_from=here)) == "TimeoutError"
    assert nodes.dialed("node2", driver.door("node3", seen_from="node2")) == ""
    driver.rejoin("node1")
    driver.rejoin("node1")
    nodes.wait(dict.fromkeys(NAMES, 2))
    assert nodes.dialed("node2", driver.door("node1", seen_from="node2")) == ""


def test_a_node_that_is_down_refuses_at_every_door(nodes: Nodes) -> None:
    """So that a dialer learns the same as without links: nobody listens there."""
    driver = nodes.driver
    nodes.clients["node3"].close()
    driver.kill("node3")
    door = driver.door("node3", seen_from="node1")
    until(lambda: nodes.dialed("node1", door) == "ConnectionRefusedError", "node3 to refuse")
    assert driver.links.probe("node2", "node3")["error"] == "refused"
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", int(door.rpartition(":")[2])))
    driver.start("node3")
    nodes.clients["node3"] = RemoteClient(driver, "node3")
    nodes.wait(dict.fromkeys(NAMES, 2))


def test_levers_say_what_processes_can_do(nodes: Nodes) -> None:
    assert nodes.driver.lever(Lever.LINKS) == ""
    assert "share this machine's network" in nodes.driver.lever(Lever.PACKETS)
    assert nodes.driver.capabilities.cut


CONTROLLER = """
import os, sys, time
from laila.lab import registry, standing
with standing.attached(registry.load(sys.argv[1])) as driver:
    driver.cut("node1")
    print("cut", flush=True)
    time.sleep(60)
"""


def test_links_outlive_every_controller_and_end_with_the_run(home: Path) -> None:
    """A lab that stays: whoever comes later can part its nodes; what a controller did that was killed is undone."""
    here = ProcessId.of(os.getpid())
    run = registry.Run(registry.new_run_id(), "process", shape().to_dict(), "up", here)
    run.save()
    first = drivers.make(run, shape())
    first.prepare()
    carrier = first.links.hello()["pid"]
    first.close()
    run = registry.load(run.run_id)
    assert processes_of(run.run_id) == [carrier]
    with standing.attached(run) as driver:
        for name in ("node1", "node2"):
            driver.start(name)
            until(lambda: driver.links.probe("node3", name)["connected"], f"{name} to listen")  # noqa: B023  asked at once
        with subprocess.Popen(
            [sys.executable, "-c", CONTROLLER, run.run_id], stdout=subprocess.PIPE
        ) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"cut\n"
            assert driver.links.probe("node2", "node1", timeout=0.4)["error"] == "silent"
            other.kill()
        until(
            lambda: driver.links.probe("node2", "node1", timeout=0.4)["connected"], "the cut to be undone", 2
        )
        driver.links.rule("of one who left", [("node1", "node2")], refuse=True, until=time.time() + 60)
    with standing.attached(run) as driver:
        assert driver.links.probe("node1", "node2")["error"] == "refused"
        driver.links.clear("of one who left")
        assert driver.links.probe("node1", "node2")["connected"]
        assert driver.remove() == []
        assert driver.remains() == []
    assert processes_of(run.run_id) == []
    run.forget()


def test_nodes_whose_links_are_gone_are_an_error_and_not_a_partition(home: Path) -> None:
    run = registry.Run(
        registry.new_run_id(), "process", shape().to_dict(), "check", ProcessId.of(os.getpid())
    )
    run.save()
    with drivers.make(run, shape()) as driver:
        driver.prepare()
        driver.start("node1")
        assert ProcessId.of(driver.links.hello()["pid"]).end()
        with pytest.raises(LabError, match="node1 runs, but the program that carries its links is gone"):
            driver.state("node1")
        with pytest.raises(LabError, match="does not answer"):
            driver.cut("node2") if driver.links.probe("node1", "node2") else None
        assert driver.remove() == []
    run.forget()
