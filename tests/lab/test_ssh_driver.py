"""Nodes on machines behind sshd keep every promise of a driver; and what is theirs alone: host keys, connections that
go away, faults that never cut the lab's own way, and that end with it.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import fault_holder
import pytest
from driver_conformance import DriverConformance
from fault_conformance import FaultConformance, holding
from killed_controller import DIAL, breaking, collected, kill_when, run_of
from lab_support import run_check, states, until
from ssh_machines import CHECKOUT, Key, Machine, Machines, machines

from laila.errors import BadConfig, DeadlineExceeded, LabError
from laila.lab import drivers, registry, standing, topology
from laila.lab.checks import READY
from laila.lab.drivers import clock_shift
from laila.lab.drivers.base import MAX_LINE, Driver, Lever, NodeState
from laila.lab.drivers.clock_shift import Shift
from laila.lab.drivers.ssh import driver as ssh
from laila.lab.drivers.ssh.host import LEASE
from laila.lab.faults import ledger
from laila.lab.faults.hands import hand
from laila.lab.procid import ProcessId
from laila.lab.remote import RemoteClient
from laila.lab.topology import HostSpec, Topology, VolumeSpec, replicated

CONTROLLER = """
import json, os, sys
from laila.lab import drivers, registry, topology
from laila.lab.procid import ProcessId
shape = topology.from_dict(json.loads(sys.argv[1]))
run = registry.Run(registry.new_run_id(), "ssh", shape.to_dict(), "check", ProcessId.of(os.getpid()))
run.save()
driver = drivers.make(run, shape)
driver.prepare()
for name in shape.names:
    driver.start(name)
print(run.run_id, flush=True)
sys.stdin.read()
"""


def registered(shape: Topology) -> registry.Run:
    """A new run, on record."""
    controller = ProcessId.of(os.getpid())
    run = registry.Run(registry.new_run_id(), "ssh", shape.to_dict(), "check", controller)
    run.save()
    return run


def on(shape: Topology) -> Driver:
    return drivers.make(registered(shape), shape)


def with_host(shape: Topology, name: str, host: HostSpec) -> Topology:
    nodes = tuple(replace(node, host=host) if node.name == name else node for node in shape.nodes)
    return replace(shape, nodes=nodes)


def refused(shape: Topology) -> str:
    """Why a run cannot be prepared; nothing must be left of it."""
    with on(shape) as driver:
        with pytest.raises(LabError) as said:
            driver.prepare()
        assert driver.remove() == []
        assert driver.remains() == []
    return str(said.value)


@contextmanager
def rule(machine: Machine, *words: str) -> Iterator[None]:
    """A rule of the machine's own packet filter, before all others."""
    machine.run("iptables", "-w", "-I", *words)
    try:
        yield
    finally:
        machine.run("iptables", "-w", "-D", *words)


def chains(machine: Machine) -> list[str]:
    """Of faults, as the machine itself lists them."""
    return re.findall(r"^-N (LAILA-\S+)", machine.run("iptables", "-w", "-S"), re.MULTILINE)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    with machines(tmp_path_factory.mktemp("keys")) as found:
        yield found


