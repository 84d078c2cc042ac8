"""The compose project of a run: made of a file as compose reads it, and of what the topology adds to it.

From then on its containers are found by compose's own labels, and everything is removed by the run's. Nobody needs
compose any more, or the file.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import laila.lab.drivers.clock_shift as clock_shift
import laila.lab.drivers.compose_file as compose_file
import laila.lab.drivers.disks as disks
import laila.lab.drivers.laila_services as laila_services
import laila.lab.drivers.service_tables as service_tables
import laila.lab.procid as procid
from laila.errors import BadConfig, LabError
from laila.lab.drivers.base import PEER_PORT, STATUS_PORT
from laila.lab.drivers.compose_file import ONE_OFF_LABEL, PROJECT_LABEL, SERVICE_LABEL, Table
from laila.lab.drivers.docker import CLOCKS_DIR, NODE_UID, STATE_DIR, DockerDriver
from laila.lab.drivers.engine import NODE_LABEL, absent, connect, tar_of
from laila.lab.registry import Run
from laila.lab.topology import HERE, Topology

_FOR_THE_FILE = "main"
"""The secret that compose files find at LAILA_SECRET_FILE."""
_CLOCKS = "laila-lab-clocks"
_PRELOAD = "LD_PRELOAD"


class ComposeProject(DockerDriver):
    """The part of the compose driver that makes a project and finds its containers."""

    def __init__(self, run: Run, topology: Topology) -> None:
        super().__init__(run, topology)
        self.project = topology.attach or f"laila-{run.run_id}"

    def _make(self) -> None:
        """All of it, and nothing runs."""
        compose_file.write(self._fitted(), self._written)
        words = ["-p", self.project, "-f", str(self._written), "create"]
        try:
            mark = {procid.RUN_VARIABLE: self.run.run_id}
            compose_file.run(words, timeout=compose_file.MAKING, environment=mark)
        except LabError as error:
            raise LabError(f"compose could not make the project {self.project}: {error}") from error
        self._fill_volumes()

    # -- the file

    @property
    def _file(self) -> str:
        return self.topology.compose or laila_services.shipped_file(self.topology)

    @property
    def _written(self) -> Path:
        """The file as this run uses it."""
        return self.run.path / "compose.json"

    @cached_property
    def _services(self) -> dict[str, Any]:
        """What the project consists of; nothing is known of one that this run did not make."""
        if not self._written.exists():
            return {}
        services: dict[str, Any] = json.loads(self._written.read_text(encoding="utf-8"))["services"]
        return services

    def _fitted(self) -> Table:
        """The file's table for this run."""
        topology, own = self.topology, not self.topology.foreign
        keys = self._make_keys() if own else {}
        said = {"LAILA_SECRET_FILE": str(keys[_FOR_THE_FILE]), "LAILA_IMAGE": topology.image} if own else {}
        table = read_services(self._file, topology, said)
        names = {self._service(name): name for name in topology.names}
        if own:
            if not topology.compose:
                self._require_images()
                table = compose_file.without(table, set(table["services"]) - set(names))
                laila_services.agree(table, topology)
            laila_services.add_stranger(
                table, topology, self._service(topology.names[0]), partial(_door, table, names)
            )
            laila_services.name_secrets(table, keys)
            names[laila_services.STRANGER] = topology.stranger.name
        client = topology.client
        publish = client.port if client is not None and client.where == HERE else 0
        labels = {service: {NODE_LABEL: name} for service, name in names.items()}
        fitted = compose_file.fit(table, compose_file.Fit(self.project, self._labels(), labels, publish))
        self._add_disks(fitted, names)
        self._add_clocks(fitted, names)
        return fitted

    def _add_disks(self, table: Table, names: Mapping[str, str]) -> None:
        """Where the topology asks for it, the volume of each node's state lies on a disk of its own."""
        if not self.topology.state_mib:
            return
        places = {
            name: STATE_DIR if not self.topology.foreign else self.node(name).state for name in names.values()
        }
        volumes = {
            name: service_tables.volume_at(table, service, places[name]) for service, name in names.items()
        }
        whose = (0, 0, 0o777) if self.topology.foreign else (NODE_UID, 0, 0o770)
        why = self._elsewhere or disks.hindrance() or self.disks.make(list(volumes), *whose)
        for name, volume in volumes.items() if not why else ():
            options = {"type": "ext4", "device": self.disks.attach(name), "o": disks.OPTIONS}
            service_tables.driver_options(table, volume, options)
        self.note(disks={"kind": disks.DIRECTORY if why else disks.EXT4, "why": why})

    def _add_clocks(self, table: Table, names: Mapping[str, str]) -> None:
        """Where the topology asks for it, nodes are started with the library that bends clocks."""
        if not self.topology.clocks:
            return
        why = self._no_clocks()
        self.note(clocks=why)
        if why:
            return
        service_tables.volumes(table)[_CLOCKS] = {
            "name": self._make_volume("clocks"),
            "external": True,
        }
        for service, name in names.items():
            changed, settings = table["services"][service], self._clock_settings(name)
            before = (changed.get("environment") or {}).get(_PRELOAD)
            if before:
                settings = {**settings, _PRELOAD: f"{settings[_PRELOAD]}:{before}"}
            service_tables.environment(changed, settings)
            service_tables.mount(table, changed, _CLOCKS, CLOCKS_DIR)

    def _fill_volumes(self) -> None:
        """What can be put into volumes once there are containers that mount them."""
        if clock_shift.made(self.run):
            container = self._container(self.topology.names[0])
            library = tar_of(clock_shift.LIBRARY, clock_shift.library(), 0o755, 0)
            self._asking("fill the volume of clocks", lambda: container.put_archive(CLOCKS_DIR, library))

    def _require_images(self) -> None:
        for image in self.topology.images:
            try:
                self._engine.images.get(image)
            except self._errors.ImageNotFound:
                raise LabError(absent(image)) from None

    def _make_keys(self) -> dict[str, Path]:
        """A file for each secret of the topology, and the one that files ask for. Nodes read them as another user."""
        every = (*self.topology.nodes, self.topology.stranger)
        folder = self.run.path / "secrets"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = {}
        for name in sorted({_FOR_THE_FILE, *(node.secret for node in every)}):
            found[name] = folder / name
            found[name].write_text(secrets.token_urlsafe(32) + "\n", encoding="ascii")
            found[name].chmod(0o444)
        return found

    # -- its containers

    def _service(self, name: str) -> str:
        return self.node(name).service or name

    def _of_service(self, service: str) -> Any:
        """Its container. Raises LabError when there is none."""
        if (container := self._look_up(service)) is None:
            raise LabError(f"the service {service} of the project {self.project} has no container")
        return container

    def _look_up(self, service: str) -> Any | None:
        labels = [f"{PROJECT_LABEL}={self.project}", f"{SERVICE_LABEL}={service}", f"{ONE_OFF_LABEL}=False"]
        found = self._engine.containers.list(all=True, filters={"label": labels}, ignore_removed=True)
        if len(found) > 1 and self.topology.attach:
            raise LabError(
                f"the service {service} of {self.project} has {len(found)} containers, and a node is one"
            )
        return found[0] if found else None

    def _find(self, name: str) -> Any | None:
        return self._look_up(self._service(name))

    def _container(self, name: str) -> Any:
        self.node(name)
        if (container := self._find(name)) is None:
            raise LabError(f"{name} is not there: the project {self.project} has no container of it")
        return container

    def _settings(self, name: str) -> dict[str, str]:
        """The environment of its container."""
        container = self._find(name)
        return {} if container is None else environment_of(container)


