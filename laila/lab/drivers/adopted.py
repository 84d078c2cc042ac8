"""Nodes as containers that somebody else started: testcontainers, a script, a person.

They are worked on, and left as they were found: what this run stopped, paused or cut off is started, resumed and joined
again, and nothing of theirs is removed. That is how the compose driver treats a project that runs already; here the
containers are found by their ids.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

from laila.errors import BadConfig, LabError
from laila.lab.drivers.base import Capabilities, NodeState
from laila.lab.drivers.compose import ComposeDriver
from laila.lab.drivers.engine import connect, short
from laila.lab.registry import Run
from laila.lab.topology import PLAIN, NodeSpec, Topology

NAME = "adopted"
FACT = "containers"
"""Node to container id, in the run's record."""
_NOT_THEIR_OWN = ("host", "none", "container:", "service:")
"""Networks of a container that are no network of its own."""


class AdoptedDriver(ComposeDriver):
    """See the top of this file. The run's facts must have the containers before `prepare`."""

    name: ClassVar[str] = NAME
    capabilities: ClassVar[Capabilities] = Capabilities(
        own_network=True, own_filesystem=True, resource_limits=True, cut=True, volume_kinds=(PLAIN,)
    )

    def __init__(self, run: Run, topology: Topology) -> None:
        super().__init__(run, topology)
        self.project = f"adopted by {run.run_id}"

    # -- the run

    @property
    def guest(self) -> bool:
        """Containers of somebody else stay."""
        return True

    def prepare(self) -> None:
        """Note how they are found. Raises LabError for what cannot be a node."""
        for name in self.topology.names:
            self._fit(name, self._container(name).attrs)
        self._require_ways()
        self.note(found={name: self.state(name).value for name in self.topology.names})

    def remove(self) -> list[str]:
        """Those that are gone were removed by their owner, and that is nobody's fault."""
        known = self.run.facts.get("found", {})
        self.note(found={name: was for name, was in known.items() if self._find(name) is not None})
        left = self._leave()
        return [*left, *super().remove()]

    def start(self, name: str) -> None:
        """Again: they were started once by their owner."""
        if self.state(name) is NodeState.ABSENT:
            raise LabError(f"cannot start {name}: its container is gone, and only its owner can make another")
        super().start(name)

    def stop(self, name: str, grace: float = 10.0) -> int:
        self._must_stay(name, "stop")
        return super().stop(name, grace)

    def kill(self, name: str) -> None:
        self._must_stay(name, "kill")
        super().kill(name)

    def door(self, name: str, seen_from: str = "") -> str:
        return f"{self.ips(name)[0]}:{self._ports(name)[0]}"

    def describe(self) -> dict[str, str]:
        """With what their owner calls them."""
        version = self._engine.version()
        found = {name: one for name in self.topology.names if (one := self._find(name)) is not None}
        return {
            "nodes are": "containers of somebody else",
            "containers": ", ".join(f"{name} is {one.name}" for name, one in found.items()),
            "engine": f"{version.get('Version')} ({version.get('Os')}/{version.get('Arch')})",
            "image": ", ".join(sorted({str(one.attrs["Config"]["Image"]) for one in found.values()})),
            "kernel": str(version.get("KernelVersion")),
        }

    # -- inside

    def _look_up(self, service: str) -> Any | None:
        try:
            return self._engine.containers.get(self.run.facts[FACT][service])
        except self._errors.NotFound:
            return None

    def _fit(self, name: str, facts: Mapping[str, Any]) -> None:
        if (state := facts["State"]["Status"]) != "running":
            raise LabError(f"{name} is {state}, not running: start its container before it is adopted")
        network = str(facts["HostConfig"]["NetworkMode"])
        if network.startswith(_NOT_THEIR_OWN):
            raise LabError(
                f"{name} has no network of its own (it has `{network}`), so a fault would strike others: put it on a "
                "network with the others"
            )

    def _require_ways(self) -> None:
        """Every node shares a network with another one, if there is another."""
        names = self.topology.names
        on = {name: set(self._container(name).attrs["NetworkSettings"]["Networks"]) for name in names}
        met = {name for a, b in itertools.permutations(names, 2) if on[a] & on[b] for name in (a, b)}
        if len(names) > 1 and (alone := [name for name in names if name not in met]):
            others = ", ".join(name for name in names if name != alone[0])
            raise LabError(
                f"{alone[0]} shares no network with {others}, and faults of the network act between nodes: put them on "
                "one, with testcontainers by `.with_network(network)`"
            )

    def _must_stay(self, name: str, doing: str) -> None:
        if self._container(name).attrs["HostConfig"].get("AutoRemove"):
            raise LabError(
                f"cannot {doing} {name}: the engine removes its container when it ends; start it without auto_remove"
            )

    def _ports(self, name: str) -> tuple[int, int]:
        """The lowest TCP port that it says it has, where it can be reached from here: by it a fault is proven."""
        known = self._container(name).attrs["NetworkSettings"].get("Ports") or {}
        offered = {port: published for port, published in known.items() if port.endswith("/tcp")}
        reached = [port for port, published in offered.items() if published or not self._elsewhere]
        return min((int(port.partition("/")[0]) for port in reached), default=0), 0


def shape(containers: Mapping[str, Any]) -> tuple[Topology, dict[str, str]]:
    """The topology of these containers, and the id of each. Raises BadConfig, LabError."""
    if not containers:
        raise BadConfig("no container is given: Lab.adopt({'redis': container})")
    nodes = tuple(
        NodeSpec(name, peers=tuple(other for other in containers if other != name)) for name in containers
    )
    stranger = NodeSpec("stranger", secret="stranger")  # noqa: S106  a name
    client = connect()
    try:
        found = {name: _id(client, name, one) for name, one in containers.items()}
    finally:
        client.close()
    if twice := [name for name, one in found.items() if list(found.values()).count(one) > 1]:
        raise BadConfig(f"{' and '.join(twice)} are the same container")
    return Topology(NAME, nodes, stranger, theirs=True), found


def _id(client: Any, name: str, given: Any) -> str:
    """Of a testcontainers object, one of the Docker SDK, a name or an id."""
    if (asked := getattr(given, "get_wrapped_container", None)) is not None:
        try:
            given = asked()
        except Exception as error:  # testcontainers' own, of which not all releases have one
            raise LabError(f"{name} does not run: start its container before it is adopted") from error
        if given is None:
            raise LabError(f"{name} does not run: start its container before it is adopted")
    known = given if isinstance(given, str) else getattr(given, "id", None)
    if not isinstance(known, str) or not known:
        raise BadConfig(
            f"{name}: {given!r} is no container; give one of testcontainers or of the Docker SDK, or a name or id"
        )
    try:
        return str(client.containers.get(known).id)
    except Exception as error:  # the SDK's, or its transport's
        raise LabError(f"{name}: the engine does not give the container {known}: {short(error)}") from error
