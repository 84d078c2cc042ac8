"""report.html: one file that opens anywhere, without a network, and is understood in ten seconds.

Everything it shows is computed here, as plain data, from the run's result and history; the page
(`report.html` beside this module) only draws it. So what the page claims can be tested without a browser.
"""

from __future__ import annotations

import html
import json
import time
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

from laila.lab import replica_page, volume_page
from laila.lab.history import History
from laila.lab.result import Result, Verdict

BINS = 240
WORK = frozenset({"memorize", "remember", "forget", "exists", *volume_page.WORK, *replica_page.WORK})
"""Operations that are drawn: on a node's memory, on a shared volume, on a replicated store."""
MEANING: Mapping[str, str] = {
    "prepare": "The lab could not make what nodes need, so nothing was tried. The reason is the engine's or "
    "the system's.",
    "start": "A node or the client beside it did not come up. Its own log, linked below, says why.",
    "links": "Every node must list every other one as connected, by its own word. A missing link means that "
    "a node was not reachable at its advertised address, or that the two did not accept each "
    "other's secret.",
    "lists": "Peering is symmetric: when one node lists another, the other must list it too, whoever is "
    "asked.",
    "memory": "A node works on another's memory as on its own. What was stored must come back with the same "
    "type and bytes, a replacement must be seen by the owner, and what was forgotten must be gone.",
    "stranger": "A node that does not know the secret must get nothing: no link, no place in a list, and no way to "
    "disturb the others.",
    "crash": "A node may die at any moment. Its peers must see that in time, calls in flight must end with "
    "PeerLost and never with a wrong value or not at all, and the links must come back without "
    "help.",
    "durable": "A write into a durable pool that was acknowledged is a promise: it must survive kill -9.",
    "volume": "Files can only be shared where locks exclude and what was written is seen. An UNSAFE volume is no "
    "fault of the nodes: use another volume, or a lock service beside it, as the reason says.",
    "exclusion": "Two holders of one lock at the same time overwrite each other's work. Every picture of an overlap "
    "below is from the holders' own times.",
    "passing": "A lock whose holder died must come free by itself, and soon; and whoever gets it must have a greater "
    "fencing token, so that a late write of the dead one can be told.",
    "registrations": "A registration that was acknowledged is a promise: every node must list it.",
    "fresh": "What was acknowledged before a load began must be seen by it, through a cache too; and what one reader "
    "has seen, no later one may miss.",
    "writers": "A writer may die at any instruction. Readers must find the old version or the new one, whole.",
    "full": "A volume that is full must say so, and keep the old version; when there is room again, work goes on.",
    "read-only": "Who may only read must be able to read, what is new too, and to change nothing.",
    "damage": "Bytes that were changed, signed by a stranger or put back from an older version must never be served.",
    "registers": "Whoever writes and reads through whichever node must find one store. An answer that is older than "
    "one that somebody had before shows two.",
    "converge": "When nothing is broken any more, replicas must become equal without help.",
    "promises": "A save that was acknowledged is a promise: it must be on every node once these have caught up. What "
    "was forgotten must not come back from a node that missed it.",
    "hurt": "Bytes that a disk damaged must not be served, must be found, and must be made good from other replicas.",
    "inside": "A node goes on after an error that it did not expect, but may have dropped something. Its log has "
    "the whole story.",
    "remove": "A run must leave nothing behind. `laila lab gc` removes what is still there.",
}


def render(result: Result, history: History, environment: Mapping[str, Any]) -> str:
    """The page."""
    page = resources.files("laila.lab").joinpath("report.html").read_text(encoding="utf-8")
    data = page_data(result, history.events, [*history.ops, *volume_page.done(history)], environment)
    data["shared"] = volume_page.data(result.facts, history)
    data["replicas"] = replica_page.data(result.facts, history)
    fills = {
        "@@TITLE@@": html.escape(f"{result.verdict.value}: laila lab check {result.topology}"),
        "@@VERDICT@@": result.verdict.value,
        "@@HEADLINE@@": {Verdict.OK: "OK", Verdict.FAILED: "FAILED", Verdict.UNKNOWN: "UNKNOWN"}[
            result.verdict
        ],
        "@@SENTENCE@@": html.escape(result.sentence),
        "@@DATA@@": json.dumps(data, separators=(",", ":"), default=str).replace("<", "\\u003c"),
    }
    for mark, text in fills.items():
        page = page.replace(mark, text)
    return page


