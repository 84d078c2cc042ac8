"""Nodes on machines that are reached by SSH: virtual machines and bare metal, each with its own network and files.

Each node runs on the host that the topology names for it, as whoever logs in there. Everything of a run lies in
`<home>/laila-lab/<run id>/` on each host: secrets, the nodes' state and logs, and which processes they are. So another
command finds all of it by the run's record, which names the hosts. Nodes outlive the connection. Fault agents do not:
they undo what they did when it ends, and when nobody has told them for ten seconds that it has not.
"""

from __future__ import annotations

import base64
import ipaddress
import platform
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import laila.lab.drivers.clock_shift as clock_shift
from laila.errors import DeadlineExceeded, LabError
from laila.lab.drivers.base import (
    Address,
    Capabilities,
    Channel,
    Driver,
    Ending,
    Inside,
    Lever,
    NodeState,
    Output,
    node_environment,
    wait_until,
)
from laila.lab.drivers.ssh import connection
from laila.lab.drivers.ssh.channel import SshChannel, run_to_end
from laila.lab.drivers.ssh.host import SshHost, programs
from laila.lab.drivers.ssh.hosts import SshHosts
from laila.lab.drivers.ssh.volumes import SshVolumes
from laila.lab.registry import Run
from laila.lab.topology import Topology
from laila.version import VERSION

_BLOCK = 1 << 20
_SYS_ADMIN = 21
"""The capability's number."""
_NO_DISKS = "the ssh driver makes no disks on machines that are not its own; use --driver docker or process"
_NO_LIMITS = "the ssh driver limits nothing on machines that are not its own; use --driver docker or process"


def check(topology: Topology) -> None:
    """Raises BadConfig when not every node has a host, LabError when there is no paramiko."""
    SshHosts(topology, "")
    connection.library()


