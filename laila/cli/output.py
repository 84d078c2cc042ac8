"""How the commands print: tables and sentences for people, JSON with `--json` for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from laila.errors import LailaError


def fail(error: LailaError, *, code: int, as_json: bool) -> int:
    """Print the error (one sentence, or one JSON object) on stderr and return `code`."""
    if as_json:
        line = json.dumps({"error": {"kind": type(error).__name__, "message": str(error)}})
    else:
        line = "laila: " + " ".join(str(error).split())
    print(line, file=sys.stderr)
    return code


def show(value: Any) -> None:
    """Print one JSON value on stdout."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:  # half a character, or a terminal that knows fewer
        text = json.dumps(value, default=str)
    print(text)


def plain(text: object) -> str:
    """What somebody else wrote, so that it can do nothing to a terminal: what is not printable as `\\x1b`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded to their widest cell, two spaces apart."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)


def span(seconds: float) -> str:
    """`12 s`, `3 min`, `5.2 h`, `2.0 d`."""
    if seconds < 90:
        return f"{max(0.0, seconds):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"


def size(count: float | None) -> str:
    """`12 B`, `3.4 MiB`; `-` for None."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
