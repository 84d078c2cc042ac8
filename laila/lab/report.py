"""report.html: one file that opens anywhere, without a network, and is understood in ten seconds.

Everything it shows is computed here, as plain data, from the run's result and history; the page (`report.html` beside
this module, and the sections in `page/`) only draws it. So what the page claims can be tested without a browser, and a
page can be made again from what a run has left.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from laila.lab import evidence_page, op_columns, replica_page, saved, volume_page
from laila.lab.history import Told
from laila.lab.result import Result, Verdict

EVENTS = 2000
"""So many of the last events are listed."""
HEADLINES: Mapping[Verdict, str] = {Verdict.OK: "OK", Verdict.FAILED: "FAILED", Verdict.UNKNOWN: "UNKNOWN"}
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


def render(
    result: Result, told: Told, environment: Mapping[str, Any], files: Sequence[str] | None = None
) -> str:
    """The page. `files` are those beside it that it links; None: all that a run leaves."""
    data = page_data(result, told, environment)
    data["files"] = list(files) if files is not None else _files(data["lanes"])
    page = _page()
    fills = {
        "TITLE": html.escape(f"{result.verdict.value}: laila lab, {result.topology}"),
        "VERDICT": result.verdict.value,
        "HEADLINE": HEADLINES[result.verdict],
        "SENTENCE": html.escape(result.sentence),
        "PLAIN": _plain(data),
        "SCRIPTS": " ".join(_hashes(page)),
        "DATA": json.dumps(data, separators=(",", ":"), default=str).replace("<", "\\u003c"),
    }
    page = re.sub(r"@@([A-Z]+)@@", lambda mark: fills[mark[1]], page)
    return page.encode("utf-8", "backslashreplace").decode("utf-8")  # what a client says need be no text


def from_folder(folder: str | Path) -> str:
    """The page of a run, made again from its folder alone. Raises BadConfig for a folder that is none of a run."""
    with saved.trusting(folder):
        run = saved.read(folder)
        return render(run.result, run.told, run.environment, run.files)


def page_data(result: Result, told: Told, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the page draws. Times are seconds since the run began."""
    events = told.events
    end = max([result.seconds, *(event["t"] for event in events)])
    faults = evidence_page.faults(result.facts, events, end)
    ops = op_columns.data(told)
    stranger = str((environment.get("topology") or {}).get("stranger", {}).get("name", "stranger"))
    named = [*result.nodes, *(event["node"] for event in events if event.get("node") == stranger)]
    named += [node for fault in faults for node in fault["nodes"]] + ops["tables"]["node"]
    names = list(dict.fromkeys(named))
    fields = {key: value for key, value in result.to_dict().items() if key != "facts"}
    return {
        "result": fields,
        "when": time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(result.started)),
        "end": end,
        "tiles": tiles(result, len(result.nodes), events),
        "meaning": {
            step.key: MEANING.get(step.key, "") for step in result.steps if step.state in ("failed", "error")
        },
        "shown": evidence_page.shown(result),
        "notShown": evidence_page.not_shown(result, environment),
        "whys": evidence_page.whys(result.facts),
        "faults": faults,
        "lanes": [
            {**lane(name, names, name in result.nodes, events, end), "stranger": name == stranger}
            for name in names
        ],
        "ops": ops,
        "shared": volume_page.data(result.facts, told),
        "replicas": replica_page.data(result.facts, told),
        "events": events[-EVENTS:],
        "environment": environment,
    }


def _files(lanes: Iterable[Mapping[str, Any]]) -> list[str]:
    """What every run leaves beside its report."""
    logs = [f"logs/{lane['name']}.log" for lane in lanes if lane["life"] or not lane["stranger"]]
    return ["history.jsonl", "result.json", "environment.json", "junit.xml", *logs]


def _page() -> str:
    """The page with its sections, and without the run: `<!-- name -->` stands for a file of `page/`."""
    folder = resources.files("laila.lab")
    page = folder.joinpath("report.html").read_text(encoding="utf-8")
    return re.sub(
        r"<!-- ([a-z-]+\.(?:html|css)) -->",
        lambda mark: folder.joinpath("page", mark[1]).read_text(encoding="utf-8").strip(),
        page,
    )


def _hashes(page: str) -> list[str]:
    """What the page's own policy lets run: these scripts, and nothing that could come in with the run's data."""
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    return [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]


def _plain(data: Mapping[str, Any]) -> str:
    """What was shown and what was not, for those who run no scripts."""
    words = {"ok": "ok", "illegal": "FAILED", "unknown": "unknown"}
    lines = [f"{words[one['verdict']]}: {one['check']}" for one in data["shown"]]
    lines += [f"{one['title']}: {one['kind']}: {one['text']}" for one in data["whys"]]
    lines += [f"not shown: {one['what']}{': ' * bool(one['why'])}{one['why']}" for one in data["notShown"]]
    return "".join(f"<li>{html.escape(line)}</li>" for line in lines)


def lane(
    name: str, names: Sequence[str], member: bool, events: Sequence[Mapping[str, Any]], end: float
) -> dict[str, Any]:
    """One node over time. Whom it sees is drawn for members only: a stranger sees nobody, or the run failed."""
    own = [event for event in events if event.get("node") == name]
    return {
        "name": name,
        "life": life(name, events, end),
        "sees": {peer: sight(name, peer, events, end) for peer in names if member and peer != name},
        "refused": [event["t"] for event in own if event["what"] == "refused"],
        "bad": [[event["t"], event["text"]] for event in own if event["what"] == "bad"],
    }


def life(node: str, events: Iterable[Mapping[str, Any]], end: float) -> list[dict[str, Any]]:
    """When the node ran: spans with how each ended (killed, stopped, or still running at the end). A node that is told
    to be up while it is, because it was only paused, goes on.
    """
    spans: list[dict[str, Any]] = []
    for event in events:
        if event.get("node") != node:
            continue
        if event["what"] == "up" and not (spans and not spans[-1]["ended"]):
            spans.append({"from": event["t"], "to": end, "ended": ""})
        elif event["what"] in ("kill", "down") and spans and not spans[-1]["ended"]:
            spans[-1] |= {"to": event["t"], "ended": "killed" if event["what"] == "kill" else "stopped"}
    return spans


def sight(node: str, peer: str, events: Iterable[Mapping[str, Any]], end: float) -> list[dict[str, Any]]:
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


def tiles(result: Result, nodes: int, events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The numbers that people ask for first."""
    found = evidence_page.tiles(result.facts)
    seen = {
        (event["node"], event["peer"])
        for event in events
        if event["what"] == "link" and event["peer"] in result.nodes
    }
    if seen or any(step.key == "links" for step in result.steps):
        found.append({"number": f"{len(seen)} / {nodes * (nodes - 1)}", "text": "directed links shook hands"})
    counts = result.facts.get("operations", {})
    found.append({"number": f"{sum(counts.values()):,}", "text": "operations from inside the nodes"})
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
