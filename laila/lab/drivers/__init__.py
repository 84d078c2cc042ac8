"""Drivers by name, and the choice between them.

`auto` takes containers where an engine answers and has the node image, else plain processes, and says why.
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
            f"the {name} driver has no {' and no '.join(missing)} volume, because its nodes share this machine's "
            f"files; use --driver {' or '.join(others)}"
        )


def _class(name: str) -> type[Driver]:
    if name == "docker":
        from laila.lab.drivers.docker import DockerDriver

        return DockerDriver
    if name == "process":
        from laila.lab.drivers.process import ProcessDriver

        return ProcessDriver
    raise BadConfig(f"unknown driver {name!r}; there are {', '.join(DRIVERS)}")
