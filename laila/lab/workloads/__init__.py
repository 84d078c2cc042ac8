"""Workloads by name: docs/lab.md has what each shows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from laila.errors import BadConfig
from laila.lab.workloads.base import Invocation, Script, Who, Workload
from laila.lab.workloads.convergence import Convergence
from laila.lab.workloads.grow_set import GrowSet, Registrations
from laila.lab.workloads.lock import Lock
from laila.lab.workloads.peering import Peering
from laila.lab.workloads.register import Register
from laila.lab.workloads.sessions import Sessions
from laila.lab.workloads.swap import Swap

WORKLOADS: Mapping[str, type[Workload]] = {
    kind.name: kind for kind in (Register, Swap, Lock, GrowSet, Registrations, Sessions, Peering, Convergence)
}


def make(name: str, **options: Any) -> Workload:
    """The workload of this name; an option that is text is read as what its default is. Raises BadConfig, which lists
    what exists.
    """
    if name not in WORKLOADS:
        raise BadConfig(f"unknown workload {name!r}; there are {', '.join(WORKLOADS)}")
    kind, known = WORKLOADS[name], defaults(name)
    if unknown := sorted(set(options) - set(known)):
        raise BadConfig(f"{name} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return kind(**{option: _typed(name, option, value, known[option]) for option, value in options.items()})


def defaults(name: str) -> dict[str, Any]:
    """The options of a workload with their defaults."""
    fields = dataclasses.fields(WORKLOADS[name])  # type: ignore[arg-type]  # every workload is a dataclass
    return {field.name: field.default for field in fields if field.init}


def _typed(name: str, option: str, value: Any, default: Any) -> Any:
    wanted = type(default)
    wrong = BadConfig(f"{name}: {option}={value!r} is no {wanted.__name__}")
    if isinstance(value, str) and wanted is bool:
        value = {"true": True, "false": False}.get(value, value)
    elif isinstance(value, str) or (wanted is float and type(value) is int):
        try:
            value = wanted(value)
        except (ValueError, OverflowError):
            raise wrong from None
    if type(value) is not wanted or (wanted is float and not math.isfinite(value)):
        raise wrong
    return value


__all__ = [
    "WORKLOADS",
    "Invocation",
    "Script",
    "Who",
    "Workload",
    "defaults",
    "make",
]
