"""What of laila is tested: programs beside a node that take the operations of workloads (`laila lab subject`)."""

from __future__ import annotations

from collections.abc import Callable

from laila.lab.subjects.base import Subject


def names() -> tuple[str, ...]:
    return tuple(_SUBJECTS)


def kind(name: str) -> type[Subject]:
    """The subject of that name. Imports only what it needs. Raises BadConfig that lists what exists."""
    from laila.errors import BadConfig

    if name not in _SUBJECTS:
        raise BadConfig(f"unknown subject {name!r}; there are {', '.join(_SUBJECTS)}")
    return _SUBJECTS[name]()


def _replicas() -> type[Subject]:
    from laila.lab.subjects.replicas import Replicas

    return Replicas


def _memory() -> type[Subject]:
    from laila.lab.subjects.memory import Memory

    return Memory


def _shared() -> type[Subject]:
    from laila.lab.subjects.volume import Shared

    return Shared


def _locks() -> type[Subject]:
    from laila.lab.subjects.volume import Locks

    return Locks


def _agents() -> type[Subject]:
    from laila.lab.subjects.volume import Agents

    return Agents


_SUBJECTS: dict[str, Callable[[], type[Subject]]] = {
    "memory": _memory,
    "replicas": _replicas,
    "shared": _shared,
    "locks": _locks,
    "agents": _agents,
}
