"""A progress bar on one line of standard error, and nothing at all where no terminal is."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import IO, Self

from laila.cli.output import size, span

WIDTH = 24
"""Cells of the bar itself."""
EVERY = 0.1
"""Seconds between two drawings."""


class Bar:
    """Draws how far something is; a context manager, which wipes the line at the end."""

    def __init__(self, what: str, stream: IO[str] | None = None) -> None:
        self._what = what
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._began = time.monotonic()
        self._drawn = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live and self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def turn(self, done: int, of: int | None, moved: int = 0) -> None:
        """`done` of `of` names (None: nobody knows yet), `moved` bytes."""
        now = time.monotonic()
        if not self._live or (now - self._drawn < EVERY and done != of):
            return
        self._drawn = now
        room = os.get_terminal_size(self._stream.fileno()).columns or 80  # 0: nobody said
        line = self._line(done, of, moved, max(0.001, now - self._began))
        self._stream.write("\r" + line[: max(1, room - 1)] + "\x1b[K")
        self._stream.flush()

    def _line(self, done: int, of: int | None, moved: int, seconds: float) -> str:
        words = [self._what]
        if of:
            share = min(1.0, done / of)
            words.append(f"[{'#' * round(share * WIDTH):{WIDTH}}] {share:4.0%}")
        words.append(f"{done:,}" + (f" of {of:,} names" if of is not None else " names"))
        if moved:
            words.append(f"{size(moved)}, {size(moved / seconds)}/s")
        if of and 0 < done < of and seconds > 1:
            words.append(f"{span(seconds / done * (of - done))} left")
        return "  ".join(words)