def page_data(
    result: Result, events: list[dict[str, Any]], ops: list[dict[str, Any]], environment: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that the page draws. Times are seconds since the run began."""
    end = max([result.seconds, *(event["t"] for event in events)])
    stranger = str((environment.get("topology") or {}).get("stranger", {}).get("name", "stranger"))
    lanes = [*result.nodes, *({event["node"] for event in events if event.get("node") == stranger})]
    return {
        "result": result.to_dict(),
        "when": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(result.started)),
        "end": end,
        "tiles": tiles(result, len(result.nodes), events),
        "meaning": {
            step.key: MEANING.get(step.key, "") for step in result.steps if step.state in ("failed", "error")
        },
        "lanes": [
            {
                **lane(name, lanes, name in result.nodes, events, ops, end),
                "shades": replica_page.shades(result.facts, name),
            }
            for name in lanes
        ],
        "events": events[-2000:],
        "environment": environment,
        "files": [
            "history.jsonl",
            "result.json",
            "environment.json",
            *(f"logs/{name}.log" for name in lanes),
        ],
    }


def lane(
    name: str,
    names: list[str],
    member: bool,
    events: list[dict[str, Any]],
    ops: list[dict[str, Any]],
    end: float,
) -> dict[str, Any]:
    """One node over time. Whom it sees is drawn for members only: a stranger sees nobody, or the run failed."""
    own = [event for event in events if event.get("node") == name]
    return {
        "name": name,
        "stranger": not member,
        "life": life(name, events, end),
        "sees": {peer: sight(name, peer, events, end) for peer in names if member and peer != name},
        "refused": [event["t"] for event in own if event["what"] == "refused"],
        "bad": [[event["t"], event["text"]] for event in own if event["what"] == "bad"],
        "work": work(name, ops, end),
    }


def life(node: str, events: Iterable[dict[str, Any]], end: float) -> list[dict[str, Any]]:
    """When the node ran: spans with how each ended (killed, stopped, or still running at the end)."""
    spans: list[dict[str, Any]] = []
    for event in events:
        if event.get("node") != node:
            continue
        if event["what"] == "up":
            spans.append({"from": event["t"], "to": end, "ended": ""})
        elif event["what"] in ("kill", "down") and spans and not spans[-1]["ended"]:
            spans[-1] |= {"to": event["t"], "ended": "killed" if event["what"] == "kill" else "stopped"}
    return spans


def sight(node: str, peer: str, events: Iterable[dict[str, Any]], end: float) -> list[dict[str, Any]]:
    """When `node` listed `peer` as connected, by its own word. A span that ended while both lived says
    `lost`.
    """
    spans: list[dict[str, Any]] = []
    for event in events:
        about = event.get("node") == node and event.get("peer") == peer
        if about and event["what"] in ("link", "healed"):
            if spans and not spans[-1]["ended"]:
                spans[-1] |= {"to": event["t"], "ended": "renewed"}
            spans.append({"from": event["t"], "to": end, "ended": ""})
        elif spans and not spans[-1]["ended"]:
            if about and event["what"] == "lost":
                spans[-1] |= {"to": event["t"], "ended": "lost"}
            elif event.get("node") == node and event["what"] in ("kill", "down"):
                spans[-1] |= {"to": event["t"], "ended": "died"}
    return spans


def work(node: str, ops: Iterable[dict[str, Any]], end: float) -> dict[str, list[int]]:
    """Operations on this node's memory in BINS equal parts of the run: how many went through, how many
    failed.
    """
    good, bad = [0] * BINS, [0] * BINS
    for op in ops:
        if op["at"] == node and op["op"] in WORK:
            place = min(BINS - 1, int(op["end"] / end * BINS)) if end else 0
            fine = op["outcome"] == "ok" or (op["outcome"] == "EntryNotFound" and op["phase"] == "memory")
            fine = fine or op["phase"] in volume_page.REFUSES
            (good if fine else bad)[place] += 1
    return {"good": good, "bad": bad}


def tiles(result: Result, nodes: int, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The numbers that people ask for first."""
    links = nodes * (nodes - 1)
    seen = {
        (event["node"], event["peer"])
        for event in events
        if event["what"] == "link" and event["peer"] in result.nodes
    }
    counts = result.facts.get("operations", {})
    found: list[dict[str, Any]] = [
        {"number": f"{len(seen)} / {links}", "text": "directed links shook hands"},
        {"number": f"{sum(counts.values()):,}", "text": "operations from inside the nodes"},
    ]
    crash = result.facts.get("crash")
    if crash:
        found.append(
            {
                "number": f"{max(crash['lost_seen'].values()):.2f} s",
                "text": f"until all saw {crash['victim']} die",
            }
        )
        found.append({"number": f"{crash['healed']:.1f} s", "text": "from its start to all links healed"})
    if "acknowledged" in result.facts:
        known, lost = result.facts["acknowledged"], result.facts.get("lost", 0)
        text = f"of {known:,} acknowledged writes lost" if lost else "acknowledged writes, none lost"
        found.append({"number": f"{lost or known:,}", "text": text, "bad": bool(lost)})
    return found + volume_page.tiles(result.facts) + replica_page.tiles(result.facts)
