"""Drivers by name, and the choice between them.

`auto` takes what the topology asks for: compose for one that names a compose file, ssh for one that names machines. Of
any other, containers where an engine answers and has the node image, else plain processes. It says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from laila.errors import BadConfig, LabError
from laila.lab.drivers.base import Capabilities, Driver
from laila.lab.registry import Run
from laila.lab.topology import Topology

DRIVERS: Mapping[str, str] = {
    "docker": "containers, by a Docker engine",
    "process": "plain processes on this machine",
    "compose": "services of a compose project, ours or yours",
    "ssh": "machines that are reached by SSH",
    "kubernetes": "pods of a Kubernetes cluster",
}
_NO_NETWORK_VOLUMES = {
    "compose": "its nodes are what the compose file says",
    "kubernetes": "its nodes have no right to mount",
    "process": "its nodes share this machine's files",
    "ssh": "its nodes run on machines as they are",
}


@dataclass(frozen=True, slots=True)
class Choice:
    """Which driver, and why, in a sentence for people."""

    name: str
    reason: str


def choose(wanted: str, topology: Topology) -> Choice:
    """Raises BadConfig for an unknown driver and for one that cannot have such volumes, LabError when the one
    that is needed cannot work here.
    """
    if wanted not in ("auto", *DRIVERS):
        raise BadConfig(f"unknown driver {wanted!r}; there are auto, {', '.join(DRIVERS)}")
    if needed := _needed(topology):
        if wanted not in ("auto", needed[0]):
            raise BadConfig(f"{needed[1]}: take --driver {needed[0]}, not {wanted}")
        return _checked(needed[0], topology, "asked for" if wanted == needed[0] else needed[1])
    if wanted in ("compose", "ssh", "kubernetes"):
        return _checked(wanted, topology, "asked for")
    if wanted == "process":
        _require_volumes("process", topology)
        return Choice("process", "asked for")
    from laila.lab.drivers import engine

    hindrance = engine.hindrance(*topology.images)
    if hindrance is None:
        has = " and ".join(topology.images)
        return Choice("docker", "asked for" if wanted == "docker" else f"an engine answers and has {has}")
    if wanted == "docker" or _without_volumes("process", topology):
        raise LabError(f"the docker driver cannot work here: {hindrance}")
    return Choice("process", f"no containers: {hindrance}")


def _needed(topology: Topology) -> tuple[str, str] | None:
    """The one driver that can take this topology, and why; None when several can."""
    if topology.compose or topology.attach:
        return "compose", f"the topology {topology.name!r} is made of the services of a compose project"
    if topology.foreign:
        raise BadConfig(
            f"the nodes of the topology {topology.name!r} are not laila's: "
            'say where they come from with `compose = "FILE"`'
        )
    if any(node.host is not None for node in topology.nodes):
        return "ssh", f"the topology {topology.name!r} names the machines of its nodes"
    return None


def _checked(name: str, topology: Topology, reason: str) -> Choice:
    """Raises what keeps this driver from taking this topology here."""
    _require_volumes(name, topology)
    if name == "compose":
        from laila.lab.drivers import compose, engine

        compose.check(topology)
        images = () if topology.compose or topology.attach else topology.images
        if why := engine.hindrance(*images):
            raise LabError(f"the compose driver cannot work here: {why}")
    if name == "ssh":
        from laila.lab.drivers.ssh import driver as ssh

        ssh.check(topology)
    if name == "kubernetes":
        from laila.lab.drivers.kubernetes import driver as kubernetes

        kubernetes.check(topology)
    return Choice(name, reason)


def capabilities(name: str) -> Capabilities:
    """What a driver's nodes have, before any is made."""
    return _class(name).capabilities


def make(run: Run, topology: Topology) -> Driver:
    """The driver of a run that is registered, new or standing. Raises BadConfig as `choose` does."""
    _require_volumes(run.driver, topology)
    return _class(run.driver)(run, topology)


def _without_volumes(name: str, topology: Topology) -> list[str]:
    """The kinds of volumes that this driver cannot have."""
    can = capabilities(name).volume_kinds
    return sorted({volume.kind for volume in topology.volumes if volume.kind not in can})


def _require_volumes(name: str, topology: Topology) -> None:
    if missing := _without_volumes(name, topology):
        others = [other for other in DRIVERS if not _without_volumes(other, topology)]
        raise BadConfig(
            f"the {name} driver has no {' and no '.join(missing)} volume, because {_NO_NETWORK_VOLUMES[name]}; "
            f"use --driver {' or '.join(others)}"
        )


def _class(name: str) -> type[Driver]:
    if name == "docker":
        from laila.lab.drivers.docker import DockerDriver

        return DockerDriver
    if name == "compose":
        from laila.lab.drivers.compose import ComposeDriver

        return ComposeDriver
    if name == "process":
        from laila.lab.drivers.process import ProcessDriver

        return ProcessDriver
    if name == "ssh":
        from laila.lab.drivers.ssh.driver import SshDriver

        return SshDriver
    if name == "adopted":  # by Lab.adopt alone; here for the commands that come later
        from laila.lab.drivers.adopted import AdoptedDriver

        return AdoptedDriver
    if name == "kubernetes":
        from laila.lab.drivers.kubernetes.driver import KubernetesDriver

        return KubernetesDriver
    raise BadConfig(f"unknown driver {name!r}; there are {', '.join(DRIVERS)}")
