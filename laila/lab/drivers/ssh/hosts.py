"""The hosts of a topology: which node is on which, and asking all of them side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from laila.errors import BadConfig, LabError
from laila.lab.drivers.ssh.host import SshHost
from laila.lab.topology import HostSpec, Topology

T = TypeVar("T")
_AT_ONCE = 16


class SshHosts:
    """One of each, however many nodes it has. A stranger without a host of its own is beside the first node."""

    def __init__(self, topology: Topology, run_id: str) -> None:
        """Connects to nobody yet. Raises BadConfig when a node has no host."""
        if missing := [node.name for node in topology.nodes if node.host is None]:
            raise BadConfig(
                f"the ssh driver needs to know where {', '.join(missing)} can run: give each node a host, such as "
                'host = {address = "10.0.0.5", user = "root", key = "~/.ssh/id_ed25519"}'
            )
        self._topology = topology
        self._hosts: dict[HostSpec, SshHost] = {}
        for name in self._every():
            spec = self._key(name)
            self._hosts.setdefault(spec, SshHost(spec, run_id))

    def __iter__(self) -> Iterator[SshHost]:
        return iter(self._hosts.values())

    def of(self, name: str) -> SshHost:
        """Raises BadConfig for an unknown node."""
        return self._hosts[self._key(name)]

    def spec(self, name: str) -> HostSpec:
        found = self._topology.node(name).host or self._topology.nodes[0].host
        if found is None:
            raise BadConfig(f"{name} has no host")
        return found

    def dialed(self, name: str) -> str:
        """The address at which the other nodes dial it."""
        return self.spec(name).inner or self.spec(name).address

    def names(self, host: SshHost, *, stranger: bool = True) -> list[str]:
        """The nodes that are there."""
        every = self._every() if stranger else list(self._topology.names)
        return [name for name in every if self.of(name) is host]

    def tried(
        self, ask: Callable[[SshHost], T], hosts: Iterable[SshHost] | None = None
    ) -> dict[SshHost, T | LabError]:
        """Ask hosts side by side, by default all; what each answered, or why it did not."""

        def one(host: SshHost) -> T | LabError:
            try:
                return ask(host)
            except LabError as error:
                return error

        asked = list(self if hosts is None else hosts)
        if not asked:
            return {}
        with ThreadPoolExecutor(min(len(asked), _AT_ONCE)) as pool:
            return dict(zip(asked, pool.map(one, asked), strict=True))

    def everywhere(self, ask: Callable[[SshHost], T]) -> dict[SshHost, T]:
        """The same of all. Raises LabError with what every host that failed said."""
        found = self.tried(ask)
        if failed := [str(answer) for answer in found.values() if isinstance(answer, LabError)]:
            raise LabError("; ".join(failed))
        return {host: answer for host, answer in found.items() if not isinstance(answer, LabError)}

    def close(self) -> None:
        for host in self:
            host.close()

    def _every(self) -> list[str]:
        return [*self._topology.names, self._topology.stranger.name]

    def _key(self, name: str) -> HostSpec:
        """The same for two nodes on one host."""
        return dataclasses.replace(self.spec(name), inner="")
