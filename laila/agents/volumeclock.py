"""The volume's clock: milliseconds that are kept on the volume, and that no machine's wall clock has a part in.

Why not file times: network file systems differ in whose clock they take them from (the server's, or that of the
machine that writes), and machines' clocks may be hours apart or be set while agents work. A counter per agent
alone would do for a reader that watches all the time, but tells nothing to one that looks for the first time.

Strategy: the clock is the highest name in a directory of empty files. Who looks remembers since when, by its own
monotonic clock, it has seen the present value; who beats may add exactly so much, by creating the next file. A
value is published no sooner than it is true, whoever publishes it and however often, so the clock never runs
fast; and it runs on while anybody beats, behind by at most the time between two beats. Exclusive creation makes
no difference to the outcome: two writers that create the same name mean the same time.

While nobody beats it stands still. So the first look at it asks how long ago the file was made, by file times,
and believes them where one kernel makes them all (`one_clock`). Elsewhere, when they say that nobody has beaten
for long, or cannot be right, `settle` watches whether the clock moves before anybody is taken for dead or for
alive.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from ..clock import Clock
from ..pools.disk import make_directory
from ..shared.trouble import told
from .trouble import writing

GRAIN = 50
"""Milliseconds: a value is published only when it is so much later than the one that is there."""
_LOOKS = 0.1  # seconds between two looks while watching
MOST = 10**14
"""A value above (after three thousand years) is nonsense that somebody wrote; names and beats have a digit more."""


class VolumeClock:
    """The clock in `directory`; safe under threads. `clock.now()` measures what passes here."""

    def __init__(self, directory: Path, clock: Clock, *, one_clock: Callable[[], bool]) -> None:
        self._directory = directory
        self._clock = clock
        self._one_clock = one_clock
        self._mutex = threading.Lock()
        self._first = True
        self._top = 0
        """The highest value that was ever seen on the volume."""
        self._listed = 0
        """The highest value that was there at the last look."""
        self._base, self._since = 0, 0.0
        """A value, and since when, by the clock here, it is known to be over."""
        self._ahead = 0
        """What file times say that the clock stood still."""
        self._doubt: int | None = None
        """The same, where they need not be right; below zero when they cannot be."""
        self.stood = False
        """Whether `settle` found that the clock stood still, and put it forward here by what file times say."""

    def look(self) -> int:
        """Milliseconds now. Raises StorageError."""
        with self._mutex:
            top = self._listed = self._highest()
            now = self._clock.now()
            if self._first:
                self._first, self._top = False, top
                self._base, self._since = max(top, self._base), now
                self._weigh(top)
            elif top > self._top:
                self._top, self._doubt = top, None
                if self._ahead or top > self._reading(now):
                    self._base, self._since, self._ahead = top, now, 0
            return self._reading(now)

    def now(self) -> int:
        """Milliseconds now, as far as is known without looking."""
        with self._mutex:
            return 0 if self._first else self._reading(self._clock.now())

    @property
    def lost(self) -> bool:
        """Whether the last look found no value: nobody has beaten here yet, or somebody has removed the clock."""
        return not self._listed

    def at_least(self, value: int) -> None:
        """Somebody has seen this value; the file that says so may have been removed."""
        with self._mutex:
            now = self._clock.now()
            if MOST >= value > self._reading(now):
                self._base, self._since, self._ahead = value, now, 0

    def advance(self) -> int:
        """Look, and publish the time for all. Milliseconds now. Raises StorageError."""
        now = max(self.look(), 1)
        with self._mutex:
            if self._listed and now < self._listed + GRAIN:
                return now
            with writing(f"advance the clock {self._directory}"):
                self._create(f"{now:015d}")
            self._sweep(self._top)
            self._top = self._listed = max(now, self._top)
        return now

    def settle(self, expiry: float) -> bool:
        """Find out whether the clock runs, where file times cannot tell it: wait until it moves, at most `expiry`
        seconds. Whether that took any time; `stood` says what was found.

        Only after the first look, and only on volumes whose file times are made by many machines.
        """
        with self._mutex:
            doubt = self._doubt
        if doubt is None or 0 <= doubt <= expiry * 1000:
            return False
        end = time.monotonic() + (expiry / 2 if doubt > 0 else expiry)
        while time.monotonic() < end:
            time.sleep(_LOOKS)
            self.look()
            with self._mutex:
                if self._doubt is None:
                    return True
        with self._mutex:  # nobody beats: file times were right, or at least nothing says otherwise
            if self._doubt is not None:
                self._ahead, self._doubt, self.stood = max(self._doubt, 0), None, True
        return True

    def _reading(self, now: float) -> int:
        return self._base + self._ahead + int((now - self._since) * 1000)

    def _weigh(self, top: int) -> None:
        """At the first look: how long has the clock stood still?"""
        if not top:
            return
        try:
            made = (self._directory / f"{top:015d}").stat().st_mtime_ns
        except FileNotFoundError:
            return  # swept meanwhile, so the clock runs
        if self._one_clock():
            self._ahead = max(0, (_kernel_time() - made) // 1_000_000)
            return
        self._doubt = -1
        with contextlib.suppress(OSError):  # read-only: file times say nothing then
            self._doubt = (self._volume_time() - made) // 1_000_000

    def _highest(self) -> int:
        try:
            with told(f"read the clock {self._directory}"), os.scandir(self._directory) as entries:
                return max((_value_of(entry.name) for entry in entries), default=0)
        except FileNotFoundError:
            return 0

    def _create(self, name: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            os.close(os.open(self._directory / name, flags, 0o666))
        except FileNotFoundError:
            make_directory(self._directory)
            os.close(os.open(self._directory / name, flags, 0o666))

    def _volume_time(self) -> int:
        probe = self._directory / f"probe-{uuid.uuid4().hex}"
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            return os.fstat(descriptor).st_mtime_ns
        finally:
            os.close(descriptor)
            probe.unlink()

    def _sweep(self, before: int) -> None:
        """Remove what is older than the last value, which stays for readers that list the directory just now."""
        with contextlib.suppress(OSError):  # an old value does no harm
            for path in self._directory.iterdir():
                if 0 < _value_of(path.name) < before:
                    path.unlink()


def _value_of(name: str) -> int:
    value = int(name) if len(name) == 15 and name.isascii() and name.isdigit() else 0
    return value if value <= MOST else 0


def _kernel_time() -> int:
    """Nanoseconds by the clock that this kernel's file systems take their times from, whatever this process
    believes.
    """
    descriptor = os.memfd_create("laila-clock", os.MFD_CLOEXEC)
    try:
        return os.fstat(descriptor).st_mtime_ns
    finally:
        os.close(descriptor)
