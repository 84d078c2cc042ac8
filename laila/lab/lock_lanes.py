"""Who held which lock when, as the report draws it: one row for each client, nodes together, times in the run.

Everything is computed from the history's `hold` records, so a page can be made again from a saved run. Holds that
overlap another one are marked here, by the judge, not by the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from laila.lab.checkers import holds as judge
from laila.lab.checkers.holds import Hold

TITLES: Mapping[str, str] = {
    "exclusion": "One lock, contended for by clients on every node",
    "passing": "Holders that were killed, and who got the lock next",
}
DETAIL = 0.08
"""Seconds that the magnified part shows."""
FEW = 60
"""So many holds need no magnifying."""


def panels(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One picture for each step that told of holds."""
    found = []
    for phase in dict.fromkeys(str(record["phase"]) for record in records):
        holds = [Hold.from_record(record) for record in records if record["phase"] == phase]
        found.append(panel(TITLES.get(phase, phase), holds))
    return found


def panel(title: str, holds: Sequence[Hold]) -> dict[str, Any]:
    """Rows of `[asked, from, to, token, kind]`; kind is a letter: x exclusive, s shared, k killed; upper case where it
    overlaps another hold.
    """
    pairs = judge.overlapping(holds)
    bad = {id(hold) for pair in pairs for hold in pair}
    begin = min(hold.asked.earliest for hold in holds)
    end = max(hold.gave.latest for hold in holds)
    rows: dict[str, dict[str, Any]] = {}
    for hold in sorted(holds, key=lambda hold: (hold.node, hold.client)):
        row = rows.setdefault(hold.client, {"client": hold.client, "node": hold.node, "holds": []})
        row["holds"].append(_drawn(hold, id(hold) in bad))
    return {
        "title": title,
        "from": begin,
        "to": end,
        "rows": list(rows.values()),
        "overlaps": len(pairs),
        "detail": None if len(holds) <= FEW else _detail(holds, pairs, begin, end),
        "said": _said(holds, len(pairs)),
    }


def _drawn(hold: Hold, bad: bool) -> list[Any]:
    kind = "k" if hold.killed else "s" if hold.shared else "x"
    times = (hold.asked.latest, hold.got.latest, hold.gave.earliest)
    return [*(round(time, 6) for time in times), hold.token, kind.upper() if bad else kind]


def _detail(
    holds: Sequence[Hold], pairs: Sequence[tuple[Hold, Hold]], begin: float, end: float
) -> list[float]:
    """What is magnified first: the first overlap, else the middle."""
    middle = pairs[0][1].got.latest if pairs else (begin + end) / 2
    start = max(begin, min(middle - DETAIL / 2, end - DETAIL))
    return [start, start + DETAIL]


def _said(holds: Sequence[Hold], overlaps: int) -> str:
    exclusive = sum(not hold.shared for hold in holds)
    shared, killed = len(holds) - exclusive, sum(hold.killed for hold in holds)
    parts = [f"{exclusive:,} exclusive holds"]
    parts += [f"{shared:,} shared ones"] if shared else []
    parts += [f"{killed} holders killed"] if killed else []
    return ", ".join(parts) + (f"; {overlaps:,} overlap" if overlaps else "; none overlap")
