"""Where a setting comes from: the TOML file, the environment, a flag. Raw values here, meaning in `settings`.

Every raw value keeps the place it was written at, so that a complaint can name it ("node.toml:3",
"LAILA_LISTEN"). tomllib does not tell lines, so `ConfigFile` finds the line of a key itself; where it
cannot, it names the file.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laila.errors import BadConfig

MAX_FILE_BYTES = 1 << 20

_HEADER = re.compile(r"^\s*\[\[?\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_ASSIGN = re.compile(r"^\s*([A-Za-z0-9_.\"'-]+(?:\s*\.\s*[A-Za-z0-9_\"'-]+)*)\s*=")


@dataclass(frozen=True, slots=True)
class Raw:
    """One value as written. `value` is text from the environment or a flag, any TOML value from a file."""

    value: Any
    source: str
    base: Path = field(default_factory=Path)
    locate: Callable[[tuple[str, ...]], str] | None = None

    def place(self, path: tuple[str, ...]) -> str:
        """Where the part `path` of this value was written."""
        return self.locate(path) if self.locate is not None and path else self.source


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip().strip("\"'") for part in dotted.split("."))


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """The line (from 1) on which each table and key of a TOML text first appears."""
    lines: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = _parts(header[1])
            lines.setdefault(table, number)
        elif assign := _ASSIGN.match(line):
            lines.setdefault(table + _parts(assign[1]), number)
    return lines


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A parsed TOML file that knows where its keys stand."""

    path: Path
    values: Mapping[str, Any]
    lines: Mapping[tuple[str, ...], int]

    @classmethod
    def read(cls, path: Path) -> ConfigFile:
        """Read and parse `path`. Raises BadConfig with the system's or the parser's reason."""
        try:
            with path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise BadConfig(
                f"the config file {path} cannot be read: {_reason(error)}; check --config or LAILA_CONFIG"
            ) from error
        if len(content) > MAX_FILE_BYTES:
            raise BadConfig(
                f"the config file {path} is larger than {MAX_FILE_BYTES} bytes; this is no laila config"
            )
        try:
            text = content.decode("utf-8")
            values = tomllib.loads(text)
        except UnicodeDecodeError as error:
            raise BadConfig(f"{path}: not UTF-8 text at byte {error.start}; save it as UTF-8") from error
        except tomllib.TOMLDecodeError as error:
            raise BadConfig(_toml_sentence(path, str(error))) from error
        except RecursionError as error:
            raise BadConfig(f"{path}: nested too deeply to be a laila config; write flat tables") from error
        return cls(path, values, key_lines(text))

    def place(self, path: tuple[str, ...]) -> str:
        """`file:line` of the nearest enclosing key that has a known line."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return f"{self.path}:{self.lines[path[:end]]}"
        return str(self.path)

    def raw(self, name: str) -> Raw:
        """The value of a top-level key, with its place."""
        return Raw(
            self.values[name],
            self.place((name,)),
            self.path.parent,
            lambda path: self.place((name, *path)),
        )


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _toml_sentence(path: Path, message: str) -> str:
    found = re.search(r"^(.*) \(at line (\d+), column (\d+)\)$", message)
    if found:
        return (
            f"{path}:{found[2]}: not valid TOML at column {found[3]}: {found[1].lower()}; correct that line"
        )
    reason = message.lower().removesuffix(" (at end of document)")
    return f"{path}: not valid TOML at its end: {reason}; correct the last lines"
