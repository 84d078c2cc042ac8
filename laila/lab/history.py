"""What happened in a run, in order: one JSON object per line, kept in memory for the report as far as it draws it.

`t` (and for operations `end`) are seconds since the run began, by the controller's monotonic clock; no
node's clock is used, but where it is shown to be the same one. `what` is

- `invoke` for an operation of a client of a workload (`laila.lab.checkers.operations`), `workload` for what a workload
  was started with;
- `op` for an operation of a check's own client; `hold`, `write`, `read`, `put`, `get`, `addition`, `listing` for what
  the other judges judge (`laila.lab.checkers`), with moments as [earliest, latest];
- else the kind of event: step, up, link, lost, kill, refused, note.

Lines reach the system at most FLUSHED seconds after they were written, events at once: a system call for each of
thousands of operations a second would slow the clients down. A controller that is killed loses so much at most.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from laila.lab.checkers import registers
from laila.lab.checkers.operations import INVOKED, OK, Op
from laila.lab.remote import Outcome
from laila.lab.sample import Sample

KEPT_OPS = 20_000
"""Operations of checks kept in memory for the report, and records of each kind; the file has all of them."""
DRAWN = 200_000
"""Operations of workloads kept for the report that went through, and half as many that did not. Of more, an even
sample is kept; the file has all of them."""
FLUSHED = 0.05
"""Seconds that a line may wait."""
WORKLOAD = "workload"
JUDGED = frozenset({"hold", "write", "read", "addition", "listing", registers.WRITTEN, registers.GOT})
"""Kinds of lines that are records for judges."""

_encode = json.JSONEncoder(separators=(",", ":"), default=str).encode

Invoked = tuple[str, Op]
"""A workload, and an operation of it."""


class Told:
    """What happened, as far as it is kept in memory."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.ops: list[dict[str, Any]] = []
        self.counts: Counter[str] = Counter()
        self.records: dict[str, list[dict[str, Any]]] = {}
        """What was kept for judges, by its kind."""
        self.workloads: dict[str, dict[str, Any]] = {}
        """What each was started with."""
        self.through: Sample[Invoked] = Sample(DRAWN)
        """Operations of workloads that went through."""
        self.others: Sample[Invoked] = Sample(DRAWN // 2)
        """Those that did not, or of which nobody knows."""

    def take(self, record: dict[str, Any]) -> None:
        """One line of a history. Raises KeyError for one that lacks what its kind has."""
        what = record["what"]
        if what == INVOKED:
            self._invoked(record["workload"], Op.from_record(record))
        elif what == WORKLOAD:
            self.workloads[record["workload"]] = record["options"]
        elif what == "op":
            self.counts[f"{record['phase']} {record['op']} {record['outcome']}"] += 1
            _keep(record, self.ops)
        elif what in JUDGED:
            _keep(record, self.records.setdefault(what, []))
        elif record.keys() >= {"t", "text"}:
            self.events.append(record)
        else:
            raise KeyError(f"{what} without a time and a text")

    def _invoked(self, workload: str, op: Op) -> None:
        self.counts[f"{workload} {op.op} {op.outcome}"] += 1
        (self.through if op.outcome == OK else self.others).add((workload, op))


class History(Told):
    """A run that goes on: writes what it is told. Append-only, safe under threads, a context manager."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.began = time.monotonic()
        self._file = path.open("wb", buffering=1 << 16)
        self._lock = threading.Lock()
        self._unflushed = False
        self._failure: OSError | None = None
        self._closing = threading.Event()
        self._flusher = threading.Thread(target=self._flush_often, name="history", daemon=True)
        self._flusher.start()

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self.began

    def event(self, what: str, text: str, *, node: str = "", peer: str = "", at: float | None = None) -> None:
        """Something that happened to a node, to its view of a peer, or to the run. `at` is a monotonic
        time.
        """
        record = {"t": round((at or time.monotonic()) - self.began, 6), "what": what, "text": text}
        record |= {key: value for key, value in (("node", node), ("peer", peer)) if value}
        line = _line(record)
        with self._lock:
            if self._write(line):
                self.events.append(record)
                self._file.flush()

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
        self._told(record)

    def keep(self, what: str, record: dict[str, Any], *, phase: str) -> None:
        """Something that a judge judges. Its times are seconds since the run began."""
        self._told({"what": what, "phase": phase, **record})

    def workload(self, name: str, options: Mapping[str, Any]) -> None:
        """A workload is about to begin with these options."""
        self._told({"what": WORKLOAD, "workload": name, "options": dict(options)})

    def invoke(self, workload: str, op: Op) -> None:
        """One operation of a workload that has ended, or that nobody waits for any more."""
        line = _line({"what": INVOKED, "workload": workload, **op.to_record()})
        with self._lock:
            if self._write(line):
                self._invoked(workload, op)

    def _told(self, record: dict[str, Any]) -> None:
        line = _line(record)
        with self._lock:
            if self._write(line):
                self.take(record)

    def _write(self, line: bytes) -> bool:
        """False when the history is closed: a client that ended late is not heard any more."""
        if self._failure is not None:
            raise self._failure
        if self._file.closed:
            return False
        self._file.write(line)
        self._unflushed = True
        return True

    def _flush_often(self) -> None:
        while not self._closing.wait(FLUSHED):
            with self._lock:
                if self._unflushed and not self._file.closed:
                    self._unflushed = False
                    try:
                        self._file.flush()
                    except OSError as error:  # told to whoever writes next
                        self._failure = error
                        return

    def close(self) -> None:
        """Everything is on its way to the disk after this. What comes later is dropped."""
        self._closing.set()
        with self._lock:
            self._file.close()
        self._flusher.join()

    def __enter__(self) -> History:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _line(record: Mapping[str, Any]) -> bytes:
    return _encode(record).encode() + b"\n"


def _keep(record: dict[str, Any], kept: list[dict[str, Any]]) -> None:
    if len(kept) < KEPT_OPS:
        kept.append(record)
