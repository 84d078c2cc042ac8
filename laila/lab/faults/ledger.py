"""What was broken and is not mended yet, on disk: one file for each fault, written before it is done.

Whoever runs a fault goes through `inject` and `heal` here. A controller that was killed leaves its files, and
`heal_all` undoes what they say, from any process that reaches the same nodes.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laila.errors import LailaError
from laila.lab.drivers.base import Driver
from laila.lab.faults.base import Fault
from laila.lab.registry import Run


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

    @property
    def id(self) -> str:
        return self.path.stem

    def save(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fields = {
            "kind": self.kind,
            "spec": self.spec,
            "nodes": self.nodes,
            "until": self.until,
            "facts": self.facts,
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
    """Write it down, do it, write down what undoing it needs."""
    path = place(fault.scene.driver.run) / f"{secrets.token_hex(4)}.json"
    entry = Entry(path, fault.kind, str(fault.spec), fault.nodes, until)

    def keep(facts: Mapping[str, Any]) -> None:
        entry.facts |= facts
        entry.save()

    fault._keep = keep
    entry.save()
    keep(fault.inject())
    return entry


def heal(fault: Fault, entry: Entry) -> None:
    """Undo it and strike it out. What raises stays in the ledger."""
    fault.heal()
    entry.path.unlink(missing_ok=True)


def open_entries(run: Run) -> list[Entry]:
    """What is not mended yet, oldest first."""
    found = []
    for path in sorted(place(run).glob("*.json"), key=lambda path: path.stat().st_mtime):
        fields = json.loads(path.read_text(encoding="utf-8"))
        found.append(
            Entry(
                path, fields["kind"], fields["spec"], tuple(fields["nodes"]), fields["until"], fields["facts"]
            )
        )
    return found


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
