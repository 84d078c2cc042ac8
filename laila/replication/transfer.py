"""What peers have under way at a replica that is served: copies that come or go in pieces, and scrubs.

Each belongs to the peer that began it and is found by a random token. Their number and bytes are bounded, for each peer
and in all. What nobody has touched for a while, or whose peer is gone, is ended; so a peer that is killed in the middle
leaves nothing.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..codec import Buffer
from ..errors import Busy, Closed, LimitExceeded
from ..shared.trouble import told
from .replica import Health, Replica
from .tags import Stand
from .words import NAMES

T = TypeVar("T")
Who = tuple[str, str]
"""The peer that asks, and the one behind it if it relays, or an empty text."""

IDLE = 60.0
"""Seconds without a piece after which a copy under way is dropped."""
FOR_EACH = 8
"""Things of one kind that one peer may have under way."""
IN_ALL = 64
BYTES = 16 << 30
"""Bytes of all copies that one peer has under way; also those of the largest copy that travels."""
TURN = 0.5
"""Seconds after which a scrub lets others go on; one name's bytes are read at once, however many they are."""
_LOOKS = 12
"""How often within `IDLE` seconds somebody looks whether there is something to drop."""


@dataclass(slots=True)
class _Item(Generic[T]):
    thing: T
    who: Who
    size: int
    last: float
    users: int = 0


class UnderWay(Generic[T]):
    """Things of one kind, `what` in messages. `end(thing)` is called once for each that is not taken. Close it."""

    def __init__(
        self,
        what: str,
        end: Callable[[T], object],
        *,
        idle: float = IDLE,
        alive: Callable[[str], bool] = lambda peer: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._end = end
        self._idle = idle
        self._alive = alive
        self._clock = clock
        self._items: dict[str, _Item[T]] = {}
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._items)

    def begin(self, who: Who, thing: T, size: int = 0) -> str:
        """Its token. When this raises, the thing is still the caller's.

        Raises: Busy when there are too many, LimitExceeded for one that is too large, Closed.
        """
        check_size(size)
        token = secrets.token_hex(16)
        with self._lock:
            if self._closed:
                raise Closed("this node is stopping; ask another")
            own = [item for item in self._items.values() if item.who == who]
            if len(own) >= FOR_EACH or len(self._items) >= IN_ALL:
                raise Busy(
                    f"{len(own)} {self._what} of this peer are under way, {len(self._items)} in all; "
                    f"{FOR_EACH} and {IN_ALL} may be: try again when one has ended"
                )
            if sum(item.size for item in own) + size > BYTES:
                raise Busy(
                    f"{self._what} of more than {BYTES} bytes of this peer would be under way; try later"
                )
            self._items[token] = _Item(thing, who, size, self._clock())
            self._watch_locked()
        return token

    @contextlib.contextmanager
    def use(self, who: Who, token: str) -> Iterator[T]:
        """The thing, which stays while it is used. Raises Closed when there is none."""
        with self._lock:
            item = self._find_locked(who, token)
            item.users += 1
        try:
            yield item.thing
        finally:
            with self._lock:
                item.users -= 1
                item.last = self._clock()
                forgotten = item.users == 0 and self._items.get(token) is not item
            if forgotten:
                self._end(item.thing)

    def take(self, who: Who, token: str) -> T:
        """The thing, which is the caller's from here on. Raises Busy while it is used, Closed when there is none."""
        with self._lock:
            item = self._find_locked(who, token)
            if item.users:
                raise Busy("pieces of it are still being written; end it when all of them are answered")
            del self._items[token]
        return item.thing

    def drop(self, who: Who, token: str) -> None:
        """End it, if it is still there."""
        with self._lock:
            item = self._items.get(token)
            if item is None or item.who != who:
                return
            del self._items[token]
            unused = not item.users  # else whoever uses it ends it afterwards
        if unused:
            self._end(item.thing)

    def sweep(self) -> None:
        """End what nobody has touched for too long, and what belongs to peers that are gone."""
        peers = {item.who[0] for item in list(self._items.values())}
        gone = {peer for peer in peers if not self._alive(peer)}
        now = self._clock()
        with self._lock:
            dropped = [
                token
                for token, item in self._items.items()
                if not item.users and (now - item.last > self._idle or item.who[0] in gone)
            ]
            items = [self._items.pop(token) for token in dropped]
        for item in items:
            self._end(item.thing)

    def close(self) -> None:
        """End all and take no more. Idempotent."""
        with self._lock:
            self._closed = True
            unused = [item for item in self._items.values() if not item.users]
            self._items = {}
            timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        for item in unused:
            self._end(item.thing)

    def _find_locked(self, who: Who, token: str) -> _Item[T]:
        item = self._items.get(token)
        if item is None or item.who != who:
            raise Closed(f"this is none of the {self._what} under way here, or is no longer; begin again")
        return item

    def _watch_locked(self) -> None:
        if self._timer is None and not self._closed:
            self._timer = threading.Timer(self._idle / _LOOKS, self._turn)
            self._timer.daemon = True
            self._timer.start()

    def _turn(self) -> None:
        self.sweep()
        with self._lock:
            self._timer = None
            if self._items:
                self._watch_locked()


def check_size(size: int) -> None:
    """Raises LimitExceeded for a copy that does not travel."""
    if size > BYTES:
        raise LimitExceeded(
            f"a copy of {size} bytes is larger than the {BYTES} that travel between replicas",
            limit="BYTES",
            allowed=BYTES,
            got=size,
        )


class Upload:
    """A copy that comes in pieces, several of them at the same time."""

    def __init__(self, replica: Replica, name: str, stand: Stand) -> None:
        self.stand = stand
        with told(f"take a copy of {stand.size} bytes"):
            self.arrival = replica.arrival(name, stand.size)
        self._lock = threading.Lock()

    def write(self, at: int, piece: Buffer) -> None:
        with self._lock, told(f"keep a piece of {self.arrival.name!r}"):
            self.arrival.write(at, piece)

    def end(self) -> None:
        self.arrival.abandon()


class Scrub:
    """A scrub that goes on in turns."""

    def __init__(self, found: Iterator[tuple[str, Health]]) -> None:
        self._found = found
        self._lock = threading.Lock()

    def turn(self) -> tuple[list[tuple[str, Health]], bool]:
        """The next names, and whether that was all."""
        end = time.monotonic() + TURN
        names: list[tuple[str, Health]] = []
        with self._lock:
            for one in self._found:
                names.append(one)
                if len(names) == NAMES or time.monotonic() >= end:
                    return names, False
        return names, True

    def end(self) -> None:
        with self._lock:
            close = getattr(self._found, "close", None)  # generators have one
            if close is not None:
                close()
