"""Faults by name. `laila lab fault list` shows them with what each driver can do here."""

from __future__ import annotations

from collections.abc import Mapping

from laila.errors import BadConfig
from laila.lab.faults.base import Bite, Fault, NoBite, NotHealed, Option, Scene
from laila.lab.faults.clock import Clock
from laila.lab.faults.connections import Refuse, Reset
from laila.lab.faults.damage import Flip, Rollback, Truncate
from laila.lab.faults.full import DiskFull
from laila.lab.faults.gone import VolumeGone
from laila.lab.faults.holder import KillHolder
from laila.lab.faults.life import Kill, Pause, Restart
from laila.lab.faults.limits import NoProcesses, OutOfMemory
from laila.lab.faults.nofile import NoFiles
from laila.lab.faults.partition import Isolate, OneWay, Partition
from laila.lab.faults.placing import DeletePod, Drain, Evict, Rollout
from laila.lab.faults.power import PowerLoss
from laila.lab.faults.readonly import ReadOnly
from laila.lab.faults.shaping import Bandwidth, Latency, Loss
from laila.lab.faults.slow import SlowFsync
from laila.lab.faults.spec import FaultSpec, Schedule, schedule, written

KINDS: Mapping[str, type[Fault]] = {
    "bandwidth": Bandwidth,
    "isolate": Isolate,
    "latency": Latency,
    "loss": Loss,
    "one-way": OneWay,
    "partition": Partition,
    "refuse": Refuse,
    "reset": Reset,
    "disk-full": DiskFull,
    "power-loss": PowerLoss,
    "read-only": ReadOnly,
    "slow-fsync": SlowFsync,
    "volume-gone": VolumeGone,
    "kill": Kill,
    "pause": Pause,
    "restart": Restart,
    "clock": Clock,
    "nofile": NoFiles,
    "oom": OutOfMemory,
    "pids": NoProcesses,
    "flip": Flip,
    "rollback": Rollback,
    "truncate": Truncate,
    "kill-holder": KillHolder,
    "delete-pod": DeletePod,
    "drain": Drain,
    "evict": Evict,
    "rollout": Rollout,
}


def make(scene: Scene, spec: FaultSpec) -> Fault:
    """The fault of this kind. Raises BadConfig that lists those that exist."""
    return known(spec)(scene, spec)


def known(spec: FaultSpec) -> type[Fault]:
    """Its kind. Raises BadConfig that lists those that exist."""
    if spec.kind not in KINDS:
        raise BadConfig(f"unknown fault {spec.kind!r}; there are {', '.join(KINDS)}")
    return KINDS[spec.kind]


__all__ = [
    "KINDS",
    "Bite",
    "Fault",
    "FaultSpec",
    "NoBite",
    "NotHealed",
    "Option",
    "Scene",
    "Schedule",
    "make",
    "schedule",
    "written",
]
