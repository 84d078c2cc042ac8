"""`laila lab fault`: break the nodes of a lab that stays, by hand, and mend them."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from typing import Any

from laila.errors import BadConfig, LabError
from laila.lab.cli import common

EXAMPLES = """\
  laila lab fault list                               what can be broken, and what this machine cannot do
  laila lab fault inject partition@node1/node2.node3  until it is healed
  laila lab fault inject latency:ms=300@node2 --for 30
  laila lab fault heal                               all that is broken
"""


def add(subs: Any) -> None:
    fault = subs.add_parser(
        "fault",
        help="break the nodes of a lab that stays, and mend them",
        description="Break the nodes of a lab that stays, and mend them.",
        epilog="examples:\n" + EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = fault.add_subparsers(dest="fault_command", metavar="COMMAND", required=True)
    inject = common.add(verbs, "inject", _inject, "break something, and prove that it is broken", EXAMPLES)
    inject.add_argument("fault", metavar="FAULT", help="KIND[:OPTION=VALUE][@NODE]")
    inject.add_argument(
        "--for", type=float, dest="seconds", metavar="SECONDS", help="heal it by itself after that time"
    )
    inject.add_argument("--seed", type=int, metavar="N", help="for nodes that are not named")
    heal = common.add(verbs, "heal", _heal, "undo what is broken", EXAMPLES)
    heal.add_argument("ids", nargs="*", metavar="ID", help="which (default: all)")
    heal.add_argument("--after", type=float, default=0.0, metavar="SECONDS", help="wait so long first")
    listed = common.add(verbs, "list", _list, "the kinds of faults, and what is broken now", EXAMPLES)
    for parser in (inject, heal, listed):
        common.add_run(parser)
        common.add_json(parser)


def _inject(options: argparse.Namespace) -> int:
    from laila.lab import standing
    from laila.lab.faults import FaultSpec, Scene, by_hand
    from laila.lab.runner import interruptible

    spec = FaultSpec.parse(options.fault)
    if options.seconds is not None and not options.seconds > 0:
        raise BadConfig(f"--for takes seconds above 0, not {options.seconds:g}")
    with standing.attached(standing.find(options.run_id)) as driver, interruptible():
        chance = random.Random(options.seed)  # noqa: S311  repeatable on purpose
        scene = Scene(driver, driver.topology.names, chance, ready=driver.wait_ready)
        entry, proof = by_hand.inject(scene, spec, options.seconds)
    if options.json:
        print(json.dumps({"id": entry.id, "fault": entry.spec, "nodes": entry.nodes, "proof": proof}))
    else:
        until = f" for {options.seconds:g} s" if options.seconds else "; mend it with `laila lab fault heal`"
        print(f"{entry.id}: {entry.spec} on {', '.join(entry.nodes)}{until}\n{proof}")
    return 0


def _heal(options: argparse.Namespace) -> int:
    from laila.lab import standing
    from laila.lab.faults import by_hand, ledger

    if not 0 <= options.after <= by_hand.LONGEST:
        raise BadConfig(f"--after takes seconds from 0 to {by_hand.LONGEST:g}, not {options.after:g}")
    time.sleep(options.after)
    run = standing.find(options.run_id)
    known = {entry.id: entry for entry in ledger.open_entries(run)}
    if unknown := [one for one in options.ids if one not in known]:
        raise BadConfig(f"nothing is broken by {unknown[0]!r}; there are {', '.join(known) or 'none'}")
    with standing.attached(run) as driver:
        left = ledger.heal_all(driver, options.ids or None)
    healed = [known[one].spec for one in options.ids or known]
    if left:
        raise LabError(f"could not undo {'; '.join(left)}")
    print(
        json.dumps({"healed": healed})
        if options.json
        else "\n".join(f"healed: {one}" for one in healed) or "nothing is broken"
    )
    return 0


def _list(options: argparse.Namespace) -> int:
    from laila.cli.output import table
    from laila.lab import faults, registry, standing
    from laila.lab.faults import ledger

    standing_runs = [run for run in registry.runs() if run.state == "standing"]
    run = standing.find(options.run_id) if options.run_id or len(standing_runs) == 1 else None
    hindrances: dict[str, str] = {}
    broken: list[dict[str, Any]] = []
    if run is not None:
        with standing.attached(run) as driver:
            hindrances = {kind: fault.hindrance(driver) for kind, fault in faults.KINDS.items()}
        now = time.time()
        broken = [
            {
                "id": entry.id,
                "fault": entry.spec,
                "nodes": entry.nodes,
                "seconds_left": round(entry.until - now, 1) if entry.until else None,
            }
            for entry in ledger.open_entries(run)
        ]
    kinds: list[dict[str, Any]] = [
        {
            "kind": kind,
            "breaks": fault.summary,
            "options": {
                name: f"{one.text} (default {one.default}{one.unit})" for name, one in fault.options.items()
            },
            "hindrance": hindrances.get(kind),
        }
        for kind, fault in faults.KINDS.items()
    ]
    if options.json:
        print(json.dumps({"run_id": run.run_id if run else None, "kinds": kinds, "broken": broken}))
        return 0
    rows = [
        [
            one["kind"],
            one["breaks"],
            " ".join(one["options"]) or "-",
            "" if run is None else one["hindrance"] or "yes",
        ]
        for one in kinds
    ]
    print(table(["fault", "what breaks", "options", "" if run is None else "can be done here"], rows))
    if run is None:
        print(
            "\nNo lab stands here (laila lab up); laila lab doctor says what this machine can do.",
            file=sys.stderr,
        )
    for one in broken:
        left = f", {one['seconds_left']} s left" if one["seconds_left"] else ""
        print(f"broken now: {one['id']} {one['fault']} on {', '.join(one['nodes'])}{left}")
    return 0