def read_services(file: str, topology: Topology, environment: Mapping[str, str] | None = None) -> Table:
    """A compose file that has all nodes of a topology. Raises BadConfig, which lists the services that there are."""
    table = compose_file.read(file, environment)
    wanted = [node.service or node.name for node in topology.nodes]
    if missing := [service for service in wanted if service not in table["services"]]:
        has = ", ".join(table["services"])
        raise BadConfig(f"{file} has no service {', '.join(missing)}; it has {has}")
    return table


def services_running(project: str) -> dict[str, bool]:
    """The services of a project that the engine has, and whether each is a node of laila's. Raises BadConfig, which
    lists the projects that there are.
    """
    client = connect()
    try:
        every = client.containers.list(all=True, filters={"label": PROJECT_LABEL}, ignore_removed=True)
    finally:
        client.close()
    mine = [
        one
        for one in every
        if one.labels[PROJECT_LABEL] == project and one.labels.get(ONE_OFF_LABEL) != "True"
    ]
    if not mine:
        known = ", ".join(sorted({one.labels[PROJECT_LABEL] for one in every})) or "none"
        raise BadConfig(f"no compose project {project!r} is here; there are: {known}")
    ordered = sorted(mine, key=lambda one: str(one.labels[SERVICE_LABEL]))
    return {one.labels[SERVICE_LABEL]: compose_file.MARK in environment_of(one) for one in ordered}


def ports_of(settings: Mapping[str, str]) -> tuple[int, int]:
    listen, status = settings.get("LAILA_LISTEN", ""), settings.get("LAILA_STATUS", "")
    return int(listen.rpartition(":")[2] or PEER_PORT), int(status.rpartition(":")[2] or STATUS_PORT)


def _door(table: Table, names: Mapping[str, str], name: str) -> str:
    """Where a node will be dialed, by the file."""
    service = next(service for service, node in names.items() if node == name)
    settings = table["services"][service].get("environment") or {}
    return settings.get("LAILA_ADVERTISE") or f"{service}:{ports_of(settings)[0]}"


def environment_of(container: Any) -> dict[str, str]:
    pairs = container.attrs["Config"].get("Env") or []
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)
