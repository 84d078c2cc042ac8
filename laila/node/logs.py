"""Structured log lines on stderr: one JSON object per line, or the same as text for people.

Fields are passed with `extra={...}`. The secret is never passed to a log call; as a second wall, a line
that contains it anyway has it struck out before it is written.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import IO, Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
STRUCK = "[secret]"
MAX_FIELD = 4096


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    found = {key: _short(value) for key, value in vars(record).items() if key not in _STANDARD}
    if record.exc_info and record.exc_info[1] is not None:
        error = record.exc_info[1]
        found["error"] = f"{type(error).__name__}: {error}"
        found["trace"] = "".join(traceback.format_exception(error))[-MAX_FIELD:]
    return found


def _short(value: Any) -> Any:
    return value[:MAX_FIELD] + "…" if isinstance(value, str) and len(value) > MAX_FIELD else value


def _stamp(record: logging.LogRecord) -> str:
    return (
        datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


class JsonLines(logging.Formatter):
    """`{"time": …, "level": "info", "event": "…", "node": NAME, field: value, …}`."""

    def __init__(self, node: str, secrets: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._node = node
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": _stamp(record),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "node": self._node,
            "logger": record.name,
        }
        for key, value in _fields(record).items():
            line.setdefault(key, value)
        return _strike(json.dumps(line, default=str), self._secrets)


class TextLines(logging.Formatter):
    """`12:00:01.123 INFO  event  field=value …`."""

    def __init__(self, secrets: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        fields = _fields(record)
        trace = fields.pop("trace", "")
        tail = "".join(f"  {key}={value}" for key, value in fields.items())
        line = f"{_stamp(record)[11:23]} {record.levelname:<7} {record.getMessage()}{tail}"
        return _strike(line + (f"\n{trace.rstrip()}" if trace else ""), self._secrets)


def _strike(line: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        line = line.replace(secret, STRUCK)
    return line


def configure(
    level: str, style: str, node: str, secrets: tuple[str, ...], stream: IO[str] | None = None
) -> logging.Handler:
    """Send the logger "laila", and the warnings of others, to `stream` (default: stderr)."""
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(TextLines(secrets) if style == "text" else JsonLines(node, secrets))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("laila").setLevel(level.upper())
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a closed stderr must not make the node write tracebacks about it
    threading.excepthook = _thread_died
    return handler


def _thread_died(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and args.exc_type is not SystemExit:
        name = args.thread.name if args.thread is not None else "?"
        info = (args.exc_type, args.exc_value, args.exc_traceback)
        logging.getLogger("laila.node").critical("a thread died", exc_info=info, extra={"thread_name": name})