@pytest.mark.container
class TestSshDriver(DriverConformance):
    driver_name = "ssh"
    hosts: ClassVar[Machines]

    @pytest.fixture(scope="class")
    @classmethod
    def home(cls, hosts: Machines, tmp_path_factory: pytest.TempPathFactory) -> Path:
        cls.hosts = hosts
        return tmp_path_factory.mktemp("class-home")

    @classmethod
    def make(cls) -> Driver:
        return on(cls.hosts.topology(2))

    def test_runs_at_once_have_their_own_ports_also_while_a_node_is_down(
        self, driver: Driver, node: str
    ) -> None:
        machine, mine = self.hosts.each[0], driver.address(node)
        driver.kill(node)
        with self.make() as other:
            other.prepare()
            assert {mine.port, mine.status_port}.isdisjoint(
                {other.address(node).port, other.address(node).status_port}
            )
        take = f"import socket; socket.socket().bind(('', {mine.port}))"
        code, said = machine.container.exec_run(["python3", "-c", take])
        assert code != 0
        assert b"Address already in use" in said
        self.healthy(driver, node)
        assert driver.address(node) == mine

    def test_secrets_and_state_are_for_their_owner_only(self, driver: Driver, node: str) -> None:
        secret, state = driver.inside(node).secret_file, driver.state_path(node)
        root = state.partition("/nodes/")[0]
        modes = self.hosts.each[0].run("stat", "-c", "%a", secret, state, root).split()
        assert modes == ["600", "700", "700"]

    def test_more_programs_than_sshd_allows_sessions_for_one_connection(
        self, driver: Driver, node: str
    ) -> None:
        channels = [driver.open(node, ["cat"]) for _ in range(12)]
        for channel in channels:
            channel.send(b"hello")
            assert next(channel.lines()) == b"hello"
        assert [channel.close() for channel in channels] == [0] * 12

    def test_who_is_given_up_takes_all_that_it_started_along(self, driver: Driver, node: str) -> None:
        with pytest.raises(DeadlineExceeded, match="waited 0.5 s for"):
            driver.exec(node, ["sh", "-c", "setsid sleep 4711 & sleep 4711"], timeout=0.5)
        assert "4711" not in self.hosts.each[0].run("ps", "-ef")

    def test_a_line_that_is_too_long_ends_the_conversation(self, driver: Driver, node: str) -> None:
        channel = driver.open(node, ["head", "-c", str(MAX_LINE + 70_000), "/dev/zero"])
        with pytest.raises(LabError, match=f"a line of over {MAX_LINE} bytes"):
            list(channel.lines())
        channel.close(0.1)

    def test_who_dies_of_a_signal_says_so(self, driver: Driver, node: str) -> None:
        assert driver.exec(node, ["sh", "-c", "kill -9 $$"]).code == 137
        driver.kill(node)
        assert driver.ending(node).code == -9

    def test_large_files_and_those_in_new_directories_are_whole(self, driver: Driver, node: str) -> None:
        data = random.Random(3).randbytes(3_000_000)  # noqa: S311  no secret
        driver.write(node, "some/where/large", data)
        assert driver.read(node, "some/where/large") == data
        driver.write(node, "some/where/large", b"")
        assert driver.read(node, "some/where/large") == b""

    def test_versions_are_told(self, driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
        told = driver.describe()
        assert "laila 0." in told["node1 and stranger"]
        assert "versions differ" not in told
        monkeypatch.setattr(ssh, "VERSION", "99.1")
        assert driver.describe()["versions differ"].endswith("this machine has 99.1")

    def test_what_the_driver_cannot_do_has_a_reason(self, driver: Driver) -> None:
        for lever in (Lever.DISK, Lever.LIMITS, Lever.LINKS):
            assert "ssh driver" in driver.lever(lever)
        assert "clocks = true" in driver.lever(Lever.CLOCK)


@pytest.mark.container
class TestSshFaults(FaultConformance):
    """Packets and mounts of whole machines. Faults end with whoever does them, whatever becomes of the connection."""

    driver_name = "ssh"
    specs = (
        "partition@node1/node2.node3",
        "latency:ms=80@node2",
        "one-way@node1/node2",
        "reset@node2",
        "read-only@node1",
        "kill@node3",
        "pause@node2",
        "clock:seconds=-7200@node1",
        "flip:files=probe/*@node2",
    )
    turns = ("partition@node1/node2+latency:ms=80@node2/node3",)
    hosts: ClassVar[Machines]

    @pytest.fixture(scope="class")
    @classmethod
    def home(cls, hosts: Machines, tmp_path_factory: pytest.TempPathFactory) -> Path:
        cls.hosts = hosts
        return tmp_path_factory.mktemp("class-home")

    @classmethod
    def shape(cls) -> Topology:
        """The third is dialed by a name that only the machines know."""
        named = cls.hosts.host(2, inner=cls.hosts.each[2].container.name)
        return replace(with_host(cls.hosts.topology(3), "node3", named), clocks=True)

    @pytest.fixture(autouse=True)
    def _probe(self, driver: Driver, _healthy: None) -> None:
        """A file that can be damaged."""
        driver.write("node2", "probe/file", bytes(range(256)) * 20)

    def test_a_node_is_dialed_where_its_peers_know_it(self, driver: Driver) -> None:
        third = self.hosts.each[2]
        assert driver.door("node3") == f"{third.container.name}:{driver.address('node3').port}"
        assert driver.address("node3").host == third.address
        assert driver.ips("node3") == (third.address,)

    def test_clocks_are_bent_where_the_library_can_be_made(self, driver: Driver) -> None:
        assert driver.lever(Lever.CLOCK) == clock_shift.missing()
        if not clock_shift.missing():
            driver.set_clock("node1", Shift(seconds=86400).pack())
            until(lambda: self.ahead(driver, "node1") > 86000, "the clock of node1 to jump")
            assert abs(self.ahead(driver, "node2")) < 600
            driver.set_clock("node1", Shift().pack())
            until(lambda: abs(self.ahead(driver, "node1")) < 600, "the clock of node1 to be back")

    def ahead(self, driver: Driver, name: str) -> float:
        told = driver.exec(name, ["python", "-c", "import time; print(time.time())"]).stdout
        return float(told) - time.time()

    def test_a_partition_ends_with_its_controller(self, driver: Driver) -> None:
        """Nobody heals it but the machines themselves, whose own words count."""
        with holding(driver, "partition@node1/node2") as holder:
            assert len(chains(self.hosts.each[0])) == 1
            holder.send_signal(signal.SIGKILL)
            holder.wait()
            until(lambda: not any(map(chains, self.hosts.each)), "no rule to be left", LEASE + 3)
        assert ledger.heal_all(driver) == []

    def test_a_partition_ends_when_the_connection_is_lost_without_a_word(self, driver: Driver) -> None:
        """Only the lease can tell the agent; the controller is told too, and works with the machine again later."""
        machine, scene = self.hosts.each[0], fault_holder.scene_of(driver, 1)
        client = RemoteClient(driver, "node1")
        assert client.call("hello", timeout=30).ok
        words = {"peers": list(driver.ips("node2"))}
        hand(scene, "node1").must("filter", fault="silent", rules=[words])
        assert chains(machine) == ["LAILA-silent"]
        lost = time.monotonic()
        with (
            rule(machine, "INPUT", "-s", self.hosts.gateway, "-j", "DROP"),
            rule(machine, "OUTPUT", "-d", self.hosts.gateway, "-j", "DROP"),
        ):
            until(lambda: chains(machine) == [], "the lease to run out", LEASE + 5)
            assert time.monotonic() - lost > LEASE / 4, "nobody renewed it"
            with pytest.raises(LabError, match=re.escape(self.hosts.each[0].address)):
                driver.state("node1")
            until(lambda: client.gone, "its client to be gone")
            assert time.monotonic() - lost < 40
            assert driver.state("node2") is NodeState.RUNNING
        fault_holder.dismiss(scene)
        client.close()
        until(lambda: self.works(driver, "node1"), "node1 to be reached again")
        assert driver.state("node1") is NodeState.RUNNING

    def works(self, driver: Driver, name: str) -> bool:
        with suppress(LabError):
            return driver.exec(name, ["true"]).code == 0
        return False

    def test_a_fault_against_the_controllers_own_address_leaves_it_its_way(self, driver: Driver) -> None:
        """A peer may be on this very machine: everything of it is dropped, and the lab still works over there."""
        address, scene = driver.address("node1"), fault_holder.scene_of(driver, 1)
        agent = hand(scene, "node1")
        agent.must("filter", fault="own", rules=[{"peers": [self.hosts.gateway]}])
        with pytest.raises(TimeoutError):
            socket.create_connection((address.host, address.port), 1.0)
        assert driver.exec("node1", ["echo", "still here"]).stdout == b"still here\n"
        assert agent.must("counters", fault="own")["packets"] < 20, "ssh is not counted as dropped"
        with on(self.shape()) as newcomer:
            newcomer.prepare()
        agent.must("clear", fault="own")
        socket.create_connection((address.host, address.port), 3.0).close()
        fault_holder.dismiss(scene)

    def test_removal_undoes_what_killed_agents_left(self, hosts: Machines) -> None:
        with on(hosts.topology(2)) as driver:
            driver.prepare()
            scene = fault_holder.scene_of(driver, 1)
            hand(scene, "node1").must("filter", fault="forgotten", rules=[{"peers": ["192.0.2.1"]}])
            self.kill_agents(driver)
            fault_holder.dismiss(scene)
            assert chains(hosts.each[0]) == ["LAILA-forgotten"]
            assert driver.remove() == []
            assert chains(hosts.each[0]) == []


@pytest.mark.container
def test_machines_are_as_they_were_before_a_check_that_was_killed(hosts: Machines, tmp_path: Path) -> None:
    """It dies with -9, and its agents too, while one machine is cut off and a node cannot write: gc undoes it all."""
    file, first = tmp_path / "hosts.toml", hosts.each[0]
    file.write_text(as_toml(hosts.topology(2)))
    faults = ("--faults", "partition@node1/node2+read-only@node2", "--time", "60")
    with breaking(
        "check", str(file), *faults, "--workloads", "peering", "--out", str(tmp_path)
    ) as controller:
        run = run_of(controller)
        kill_when(controller, run, 2, lambda: bool(chains(first)) and covered(hosts.each[1]) and mute(hosts))
    (done,) = collected()
    assert (done["run_id"], done["driver"], done["left"]) == (run.run_id, "ssh", [])
    assert not mute(hosts)
    assert [chains(machine) for machine in hosts.each[:2]] == [[], []]
    assert not covered(hosts.each[1])
    assert registry.runs() == []
    for machine in hosts.each[:2]:
        until(lambda: run.run_id not in machine.run("ps", "-ef"), "its last program there to end")  # noqa: B023  asked at once
        assert "laila-lab" not in machine.run("ls", "/root")


def as_toml(shape: Topology) -> str:
    """A topology file with these hosts."""
    tables = ['name = "machines"']
    for node in shape.nodes:
        assert node.host is not None
        known = ("address", "user", "key", "known_hosts", "python")
        words = ", ".join(f"{key} = {json.dumps(getattr(node.host, key))}" for key in known)
        tables.append(f'[[nodes]]\nname = "{node.name}"\nhost = {{{words}}}')
    return "\n".join(tables)


def mute(hosts: Machines) -> bool:
    """Whether nothing comes back from the second machine when the first one dials its sshd."""
    first, second = hosts.each[:2]
    return first.run("python3", "-c", DIAL, second.address, "22") == "silence\n"


def covered(machine: Machine) -> bool:
    return "laila-lab" in machine.run("cat", "/proc/mounts")


@pytest.mark.container
class TestUnreachableHosts:
    """What cannot be worked with is said, with what to do, and nothing is left anywhere."""

    def test_a_host_whose_key_is_not_known(self, hosts: Machines, tmp_path: Path) -> None:
        known = tmp_path / "known_hosts"
        known.write_text(hosts.known_hosts.read_text().replace(hosts.each[1].address, "192.0.2.7"))
        before = known.read_bytes()
        stranger = hosts.host(1, known_hosts=str(known))
        said = refused(with_host(hosts.topology(2), "node2", stranger))
        assert f"the host key of {stranger.address} is not in {known}" in said
        assert f"ssh-keyscan {stranger.address} >> {known}" in said
        assert known.read_bytes() == before, "no key is added"

    @pytest.mark.parametrize("mark", ["", "@revoked"])
    def test_a_host_with_another_key(self, hosts: Machines, tmp_path: Path, mark: str) -> None:
        """Changed, or revoked though it is known."""
        known, address = tmp_path / "known_hosts", hosts.each[0].address
        key = hosts.each[0].host_key.public.decode() if mark else Key.make().public.decode()
        known.write_text(f"{mark} {address} {key}\n{address} {key}\n".lstrip())
        said = refused(with_host(hosts.topology(2), "node1", hosts.host(0, known_hosts=str(known))))
        assert ("is not in" if mark else "has CHANGED") in said

    def test_nobody_is_let_in_with_another_key(self, hosts: Machines, tmp_path: Path) -> None:
        key = tmp_path / "key"
        key.write_bytes(Key.make().private)
        said = refused(with_host(hosts.topology(2), "node1", hosts.host(0, key=str(key))))
        assert f"root@{hosts.each[0].address} does not let us in with the key {key}" in said

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"port": 2022}, "cannot reach root@.*refused"),
            ({"python": "/no/python"}, "/no/python on root@.* cannot be used: .*not found"),
            ({"python": "/usr/bin/python3"}, "python3 has no laila that works: .*pip install laila-kit=="),
            ({"key": "/no/key"}, "cannot read the key /no/key"),
            ({"known_hosts": "/no/hosts"}, "cannot read the known hosts.*/no/hosts"),
            ({"home": "/proc"}, "/proc/laila-lab"),
        ],
    )
    def test_a_host_that_cannot_be_used(self, hosts: Machines, changes: dict[str, Any], said: str) -> None:
        host = hosts.host(1, **changes)
        if "port" in changes:
            known = hosts.folder / "with-ports"
            known.write_text(f"[{host.address}]:2022 {hosts.each[1].host_key.public.decode()}\n")
            host = replace(host, known_hosts=str(known))
        assert re.search(said, refused(with_host(hosts.topology(2), "node2", host)))

    def test_gc_cleans_up_after_a_killed_controller_and_says_whom_it_cannot_reach(
        self, hosts: Machines
    ) -> None:
        words = [sys.executable, "-c", CONTROLLER, json.dumps(hosts.topology(2).to_dict())]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as controller:
            assert controller.stdout is not None
            run_id = controller.stdout.readline().strip()
            controller.kill()
        run = registry.load(run_id)
        with standing.attached(run) as driver:
            assert driver.state("node1") is driver.state("node2") is NodeState.RUNNING
        closed = (
            "INPUT",
            "-s",
            hosts.gateway,
            "-p",
            "tcp",
            "--dport",
            "22",
            "-j",
            "REJECT",
            "--reject-with",
            "tcp-reset",
        )
        with rule(hosts.each[1], *closed):
            (found,) = standing.collect()
            assert found.run_id == run_id
            (left,) = found.left
            assert f"what is on root@{hosts.each[1].address}: cannot reach" in left
        (again,) = standing.collect()
        assert (again.run_id, again.left) == (run_id, ())
        assert registry.runs() == []
        for machine in hosts.each[:2]:
            until(lambda: run_id not in machine.run("ps", "-ef"), "its last program there to end")  # noqa: B023  asked at once
            assert "laila-lab" not in machine.run("ls", "/root")


