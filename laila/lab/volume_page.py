"""What the report says about a shared volume: its verdict, its tiles, and what every node did with damaged files.

All of it comes from the facts that the steps left and from the history; the page only draws it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from laila.lab import lock_lanes
from laila.lab.checkers.operations import OK, UNKNOWN, Op
from laila.lab.history import Invoked, Told

WORK = ("hold", "write", "read", "addition", "listing", "load", "create")
"""Operations on the volume, as lanes of nodes count them."""
REFUSES = ("damage", "full", "read-only", "writers")
"""Steps in which an operation may be refused, and is judged by the step itself."""

Facts = Mapping[str, Any]
Tile = dict[str, Any]


def data(facts: Facts, history: Told) -> dict[str, Any]:
    """For the page; empty where the nodes share no volume."""
    if "volume" not in facts and "hold" not in history.records:
        return {}
    return {
        "verdict": facts.get("volume"),
        "panels": lock_lanes.panels(history.records.get("hold", [])),
        "damage": _damage(facts),
    }


def done(told: Told) -> list[Invoked]:
    """What the judges' records say was done, as operations of clients; the phase stands for the workload."""
    return [
        (record["phase"], make(record))
        for what, make in _MAKERS.items()
        for record in told.records.get(what, ())
    ]


def _hold(record: Mapping[str, Any]) -> Op:
    what = "hold, then killed" if record.get("killed") else "hold, shared" if record.get("shared") else "hold"
    times = (record["got"][0], record["gave"][1])
    return Op(record["client"], record["node"], what, "lock", None, f"token {record['token']}", *times)


def _version(record: Mapping[str, Any]) -> Op:
    number = record["sequence"]
    return _op(record, record.get("how", "create"), None, None if number is None else f"version {number}")


def _addition(record: Mapping[str, Any]) -> Op:
    return _op(record, "register", record["member"], None)


def _listing(record: Mapping[str, Any]) -> Op:
    return _op(record, "list", None, f"{len(record['members'])} members")


def _op(record: Mapping[str, Any], op: str, value: Any, result: Any) -> Op:
    known = record["ended"] is not None
    end, outcome = (record["ended"][1], OK) if known else (math.inf, UNKNOWN)
    return Op(record["client"], record["node"], op, "", value, result, record["began"][0], end, outcome)


_MAKERS: Mapping[str, Callable[[Mapping[str, Any]], Op]] = {
    "hold": _hold,
    "write": _version,
    "read": _version,
    "addition": _addition,
    "listing": _listing,
}


def tiles(facts: Facts) -> list[Tile]:
    """The numbers that people ask for first, in the order of the steps; of steps that were done."""
    makers = (_verdict, _holders, _passed_on, _registrations, _fresh, _writers, _damages)
    return [tile for make in makers if (tile := make(facts)) is not None]


def _verdict(facts: Facts) -> Tile | None:
    if (verdict := facts.get("volume")) is None:
        return None
    mount = verdict["mount"].get("fstype", "unknown")
    where = f"{mount}, one kernel" if verdict["one_kernel"] else mount
    return _tile(verdict["answer"], f"locks on the volume ({where})", bad=verdict["answer"] == "UNSAFE")


def _holders(facts: Facts) -> Tile | None:
    if faults := facts.get("lock_faults"):
        return _tile(f"{faults:,}", "faults of the lock: holders together, tokens, lost updates", bad=True)
    if (locks := facts.get("locks")) is None:
        return None
    return _tile(f"{locks['exclusive'] + locks['shared']:,}", "holds of one lock, never two at a time")


def _passed_on(facts: Facts) -> Tile | None:
    if (passed := facts.get("passed_on")) is None:
        return None
    return _tile(
        f"{passed['slowest']:.2f} s", f"at most, from {passed['deaths']} holders' deaths to the next holder"
    )


def _registrations(facts: Facts) -> Tile | None:
    if (made := facts.get("registrations")) is None:
        return None
    lost = made["lost"]
    number = f"{made['acknowledged'] - lost:,} / {made['acknowledged']:,}"
    return _tile(number, "registrations there, on every node", bad=bool(lost))


def _fresh(facts: Facts) -> Tile | None:
    if (fresh := facts.get("fresh")) is None:
        return None
    if fresh["faults"]:
        return _tile(f"{fresh['faults']:,}", f"of {fresh['reads']:,} loads stale or torn", bad=True)
    return _tile(f"{fresh['reads']:,}", f"loads of {fresh['versions']:,} versions, none stale")


def _writers(facts: Facts) -> Tile | None:
    if (writers := facts.get("writers")) is None:
        return None
    if writers["faults"]:
        return _tile(
            f"{writers['faults']:,}", f"bad loads after {writers['killed']} killed writers", bad=True
        )
    return _tile(f"{writers['killed']:,}", "writers killed, old or new version, never torn")


def _damages(facts: Facts) -> Tile | None:
    if (damage := facts.get("damage")) is None:
        return None
    cases = damage["cases"]
    served = sum(bool(case["served"]) for case in cases)
    if served:
        return _tile(f"{served} / {len(cases)}", "damaged, forged or old files served", bad=True)
    if damage["wrong"]:
        return _tile(f"{damage['wrong']}", "refusals of bad files for a wrong reason", bad=True)
    return _tile(f"{len(cases)}", "damaged, forged and old files, refused by every node")


def _tile(number: str, text: str, *, bad: bool = False) -> Tile:
    return {"number": number, "text": text, **({"bad": True} if bad else {})}


def _damage(facts: Facts) -> dict[str, Any] | None:
    """A table: what was done to the file, and what each node said."""
    cases: Sequence[Mapping[str, Any]] = facts.get("damage", {}).get("cases", ())
    if not cases:
        return None
    nodes = list(cases[0]["said"])
    rows = [
        {"what": c["what"], "proof": c["proof"], "said": [c["said"].get(node, []) for node in nodes]}
        for c in cases
    ]
    return {"nodes": nodes, "rows": rows}
