"""The verbs: memorize, remember, forget, exists, keys. The same for a policy's own memory and for a peer's.

Shapes: a single positional id, entry or nickname gives a bare payload in `.data`; the plural keywords `entry_ids=` and
`entries=` given a list, and any list, give lists. `remember(entry_ids=x)` gives a list even for one id, as in the
public library. A batch is one call and one future.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from . import buffers
from .codec import Buffer, Encoded
from .entries import Entry, payload_of
from .errors import BadValue, LailaError, ProtocolError
from .futures import Future, collect
from .ids import nickname_id
from .wire.messages import Answer, Op, join_records, unpack

Ids = str | Entry | Iterable[str | Entry]
Entries = Entry | Iterable[Entry]


class CallFuture(Future):
    """The answer to one verb."""

    __slots__ = ("ids", "op", "plural")

    def __init__(self, op: Op, ids: Sequence[str], plural: bool) -> None:
        super().__init__(count=len(ids) if plural else 1)
        self.op = op
        self.ids = ids
        self.plural = plural

    @property
    def what(self) -> str:
        """The call, in messages."""
        verb = self.op.name.lower()
        return f"{verb} {self.ids[0]}" if len(self.ids) == 1 else verb

    def answered(self, envelope: bytes, buffers: tuple[Buffer, ...]) -> None:
        """A peer's reply."""
        try:
            self.resolve(self.read(envelope, buffers))
        except LailaError as error:
            self.reject(error)

    def failed(self, error: LailaError) -> None:
        self.reject(error)

    def read(self, envelope: bytes, buffers: tuple[Buffer, ...]) -> Any:
        """What the reply says, still encoded. Raises ProtocolError."""
        value = unpack(envelope)
        if self.op is Op.REMEMBER:
            if type(value) is not list or len(value) != 2:
                raise ProtocolError("the other side's answer to remember cannot be read")
            records = join_records(value[0], value[1], buffers)
            if len(records) != len(self.ids):
                raise ProtocolError("the other side answered with more entries than were asked for, or fewer")
            return records
        if not _believable(self.op, value, len(self.ids)):
            raise ProtocolError(f"the other side's answer to {self.op.name.lower()} makes no sense")
        return Answer(value, buffers) if self.op is Op.INVOKE else value

    def _to_data(self, value: Any) -> Any:
        if self.op is Op.REMEMBER:
            payloads = [payload_of(record) for record in value]
            if any(record.buffers for record in value):
                self._value = None  # the caller may write to this memory now
            return payloads if self.plural else payloads[0]
        if self.op is Op.MEMORIZE:
            return list(self.ids) if self.plural else self.ids[0]
        if self.op is Op.EXISTS:
            return value if self.plural else value[0]
        return value

    def _to_result(self, value: Any) -> Any:
        if self.op is not Op.REMEMBER:
            return self.data
        if value is None:
            raise BadValue(
                "`.data` has handed out the large values of this answer, which its holder may have changed since; "
                "ask for `.result` before `.data`, or for the entry again"
            )
        # The payload in `data` may be written to, an entry may not: so it has its own memory.
        entries = [
            Entry.from_record(key, buffers.private(record))
            for key, record in zip(self.ids, value, strict=True)
        ]
        return entries if self.plural else entries[0]


