"""What each verb does to a pool, on encoded records: the same for a peer's request and for a local call."""

from __future__ import annotations

from collections.abc import Sequence

from .codec import Encoded
from .errors import EntryNotFound
from .pools.base import Pool


def memorize(pool: Pool, items: Sequence[tuple[str, Encoded]]) -> None:
    if len(items) == 1:
        pool.put(*items[0])
    else:
        pool.put_many(items)


def remember(pool: Pool, ids: Sequence[str], nickname: str) -> list[Encoded]:
    """Raises EntryNotFound, naming all that are missing."""
    if len(ids) == 1:
        record = pool.get(ids[0])
        if record is None:
            raise _not_found(ids, nickname)
        return [record]
    found = pool.get_many(ids)
    records = [record for record in found if record is not None]
    if len(records) != len(ids):
        raise _not_found([one for one, record in zip(ids, found, strict=True) if record is None], nickname)
    return records


def forget(pool: Pool, ids: Sequence[str], nickname: str, *, missing_ok: bool) -> int:
    """How many there were. Raises EntryNotFound before it removes anything, unless `missing_ok`."""
    if not missing_ok:
        missing = [one for one, here in zip(ids, pool.exists_many(ids), strict=True) if not here]
        if missing:
            raise _not_found(missing, nickname)
    return pool.delete_many(ids)


def may_block(pool: Pool) -> bool:
    """Whether an operation on this pool, or on one that it reads through to, may wait."""
    while not pool.capabilities.blocking:
        upstream = pool.upstream
        if upstream is None:
            return False
        pool = upstream
    return True


def _not_found(missing: Sequence[str], nickname: str) -> EntryNotFound:
    shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    return EntryNotFound(
        f"pool {nickname!r} has no entry {shown}; memorize it first, or name the pool that it is in",
        missing=tuple(missing[:20]),
        pool=nickname,
    )
