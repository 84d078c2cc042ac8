"""What a person sees while a check works: a live table on a terminal, plain lines everywhere else.

Both take the same calls, so that a check does not know who looks. Everything goes to one stream; `quiet`
tells nothing.
"""

from __future__ import annotations

import abc
import importlib
import os
import time
from dataclasses import dataclass, replace
from typing import IO, Any

MARKS = {"waiting": "·", "working": "▸", "ok": "✔", "failed": "✘", "error": "!", "skipped": "-"}
_STYLES = {
    "waiting": "dim",
    "working": "bold cyan",
    "ok": "green",
    "failed": "bold red",
    "error": "bold yellow",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One step as shown."""

    title: str
    state: str = "waiting"
    detail: str = ""
    began: float = 0.0
    seconds: float = 0.0


class Progress(abc.ABC):
    """Rows by key, in order."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    def plan(self, steps: dict[str, str]) -> None:
        """All steps, key to title, before the first begins."""
        self.rows = {key: Row(title) for key, title in steps.items()}
        self._changed("")

    def begin(self, key: str) -> None:
        self.rows[key] = replace(self.rows[key], state="working", began=time.monotonic())
        self._changed(key)

    def tell(self, key: str, detail: str) -> None:
        """How far it is."""
        self.rows[key] = replace(self.rows[key], detail=detail)
        self._told(key)

    def end(self, key: str, state: str, detail: str) -> None:
        row = self.rows[key]
        seconds = time.monotonic() - row.began if row.began else 0.0
        self.rows[key] = replace(row, state=state, detail=detail, seconds=seconds)
        self._changed(key)

    def say(self, text: str) -> None:  # noqa: B027  a quiet display says nothing
        """A line that stays, outside the table."""

    def close(self) -> None:  # noqa: B027  lines need no end
        """Leave the stream in order."""

    @abc.abstractmethod
    def _changed(self, key: str) -> None: ...

    def _told(self, key: str) -> None:  # noqa: B027  see below
        """Only a live display shows details of a step that still works."""


class Quiet(Progress):
    """Tells nothing."""

    def _changed(self, key: str) -> None:
        return


class Lines(Progress):
    """One line when a step ends: for CI, files and pipes."""

    def __init__(self, stream: IO[str]) -> None:
        super().__init__()
        self._stream = stream

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def _changed(self, key: str) -> None:
        row = self.rows.get(key)
        if row is None or row.state == "waiting":
            return
        if row.state == "working":
            return
        self.say(f"{row.state:7}  {row.seconds:6.1f} s  {row.title}{': ' if row.detail else ''}{row.detail}")


class Live(Progress):
    """A table that is drawn again in place, by rich."""

    def __init__(self, stream: IO[str], title: str) -> None:
        super().__init__()
        console_module = importlib.import_module("rich.console")
        self._table_module: Any = importlib.import_module("rich.table")
        self._text: Any = importlib.import_module("rich.text").Text
        self._console: Any = console_module.Console(file=stream, highlight=False)
        self._title = title
        self._live: Any = importlib.import_module("rich.live").Live(
            get_renderable=self._table, console=self._console, refresh_per_second=8
        )
        self._live.start()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def close(self) -> None:
        self._live.stop()

    def _changed(self, key: str) -> None:
        self._live.refresh()

    def _table(self) -> Any:
        table = self._table_module.Table(title=self._title, title_justify="left", box=None, pad_edge=False)
        table.add_column("", width=1)
        table.add_column("step", no_wrap=True)
        table.add_column("time", justify="right", width=8)
        table.add_column("what was seen", overflow="fold")
        for row in self.rows.values():
            seconds = time.monotonic() - row.began if row.state == "working" else row.seconds
            style = _STYLES.get(row.state, "dim")
            shown = f"{seconds:.1f} s" if row.began else ""
            table.add_row(
                self._text(MARKS[row.state], style),
                self._text(row.title, style),
                shown,
                self._text(row.detail),
            )
        return table


def for_stream(stream: IO[str], title: str, *, quiet: bool = False) -> Progress:
    """Live on a terminal outside CI when rich is there, else lines."""
    if quiet:
        return Quiet()
    if stream.isatty() and not os.environ.get("CI"):
        try:
            return Live(stream, title)
        except ImportError:
            pass  # without the extra, lines do
    lines = Lines(stream)
    lines.say(title)
    return lines
