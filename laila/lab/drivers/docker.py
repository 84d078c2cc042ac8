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
import secrets
import tarfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import laila.lab.drivers.network_volume as network_volume
from laila.errors import BadConfig, LabError, LailaError
from laila.lab.drivers.base import (
    PEER_PORT,
    STATUS_PORT,
    Address,
    Capabilities,
    Channel,
    Driver,
    Inside,
    Lever,
    NodeState,
    Output,
    node_environment,
    wait_until,
)
from laila.lab.drivers.engine import (
    CONTROLLER_LABEL,
    MODE_LABEL,
    NODE_LABEL,
    RUN_LABEL,
    absent,
    connect,
    short,
    tar_of,
)
from laila.lab.drivers.exec_stream import ExecChannel, run_to_end
from laila.lab.registry import Run
from laila.lab.topology import VOLUME_KINDS, Topology, VolumeSpec

STATE_DIR = "/var/lib/laila"
SECRETS_DIR = "/run/secrets"
SECRET_FILE = f"{SECRETS_DIR}/laila_secret"
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
        for node in every:
            self._make_volume(f"state-{node.name}")
        for spec in self.topology.volumes:
            self._prepare_volume(spec)

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
        for container in self._containers():
            self._quietly(partial(container.remove, force=True, v=True))
        for network in self._engine.networks.list(filters=self._mine()):
            self._quietly(network.remove)
        for volume in self._engine.volumes.list(filters=self._mine()):
            self._quietly(partial(volume.remove, force=True))
        return self.remains()

    def remains(self) -> list[str]:
        found = [f"container {container.name}" for container in self._containers()]
        found += [f"network {network.name}" for network in self._engine.networks.list(filters=self._mine())]
        found += [f"volume {volume.name}" for volume in self._engine.volumes.list(filters=self._mine())]
        return sorted(found)  # the engine lists in any order

    # -- one node

    def start(self, name: str) -> None:
        if (state := self.state(name)) not in (NodeState.ABSENT, NodeState.EXITED):
            raise LabError(f"cannot start {name}: it is {state.value}")
        container = self._find(name) or self._asking(f"create {name}", lambda: self._create(name))
        self._asking(f"start {name}", container.start)

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
        return {}

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
        return settings | network_volume.settings(self.topology, name)

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
        return f"{STATE_DIR}/{path}"

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
