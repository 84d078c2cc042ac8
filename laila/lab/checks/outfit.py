"""What a check adds to a topology whose nodes share a volume: a small one to fill, and a mount that nobody may write.

They serve the check alone, so the topology that people run, and the compose files that are equal to it, stay as they
are.
"""

from __future__ import annotations

import dataclasses

from laila.lab.checks.base import shared_by_all
from laila.lab.topology import Topology, VolumeSpec

SMALL = "check-small"
SMALL_MIB = 8
READ_ONLY = "check-read-only"


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
