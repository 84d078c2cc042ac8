"""Nodes as containers of a Docker engine, by the engine's own SDK: read-only, without capabilities,
limited, on a network of their own that leads nowhere.

Every container, network and volume is labelled with the run's id, and `remove` goes by that label; the
controller's process is a label too, so that `laila lab gc` knows a run whose controller died. Secrets
travel in a volume, so nothing depends on the engine seeing this machine's files. A node keeps its container
over kill and start, and with it its volume.

A node that mounts a network volume has the image images/volumes and is allowed to mount: its root serves and
mounts, and then gives way to the node's own user. What it serves lies in a docker volume of its own.
"""

from __future__ import annotations

import importlib
import io
import platform
import secrets
import tarfile
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import laila.lab.drivers.cgroups as cgroups
import laila.lab.drivers.clock_shift as clock_shift
import laila.lab.drivers.container_limits as container_limits
import laila.lab.drivers.disks as disks
import laila.lab.drivers.network_volume as network_volume
from laila.errors import BadConfig, LabError, LailaError
from laila.lab.drivers.agents import ContainerAgents
from laila.lab.drivers.base import (
    PEER_PORT,
    STATUS_PORT,
    Address,
    Capabilities,
    Channel,
    Driver,
    Ending,
    Inside,
    Lever,
    NodeState,
    Output,
    Usage,
    node_environment,
    wait_until,
)
from laila.lab.drivers.disks import Disks
from laila.lab.drivers.engine import (
    CONTROLLER_LABEL,
    MODE_LABEL,
    NODE_LABEL,
    RUN_LABEL,
    absent,
    connect,
    elsewhere,
    short,
    tar_of,
)
from laila.lab.drivers.exec_stream import ExecChannel, run_to_end
from laila.lab.registry import Run
from laila.lab.topology import VOLUME_KINDS, Topology, VolumeSpec

STATE_DIR = "/var/lib/laila"
SECRETS_DIR = "/run/secrets"
SECRET_FILE = f"{SECRETS_DIR}/laila_secret"
CLOCKS_DIR = "/run/laila-clocks"
"""The library that bends clocks, and for each node by how much."""
NODE_UID = 10001
_STATES = {"running": NodeState.RUNNING, "paused": NodeState.PAUSED, "created": NodeState.ABSENT}


