"""What the report puts first: what was shown, what was not, what was broken, and why a history cannot be.

All of it comes from the facts that the steps left and from the events of the history; the page only draws it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from laila.lab.checkers.operations import FAIL, OK, UNKNOWN, short
from laila.lab.op_columns import said
from laila.lab.result import Result

NAMES = 24
"""Names of one check that are written out."""
WHYS = 12
"""Contradictions that are drawn."""
VERBS: Mapping[str, str] = {"get": "reads", "put": "writes", "cas": "swaps", "list": "lists"}
"""How operations are told; others get an s."""

Facts = Mapping[str, Any]


# -- what was shown -----------------------------------------------------------------------------------------


def shown(result: Result) -> list[dict[str, Any]]:
    """One line for each check and verdict, the worst first; steps where nothing was judged."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for one in result.facts.get("judgements", ()):
        groups.setdefault((one["check"], one["verdict"]), []).append(one)
    if not groups:
        return [{"verdict": OK, "check": s.title, "said": s.detail} for s in result.steps if s.state == OK]
    order = ("illegal", UNKNOWN, OK)
    return [
        _group(*key, groups[key]) for key in sorted(groups, key=lambda key: (order.index(key[1]), key[0]))
    ]


def _group(check: str, verdict: str, judged: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = [str(one["name"]) for one in judged if one["name"]]
    return {
        "check": check,
        "verdict": verdict,
        "names": names[:NAMES],
        "more": max(0, len(names) - NAMES),
        "operations": sum(one["operations"] for one in judged),
        "faults": sum(one["faults"] for one in judged),
        "said": next((one["reason"] for one in judged if one["reason"]), ""),
    }


def not_shown(result: Result, environment: Mapping[str, Any]) -> list[dict[str, str]]:
    """What was left out, with the reason: faults that could not be done, steps that were skipped, and what the driver
    cannot do.
    """
    faults = result.facts.get("skipped_faults", {})
    found = [{"what": f"the fault {spec}", "why": str(why)} for spec, why in faults.items()]
    told = "; ".join(f"{spec}: {why}" for spec, why in faults.items())
    skipped = [step for step in result.steps if step.state == "skipped" and (not told or step.detail != told)]
    found += [{"what": step.title, "why": step.detail} for step in skipped]
    return found + [
        {"what": str(line), "why": ""} for line in environment.get("not shown by this driver", ())
    ]


# -- what was broken ----------------------------------------------------------------------------------------


def faults(facts: Facts, events: Iterable[Mapping[str, Any]], end: float) -> list[dict[str, Any]]:
    """In the order of time. One that the run ended in has no proof."""
    found = [_bite(one) for one in facts.get("bites", ())]
    open_ones: dict[tuple[str, str], dict[str, Any]] = {}
    for event in events:
        if event["what"] not in ("fault", "heal"):
            continue
        node = str(event.get("node", ""))
        spec = str(event["text"]).removeprefix(f"{node}: ")
        if event["what"] == "fault" and not any(_same(one, node, event["t"]) for one in found):
            times = {"from": event["t"], "bitten": event["t"], "to": end, "healed": end}
            one = {
                "label": label(spec),
                "spec": spec,
                "what": label(spec).split()[0],
                "nodes": [node],
                **times,
            }
            open_ones[node, spec] = {**one, "proof": "", "healing": ""}
        elif event["what"] == "heal":
            for key in [key for key in open_ones if key[0] == node and spec.startswith((key[1], node))]:
                open_ones[key] |= {"to": event["t"], "healed": event["t"]}
    return sorted([*found, *open_ones.values()], key=lambda one: one["from"])


def label(spec: str) -> str:
    """A fault as its shade is labelled: without where, `latency ms=200`."""
    return spec.partition("@")[0].replace(":", " ").strip()


def _bite(one: Mapping[str, Any]) -> dict[str, Any]:
    spec = str(one.get("spec", one["what"]))
    return {
        "label": label(spec),
        "spec": spec,
        "what": one["what"],
        "nodes": list(one["nodes"] if "nodes" in one else [one["node"]]),
        "from": one["from"],
        "bitten": one.get("bitten", one["from"]),
        "to": one["to"],
        "healed": one["healed"],
        "proof": one["proof"],
        "healing": one.get("proof_of_healing", ""),
    }


def _same(bite: Mapping[str, Any], node: str, at: float) -> bool:
    return node in bite["nodes"] and bool(bite["from"] - 0.01 <= at <= bite["healed"] + 0.01)


# -- why a history cannot be --------------------------------------------------------------------------------


def whys(facts: Facts) -> list[dict[str, Any]]:
    """The explanations of what was illegal, the first in time first."""
    found = [_why(one) for one in facts.get("judgements", ()) if one.get("why")]
    found += [_old(one) for one in facts.get("registers", {}).get("why", ())]
    return sorted(found, key=lambda one: one["at"])[:WHYS]


def _why(judged: Mapping[str, Any]) -> dict[str, Any]:
    why = judged["why"]
    rows = [
        {
            "client": row["client"],
            "node": row["node"],
            "from": row["start"],
            "to": row["end"],
            "outcome": row["outcome"],
            "offender": row["offender"],
            "said": told(row),
        }
        for row in why["rows"]
    ]
    title = f"{judged['check']}, {judged['name']}" if judged["name"] else judged["check"]
    return {**_explained(title, why, rows), "faults": judged["faults"]}


def _old(why: Mapping[str, Any]) -> dict[str, Any]:
    """Of a register, as its step tells it."""
    rows = [
        {
            **{key: row[key] for key in ("client", "node", "from", "to", "offender")},
            "outcome": UNKNOWN if row["to"] is None else OK,
            "said": f"{row['client']} {row['what']}s {row['value']}",
        }
        for row in why["rows"]
    ]
    return {**_explained(why["name"], why, rows), "faults": 1}


def _explained(title: str, why: Mapping[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    bad = next((row for row in rows if row["offender"]), rows[-1] if rows else None)
    at = 0.0 if bad is None else bad["from"] if bad["to"] is None else bad["to"]
    node = "" if bad is None else bad["node"]
    return {"title": title, "kind": why["kind"], "text": why["text"], "rows": rows, "at": at, "node": node}


def told(row: Mapping[str, Any]) -> str:
    """An operation in a few words: `node1/0 writes 17`, `node2/0 reads nothing`."""
    op, value, result = row["op"], row.get("value"), row.get("result")
    verb = VERBS.get(op, f"{op}es" if op.endswith(("s", "sh", "ch", "x")) else f"{op}s")
    words = [row["client"], verb, *([short(said(value))] if value is not None else [])]
    if row["outcome"] == FAIL:
        words.append("(refused)")
    elif row["outcome"] == UNKNOWN:
        words.append("(no answer)")
    elif result is not None or op in ("read", "get"):
        found = "nothing" if result is None else short(said(result))
        words.append(found if value is None else f"→ {found}")
    return " ".join(words)


# -- numbers ------------------------------------------------------------------------------------------------


def tiles(facts: Facts) -> list[dict[str, Any]]:
    """What people ask for first."""
    found: list[dict[str, Any]] = []
    if judged := facts.get("judgements", ()):
        counts = Counter(one["verdict"] for one in judged)
        number, text = f"{counts[OK]} / {len(judged)}", "histories judged, all of them ok"
        if counts["illegal"]:
            text = f"histories ok; {counts['illegal']} cannot be"
        elif counts[UNKNOWN]:
            text = f"histories ok; of {counts[UNKNOWN]} nothing could be decided"
        found.append({"number": number, "text": text, **({"bad": True} if counts["illegal"] else {})})
    return found
