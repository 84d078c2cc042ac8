"""Steps of many rounds: several nodes do them at the same time, and only together do they show something.

Every race begins at a given time of this node's clock and ends after some seconds, whatever the volume does; a
slow volume makes fewer rounds. What is answered is data: which rounds were won, when a lock was held and which
number was counted under it. Judging is the conductor's part.
"""

from __future__ import annotations

import errno
import os
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .ground import Ground
from .locking import EXCLUSIVE, refusal, release, take

KINDS = ("create", "link")
MAX_ROUNDS = 5000
"""Rounds of one step, so that its answer stays small."""
HELD = 0.001
"""Seconds between reading the counter and writing it: time for another holder to show."""
SPACE = 20
"""Width of the counter: it never changes its size, as a truncated file would betray a stale one at once."""
BODY = 8192
"""Bytes of a published version, at least."""
LINKS = 10
"""Links to one file; GlusterFS on ext4 has room for some 40."""
_SPIN = 0.0005
_GONE = (errno.ENOENT, errno.ESTALE)


@dataclass(frozen=True, slots=True)
class Span:
    """When a race begins, in seconds of this node's monotonic clock, and how long it goes on."""

    start: float
    seconds: float

    @property
    def end(self) -> float:
        return self.start + self.seconds


def _until(moment: float) -> None:
    """Sleep, and spin through the last of it: whoever comes first wins races."""
    while (left := moment - time.monotonic()) > 0:
        if left > _SPIN:
            time.sleep(left - _SPIN)


def hammer(ground: Ground, how: str, lock: str, counter: str, span: Span) -> dict[str, Any]:
    """Lock, read the counter, add one, write it, unlock, until the time is over.

    Answers `holds`: [from, to, what was written] for each hold, strictly inside of it; `refused`: how often somebody
    else held it; `rubbish`: how often the counter held no number.
    """
    holds: list[tuple[float, float, int]] = []
    refused = rubbish = 0
    descriptor = ground.open(lock, os.O_RDWR | os.O_CREAT)
    try:
        _until(span.start)
        while time.monotonic() < span.end and len(holds) < MAX_ROUNDS:
            if not take(descriptor, how, EXCLUSIVE):
                refused += 1
                time.sleep(random.uniform(0.0002, 0.001))  # noqa: S311  spreads the tries, guards nothing
                continue
            entered = time.monotonic()
            number = _counted(ground, counter)
            rubbish += number is None
            time.sleep(HELD)
            ground.write(counter, b"%0*d" % (SPACE, (number or 0) + 1))
            left = time.monotonic()
            release(descriptor, how)
            holds.append((entered, left, (number or 0) + 1))
            time.sleep(random.uniform(0.0, HELD))  # noqa: S311  who polls would else never get in
    finally:
        os.close(descriptor)
    return {"holds": [list(hold) for hold in holds], "refused": refused, "rubbish": rubbish}


def _counted(ground: Ground, counter: str) -> int | None:
    try:
        text = ground.read(counter)
    except FileNotFoundError:
        return None
    return int(text) if len(text) == SPACE and text.isdigit() else None


def race(ground: Ground, kind: str, name: str, span: Span, gap: float) -> dict[str, Any]:
    """In round i, due at start + i * gap: make the file `name-i`, by O_EXCL or by a hard link.

    Answers `won`: the rounds in which this node made it; `tried`: the number of rounds; `refused`: in which it was
    there already; `errors`: any other error, by name. Three of those end the race.
    """
    won: list[int] = []
    refused = tried = 0
    errors: Counter[str] = Counter()
    make = ground.create if kind == "create" else _linker(ground, f"{name}.{secrets.token_hex(4)}")
    while tried < MAX_ROUNDS and sum(errors.values()) < 3:
        due = span.start + tried * gap
        if max(due, time.monotonic()) >= span.end:
            break
        _until(due)
        try:
            make(f"{name}-{tried}")
            won.append(tried)
        except FileExistsError:
            refused += 1
        except OSError as error:
            errors[refusal(error)] += 1
        tried += 1
    return {"won": won, "tried": tried, "refused": refused, "errors": dict(errors)}


def _linker(ground: Ground, source: str) -> Callable[[str], None]:
    made = 0

    def make(name: str) -> None:
        nonlocal made
        if made % LINKS == 0:
            ground.publish(source, b"linked")
        made += 1
        ground.link(source, name)

    return make


def version_bytes(version: int) -> bytes:
    """What a version looks like; sizes differ, so that a size from a cache cuts it off."""
    line = b"%012d\n" % version
    return line * (BODY // len(line) + 1 + version % 7)


def version_of(data: bytes) -> int | None:
    """The version, or None for bytes that are no whole version."""
    head = data[:12]
    if not head.isdigit():
        return None
    version = int(head)
    return version if data == version_bytes(version) else None


def publish(ground: Ground, name: str, version: int, span: Span) -> dict[str, Any]:
    """Rename `version` in, and for `span` one after the other. Answers the `last` one, how many, and the `error`."""
    _until(span.start)
    count = 0
    while True:
        try:
            ground.publish(name, version_bytes(version))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOTCONN):
                raise
            return {"last": version - 1, "count": count, "error": refusal(error)}
        count += 1
        if time.monotonic() >= span.end or count >= MAX_ROUNDS:
            return {"last": version, "count": count, "error": None}
        version += 1
        time.sleep(0.002)


@dataclass(slots=True)
class _Looks:
    """What was seen of a file that is being replaced."""

    looks: int = 0
    torn: int = 0
    gone: int = 0
    longest_gone: float = 0.0
    _since: float | None = None

    def look(self, ground: Ground, name: str) -> int | None:
        """The version in the file; None when it is gone or torn, which is counted. Raises OSError."""
        self.looks += 1
        try:
            data = ground.read(name)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            self.gone += 1
            now = time.monotonic()
            self._since = now if self._since is None else self._since
            self.longest_gone = max(self.longest_gone, now - self._since)
            return None
        self._since = None
        version = version_of(data)
        self.torn += version is None
        return version

    def answer(self) -> dict[str, Any]:
        return {"looks": self.looks, "torn": self.torn, "gone": self.gone, "longest_gone": self.longest_gone}


def look(ground: Ground, name: str, version: int, wait: float) -> dict[str, Any]:
    """Open the file until it has at least `version`. Answers `first`: what the first open that found one showed,
    `seen`: the last, and how long it took.
    """
    started, looks = time.monotonic(), _Looks()
    first: int | None = None
    while True:
        seen = looks.look(ground, name)
        first = seen if first is None else first
        if (seen is not None and seen >= version) or time.monotonic() - started >= wait:
            seconds = time.monotonic() - started
            return {"first": first, "seen": seen, "seconds": seconds, **looks.answer()}
        time.sleep(0.001)


def watch(ground: Ground, name: str, span: Span) -> dict[str, Any]:
    """Open the file again and again. Answers how many `versions` were seen, how often an older one came after a newer
    (`back`), and how often it was torn or gone.
    """
    looks, versions, back, last = _Looks(), set[int](), 0, -1
    _until(span.start)
    while time.monotonic() < span.end:
        seen = looks.look(ground, name)
        if seen is not None:
            back += seen < last
            last = max(last, seen)
            versions.add(seen)
        time.sleep(0.0005)
    return {"versions": len(versions), "back": back, "last": last, **looks.answer()}
