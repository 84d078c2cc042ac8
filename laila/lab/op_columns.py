"""Operations as columns of small numbers, as the report's page takes them: some twenty bytes for each.

What workloads did, what checks' own clients did and what the judges' records tell is brought into one form, so that
one picture shows all of it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from laila.lab import replica_page, volume_page
from laila.lab.checkers.operations import FAIL, OK, UNKNOWN, Op
from laila.lab.history import Invoked, Told

WORK = frozenset({"memorize", "remember", "forget", "exists", *volume_page.WORK, *replica_page.WORK})
"""Operations of checks that are drawn: on a node's memory, on a shared volume, on a replicated store."""
READS = frozenset({"remember", "exists", "load", "replica_load"})
"""Those of which it matters to nobody whether they took effect."""
OUTCOMES = (OK, FAIL, UNKNOWN)
SHOWN = 32
"""Characters of a value that the page shows."""
TABLES = ("client", "node", "workload", "op", "key")


def data(told: Told) -> dict[str, Any]:
    """For the page: `columns` of everything that is kept, and how much of what was seen that is."""
    checks = [*map(_of_check, filter(_is_work, told.ops)), *volume_page.done(told)]
    found = [*checks, *told.through.kept, *told.others.kept]
    return {
        **columns(found),
        "seen": told.through.seen + told.others.seen + len(checks),
        "every": {OK: told.through.every, "others": told.others.every},
    }


def columns(found: Iterable[Invoked]) -> dict[str, Any]:
    """Sorted by their beginnings. `start` counts from the one before, `length` is -1 for an open end, both in
    microseconds; `kind` points into `kinds`, whose rows point into `tables`; `value` and `answer` (the
    result, or the error) point into `texts`, whose first is the empty one.
    """
    ops = sorted(found, key=lambda one: one[1].start)
    texts, kinds = _Numbers([""]), _Numbers()
    tables = {name: _Numbers() for name in TABLES}
    starts = [_micros(op.start) for _, op in ops]

    rows: list[str] = []

    def kind(workload: str, op: Op) -> int:
        fields = (op.client, op.node, workload, op.op, op.key)
        number = kinds.of(fields)
        if number == len(rows):
            rows.append(row(op.client, op.node))
        return number

    numbers = [kind(*one) for one in ops]
    return {
        "start": [start - before for start, before in zip(starts, [0, *starts], strict=False)],
        "length": [-1 if op.end == math.inf else _micros(op.end) - _micros(op.start) for _, op in ops],
        "outcome": "".join(str(OUTCOMES.index(op.outcome)) for _, op in ops),
        "kind": numbers,
        "value": [texts.of(said(op.value)) for _, op in ops],
        "answer": [texts.of(said(op.result) if op.ok else op.error[: 4 * SHOWN]) for _, op in ops],
        "kinds": [
            [table.of(field) for table, field in zip(tables.values(), fields, strict=True)]
            for fields in kinds
        ],
        "tables": {name: list(table) for name, table in tables.items()},
        "rows": rows,
        "texts": list(texts),
    }


def row(client: str, node: str) -> str:
    """Where a client is drawn: with all that had its place before and after it, named without its node."""
    place = re.split("[#:]", client, maxsplit=1)[0]
    return place.removeprefix(f"{node}/") or place


def said(value: Any) -> str:
    """A value as the page shows it."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


class _Numbers(dict[Any, int]):
    """Each thing that was asked for once, in order."""

    def __init__(self, first: Sequence[Any] = ()) -> None:
        super().__init__((thing, number) for number, thing in enumerate(first))

    def of(self, thing: Any) -> int:
        return self.setdefault(thing, len(self))


def _micros(seconds: float) -> int:
    return round(seconds * 1e6)


# -- what checks did ----------------------------------------------------------------------------------------


def _is_work(record: Mapping[str, Any]) -> bool:
    return record["op"] in WORK


def _of_check(record: Mapping[str, Any]) -> Invoked:
    """A line of a check's client. What it was right to refuse went well."""
    phase, error = record["phase"], record["outcome"]
    outcome, result = OK, None
    if error != OK and _rightly(phase, error):
        result = f"refused, as it must: {error}"
    elif error != OK:
        certain = record.get("executed") == "no" or record["op"] in READS
        outcome = FAIL if certain else UNKNOWN
    key = str(record.get("name") or record.get("pool") or "")
    what = (record["client"], record["at"], record["op"].removeprefix("replica_"), key, None, result)
    said = f"{error}: {record.get('message', '')}" if outcome != OK else ""
    return phase, Op(*what, record["t"], record["end"], outcome, said)


def _rightly(phase: str, error: str) -> bool:
    return phase in volume_page.REFUSES or (phase == "memory" and error == "EntryNotFound")
