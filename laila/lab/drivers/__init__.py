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
    """Raises BadConfig for an unknown driver, LabError when the one that was asked for cannot work here."""
    if wanted == "process":
        return Choice("process", "asked for")
    if wanted not in ("auto", "docker"):
        raise BadConfig(f"unknown driver {wanted!r}; there are auto, {', '.join(DRIVERS)}")
    from laila.lab.drivers import engine

    hindrance = engine.hindrance(topology.image)
    if hindrance is None:
        return Choice(
            "docker", "asked for" if wanted == "docker" else f"an engine answers and has {topology.image}"
        )
    if wanted == "docker":
        raise LabError(f"the docker driver cannot work here: {hindrance}")
    return Choice("process", f"no containers: {hindrance}")


def capabilities(name: str) -> Capabilities:
    """What a driver's nodes have, before any is made."""
    return _class(name).capabilities


def make(run: Run, topology: Topology) -> Driver:
    """The driver of a run that is registered, new or standing."""
    return _class(run.driver)(run, topology)


def _class(name: str) -> type[Driver]:
    if name == "docker":
        from laila.lab.drivers.docker import DockerDriver

        return DockerDriver
    if name == "process":
        from laila.lab.drivers.process import ProcessDriver

        return ProcessDriver
    raise BadConfig(f"unknown driver {name!r}; there are {', '.join(DRIVERS)}")
