"""`laila lab check`: start a topology, work on it, break it, judge."""

from __future__ import annotations

import argparse
import json
import math
import secrets
import shlex
import sys
from typing import Any

from laila.errors import BadConfig
from laila.lab.cli import common

EXAMPLES = """\
  laila lab check replicated
  laila lab check replicated --faults kill,pause,partition --time 60
  laila lab check replicated --faults partition+latency:ms=200,kill@node2 --workloads register,set --seed 7
  laila lab check shared-volume --workloads lock,registrations --faults kill-holder,pause
  laila lab check mine.toml --faults all --time 300
"""


def add(subs: Any) -> None:
    check = common.add(subs, "check", _check, "start a topology, work on it, break it, judge", EXAMPLES)
    common.add_topology(check)
    check.add_argument(
        "--faults",
        metavar="FAULTS",
        help="a trial with these faults alone: KIND[:OPTION=VALUE][@NODE], `,` one after another, `+` at once; "
        "`all` that can be done here, or `none` (laila lab fault list shows them)",
    )
    check.add_argument(
        "--time", type=float, metavar="SECONDS", help="a trial for at least that long; the faults begin again"
    )
    check.add_argument(
        "--workloads",
        metavar="NAMES",
        help="a trial with these, by commas (default: all that the topology offers)",
    )
    check.add_argument(
        "--clients", type=int, default=1, metavar="N", help="of each workload beside each node (default: 1)"
    )
    check.add_argument(
        "--out", default="lab-runs", metavar="DIR", help="where the run's folder goes (default: lab-runs)"
    )
    check.add_argument(
        "--keep", action="store_true", help="leave the nodes running afterwards; end them with `lab down`"
    )
    check.add_argument(
        "--fail-fast", action="store_true", help="skip what is left after the first step that failed"
    )
    check.add_argument("--seed", type=int, metavar="N", help="repeat the choices of an earlier run")
    common.add_json(check)


def _check(options: argparse.Namespace) -> int:
    from laila.lab import drivers, progress
    from laila.lab.runner import Order, check

    wanted = common.wanted(options)
    trial = _trial(options)
    choice = common.driver(options, wanted)
    seed = secrets.randbelow(1 << 31) if options.seed is None else options.seed
    command = _command(options, choice.name, seed)
    order = Order(
        wanted, choice, seed, command, options.out, options.keep, trial=trial, fail_fast=options.fail_fast
    )
    title = f"laila lab check {options.topology}: {common.in_words(wanted, choice)}, seed {seed}"
    shown = progress.for_stream(sys.stderr if options.json else sys.stdout, title)
    if missing := drivers.capabilities(choice.name).lines():
        shown.say(f"not shown by the {choice.name} driver: {'; '.join(missing)}")
    try:
        result, folder = check(order, shown)
    finally:
        shown.close()
    if options.json:
        print(json.dumps({**result.to_dict(), "folder": str(folder.path)}, default=str))
    else:
        print(f"\n{result.verdict.value.upper()}: {result.sentence}\nreport: {folder.report}")
        if result.verdict.exit_code:
            print(f"repeat: {result.command}")
    return result.verdict.exit_code


def _trial(options: argparse.Namespace) -> Any:
    """None when nothing of a trial was asked for: then it is part of the usual check. Raises BadConfig."""
    from laila.lab.checks.trials import TrialOrder

    if options.clients < 1:
        raise BadConfig(f"--clients takes a number of 1 or more, not {options.clients}")
    if options.time is not None and not 0 <= options.time < math.inf:
        raise BadConfig(f"--time takes seconds of 0 or more, not {options.time:g}")
    if options.faults is None and options.time is None and options.workloads is None:
        return None
    names = tuple(name.strip() for name in (options.workloads or "").split(",") if name.strip())
    order = TrialOrder(names, options.faults, options.time or 0.0, options.clients)
    if order.schedule() == () and options.faults != "none":
        raise BadConfig("--faults names none; to break nothing write --faults none")
    return order


def _command(options: argparse.Namespace, driver: str, seed: int) -> str:
    words = ["laila", "lab", "check", options.topology, "--driver", driver]
    words += ["--volume", options.volume] if options.volume else []
    words += ["--context", options.context] if options.context else []
    words += ["--storage-class", options.storage_class] if options.storage_class else []
    words += ["--shared-class", options.shared_class] if options.shared_class else []
    words += ["--nodes", str(options.nodes)] if options.nodes is not None else []
    words += ["--image", options.image] if options.image else []
    words += ["--faults", options.faults] if options.faults is not None else []
    words += ["--time", f"{options.time:g}"] if options.time is not None else []
    words += ["--workloads", options.workloads] if options.workloads is not None else []
    words += ["--clients", str(options.clients)] if options.clients != 1 else []
    words += ["--fail-fast"] if options.fail_fast else []
    return shlex.join([*words, "--seed", str(seed)])
