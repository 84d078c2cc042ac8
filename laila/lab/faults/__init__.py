"""Faults by name. `laila lab fault list` shows them with what each driver can do here."""

from __future__ import annotations

from collections.abc import Mapping

from laila.errors import BadConfig
from laila.lab.faults.base import Bite, Fault, NoBite, NotHealed, Option, Scene
from laila.lab.faults.spec import FaultSpec, Schedule, schedule, written

KINDS: Mapping[str, type[Fault]] = {}


def make(scene: Scene, spec: FaultSpec) -> Fault:
    """The fault of this kind. Raises BadConfig that lists those that exist."""
    if spec.kind not in KINDS:
        raise BadConfig(f"unknown fault {spec.kind!r}; there are {', '.join(KINDS)}")
    return KINDS[spec.kind](scene, spec)


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