@pytest.mark.container
class TestOtherUsers:
    def test_a_user_with_sudo_can_do_all_of_it(self, hosts: Machines) -> None:
        machine = hosts.each[1]
        with on(hosts.topology(2, user="lab")) as driver:
            driver.prepare()
            driver.start("node2")
            assert driver.lever(Lever.PACKETS) == driver.lever(Lever.MOUNTS) == ""
            scene = fault_holder.scene_of(driver, 1)
            agent = hand(scene, "node2")
            agent.must("filter", fault="sudo", rules=[{"peers": ["192.0.2.1"]}])
            agent.must("cover", fault="sudo", path=driver.state_path("node2"))
            assert chains(machine) == ["LAILA-sudo"]
            assert "laila-sudo" in machine.run("cat", "/proc/mounts")
            self.kill_agent(machine)
            fault_holder.dismiss(scene)
            assert driver.exec("node2", ["id", "-un"]).stdout == b"lab\n"
            assert driver.remove() == []
            assert chains(machine) == []
        assert "laila" not in machine.run("cat", "/proc/mounts").replace(CHECKOUT, "")
        assert "laila-lab" not in machine.run("ls", "/home/lab")
        assert driver.run.run_id not in machine.run("ps", "-ef")

    def kill_agent(self, machine: Machine) -> None:
        machine.run("pkill", "-KILL", "-f", "ssh_agent.py --spare")

    def test_a_user_without_sudo_runs_nodes_and_no_faults(self, hosts: Machines) -> None:
        machine = hosts.each[0]
        machine.run("mv", "/etc/sudoers", "/etc/sudoers.away")
        try:
            with on(hosts.topology(2, user="lab")) as driver:
                driver.prepare()
                driver.start("node1")
                said = driver.lever(Lever.PACKETS)
                assert said.startswith(f"lab@{machine.address} is not root, and sudo is absent or asks")
                assert driver.lever(Lever.MOUNTS) == said
                with pytest.raises(LabError, match="no fault agent for node1: lab@"):
                    driver.agent("node1")
        finally:
            machine.run("mv", "/etc/sudoers.away", "/etc/sudoers")


