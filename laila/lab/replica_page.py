"""What the report says about a replicated store: who did what through which node while which node was broken.

All of it comes from the facts that the steps left and from the history; the page only draws it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from laila.lab.checks.replica_holdings import BY_THEMSELVES
from laila.lab.checks.replica_load import FORGET, LOAD, SAVE
from laila.lab.history import Told

WORK = (SAVE, LOAD, FORGET)
"""Operations on the store, as lanes of nodes count them."""
BIN = 0.25
"""Seconds of one column."""
LONG = 0.4
"""Operations that last longer are drawn one by one."""
MOST = 400
"""So many of them for each worker."""

Facts = Mapping[str, Any]
Tile = dict[str, Any]


def data(facts: Facts, history: Told) -> dict[str, Any]:
    """For the page; empty where no replicated store was worked on."""
    phases = set(facts.get("registers", {}).get("phases", ()))
    ops = [op for op in history.ops if op["op"] in WORK and op["phase"] in phases]
    if not ops:
        return {}
    begin, end = min(op["t"] for op in ops), max(op["end"] for op in ops)
    return {
        "from": begin,
        "to": end,
        "bin": BIN,
        "faults": [bite for bite in facts.get("bites", ()) if "node" in bite],
        "lanes": [lane(node, ops, begin, end) for node in sorted({op["at"] for op in ops})],
        "said": _said(facts),
        "bad": bool(facts["registers"]["illegal"]),
    }


def lane(node: str, ops: Sequence[Mapping[str, Any]], begin: float, end: float) -> dict[str, Any]:
    """Columns of writes, reads and refusals through a node, and for each worker what lasted long."""
    columns = int((end - begin) / BIN) + 1
    counts = {what: [0] * columns for what in ("writes", "reads", "failed")}
    workers: dict[str, list[list[Any]]] = {}
    for op in ops:
        if op["at"] != node:
            continue
        what = "failed" if op["outcome"] != "ok" else "reads" if op["op"] == LOAD else "writes"
        counts[what][int((op["end"] - begin) / BIN)] += 1
        long = workers.setdefault(op["client"], [])
        if op["end"] - op["t"] > LONG and len(long) < MOST:
            long.append(
                [op["t"], op["end"], op["op"].removeprefix("replica_"), op["outcome"], op.get("name", "")]
            )
    return {"node": node, **counts, "workers": [{"client": c, "long": workers[c]} for c in sorted(workers)]}


def tiles(facts: Facts) -> list[Tile]:
    """The numbers that people ask for first; of steps that were done."""
    makers = (_registers, _bites, _converged, _promises, _damage)
    return [tile for make in makers if (tile := make(facts)) is not None]


def _said(facts: Facts) -> str:
    found = facts["registers"]
    if found["illegal"]:
        return f"{found['illegal']} of {found['names']} names have a history that no single store can have"
    work = f"{found['writes']:,} writes and {found['reads']:,} reads of {found['names']} names"
    return f"{work}: every answer is one that a single store could have given"


def _registers(facts: Facts) -> Tile | None:
    if (found := facts.get("registers")) is None:
        return None
    if found["illegal"]:
        return _tile(
            f"{found['illegal']} / {found['names']}", "names whose histories contradict themselves", bad=True
        )
    return _tile(f"{found['writes'] + found['reads']:,}", "writes and reads through all nodes, linearizable")


def _bites(facts: Facts) -> Tile | None:
    if not (bites := facts.get("bites")):
        return None
    kinds = Counter(one["what"] for one in bites)
    listed = ", ".join(kind if times == 1 else f"{times} times {kind}" for kind, times in kinds.items())
    return _tile(f"{len(bites)}", f"faults under work: {listed}")


def _converged(facts: Facts) -> Tile | None:
    if (found := facts.get("converged")) is None:
        return None
    helped = "" if found["by"] == BY_THEMSELVES else ", with an explicit repair"
    return _tile(f"{found['seconds']:.1f} s", f"until {found['names']} files were equal on all nodes{helped}")


def _promises(facts: Facts) -> Tile | None:
    if (found := facts.get("replica_promises")) is None:
        return None
    if found["wrong"]:
        return _tile(f"{found['wrong']:,}", "promises of the replicated store broken", bad=True)
    return _tile(
        f"{found['saved']:,}", f"acknowledged versions, none lost; {found['forgotten']} forgotten, none back"
    )


def _damage(facts: Facts) -> Tile | None:
    if (found := facts.get("replica_damage")) is None:
        return None
    if found["served"]:
        return _tile(f"{found['served']:,}", f"of {found['loads']} loads wrong after damage", bad=True)
    if "seconds" not in found:
        return _tile(f"{found['cases']}", "damaged files, not all made good", bad=True)
    return _tile(f"{found['cases']}", f"damaged files, never served, good again in {found['seconds']:.1f} s")


def _tile(number: str, text: str, *, bad: bool = False) -> Tile:
    return {"number": number, "text": text, **({"bad": True} if bad else {})}
