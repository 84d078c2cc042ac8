"""What a check adds to a topology: to a shared volume a small one to fill, and a mount that nobody may write; to nodes
disks of their own and clocks that can be shifted, where faults need them.

All that serves the check alone, so the topology that people run, and the compose files that are equal to it, stay as
they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from laila.lab.checks.base import shared_by_all
from laila.lab.topology import Topology, VolumeSpec

SMALL = "check-small"
SMALL_MIB = 8
READ_ONLY = "check-read-only"


STATE_MIB = 512
"""The size of a node's own disk, where faults need it to have one."""
NEED_DISK = frozenset({"disk-full", "power-loss", "slow-fsync"})
NEED_CLOCKS = frozenset({"clock"})


def for_faults(topology: Topology, kinds: Collection[str]) -> Topology:
    """The same, with what these kinds of faults need of the nodes from their start."""
    if not topology.state_mib and NEED_DISK & set(kinds):
        topology = dataclasses.replace(topology, state_mib=STATE_MIB)
    if NEED_CLOCKS & set(kinds):
        topology = dataclasses.replace(topology, clocks=True)
    return topology


def outfit(topology: Topology) -> Topology:
    """The same, and these two volumes; unchanged where there is no shared volume."""
    shared = shared_by_all(topology)
    if shared is None:
        return topology
    added = [
        VolumeSpec(SMALL, f"/mnt/{SMALL}", topology.names, size_mib=SMALL_MIB),
        VolumeSpec(READ_ONLY, f"/mnt/{READ_ONLY}", topology.names, read_only_of=shared.name),
    ]
    known = {volume.name for volume in topology.volumes}
    more = [volume for volume in added if volume.name not in known]
    return dataclasses.replace(topology, volumes=(*topology.volumes, *more))