@pytest.mark.container
class TestVolumes:
    def shape(self, hosts: Machines, at: str) -> Topology:
        shared = VolumeSpec("shared", at)
        again = VolumeSpec("again", "/mnt/again", read_only_of="shared")
        return replace(
            hosts.topology(2), volumes=(shared, again, VolumeSpec("small", "/mnt/small", size_mib=8))
        )

    def test_what_is_mounted_on_all_is_a_volume(self, hosts: Machines) -> None:
        first, second = hosts.each[:2]
        with on(self.shape(hosts, CHECKOUT)) as driver:
            driver.prepare()
            places = {name: driver.volume_path("node1", name) for name in ("shared", "again")}
            first.run("touch", f"{places['shared']}/file")
            for name, place in places.items():
                assert "file" in second.run("ls", place), name
            code, said = second.container.exec_run(["touch", f"{places['again']}/other"])
            assert (code, b"Read-only file system" in said) == (1, True)
            assert driver.hindrance("shared") == driver.hindrance("again") == ""
            assert "its size is theirs" in driver.hindrance("small")
        assert first.run("ls", CHECKOUT).split() == ["laila"]

    @pytest.mark.parametrize(
        ("at", "said"),
        [
            (
                "/opt",
                "the volume 'shared' is not shared: in /opt root@.* does not see what root@.* wrote there",
            ),
            ("/mnt/none", "there is no directory /mnt/none: mount the volume 'shared' there first"),
        ],
    )
    def test_what_is_not_is_told(
        self, hosts: Machines, at: str, said: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("laila.lab.drivers.ssh.volumes.SEES_WITHIN", 0.5)
        assert re.search(said, refused(self.shape(hosts, at)))
        assert hosts.each[0].run("ls", "/opt").split() == ["checkout", "laila"]


@pytest.mark.container
def test_three_machines_peer(hosts: Machines, tmp_path: Path) -> None:
    result, _ = run_check(hosts.topology(3), "ssh", tmp_path, steps=READY)
    assert set(states(result).values()) == {"ok"}, result
    assert result.left_behind == ()
    assert [machine.run("ls", "/root") for machine in hosts.each] == [""] * 3


def test_nodes_without_hosts_are_refused() -> None:
    with pytest.raises(BadConfig, match="where node1, node2 can run: give each node a host"):
        drivers.choose("ssh", replicated(2))
    half = with_host(replicated(2), "node1", HostSpec("192.0.2.1"))
    with pytest.raises(BadConfig, match="where node2 can run"):
        drivers.choose("auto", half)


def test_a_topology_file_names_hosts() -> None:
    text = """
    [[nodes]]
    name = "left"
    host = {address = "10.0.0.5", user = "admin", inner = "192.168.0.5"}
    [[nodes]]
    name = "right"
    [nodes.host]
    address = "vm.example"
    port = 2222
    """
    left, right = topology.from_toml(text).nodes
    assert left.host == HostSpec("10.0.0.5", user="admin", inner="192.168.0.5")
    assert right.host == HostSpec("vm.example", 2222)
    assert drivers.choose("auto", topology.from_toml(text)).name == "ssh"
