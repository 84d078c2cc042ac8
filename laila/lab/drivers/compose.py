"""Nodes as services of a compose project: laila's own compose files, somebody else's, or a project that runs already.

The nodes are containers like those of the docker driver. Services that are no nodes are started as soon as what they
depend on is there, and left alone.

A project that runs already (`attach`) is worked on, and left as it was found: what this run stopped, paused or cut off
is started, resumed and joined again, and nothing is removed.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import laila.lab.drivers.compose_file as compose_file
import laila.lab.drivers.container_files as container_files
import laila.lab.drivers.disks as disks
import laila.lab.drivers.health as health
import laila.lab.drivers.laila_services as laila_services
import laila.lab.procid as procid
from laila.errors import BadConfig, LabError
from laila.lab.drivers.base import Address, Capabilities, Channel, Inside, NodeState
from laila.lab.drivers.compose_file import HEALTHY
from laila.lab.drivers.compose_project import ComposeProject, ports_of, read_services, services_running
from laila.lab.drivers.docker import CLOCKS_DIR, SECRET_FILE, STATE_DIR
from laila.lab.drivers.exec_stream import ExecChannel
from laila.lab.drivers.local_client import LOOPBACK, LocalPrograms
from laila.lab.registry import Run
from laila.lab.topology import PLAIN, Topology

PATIENCE = 60.0
"""Seconds that a service may take to be as another one needs it."""


class ComposeDriver(ComposeProject):
    """See the top of this file."""

    name: ClassVar[str] = "compose"
    capabilities: ClassVar[Capabilities] = Capabilities(
        own_network=True, own_filesystem=True, resource_limits=True, cut=True, volume_kinds=(PLAIN,)
    )

    def __init__(self, run: Run, topology: Topology) -> None:
        super().__init__(run, topology)
        self.local = LocalPrograms(run.run_id)

    # -- the run

    @property
    def guest(self) -> bool:
        """A project that ran before stays."""
        return bool(self.topology.attach)

    def prepare(self) -> None:
        if self.topology.attach:
            self._adopt()
            return
        self._make()
        self._start_others(patiently=True)

    def remove(self) -> list[str]:
        self.local.end_all()
        self.agents.end()
        for pid in procid.marked(self.run.run_id):
            if pid != os.getpid():  # of a controller that was killed: compose may still be at work
                procid.ProcessId.of(pid).end()
        left = self._leave() if self.topology.attach else []
        return left + super().remove()  # what compose made has our labels: nobody needs compose to remove it

    # -- one node

    def start(self, name: str) -> None:
        state = self.state(name)
        if state is NodeState.RUNNING and self.topology.attach:
            return  # it was found like that
        if state not in (NodeState.ABSENT, NodeState.EXITED):
            raise LabError(f"cannot start {name}: it is {state.value}")
        container = self._container(name)
        if state is NodeState.ABSENT:
            self._wait_for_needs(self._service(name))
        self._launch(name, container)
        self.local.end(name)
        self._start_others()

    def wait_ready(self, name: str, timeout: float = PATIENCE) -> None:
        """Until its health check says so, or, without one, until it runs. Raises LabError with its last words."""
        health.wait(self._container(name), HEALTHY, timeout, name)
        self._start_others()

    def stop(self, name: str, grace: float = 10.0) -> int:
        code = super().stop(name, grace)
        self.local.end(name)
        return code

    def kill(self, name: str) -> None:
        super().kill(name)
        self.local.end(name)

    def cut(self, name: str) -> None:
        self.need(name, NodeState.RUNNING, "cut off")
        container = self._container(name)
        places = {}
        for network, facts in _networks(container).items():
            ip = (facts.get("IPAMConfig") or {}).get("IPv4Address")
            places[network] = {"aliases": facts.get("Aliases") or [], "ipv4_address": ip}
        if not places:
            raise LabError(f"cannot cut {name} off: it is on no network")
        self.note(cut={**self.run.facts.get("cut", {}), name: places})
        for network in places:
            self._asking(f"cut {name} off", partial(self._engine.networks.get(network).disconnect, container))

    def rejoin(self, name: str) -> None:
        container, cut = self._container(name), dict(self.run.facts.get("cut", {}))
        present = _networks(container)
        for network, place in cut.pop(name, {}).items():
            if network not in present:
                join = partial(self._engine.networks.get(network).connect, container, **place)
                self._asking(f"let {name} rejoin", join)
        self.note(cut=cut)
        self.local.end(name)  # it may have another address now

    def address(self, name: str) -> Address:
        """Of one who is not laila: the port that clients are told, and no page."""
        self.node(name)
        port, status = self._ports(name)
        host, _, reached = self.reach(name, port).rpartition(":")
        return Address(host, int(reached), int(self.reach(name, status).rpartition(":")[2]) if status else 0)

    def reach(self, name: str, port: int) -> str:
        """The container's own address where the engine runs on this machine, else where it publishes that port here.
        Raises LabError where it does not.
        """
        container = self._container(name)
        if not self._elsewhere or not port:
            addresses = [
                one["IPAddress"] for _, one in sorted(_networks(container).items()) if one.get("IPAddress")
            ]
            return f"{(*addresses, name)[0]}:{port}"
        published = (container.attrs["NetworkSettings"].get("Ports") or {}).get(f"{port}/tcp")
        if not published:
            raise LabError(
                f"port {port} of {name} is not reached from this machine, because {self._elsewhere}: it must be "
                "published, on a network that is not internal"
            )
        return f"{LOOPBACK}:{published[0]['HostPort']}"

    def inside(self, name: str) -> Inside:
        self.node(name)
        if self.topology.foreign:
            raise BadConfig(f"{name} is no node of laila's: what works on it is the topology's [client]")
        peer, status = self._ports(name)
        secret = self._settings(name).get("LAILA_SECRET_FILE", SECRET_FILE)
        return Inside(f"{LOOPBACK}:{peer}", f"{LOOPBACK}:{status}", secret)

    def door(self, name: str, seen_from: str = "") -> str:
        self.node(name)
        return self._settings(name).get("LAILA_ADVERTISE") or f"{self._service(name)}:{self._ports(name)[0]}"

    def state_path(self, name: str) -> str:
        node = self.node(name)
        if node.state or not self.topology.foreign:
            return node.state or self._settings(name).get("LAILA_STATE_DIR", STATE_DIR)
        mounts = [
            one["Destination"]
            for one in self._container(name).attrs["Mounts"]
            if one.get("RW") and one.get("Type") in ("volume", "bind") and one["Destination"] != CLOCKS_DIR
        ]
        if len(mounts) != 1:
            has = f"mounts {', '.join(sorted(mounts))}" if mounts else "mounts no volume"
            raise BadConfig(
                f"where the state of {name} lies is not known: it {has}; say `state` in its [[nodes]]"
            )
        return str(mounts[0])

    def describe(self) -> dict[str, str]:
        version = self._engine.version()
        origin = f"attached to {self.topology.attach}" if self.topology.attach else self._file
        images = {str(container.attrs["Config"]["Image"]) for container in self._containers()}
        return {
            "nodes are": "services of a compose project",
            "project": self.project,
            "file": origin,
            "engine": f"{version.get('Version')} ({version.get('Os')}/{version.get('Arch')})",
            "image": ", ".join(sorted(images) or (() if self.topology.foreign else self.topology.images)),
            "kernel": str(version.get("KernelVersion")),
        }

    # -- beside a node

    def open(self, name: str, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> Channel:
        """`environment` is added to the container's."""
        self.need(name, NodeState.RUNNING, "run a program beside")
        container, user = self._container(name), self._user(name)
        start = partial(ExecChannel, self._engine.api, container.id, argv, user=user, environment=environment)
        channel: Channel = self._asking(f"run {argv[0]!r} beside {name}", start)
        return channel

    def write(self, name: str, path: str, data: bytes) -> None:
        """A file of somebody else's that is there keeps its owner and mode."""
        if not self.topology.foreign:
            super().write(name, path, data)
            return
        target, container = self._state_path(name, path), self._container(name)
        parent, _, file = target.rpartition("/")
        try:
            info = container_files.entry(container, target)
        except self._errors.NotFound:
            info = tarfile.TarInfo(file)
        packed = container_files.archive([(info, data)])
        self._asking(f"write {path} of {name}", lambda: container.put_archive(parent, packed))

    def carry(self, name: str, directory: str, files: Mapping[str, bytes]) -> None:
        """Put files into a directory of a running node, for everybody to read, also where its root is read-only."""
        container = self._container(name)
        self._asking(
            f"copy files into {name}",
            lambda: container_files.carry(self._engine, container, directory, files),
        )

    # -- services that wait for others

    def _start_others(self, *, patiently: bool = False) -> None:
        """Start services that are no nodes, and that nobody started yet, as far as what they need is there."""
        nodes = {self._service(name) for name in self.topology.names}
        if not self.topology.foreign:
            nodes.add(laila_services.STRANGER)
        for service in compose_file.in_order(self._services):
            if service not in nodes and (container := self._of_service(service)).status == "created":
                needs = compose_file.needs(self._services[service])
                mine = {other: how for other, how in needs.items() if other not in nodes}
                others = {other: how for other, how in needs.items() if other in nodes}
                if patiently and self._started(mine) and not others:
                    self._wait_for_needs(service)
                elif not self._met(needs):
                    continue
                self._asking(f"start {service}", container.start)

    def _started(self, services: Mapping[str, str]) -> bool:
        return all(self._of_service(service).status != "created" for service in services)

    def _met(self, needs: Mapping[str, str]) -> bool:
        """Whether they are in those conditions now; what ended is not."""
        try:
            return all(health.met(self._of_service(service), how, service) for service, how in needs.items())
        except LabError:
            return False

    def _wait_for_needs(self, service: str) -> None:
        """Before its first start, as compose does it."""
        for other, how in compose_file.needs(self._services.get(service, {})).items():
            container = self._of_service(other)
            if container.status == "created":
                raise LabError(
                    f"{service} depends on {other}, which was not started; start {other} before it"
                )
            health.wait(container, how, PATIENCE, other)

    # -- a project that runs already

    def _adopt(self) -> None:
        services = services_running(self.topology.attach)
        if missing := [name for name in self.topology.names if self._service(name) not in services]:
            has = ", ".join(services)
            raise BadConfig(f"the project {self.project!r} has no service {', '.join(missing)}; it has {has}")
        self.note(found={name: self.state(name).value for name in self.topology.names})
        late = f"the project {self.project} was started without it, by somebody else"
        if self.topology.clocks:
            self.note(clocks=late)
        if self.topology.state_mib:
            self.note(disks={"kind": disks.DIRECTORY, "why": late})

    def _leave(self) -> list[str]:
        """Every node as it was found. What could not be."""
        left = []
        for name, was in self.run.facts.get("found", {}).items():
            try:
                self.rejoin(name)
                state = self.state(name)
                if state is NodeState.PAUSED and was != state.value:
                    self.resume(name)
                elif state is NodeState.EXITED and was != state.value:
                    self.start(name)
                elif state is NodeState.RUNNING and was == NodeState.EXITED.value:
                    self.stop(name)
            except LabError as error:
                left.append(f"{name}: {error}")
        return left

    # -- inside

    def _ports(self, name: str) -> tuple[int, int]:
        """Where it is worked on, and its status page."""
        if self.topology.foreign:
            return (0 if self.topology.client is None else self.topology.client.port), 0
        return ports_of(self._settings(name))


def check(topology: Topology) -> None:
    """Whether this driver can take a topology, before anything is made. Raises BadConfig, LabError."""
    if topology.attach:
        services_running(topology.attach)
        return
    if why := compose_file.hindrance():
        raise LabError(f"the compose driver cannot work here: {why}")
    read_services(topology.compose or laila_services.shipped_file(topology), topology)


def _networks(container: Any) -> dict[str, Any]:
    networks: dict[str, Any] = container.attrs["NetworkSettings"]["Networks"]
    return networks
