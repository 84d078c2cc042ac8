"""What a worker has: the volume, lock services, and the holds that it keeps until it is told to let go."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laila.errors import BadValue
from laila.locks import Hold, LockService, connect

Words = Mapping[str, Any]
Operation = Callable[["Bench", Words, float], dict[str, Any]]
"""What is asked, the seconds that it may take, and the result as plain JSON."""


@dataclass(slots=True)
class Bench:
    """`volume` is the directory of the volume as this node sees it; no operation reaches out of it."""

    volume: Path
    services: dict[str, LockService] = field(default_factory=dict)
    holds: dict[str, Hold] = field(default_factory=dict)
    things: dict[Any, Any] = field(default_factory=dict)
    """Stores and agents that were opened, by what they were opened with."""

    def path(self, relative: Any) -> Path:
        """A file of the volume. Raises BadValue for one outside."""
        if not isinstance(relative, str) or relative.startswith("/") or ".." in relative.split("/"):
            raise BadValue(f"{relative!r} is not inside the volume")
        return self.volume / relative

    def service(self, place: Any) -> LockService:
        """The lock service in a directory of the volume, opened once."""
        directory = str(self.path(place))
        if directory not in self.services:
            self.services[directory] = connect(directory)
        return self.services[directory]

    def close(self) -> None:
        for hold in self.holds.values():
            hold.release()
        for service in self.services.values():
            service.close()
        for thing in self.things.values():
            with contextlib.suppress(AttributeError):  # not everything needs an end
                thing.close()


def text(words: Words, key: str) -> str:
    """A word that must be there. Raises BadValue."""
    value = words.get(key)
    if not isinstance(value, str):
        raise BadValue(f"`{key}` must be a text, not {value!r}")
    return value


def number(words: Words, key: str, otherwise: float | None = None) -> float:
    """A number that must be there, or its default. Raises BadValue."""
    value = words.get(key, otherwise)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadValue(f"`{key}` must be a number, not {value!r}")
    return value


def span(words: Words, key: str) -> tuple[float, float]:
    """`[least, most]`. Raises BadValue."""
    value = words.get(key)
    if not isinstance(value, list) or len(value) != 2 or not 0 <= value[0] <= value[1]:
        raise BadValue(f"`{key}` must be [least, most], not {value!r}")
    return float(value[0]), float(value[1])
