"""Volumes of nodes on machines that are reached by SSH: what is mounted there already, a directory for each run.

That all hosts have mounted the same is shown before the run: what one writes there the others must see. A volume of a
limited size cannot be had, and is a directory of each host; a read-only one is a mount that root makes.
"""

from __future__ import annotations

import time
from typing import Any

from laila.errors import LabError
from laila.lab.drivers.ssh.host import SshHost
from laila.lab.drivers.ssh.hosts import SshHosts
from laila.lab.topology import Topology, VolumeSpec

SEES_WITHIN = 10.0
"""Seconds in which one host must see what another one wrote."""


class SshVolumes:
    """Those of one run."""

    def __init__(self, topology: Topology, hosts: SshHosts, run_id: str) -> None:
        self._topology = topology
        self._hosts = hosts
        self._run = run_id

    def place(self, volume: VolumeSpec, root: str) -> str:
        """Its directory on a host, on which this run's own directory is `root`."""
        if self._is_mounted(volume):
            return f"{volume.at.rstrip('/')}/laila-lab-{self._run}"
        return f"{root}/volumes/{volume.name}"

    def to_make(self, host: SshHost) -> list[dict[str, Any]]:
        """What the steward is told of the volumes of a host's nodes."""
        found = [volume for volume in self._topology.volumes if host in self._mounters(volume)]
        return [
            self._words(volume, host.root) for volume in sorted(found, key=lambda v: bool(v.read_only_of))
        ]

    def outside(self, host: SshHost) -> list[str]:
        """Directories of this run on a host, other than its own one."""
        found = [v for v in self._topology.volumes if self._is_mounted(v) and host in self._mounters(v)]
        return [self.place(volume, "") for volume in found]

    def show_shared(self) -> None:
        """That all who mount one mount the same. Raises LabError that says who does not."""
        for volume in self._topology.volumes:
            hosts = self._mounters(volume)
            if len(hosts) > 1 and self._is_mounted(volume):
                self._show(volume, hosts)

    def _show(self, volume: VolumeSpec, hosts: list[SshHost]) -> None:
        path = self.place(volume, "")
        marks = {host: f".host-{number}" for number, host in enumerate(hosts)}
        for host, mark in marks.items():
            host.ask("leave_mark", path=path, name=mark)
        deadline = time.monotonic() + SEES_WITHIN
        for host in hosts:
            while missing := set(marks.values()) - set(host.ask("marks", path=path)["names"]):
                if time.monotonic() > deadline:
                    who = ", ".join(other.where for other, mark in marks.items() if mark in missing)
                    raise LabError(
                        f"the volume {volume.name!r} is not shared: in {volume.at} {host.where} does not see what "
                        f"{who} wrote there; mount the same file system at {volume.at} on all of them"
                    )
                time.sleep(0.2)

    def _words(self, volume: VolumeSpec, root: str) -> dict[str, Any]:
        original = ""
        if volume.read_only_of:
            known = {other.name: other for other in self._topology.volumes}
            original = self.place(known[volume.read_only_of], root)
        return {
            "name": volume.name,
            "at": volume.at,
            "path": self.place(volume, root),
            "size_mib": volume.size_mib,
            "read_only_of": volume.read_only_of,
            "original": original,
        }

    def _is_mounted(self, volume: VolumeSpec) -> bool:
        return not volume.size_mib and not volume.read_only_of

    def _mounters(self, volume: VolumeSpec) -> list[SshHost]:
        every = (*self._topology.nodes, self._topology.stranger)
        who = [node.name for node in every if volume in self._topology.volumes_of(node.name)]
        return list(dict.fromkeys(self._hosts.of(name) for name in who))
