"""What happened in a run, in order: one JSON object per line, flushed as it is written, kept in memory for
the report.

`t` (and for operations `end`) are seconds since the run began, by the controller's monotonic clock; no
node's clock is used, but where it is shown to be the same one. `what` is `op` for an operation of a client; `hold`,
`write`, `read`, `addition`, `listing` for what the judges of a shared volume judge (`laila.lab.checkers`), with
moments as [earliest, latest]; else the kind of event: step, up, link, lost, kill, refused, note.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any

from laila.lab.remote import Outcome

KEPT_OPS = 20_000
"""Operations kept in memory for the report, and records of each kind; the file has all of them."""


class History:
    """Append-only. Safe under threads; a context manager."""

    def __init__(self, path: Path) -> None:
        self.began = time.monotonic()
        self.events: list[dict[str, Any]] = []
        self.ops: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()
        self.records: dict[str, list[dict[str, Any]]] = {}
        """What was kept for judges, by its kind."""
        self._file = path.open("w", encoding="utf-8")
        self._lock = threading.Lock()

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began

    def event(self, what: str, text: str, *, node: str = "", peer: str = "", at: float | None = None) -> None:
        """Something that happened to a node, to its view of a peer, or to the run. `at` is a monotonic
        time.
        """
        record = {"t": round((at or time.monotonic()) - self.began, 6), "what": what, "text": text}
        record |= {key: value for key, value in (("node", node), ("peer", peer)) if value}
        self._write(record, self.events)

    def op(self, op: str, outcome: Outcome, *, client: str, at: str, phase: str, **words: Any) -> None:
        """One operation: the client beside node `client` worked on the memory of node `at`."""
        record: dict[str, Any] = {
            "t": round(outcome.started - self.began, 6),
            "end": round(outcome.ended - self.began, 6),
            "what": "op",
            "op": op,
            "client": client,
            "at": at,
            "phase": phase,
            "outcome": outcome.error or "ok",
            **words,
        }
        if not outcome.ok:
            record |= {"message": outcome.message, "executed": outcome.executed}
        self.counts[f"{phase} {op} {outcome.error or 'ok'}"] += 1
        self._write(record, self.ops if len(self.ops) < KEPT_OPS else None)

    def keep(self, what: str, record: dict[str, Any], *, phase: str) -> None:
        """Something that a judge judges. Its times are seconds since the run began."""
        kept = self.records.setdefault(what, [])
        self._write({"what": what, "phase": phase, **record}, kept if len(kept) < KEPT_OPS else None)

    def _write(self, record: dict[str, Any], kept: list[dict[str, Any]] | None) -> None:
        line = json.dumps(record, separators=(",", ":"), default=str)
        with self._lock:
            if self._file.closed:
                return
            self._file.write(line + "\n")
            self._file.flush()
            if kept is not None:
                kept.append(record)

    def close(self) -> None:
        with self._lock:
            self._file.close()

    def __enter__(self) -> History:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