class DockerDriver(Driver):
    """See the top of this file."""

    name: ClassVar[str] = "docker"
    capabilities: ClassVar[Capabilities] = Capabilities(
        own_network=True, own_filesystem=True, resource_limits=True, cut=True, volume_kinds=VOLUME_KINDS
    )

    def __init__(self, run: Run, topology: Topology) -> None:
        super().__init__(run, topology)
        self._engine = connect()
        self._errors: Any = importlib.import_module("docker.errors")
        self._types: Any = importlib.import_module("docker.types")

    def close(self) -> None:
        """Let go of the engine; the nodes stay."""
        self._engine.close()

    # -- the run

    def prepare(self) -> None:
        for image in self.topology.images:
            try:
                self._engine.images.get(image)
            except self._errors.ImageNotFound:
                raise LabError(absent(image)) from None
        every = (*self.topology.nodes, self.topology.stranger)
        name = self._name("network")
        self._asking(f"make network {name}", lambda: self._engine.networks.create(
            name, driver="bridge", internal=True, check_duplicate=True, labels=self._labels()
        ))  # fmt: skip
        for secret in sorted({node.secret for node in every}):
            self._make_secret(secret)
        self._prepare_state([node.name for node in every])
        for spec in self.topology.volumes:
            self._prepare_volume(spec)
        if self.topology.clocks:
            self.note(clocks=self._prepare_clocks())

    def _prepare_clocks(self) -> str:
        """A volume with the library that bends clocks; why there is none."""
        if not (why := self._no_clocks()):
            library = tar_of(clock_shift.LIBRARY, clock_shift.library(), 0o755, 0)
            self._fill(self._make_volume("clocks"), library)
        return why

    def _no_clocks(self) -> str:
        """Why no library for these nodes can be made here; empty when one can."""
        machine = self._engine.version().get("Arch")
        if not (why := clock_shift.missing()) and machine != clock_shift.MACHINES[platform.machine()]:
            why = f"the engine's machine is {machine}, and no library for it can be made here"
        return why

    def _prepare_state(self, names: Sequence[str]) -> None:
        """A volume for each node's state. Of limited size it is a disk, or memory where there can be none."""
        size = self.topology.state_mib
        if not size:
            for name in names:
                self._make_volume(f"state-{name}")
            return
        why = self._elsewhere or disks.hindrance() or self.disks.make(names, NODE_UID, 0, 0o770)
        memory = {"type": "tmpfs", "device": "tmpfs", "o": f"size={size}m,uid={NODE_UID},gid=0,mode=0770"}
        for name in names:
            disk = {} if why else {"type": "ext4", "device": self.disks.attach(name), "o": disks.OPTIONS}
            self._make_volume(f"state-{name}", disk or memory)
        if why:
            self._keep_mounted([self._name(f"state-{name}") for name in names])
        self.note(disks={"kind": disks.TMPFS if why else disks.EXT4, "why": why})

    def _keep_mounted(self, volumes: Sequence[str]) -> None:
        """A container that holds volumes in memory while their nodes are down."""
        keeper = self._asking("hold the nodes' state", lambda: self._engine.containers.create(
            self.topology.image, entrypoint=["sleep", "infinity"], command=[], labels=self._labels(),
            name=self._name("state.keeper"), network_mode="none", read_only=True, cap_drop=["ALL"],
            volumes=[f"{volume}:/mnt/{number}:ro" for number, volume in enumerate(volumes)],
        ))  # fmt: skip
        self._asking("hold the nodes' state", keeper.start)

    def _prepare_volume(self, spec: VolumeSpec) -> None:
        if spec.read_only_of:
            self._make_volume(f"volume-{spec.name}")  # a place to mount at, where a node does that itself
        elif not spec.networked:
            if spec.size_mib:  # in memory: no engine can limit a volume on its disk
                options = f"size={spec.size_mib}m,uid={NODE_UID},gid=0,mode=0770"
                self._make_volume(f"volume-{spec.name}", {"type": "tmpfs", "device": "tmpfs", "o": options})
            else:
                self._own(self._make_volume(f"volume-{spec.name}"))
        else:
            for name in self.topology.names:
                if spec.mounted_by(name):
                    self._make_volume(f"storage-{name}")
            key = tar_of(network_volume.KEY, network_volume.new_key(), 0o400, 0)
            self._fill(self._make_volume("volume-key"), key)

    def remove(self) -> list[str]:
        self.agents.end()
        for container in self._containers():
            self._quietly(partial(container.remove, force=True, v=True))
        for network in self._engine.networks.list(filters=self._mine()):
            self._quietly(network.remove)
        for volume in self._engine.volumes.list(filters=self._mine()):
            self._quietly(partial(volume.remove, force=True))
        self.disks.remove()
        return self.remains()

    def remains(self) -> list[str]:
        found = [f"container {container.name}" for container in self._containers()]
        found += [f"network {network.name}" for network in self._engine.networks.list(filters=self._mine())]
        found += [f"volume {volume.name}" for volume in self._engine.volumes.list(filters=self._mine())]
        return sorted(found + self.disks.remains() + self.agents.remains())  # the engine lists in any order

    # -- one node

    def start(self, name: str) -> None:
        if (state := self.state(name)) not in (NodeState.ABSENT, NodeState.EXITED):
            raise LabError(f"cannot start {name}: it is {state.value}")
        container = self._find(name) or self._asking(f"create {name}", lambda: self._create(name))
        self._launch(name, container)

    def _launch(self, name: str, container: Any) -> None:
        self._asking(f"start {name}", container.start)
        if not self._on_its_disk(name):
            again = "was this machine started anew? then make a new run"
            raise LabError(f"the state of {name} does not lie on its disk; {again}")

    def stop(self, name: str, grace: float = 10.0) -> int:
        if self.state(name) is NodeState.PAUSED:
            self.resume(name)
        self.need(name, NodeState.RUNNING, "stop")
        container = self._container(name)
        self._asking(f"stop {name}", lambda: container.stop(timeout=max(1, round(grace))))
        return int(container.wait(timeout=30)["StatusCode"])

    def kill(self, name: str) -> None:
        if (state := self.state(name)) not in (NodeState.RUNNING, NodeState.PAUSED):
            raise LabError(f"cannot kill {name}: it is {state.value}")
        container = self._container(name)
        self._asking(f"kill {name}", lambda: container.kill("SIGKILL"))
        wait_until(
            lambda: self.state(name) is NodeState.EXITED, 10.0, f"{name} to die of SIGKILL", every=0.02
        )

    def pause(self, name: str) -> None:
        self.need(name, NodeState.RUNNING, "pause")
        container = self._container(name)
        if self.topology.network_volume_of(name) and self._as_root(name, network_volume.HOLD).code != 0:
            raise LabError(f"cannot pause {name}: a program there waits for its volume and does not stop")
        # A freezer of cgroup v1 sometimes needs another try.
        self._asking(f"pause {name}", container.pause, attempts=5)

    def resume(self, name: str) -> None:
        self.need(name, NodeState.PAUSED, "resume")
        container = self._container(name)
        self._asking(f"resume {name}", container.unpause, attempts=5)
        if self.topology.network_volume_of(name):
            self._as_root(name, network_volume.LET_GO)

    def cut(self, name: str) -> None:
        self.need(name, NodeState.RUNNING, "cut off")
        container = self._container(name)
        self._asking(f"cut {name} off", lambda: self._network().disconnect(container))

    def rejoin(self, name: str) -> None:
        container = self._container(name)
        self._asking(f"let {name} rejoin", lambda: self._network().connect(container, aliases=[name]))

    def state(self, name: str) -> NodeState:
        self.node(name)
        container = self._find(name)
        return NodeState.ABSENT if container is None else _STATES.get(container.status, NodeState.EXITED)

    def logs(self, name: str) -> bytes:
        self.node(name)
        container = self._find(name)
        return b"" if container is None else bytes(container.logs(stdout=True, stderr=True))

    def address(self, name: str) -> Address:
        self.node(name)
        networks = self._container(name).attrs["NetworkSettings"]["Networks"]
        ip = networks.get(self._name("network"), {}).get("IPAddress", "")
        return Address(ip or name, PEER_PORT, STATUS_PORT)

    def inside(self, name: str) -> Inside:
        self.node(name)
        return Inside(f"127.0.0.1:{PEER_PORT}", f"127.0.0.1:{STATUS_PORT}", SECRET_FILE)

    def door(self, name: str, seen_from: str = "") -> str:
        self.node(name)
        return f"{name}:{PEER_PORT}"

    # -- for faults

    def lever(self, lever: Lever) -> str:
        """See Driver.lever."""
        why = self._levers.get(lever)
        return super().lever(lever) if why is None else why()

    @property
    def _levers(self) -> dict[Lever, Callable[[], str]]:
        """Of each that this driver has: why it cannot be used on this machine."""
        return {
            Lever.CLOCK: lambda: clock_shift.lever(self),
            Lever.DISK: self._missing_disks,
            Lever.LIMITS: lambda: "",
            Lever.PACKETS: lambda: self.agents.packets(),
            Lever.MOUNTS: lambda: self.agents.mounts(),
        }

    def lacks(self, feature: str) -> str:
        """See Driver.lacks."""
        return self.agents.lacks(feature)

    @cached_property
    def agents(self) -> ContainerAgents:
        """Of this run's nodes."""
        return ContainerAgents(self._engine, self._labels, self._name, self.run.run_id)

    def ips(self, name: str) -> tuple[str, ...]:
        """On all its networks. Raises LabError while it has none."""
        networks = self._container(name).attrs["NetworkSettings"]["Networks"].values()
        found = [place.get(key) for place in networks for key in ("IPAddress", "GlobalIPv6Address")]
        if not (known := tuple(address for address in found if address)):
            raise LabError(f"{name} has no address: it does not run, or is on no network")
        return known

    def agent(self, name: str) -> Channel:
        """See Driver.agent."""
        if (state := self.state(name)) not in (NodeState.RUNNING, NodeState.PAUSED):
            raise LabError(f"no fault agent for {name}: it is {state.value}")
        container = self._container(name)
        channel: Channel = self._asking(
            f"start a fault agent for {name}", lambda: self.agents.open(name, container)
        )
        return channel

    def _missing_disks(self) -> str:
        known = not self.topology.state_mib or disks.FACT in self.run.facts
        return ("" if known else self._elsewhere) or disks.missing(self)

    def _on_its_disk(self, name: str) -> bool:
        """Whether the engine mounted what it should, as far as there are disks and the node lives."""
        if not self.topology.state_mib or self.lever(Lever.DISK) or self.state(name) is not NodeState.RUNNING:
            return True
        return self.disks.holds(name, self.outside(name))

    @cached_property
    def _elsewhere(self) -> str:
        return elsewhere(self._engine)

    @property
    def disks(self) -> Disks:
        """See Driver.disks."""
        return Disks(self.run.path / "disks", self.topology.state_mib)

    def outside(self, name: str) -> Path:
        """See Driver.outside."""
        self.node(name)
        if why := self._elsewhere:
            raise LabError(f"the files of {name} are not seen from here: {why}")
        return Path(f"/proc/{self._pid(name)}/root{self.state_path(name)}")

    def _pid(self, name: str) -> int:
        """Of its main process, as this machine sees it. Raises LabError for a node that does not live."""
        if not (pid := int(self._container(name).attrs["State"]["Pid"])):
            raise LabError(f"{name} does not run, and is seen from outside only while it does")
        return pid

    def ending(self, name: str) -> Ending:
        """See Driver.ending."""
        self.need(name, NodeState.EXITED, "say what ended")
        return container_limits.ending(self._container(name).attrs)

    def set_clock(self, name: str, shift: bytes) -> None:
        """See Driver.set_clock."""
        if why := self.lever(Lever.CLOCK):
            raise LabError(f"{name}: {why}")
        container, archive = self._container(name), tar_of(name, shift, 0o644, 0)
        self._asking(f"shift the clock of {name}", lambda: container.put_archive(CLOCKS_DIR, archive))

    def usage(self, name: str) -> Usage:
        """See Driver.usage."""
        self.need(name, NodeState.RUNNING, "see what is used by")
        ask = partial(container_limits.usage, self._engine.api, self._container(name).id)
        found: Usage = self._asking(f"see what is used by {name}", ask)
        return found

    def limit(
        self, name: str, *, memory: int | None = None, swap: int | None = None, pids: int | None = None
    ) -> None:
        """See Driver.limit."""
        ask = partial(container_limits.limit, self._engine.api, self._container(name).id, memory, swap, pids)
        self._asking(f"limit {name}", ask)

    def unslowable(self) -> str:
        """See Driver.unslowable."""
        return self.lever(Lever.DISK) or cgroups.hindrance(cgroups.IO)

    def slow_disk(self, name: str, rate: int) -> None:
        """See Driver.slow_disk."""
        if why := self.unslowable():
            raise LabError(f"{name}: {why}")
        cgroups.slow(self._pid(name), self.disks.number(name), rate)

    # -- beside a node

    def exec(self, name: str, argv: Sequence[str], *, timeout: float = 30.0) -> Output:
        self.need(name, NodeState.RUNNING, "run a program beside")
        return self._run(name, argv, timeout, self._user(name))

    def open(self, name: str, argv: Sequence[str]) -> Channel:
        self.need(name, NodeState.RUNNING, "run a program beside")
        container = self._container(name)
        channel: Channel = self._asking(
            f"run {argv[0]!r} beside {name}",
            lambda: ExecChannel(self._engine.api, container.id, argv, user=self._user(name)),
        )
        return channel

    def write(self, name: str, path: str, data: bytes) -> None:
        target, container = self._state_path(name, path), self._container(name)
        parent, _, file = target.rpartition("/")
        self._asking(
            f"write {path} of {name}",
            lambda: container.put_archive(parent, tar_of(file, data, 0o600, NODE_UID)),
        )

    def read(self, name: str, path: str) -> bytes:
        target, container = self._state_path(name, path), self._container(name)
        parts, _ = self._asking(f"read {path} of {name}", lambda: container.get_archive(target))
        with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as archive:
            for member in archive:
                if (file := archive.extractfile(member)) is not None:
                    return file.read()
        raise LabError(f"cannot read {path} of {name}: it is no file")

    def state_path(self, name: str) -> str:
        self.node(name)
        return STATE_DIR

    def volume_path(self, name: str, volume: str) -> str:
        return self.volume(name, volume).at

    def describe(self) -> dict[str, str]:
        version = self._engine.version()
        images = [f"{image} {self._engine.images.get(image).short_id}" for image in self.topology.images]
        return {
            "nodes are": "containers",
            "engine": f"{version.get('Version')} ({version.get('Os')}/{version.get('Arch')})",
            "image": ", ".join(images),
            "kernel": str(version.get("KernelVersion")),
        }

    # -- inside

    def _name(self, what: str) -> str:
        return f"laila-{self.run.run_id}-{what}"

    def _labels(self, **more: str) -> dict[str, str]:
        return {
            RUN_LABEL: self.run.run_id,
            MODE_LABEL: self.run.mode,
            CONTROLLER_LABEL: str(self.run.controller),
            **more,
        }

    def _mine(self) -> dict[str, str]:
        return {"label": f"{RUN_LABEL}={self.run.run_id}"}

    def _network(self) -> Any:
        return self._engine.networks.get(self._name("network"))

    def _containers(self) -> list[Any]:
        return list(self._engine.containers.list(all=True, filters=self._mine(), ignore_removed=True))

    def _find(self, name: str) -> Any | None:
        try:
            return self._engine.containers.get(self._name(name))
        except self._errors.NotFound:
            return None

    def _container(self, name: str) -> Any:
        self.node(name)
        if (container := self._find(name)) is None:
            raise LabError(f"{name} was never started")
        return container

    def _create(self, name: str) -> Any:
        spec, limits = self.node(name), self.topology.resources
        volumes = {
            self._name(f"state-{name}"): {"bind": STATE_DIR, "mode": "rw"},
            self._name(f"secret-{spec.secret}"): {"bind": SECRETS_DIR, "mode": "ro"},
        }
        if clock_shift.made(self.run):
            volumes[self._name("clocks")] = {"bind": CLOCKS_DIR, "mode": "rw"}
        for volume in self.topology.volumes_of(name):
            if not volume.networked and not volume.read_only_of:
                volumes[self._name(f"volume-{volume.name}")] = {"bind": volume.at, "mode": "rw"}
        if self.topology.network_volume_of(name):
            volumes[self._name(f"storage-{name}")] = {"bind": network_volume.STORAGE_DIR, "mode": "rw"}
            volumes[self._name("volume-key")] = {"bind": network_volume.KEY_DIR, "mode": "ro"}
        network = self._name("network")
        return self._engine.containers.create(
            self.topology.image_of(name),
            name=self._name(name),
            hostname=name,
            labels=self._labels(**{NODE_LABEL: name}),
            environment=self._environment(name),
            volumes=[f"{volume}:{place['bind']}:{place['mode']}" for volume, place in volumes.items()]
            + self._read_only_mounts(name),
            network=network,
            networking_config={
                network: self._types.EndpointConfig(self._engine.api._version, aliases=[name])
            },
            **self._walls(name),
            mem_limit=f"{limits.memory_mib}m",
            nano_cpus=round(limits.cpus * 1e9),
            pids_limit=limits.pids,
        )

    def _read_only_mounts(self, name: str) -> list[str]:
        """Volumes once more. Of a network volume only the place; the node mounts it there itself."""
        found = []
        for volume in self.topology.volumes_of(name):
            if volume.read_only_of:
                own = self.volume(name, volume.read_only_of).networked
                which = volume.name if own else volume.read_only_of
                found.append(f"{self._name(f'volume-{which}')}:{volume.at}:{'rw' if own else 'ro'}")
        return found

    def _walls(self, name: str) -> dict[str, Any]:
        """What a container may: nothing; and to mount by FUSE where it must."""
        tmpfs = {"/tmp": "size=64m,mode=1777"}  # noqa: S108  a tmpfs of the container's own
        walls: dict[str, Any] = {"read_only": True, "tmpfs": tmpfs, "security_opt": ["no-new-privileges"]}
        if self.topology.network_volume_of(name) is None:
            return {**walls, "cap_drop": ["ALL"]}
        more = network_volume.permission()
        tmpfs.update(more.pop("tmpfs"))
        walls["security_opt"] += more.pop("security_opt")
        return {**walls, **more}

    def _run(self, name: str, argv: Sequence[str], timeout: float, user: str) -> Output:
        container, what = self._container(name), f"`{' '.join(argv)}` beside {name}"
        api = self._engine.api
        run = partial(run_to_end, api, container.id, argv, timeout, what, user=user)
        output: Output = self._asking(f"run {what}", run)
        return output

    def _as_root(self, name: str, argv: Sequence[str]) -> Output:
        return self._run(name, argv, 30.0, network_volume.ROOT)

    def _user(self, name: str) -> str:
        """Who programs beside a node are: the node's own user, though a network volume is mounted by root."""
        return "" if self.topology.network_volume_of(name) is None else f"{NODE_UID}:0"

    def _environment(self, name: str) -> dict[str, str]:
        spec = self.node(name)
        places = {volume.name: volume.at for volume in self.topology.volumes_of(name)}
        settings = node_environment(
            spec,
            self.topology,
            listen=f"0.0.0.0:{PEER_PORT}",
            advertise=self.door(name),
            status=f"0.0.0.0:{STATUS_PORT}",
            peers=[self.door(peer) for peer in spec.peers],
            places={**places, "state": STATE_DIR, "secret": SECRET_FILE},
        )
        return settings | network_volume.settings(self.topology, name) | self._clock_settings(name)

    def _clock_settings(self, name: str) -> dict[str, str]:
        """Environment of programs whose clock can be shifted; empty where that cannot be."""
        if not clock_shift.made(self.run):
            return {}
        return clock_shift.environment(f"{CLOCKS_DIR}/{clock_shift.LIBRARY}", f"{CLOCKS_DIR}/{name}")

    def _make_volume(self, what: str, options: dict[str, str] | None = None) -> str:
        """Its name. `options` are the engine's own for the file system of a volume."""
        name = self._name(what)
        self._engine.volumes.create(name, driver_opts=options, labels=self._labels())
        return name

    def _make_secret(self, name: str) -> None:
        text = (secrets.token_urlsafe(32) + "\n").encode("ascii")
        self._fill(self._make_volume(f"secret-{name}"), tar_of("laila_secret", text, 0o400, NODE_UID))

    def _own(self, volume: str) -> None:
        """Give a fresh volume to the node's user, who is not root."""
        self._fill(volume, tar_of(".", b"", 0o755, NODE_UID))

    def _fill(self, volume: str, archive: bytes) -> None:
        """Unpack an archive into a volume, by a container that is never started."""
        carrier = self._asking(f"fill volume {volume}", lambda: self._engine.containers.create(
            self.topology.image, labels=self._labels(), volumes={volume: {"bind": "/mnt/fill", "mode": "rw"}},
            network_mode="none",
        ))  # fmt: skip
        try:
            self._asking(f"fill volume {volume}", lambda: carrier.put_archive("/mnt/fill", archive))
        finally:
            carrier.remove(force=True)

    def _state_path(self, name: str, path: str) -> str:
        self.node(name)
        if path.startswith("/") or ".." in path.split("/"):
            raise LabError(f"{path!r} is not inside the state directory of {name}")
        return f"{self.state_path(name)}/{path}"

    def _asking(self, doing: str, ask: Callable[[], Any], *, attempts: int = 1) -> Any:
        """Ask the engine; its refusals become LabError that says what it was asked to do."""
        for attempt in range(1, attempts + 1):
            try:
                return ask()
            except LailaError:
                raise  # ours already, though some of them are an OSError too
            except (self._errors.DockerException, OSError) as error:
                if attempt == attempts:
                    raise LabError(f"the engine could not {doing}: {short(error)}") from error
                time.sleep(0.2 * attempt)
        raise BadConfig(f"attempts must be 1 or more, not {attempts}")

    def _quietly(self, ask: Callable[[], Any]) -> None:
        """For removal: what is gone already, or cannot go yet, is seen by `remains`."""
        try:
            ask()
        except (self._errors.DockerException, OSError):
            return
