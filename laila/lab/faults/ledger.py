"""What was broken and is not mended yet, on disk: one file for each fault, written before it is done.

Whoever runs a fault goes through `inject` and `heal` here. A controller that was killed leaves its files, and
`heal_all` undoes what they say, from any process that reaches the same nodes. An entry says who does it, until that is
handed over to the time at which it ends: so what a killed command left of a lab that stays is known (`orphans`).
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laila.errors import LailaError
from laila.lab.drivers.base import Driver
from laila.lab.faults.base import Fault
from laila.lab.procid import ProcessId
from laila.lab.registry import Run

_LATE = 60.0
"""Seconds after which a fault that should be over by itself is nobody's any more."""


@dataclass(slots=True)
class Entry:
    """One fault that is in the ledger."""

    path: Path
    kind: str
    spec: str
    nodes: tuple[str, ...]
    until: float = 0.0
    """Seconds since the epoch at which it ends by itself; 0: it does not."""
    facts: dict[str, Any] = field(default_factory=dict)
    by: str = ""
    """The process that does it, as text; empty: it was handed over, and lasts until it is healed or its time comes."""

    @property
    def id(self) -> str:
        return self.path.stem

    @property
    def orphaned(self) -> bool:
        """Who did it is dead, or its time is long over."""
        doer = ProcessId.from_text(self.by)
        dead = doer is not None and doer.here and not doer.alive
        return dead or 0 < self.until < time.time() - _LATE

    def hand_over(self) -> None:
        """It goes on without the process that did it."""
        self.by = ""
        self.save()

    def save(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fields = {
            "kind": self.kind,
            "spec": self.spec,
            "nodes": self.nodes,
            "until": self.until,
            "facts": self.facts,
            "by": self.by,
        }
        temporary = self.path.with_suffix(".new")
        with temporary.open("w", encoding="utf-8") as file:
            file.write(json.dumps(fields))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)


def place(run: Run) -> Path:
    return run.path / "faults"


def inject(fault: Fault, until: float = 0.0) -> Entry:
    """Write it down, do it, write down what undoing it needs. What ends in the middle is undone."""
    path = place(fault.scene.driver.run) / f"{secrets.token_hex(4)}.json"
    by = str(ProcessId.of(os.getpid()))
    entry = Entry(path, fault.kind, str(fault.spec), fault.nodes, until, by=by)

    def keep(facts: Mapping[str, Any]) -> None:
        entry.facts |= facts
        entry.save()

    fault._keep = keep
    entry.save()
    try:
        keep(fault.inject())
    except BaseException:
        _take_back(fault, entry)
        raise
    return entry


def _take_back(fault: Fault, entry: Entry) -> None:
    """Undo what was begun, as it was written down and by the fault itself. What cannot be stays in the ledger."""
    with suppress(LailaError, OSError):
        try:
            fault.undo(fault.scene.driver, entry.facts)
        finally:
            fault.heal()
        entry.path.unlink(missing_ok=True)


def heal(fault: Fault, entry: Entry) -> None:
    """Undo it and strike it out. What raises stays in the ledger."""
    fault.heal()
    entry.path.unlink(missing_ok=True)


def open_entries(run: Run) -> list[Entry]:
    """What is not mended yet, oldest first. Others may mend meanwhile."""
    found = []
    for path in place(run).glob("*.json"):
        with suppress(FileNotFoundError):
            found.append((path.stat().st_mtime, path, json.loads(path.read_text(encoding="utf-8"))))
    return [_entry(path, fields) for _, path, fields in sorted(found, key=lambda one: one[:2])]


def _entry(path: Path, fields: Mapping[str, Any]) -> Entry:
    what = fields["kind"], fields["spec"], tuple(fields["nodes"])
    return Entry(path, *what, fields["until"], fields["facts"], fields.get("by", ""))


def orphans(run: Run) -> list[Entry]:
    """What is broken still, and nobody means it to be."""
    return [entry for entry in open_entries(run) if entry.orphaned]


def end(driver: Driver) -> list[str]:
    """Undo all that is broken and remove the run; what is left of either. What goes with its nodes needs no undoing."""
    failed = heal_all(driver)
    return [*(failed if driver.guest else ()), *driver.remove()]


def heal_all(driver: Driver, ids: Sequence[str] | None = None) -> list[str]:
    """Undo what is in the ledger of this run, newest first, all of it or these. What could not be undone."""
    from laila.lab.faults import KINDS

    left = []
    for entry in reversed(open_entries(driver.run)):
        if ids is not None and entry.id not in ids:
            continue
        try:
            KINDS[entry.kind].undo(driver, entry.facts)
        except (LailaError, OSError) as error:
            left.append(f"{entry.spec}: {error}")
        else:
            entry.path.unlink(missing_ok=True)
    return left
