"""Entries: a payload with an id. What a pool keeps and a link carries is an entry's record.

An entry takes a snapshot of its data when it is made, encoded; so a constant really is one, whatever happens to the
object that it was made from or to the object that `data` returns. A record is the codec's encoding of
`[kind, nickname, evolution, data]`.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final

from . import buffers, codec
from .codec import Encoded
from .errors import BadValue, Corrupt, UnsupportedType
from .ids import new_id, nickname_id

_SCALARS = frozenset({type(None), bool, int, float, str, bytes, complex})
_MISSING: Final = object()


class Kind(Enum):
    CONSTANT = "constant"
    VARIABLE = "variable"


class EntryState(Enum):
    """What has happened to the entry; the public library's words."""

    READY = "ready"
    """The payload is here."""


_KINDS = {kind.value: kind for kind in Kind}


class Entry:
    """A payload, its id, and for a variable how often it has evolved. Immutable; made by `constant` and `variable`."""

    __slots__ = ("_data", "_record", "evolution", "global_id", "kind", "nickname")

    global_id: str
    kind: Kind
    nickname: str | None
    evolution: int

    def __init__(self, *args: object, **kwargs: object) -> None:
        raise TypeError("entries are made by laila.constant(data), laila.variable(data) and remember")

    @classmethod
    def _make(
        cls,
        kind: Kind,
        data: Any,
        nickname: str | None,
        evolution: int,
        global_id: str | None,
        copy: bool = True,
    ) -> Entry:
        if nickname is not None and (not isinstance(nickname, str) or not nickname):
            raise BadValue(f"a nickname is a text with at least one character, not {nickname!r}")
        try:
            encoded = codec.encode([kind.value, nickname, evolution, data])
        except UnsupportedType as error:
            # The user's value is the fourth part of what is encoded.
            path = error.path.replace("value[3]", "value", 1)
            raise UnsupportedType(
                error.message.replace(error.path, path), path=path, type_name=error.type_name
            ) from None
        if not copy:
            _freeze(data)
        record = buffers.private(encoded) if copy else encoded
        if global_id is None:
            global_id = nickname_id(nickname) if nickname is not None else new_id()
        scalar = data if type(data) in _SCALARS else _MISSING
        return cls._build(global_id, kind, nickname, evolution, record, scalar)

    @classmethod
    def _build(
        cls, global_id: str, kind: Kind, nickname: str | None, evolution: int, record: Encoded, data: Any
    ) -> Entry:
        entry = object.__new__(cls)
        put = object.__setattr__
        put(entry, "global_id", global_id)
        put(entry, "kind", kind)
        put(entry, "nickname", nickname)
        put(entry, "evolution", evolution)
        put(entry, "_record", record)
        put(entry, "_data", data)
        return entry

    @classmethod
    def from_record(cls, global_id: str, record: Encoded) -> Entry:
        """The entry that this record holds. Raises Corrupt. The buffers must not be written to afterwards."""
        kind, nickname, evolution, data = unpack_record(buffers.readonly(record))
        scalar = data if type(data) in _SCALARS else _MISSING
        return cls._build(global_id, _KINDS[kind], nickname, evolution, record, scalar)

    @property
    def record(self) -> Encoded:
        """The encoded entry, as pools keep it."""
        return self._record  # type: ignore[attr-defined,no-any-return]  # a slot set through object.__setattr__

    @property
    def data(self) -> Any:
        """The payload: a fresh copy each time, but arrays are read-only views of the entry's own memory."""
        if self._data is not _MISSING:  # type: ignore[attr-defined]  # as above
            return self._data  # type: ignore[attr-defined]  # as above
        return unpack_record(buffers.readonly(self.record))[3]

    @property
    def state(self) -> EntryState:
        return EntryState.READY

    def evolve(self, data: Any) -> Entry:
        """The next state of a variable: the same id, `evolution` one higher. Raises BadValue for a constant."""
        if self.kind is not Kind.VARIABLE:
            raise BadValue("a constant does not evolve; make a laila.variable")
        return Entry._make(Kind.VARIABLE, data, self.nickname, self.evolution + 1, self.global_id)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an entry is immutable: {name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"an entry is immutable: {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entry):
            return NotImplemented
        return self.global_id == other.global_id and _content(self.record) == _content(other.record)

    def __hash__(self) -> int:
        return hash(self.global_id)

    def __reduce__(self) -> str:
        raise TypeError("entries are not pickled; memorize them")

    def __repr__(self) -> str:
        name = f" {self.nickname!r}" if self.nickname else ""
        step = f" evolution {self.evolution}" if self.kind is Kind.VARIABLE else ""
        return f"<{self.kind.value}{name} {self.global_id}{step}>"


def constant(
    data: Any, *, nickname: str | None = None, global_id: str | None = None, copy: bool = True
) -> Entry:
    """An entry whose payload never changes.

    With a nickname the id is the one that the nickname stands for everywhere, else it is random.
    `copy=False` takes a numpy array over instead of copying it: the array becomes read-only, and you promise that
    nobody writes to its memory through a view that was made before.
    Raises: UnsupportedType for a value that the codec does not know, LimitExceeded for one that is too large.
    """
    return Entry._make(Kind.CONSTANT, data, nickname, 0, global_id, copy)


def variable(data: Any, *, nickname: str | None = None, global_id: str | None = None) -> Entry:
    """An entry that `evolve` gives successors. Arguments and errors as for `constant`."""
    return Entry._make(Kind.VARIABLE, data, nickname, 0, global_id)


def unpack_record(record: Encoded) -> tuple[str, str | None, int, Any]:
    """Kind, nickname, evolution and payload of a record. Raises Corrupt."""
    value = codec.decode(record)
    if type(value) is not list or len(value) != 4 or value[0] not in _KINDS:
        raise Corrupt("these bytes are a value, but not an entry's record")
    return value[0], value[1], value[2], value[3]


def payload_of(record: Encoded) -> Any:
    """Only the payload; arrays use the record's buffers as they are."""
    return unpack_record(record)[3]


def _freeze(data: Any) -> None:
    flags = getattr(data, "flags", None)
    if flags is None or getattr(data, "base", None) is not None or not hasattr(flags, "writeable"):
        raise BadValue(
            "copy=False takes a numpy array that owns its memory; this is another value, or a view of another array"
        )
    flags.writeable = False


def _content(record: Encoded) -> tuple[bytes, list[bytes]]:
    return record.head, [bytes(buffer) for buffer in record.buffers]