class SshDriver(Driver):
    """See the top of this file."""

    name: ClassVar[str] = "ssh"
    capabilities: ClassVar[Capabilities] = Capabilities(
        own_network=True, own_filesystem=True, resource_limits=False
    )

    def __init__(self, run: Run, topology: Topology) -> None:
        super().__init__(run, topology)
        self._hosts = SshHosts(topology, run.run_id)
        self._volumes = SshVolumes(topology, self._hosts, run.run_id)
        self._addresses: dict[str, tuple[str, ...]] = {}

    # -- the run

    def prepare(self) -> None:
        self._hosts.everywhere(_version)  # all can be worked with, before anything is made on one
        every = (*self.topology.nodes, self.topology.stranger)
        self.note(places={node.name: self._hosts.of(node.name).root for node in every})
        texts = {node.secret: secrets.token_urlsafe(32) + "\n" for node in every}
        made = self._hosts.everywhere(lambda host: self._make(host, texts)).values()
        self.note(
            ports={name: pair for found in made for name, pair in found["ports"].items()},
            hindrances={name: why for found in made for name, why in found["hindrances"].items()},
        )
        self._volumes.show_shared()
        if self.topology.clocks:
            self.note(clocks=self._place_clocks())

    def _make(self, host: SshHost, texts: dict[str, str]) -> dict[str, Any]:
        names = self._hosts.names(host)
        return host.ask(
            "make",
            programs=programs(),
            nodes=names,
            secrets={secret: texts[secret] for secret in {self.node(name).secret for name in names}},
            volumes=self._volumes.to_make(host),
            ipv6=any(":" in self._hosts.dialed(name) for name in names),
            timeout=60,
        )

    def _place_clocks(self) -> str:
        """Put the library that bends clocks on each host; why not, empty when it is there."""
        if why := clock_shift.missing():
            return why
        here = platform.machine()
        if others := [host.where for host in self._hosts if host.hello()["machine"] != here]:
            return f"the library that bends clocks is made for {here}, which {', '.join(others)} is not"
        data = base64.b64encode(clock_shift.library()).decode()
        self._hosts.everywhere(lambda host: host.ask("put", path=clock_shift.LIBRARY, data=data))
        return ""

    def remove(self) -> list[str]:
        if "places" not in self.run.facts:
            return []  # nothing was made anywhere
        sudo = bool(self.run.facts.get("sudo"))
        ended = self._hosts.tried(lambda host: host.ask("end_all", sudo=sudo, timeout=60))
        reached = [host for host, found in ended.items() if not isinstance(found, LabError)]
        cleared = self._hosts.tried(
            lambda host: host.ask("clear", volumes=self._volumes.outside(host), timeout=60), reached
        )
        return _left(ended, "left") + _left(cleared, "left")

    def remains(self) -> list[str]:
        if "places" not in self.run.facts:
            return []
        return sorted(
            _left(self._hosts.tried(lambda h: h.ask("remains", volumes=self._volumes.outside(h))), "found")
        )

    def close(self) -> None:
        """Let go of the connections; nodes go on."""
        self._hosts.close()

    # -- one node

    def start(self, name: str) -> None:
        if (state := self.state(name)) not in (NodeState.ABSENT, NodeState.EXITED):
            raise LabError(f"cannot start {name}: it is {state.value}")
        self._ask(name, "start", environment=self._environment(name))

    def stop(self, name: str, grace: float = 10.0) -> int:
        if self.state(name) is NodeState.PAUSED:
            self.resume(name)
        self.need(name, NodeState.RUNNING, "stop")
        self._ask(name, "terminate")
        deadline = time.monotonic() + grace
        while self.state(name) is not NodeState.EXITED and time.monotonic() < deadline:
            time.sleep(0.05)
        self._end(name)
        code = self.ending(name).code
        if code is None:
            raise LabError(f"nobody saw how {name} ended: its keeper on {self._hosts.of(name).where} is gone")
        return code

    def kill(self, name: str) -> None:
        if (state := self.state(name)) not in (NodeState.RUNNING, NodeState.PAUSED):
            raise LabError(f"cannot kill {name}: it is {state.value}")
        self._end(name)

    def _end(self, name: str) -> None:
        """The node and every program beside it, by SIGKILL."""
        if left := self._ask(name, "kill")["left"]:
            pids = ", ".join(map(str, left))
            raise DeadlineExceeded(f"waited 5 s for {name} to die of SIGKILL; what lives: {pids}")
        wait_until(lambda: self.state(name) is NodeState.EXITED, 5.0, f"{name} to die of SIGKILL", every=0.02)

    def pause(self, name: str) -> None:
        self.need(name, NodeState.RUNNING, "pause")
        if not self._ask(name, "pause")["still"]:
            self._ask(name, "resume")
            raise DeadlineExceeded(f"waited 5 s for {name} to stand still")

    def resume(self, name: str) -> None:
        self.need(name, NodeState.PAUSED, "resume")
        self._ask(name, "resume")
        wait_until(lambda: self.state(name) is not NodeState.PAUSED, 5.0, f"{name} to go on", every=0.02)

    def state(self, name: str) -> NodeState:
        self.node(name)
        if "ports" not in self.run.facts:
            return NodeState.ABSENT
        return NodeState(self._ask(name, "state")["state"])

    def logs(self, name: str) -> bytes:
        self.node(name)
        return self._whole(name, "log") if "ports" in self.run.facts else b""

    def address(self, name: str) -> Address:
        """Where this machine reaches it; `door` is where its peers do."""
        return Address(_bracketed(self._hosts.spec(name).address), *self._ports(name))

    def inside(self, name: str) -> Inside:
        peer, status = self._ports(name)
        return Inside(f"127.0.0.1:{peer}", f"127.0.0.1:{status}", self._places(name)["secret"])

    def door(self, name: str, seen_from: str = "") -> str:
        return f"{_bracketed(self._hosts.dialed(name))}:{self._ports(name)[0]}"

    def main_pid(self, name: str) -> int:
        """See Driver.main_pid. Raises LabError when it does not run."""
        if (pid := self._ask(name, "pid")["pid"]) is None:
            raise LabError(f"{name} does not run")
        return int(pid)

    def ending(self, name: str) -> Ending:
        """See Driver.ending."""
        if self.state(name) is not NodeState.EXITED:
            return Ending()
        return Ending(self._ask(name, "exit_code")["code"])

    # -- for faults

    @property
    def guest(self) -> bool:
        """Machines stay."""
        return True

    def reached(self, name: str) -> bool:
        """Its machine stays, whatever becomes of the node."""
        return self.state(name) is not NodeState.ABSENT

    def lever(self, lever: Lever) -> str:
        """See Driver.lever."""
        why = self._levers.get(lever)
        return super().lever(lever) if why is None else why()

    @property
    def _levers(self) -> dict[Lever, Callable[[], str]]:
        """Of each that this driver could have: why it cannot be used on these machines."""
        return {
            Lever.PACKETS: lambda: self.lacks("drop"),
            Lever.MOUNTS: lambda: self._hindered(_no_mounts),
            Lever.CLOCK: lambda: clock_shift.lever(self),
            Lever.DISK: lambda: _NO_DISKS,
            Lever.LIMITS: lambda: _NO_LIMITS,
        }

    def lacks(self, feature: str) -> str:
        """See Driver.lacks."""
        for host in self._hosts:
            names = self._hosts.names(host, stranger=False)
            if len(names) > 1:
                both = " and ".join(names)
                return f"{both} are on one machine, {host.where}: packets between them cannot be told apart"
        return self._hindered(lambda powers: str(powers["lacks"].get(feature, "")))

    def _hindered(self, why: Callable[[dict[str, Any]], str]) -> str:
        """The first host on which something keeps faults from being done, and what."""
        nodes_hosts = dict.fromkeys(self._hosts.of(name) for name in self.topology.names)
        for host, powers in self._hosts.tried(lambda host: host.powers(), nodes_hosts).items():
            if isinstance(powers, LabError):
                return str(powers)
            if not powers["root"]:
                user = host.spec.user
                return (
                    f"{host.where} is not root, and sudo is absent or asks for a password: log in as root, or let "
                    f"{user} use sudo without one (`{user} ALL=(ALL) NOPASSWD: ALL` in /etc/sudoers.d/{user})"
                )
            if said := why(powers):
                return f"{host.where}: {said}"
        return ""

    def ips(self, name: str) -> tuple[str, ...]:
        """That of its door as the others resolve it, and those from which it dials them."""
        if name not in self._addresses:
            others = [other for other in self.topology.names if other != name]
            targets = [ip for other in others for ip in self._resolved(other, by=name)]
            found = {
                *self._resolved(name, by=others[0]),
                *self._hosts.of(name).ask("sources", targets=targets)["ips"],
            }
            known = sorted(str(ipaddress.ip_address(ip.partition("%")[0])) for ip in found)
            self._addresses[name] = tuple(known)
        return self._addresses[name]

    def _resolved(self, name: str, by: str) -> list[str]:
        """The addresses of a node's door, as another node's host knows them."""
        return list(self._hosts.of(by).ask("resolve", host=self._hosts.dialed(name))["ips"])

    def agent(self, name: str) -> Channel:
        """See Driver.agent. It works on the whole host, with a lease of ten seconds."""
        root, host = self._root(name), self._hosts.of(name)
        if why := self.lever(Lever.PACKETS):
            raise LabError(f"no fault agent for {name}: {why}")
        if host.powers()["sudo"] and not self.run.facts.get("sudo"):
            self.note(sudo=True)  # by which it is ended too
        return SshChannel(host.agent(root, mounts=not _no_mounts(host.powers())))

    def set_clock(self, name: str, shift: bytes) -> None:
        """See Driver.set_clock."""
        if why := self.lever(Lever.CLOCK):
            raise LabError(f"{name}: {why}")
        place, data = f"nodes/{self.node(name).name}/clock", base64.b64encode(shift).decode()
        self._hosts.of(name).ask("put", path=place, data=data)

    # -- beside a node

    def exec(self, name: str, argv: Sequence[str], *, timeout: float = 30.0) -> Output:
        self.need(name, NodeState.RUNNING, "run a program beside")
        program, first = self._hosts.of(name).beside(name, argv, self._root(name))
        return run_to_end(program, first, timeout, f"`{' '.join(argv)}` beside {name}")

    def open(self, name: str, argv: Sequence[str]) -> Channel:
        self.need(name, NodeState.RUNNING, "run a program beside")
        return SshChannel(*self._hosts.of(name).beside(name, argv, self._root(name)))

    def write(self, name: str, path: str, data: bytes) -> None:
        for offset in range(0, len(data) or 1, _BLOCK):
            part = base64.b64encode(data[offset : offset + _BLOCK]).decode()
            self._ask(name, "write", path=path, data=part, first=offset == 0)

    def read(self, name: str, path: str) -> bytes:
        self._root(name)
        try:
            return self._whole(name, "read", path=path)
        except LabError as error:
            raise LabError(f"cannot read {path} of {name}: {error}") from error

    def state_path(self, name: str) -> str:
        return self._places(name)["state"]

    def volume_path(self, name: str, volume: str) -> str:
        return self._volumes.place(self.volume(name, volume), self._root(name))

    def describe(self) -> dict[str, str]:
        found = self._hosts.everywhere(lambda host: (host.hello(), _version(host)))
        described = {"nodes are": "processes on machines that are reached by SSH"}
        for host, (hello, version) in found.items():
            python = ".".join(map(str, hello["version"]))
            told = (
                f"laila {version}, Python {python}, {hello['system']} {hello['kernel']} ({hello['machine']})"
            )
            described[" and ".join(self._hosts.names(host))] = f"{host.where}: {told}"
        versions = {version for _, version in found.values()} | {VERSION}
        if len(versions) > 1:
            described["versions differ"] = f"{', '.join(sorted(versions))}; this machine has {VERSION}"
        return described

    # -- inside

    def _ask(self, name: str, op: str, **words: Any) -> dict[str, Any]:
        """Something of a node, of the steward of its host. Raises BadConfig for an unknown node, and LabError."""
        self._root(name)
        return self._hosts.of(name).ask(op, node=name, **words)

    def _whole(self, name: str, op: str, **words: Any) -> bytes:
        """A file, part by part."""
        parts: list[bytes] = []
        while not parts or len(parts[-1]) == _BLOCK:
            told = self._ask(name, op, offset=len(parts) * _BLOCK, limit=_BLOCK, **words)
            parts.append(base64.b64decode(told["data"]))
        return b"".join(parts)

    def _root(self, name: str) -> str:
        """This run's directory on its host."""
        self.node(name)
        places = self.run.facts.get("places")
        if places is None:
            raise LabError(f"nothing was made for {name} yet: prepare the run first")
        return str(places[name])

    def _ports(self, name: str) -> tuple[int, int]:
        self._root(name)
        peer, status = self.run.facts["ports"][name]
        return peer, status

    def _places(self, name: str) -> dict[str, str]:
        root = self._root(name)
        volumes = {v.name: self._volumes.place(v, root) for v in self.topology.volumes_of(name)}
        secret = f"{root}/secrets/{self.node(name).secret}"
        return {**volumes, "state": f"{root}/nodes/{name}/state", "secret": secret}

    def _environment(self, name: str) -> dict[str, str]:
        node, root = self.node(name), self._root(name)
        peer, status = self._ports(name)
        everywhere = "[::]" if ":" in self._hosts.dialed(name) else "0.0.0.0"  # noqa: S104  its peers are elsewhere
        settings = node_environment(
            node,
            self.topology,
            listen=f"{everywhere}:{peer}",
            advertise=self.door(name),
            status=f"{everywhere}:{status}",
            peers=[self.door(other) for other in node.peers],
            places=self._places(name),
        )
        if self.run.facts.get(clock_shift.FACT) == "":
            settings |= clock_shift.environment(f"{root}/{clock_shift.LIBRARY}", f"{root}/nodes/{name}/clock")
        return settings


def _version(host: SshHost) -> str:
    """What laila is there. Raises LabError that says how to get one."""
    if (system := host.hello()["system"]) != "Linux":
        raise LabError(f"{host.where} is {system}; the ssh driver works with Linux")
    try:
        return str(host.ask("laila", timeout=90)["version"])
    except LabError as error:
        how = (
            f"install it there (pip install laila-kit=={VERSION}), or name the Python that has it by `python`"
        )
        raise LabError(f"{error}; {how}") from error


def _no_mounts(powers: dict[str, Any]) -> str:
    return "" if powers["capabilities"] >> _SYS_ADMIN & 1 else "root may not mount there"


def _left(told: dict[SshHost, Any], word: str) -> list[str]:
    """What every host still has, or that nobody knows, because it was not reached."""
    found = []
    for host, answer in told.items():
        if isinstance(answer, LabError):
            found.append(f"what is on {host.where}: {answer}")
        else:
            found += [f"{one} on {host.where}" for one in answer[word]]
    return found


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