class Verbs(ABC):
    """What one can do with a memory, here or elsewhere."""

    def memorize(
        self, *args: Entries, entries: Entries | None = None, pool_nickname: str | None = None
    ) -> CallFuture:
        """Store entries, replacing those with the same ids. `.data` is the id, or the list of ids.

        Raises (from the future): UnknownPool, AccessDenied, StorageError, LimitExceeded, PeerLost, DeadlineExceeded.
        """
        given, plural = _one_or_many(args, entries, "memorize takes an entry, or a list of entries")
        for entry in given:
            if not isinstance(entry, Entry):
                raise BadValue(
                    f"memorize takes entries, not {type(entry).__name__}: wrap it, laila.constant(value)"
                )
        items = [(entry.global_id, entry.record) for entry in given]
        ids = [entry.global_id for entry in given]
        return self._start(CallFuture(Op.MEMORIZE, ids, plural), pool_nickname, items)

    def remember(
        self,
        *args: Ids,
        entry_ids: Ids | None = None,
        nickname: str | Iterable[str] | None = None,
        pool_nickname: str | None = None,
        persist: bool = False,
    ) -> CallFuture:
        """Fetch entries. `.data` is the payload, or the list of payloads; `.result` the entry or entries.

        `persist=True` also keeps them in this process' default pool.
        Raises (from the future): EntryNotFound, UnknownPool, AccessDenied, Corrupt, PeerLost, DeadlineExceeded.
        """
        ids, plural = _ids(args, entry_ids, nickname, "remember")
        future = CallFuture(Op.REMEMBER, ids, plural)
        return self._start(future, pool_nickname, ids, persist=persist)

    def forget(
        self,
        *args: Ids,
        entry_ids: Ids | None = None,
        nickname: str | Iterable[str] | None = None,
        pool_nickname: str | None = None,
        missing_ok: bool = False,
    ) -> CallFuture:
        """Remove entries. `.data` is how many there were. Raises EntryNotFound unless `missing_ok`."""
        ids, plural = _ids(args, entry_ids, nickname, "forget")
        future = CallFuture(Op.FORGET, ids, plural)
        return self._start(future, pool_nickname, [ids, missing_ok])

    def exists(
        self,
        *args: Ids,
        entry_ids: Ids | None = None,
        nickname: str | Iterable[str] | None = None,
        pool_nickname: str | None = None,
    ) -> CallFuture:
        """Whether entries are there. `.data` is a bool, or a list of bools."""
        ids, plural = _ids(args, entry_ids, nickname, "exists")
        return self._start(CallFuture(Op.EXISTS, ids, plural), pool_nickname, ids)

    def keys(self, pool_nickname: str | None = None) -> CallFuture:
        """All ids in a pool, sorted, in `.data`."""
        return self._start(CallFuture(Op.KEYS, (), True), pool_nickname, None)

    def _start(
        self, future: CallFuture, pool: str | None, arguments: Any, *, persist: bool = False
    ) -> CallFuture:
        if pool is not None and (type(pool) is not str or not pool):
            raise BadValue(f"a pool's nickname is a text, not {pool!r}")
        collect(future)
        try:
            self._call(future, pool, arguments, persist)
        except LailaError as error:
            if not future.done:
                future.reject(error)
        return future

    @abstractmethod
    def _call(self, future: CallFuture, pool: str | None, arguments: Any, persist: bool) -> None:
        """Begin; complete the future now or later, or raise what it fails with."""


def _believable(op: Op, value: Any, count: int) -> bool:
    """Whether a peer's answer has the shape that it must have."""
    if op is Op.MEMORIZE:
        return type(value) is int and value == count
    if op is Op.FORGET:
        return type(value) is int and 0 <= value <= count
    if op is Op.EXISTS:
        return type(value) is list and len(value) == count and all(type(one) is bool for one in value)
    if op is Op.INVOKE:
        return type(value) is dict
    kind = str if op is Op.KEYS else dict
    return type(value) is list and all(type(one) is kind for one in value)


def fresh(record: Encoded) -> Encoded:
    """A record whose buffers the caller may do with as they like; a pool's own must not be written to."""
    if not record.buffers:
        return record
    return Encoded(record.head, tuple(buffers.copy(buffer) for buffer in record.buffers))


def _one_or_many(args: tuple[Any, ...], keyword: Any, usage: str) -> tuple[list[Any], bool]:
    if (len(args) == 1) == (keyword is not None) or len(args) > 1:
        raise BadValue(f"{usage}; several go in one list")
    value = args[0] if args else keyword
    if isinstance(value, str | Entry) or not isinstance(value, Iterable):
        return [value], False
    return list(value), True


def _ids(
    args: tuple[Any, ...], entry_ids: Any, nickname: str | Iterable[str] | None, verb: str
) -> tuple[list[str], bool]:
    if len(args) == 1 and type(args[0]) is str and args[0] and entry_ids is None and nickname is None:
        return [args[0]], False  # what most calls are
    usage = f"{verb} takes an id, entry_ids=… or nickname=…"
    if nickname is not None:
        if args or entry_ids is not None:
            raise BadValue(f"{usage}, one of them")
        if isinstance(nickname, str):
            return [nickname_id(nickname)], False
        return [nickname_id(one) for one in nickname], True
    given, plural = _one_or_many(args, entry_ids, usage)
    ids = []
    for one in given:
        if isinstance(one, Entry):
            ids.append(one.global_id)
        elif isinstance(one, str) and one:
            ids.append(str(one))
        else:
            raise BadValue(f"{one!r} is no id; {usage}")
    return ids, plural or entry_ids is not None
