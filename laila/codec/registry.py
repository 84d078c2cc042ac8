"""Registry: the classes of the user that may be encoded, by class and by name.

Strategy: closed. Bytes name a class, and only a name that this process registered is ever looked up;
nothing is imported and nothing else is called. Writers hold a lock and replace whole tables; readers take
no lock.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from laila.errors import BadValue

Kind = Literal["enum", "flag", "dataclass", "custom"]


class Registration(NamedTuple):
    """How one class is encoded. `fields` are a dataclass's, `late` those that its __init__ does not take."""

    cls: type
    name: str
    kind: Kind
    fields: tuple[str, ...] = ()
    late: frozenset[str] = frozenset()
    encode: Callable[[Any], Any] | None = None
    decode: Callable[[Any], Any] | None = None


class Registry:
    """Registrations, each under one name. Safe under threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.by_class: dict[type, Registration] = {}
        self.by_name: dict[str, Registration] = {}

    def add(self, new: Registration) -> None:
        """Raises BadValue when the name or the class is taken; the same again only replaces the functions."""
        with self._lock:
            holder = self.by_name.get(new.name)
            if holder is not None and holder.cls is not new.cls:
                raise BadValue(
                    f"the name {new.name!r} is taken by {_describe(holder.cls)}: "
                    f"register {_describe(new.cls)} under another with name=..., or unregister the first"
                )
            known = self.by_class.get(new.cls)
            if known is not None and known.name != new.name:
                raise BadValue(f"{_describe(new.cls)} is already registered, as {known.name!r}")
            self.by_class = {**self.by_class, new.cls: new}
            self.by_name = {**self.by_name, new.name: new}

    def remove(self, cls: type) -> None:
        """Forget a class. Raises BadValue when it is not registered."""
        with self._lock:
            known = self.by_class.get(cls)
            if known is None:
                raise BadValue(f"{_describe(cls)} is not registered")
            self.by_class = {key: value for key, value in self.by_class.items() if key is not cls}
            self.by_name = {key: value for key, value in self.by_name.items() if value.cls is not cls}


registry = Registry()  # of this process


def describe(
    cls: type, name: str | None, encode: Callable[[Any], Any] | None, decode: Callable[[Any], Any] | None
) -> Registration:
    """Find out how a class can be encoded. Raises BadValue when it needs functions that were not given."""
    if name is None:
        name = f"{cls.__module__}.{cls.__qualname__}"
    if not isinstance(name, str) or not name:
        raise BadValue("a registered name is a str that is not empty")
    if (encode is None) != (decode is None):
        raise BadValue(f"register {_describe(cls)} with both encode= and decode=, or with neither")
    if encode is not None:
        if not callable(encode) or not callable(decode):
            raise BadValue("encode= and decode= are functions")
        return Registration(cls, name, "custom", encode=encode, decode=decode)
    if issubclass(cls, enum.Flag):
        return Registration(cls, name, "flag")
    if issubclass(cls, enum.Enum):
        return Registration(cls, name, "enum")
    if "__dataclass_fields__" in vars(cls):
        return _describe_dataclass(cls, name)
    raise BadValue(
        f"{_describe(cls)} is neither an enum nor a dataclass: "
        "give encode= (object to a supported value) and decode= (that value to an object)"
    )


_VALUES = (bool, int, float, complex, str, bytes, bytearray, list, tuple, set, frozenset, dict)


def _describe_dataclass(cls: Any, name: str) -> Registration:
    # Imported here: the two make up a third of what `import laila` would cost, and only dataclasses need them.
    import dataclasses
    import inspect

    if issubclass(cls, _VALUES):
        raise BadValue(f"{_describe(cls)} has content beside its fields: give encode= and decode=")
    fields = dataclasses.fields(cls)
    taken = {field.name for field in fields if field.init}
    parameters = inspect.signature(cls).parameters.values()
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
    needed = {p.name for p in parameters if p.name in named and p.default is p.empty}
    if not needed <= taken or not (any_name or taken <= named):
        raise BadValue(f"{_describe(cls)} cannot be built from its fields alone: give encode= and decode=")
    names = tuple(field.name for field in fields)
    return Registration(cls, name, "dataclass", fields=names, late=frozenset(names) - taken)


def _describe(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
