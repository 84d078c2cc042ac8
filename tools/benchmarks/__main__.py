"""`./tools/bench`: set up, run, print, write JSON. Exit 0: measured; 1: a contender failed; 2: cannot."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import artifact_group, checker_group, environments, lock_group, peer_group, replica_group
from .bars import Verdict, judge
from .group import Group, Plan
from .replica_contender import DIFFERING
from .results import Results
from .run import run
from .table import describe, report

GROUPS: dict[str, Group] = {
    module.GROUP.name: module.GROUP
    for module in (peer_group, artifact_group, lock_group, replica_group, checker_group)
}
CONTENDER_NAMES = tuple(dict.fromkeys(name for group in GROUPS.values() for name in group.contenders))
WORK_NAMES = tuple(work for group in GROUPS.values() for work in group.works)
INTERRUPTED = "the run was interrupted"

Say = Callable[[str], None]
Measured = list[tuple[Group, Results, list[Verdict]]]


def main() -> int:
    """Parse, set up, run, report."""
    options = parse()
    # both end the children on the way out, also where a shell started this in the background and ignores SIGINT
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.time()

    def say(line: str) -> None:
        print(f"{time.time() - began:7.1f} s  {line}", file=sys.stderr, flush=True)

    chosen = choose(options)
    try:
        redis = set_up(chosen, say)
    except environments.SetupFailed as error:
        print(f"tools/bench: {error}", file=sys.stderr)
        return 2
    load = [os.getloadavg()[0]]
    home = tempfile.mkdtemp(prefix="run-", dir=environments.BUILD)
    plan = Plan(
        repetitions=options.reps,
        seconds=0.25 if options.quick else 0.5,
        crowd_seconds=1.0 if options.quick else 2.0,
        quick=options.quick,
        home=home,
        redis=redis,
        maif=options.maif,
        pin=options.pin,
        etcd=shutil.which("etcd"),
        names=options.names,
    )
    try:
        for group, results in chosen:
            run(group, plan, results, say)
    except KeyboardInterrupt:
        print("interrupted; what was measured until now:", file=sys.stderr)
        chosen[-1][1].failures.append(INTERRUPTED)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    load.append(os.getloadavg()[0])
    measured = [(group, results, judge(results, group.bars)) for group, results in chosen]
    for group, results, verdicts in measured:
        print(report(group, results, verdicts))
    if load[0] > 0.5:
        print(f"The machine was busy before the run began (load {load[0]:.1f}): take the ratios as rough.")
    write(options.json, plan, measured, {"began": began, "load": load})
    print(f"written: {options.json}", file=sys.stderr)
    failures = [failure for _, results, _ in measured for failure in results.failures]
    return 130 if INTERRUPTED in failures else 1 if failures else 0


def parse() -> argparse.Namespace:
    """Options; names are checked here."""
    parser = argparse.ArgumentParser(
        prog="tools/bench", description="Measure laila beside its peers, on this machine."
    )
    parser.add_argument(
        "groups",
        nargs="*",
        metavar="GROUP",
        help=f"what to measure: {', '.join(GROUPS)} (without any: all)",
    )
    parser.add_argument(
        "--only", type=_names(CONTENDER_NAMES), default=CONTENDER_NAMES, metavar="A,B", help="contenders"
    )
    parser.add_argument("--works", type=_names(WORK_NAMES), default=WORK_NAMES, metavar="A,B", help="works")
    parser.add_argument(
        "--maif",
        type=_checkout,
        metavar="PATH",
        help="a checkout of the public MAIF (github.com/vineethsai/maif), to measure it beside the artifacts",
    )
    parser.add_argument("--reps", type=int, default=None, metavar="N", help="repetitions (5; 2 with --quick)")
    parser.add_argument("--quick", action="store_true", help="two repetitions of half the length")
    parser.add_argument(
        "--names", type=int, default=10_000, metavar="N", help="names of the replicated store (10000)"
    )
    parser.add_argument(
        "--pin",
        choices=("free", "apart", "together"),
        default="free",
        help="cores of the peers: as the scheduler likes (the default, which the bars are about), one each, "
        "or both on one",
    )
    parser.add_argument("--json", type=Path, default=environments.BUILD / "result.json", metavar="FILE")
    parser.epilog = " ".join(
        f"{name}: contenders {', '.join(group.contenders)}; works {', '.join(group.works)}."
        for name, group in GROUPS.items()
    )
    options = parser.parse_args()
    for name in options.groups:
        if name not in GROUPS:
            parser.error(f"{name!r} is none of {', '.join(GROUPS)}")
    options.reps = options.reps if options.reps is not None else 2 if options.quick else 5
    if options.reps < 1:
        parser.error("--reps must be 1 or more")
    if options.names < DIFFERING:
        parser.error(f"--names must be {DIFFERING} or more: as many are made to differ")
    if options.pin != "free" and options.groups != ["peers"]:
        parser.error("--pin is about the two sides of a link: choose the group `peers` alone")
    if not choose(options):
        parser.error("no contender of --only does a work of --works in the groups that were chosen")
    return options


def _names(known: Iterable[str]) -> Callable[[str], tuple[str, ...]]:
    """A parser of comma-separated names that keeps the order of `known`."""
    allowed = tuple(known)

    def names(text: str) -> tuple[str, ...]:
        asked = [part.strip() for part in text.split(",")]
        for name in asked:
            if name not in allowed:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(allowed)}")
        return tuple(name for name in allowed if name in asked)

    return names


def _checkout(text: str) -> Path:
    path = Path(text).resolve()
    if not (path / "maif_api.py").is_file():
        raise argparse.ArgumentTypeError(f"{text} is no checkout of the public MAIF: it has no maif_api.py")
    return path


def choose(options: argparse.Namespace) -> list[tuple[Group, Results]]:
    """The groups that were asked for, each with its contenders and works; those with nothing to do are left out."""
    chosen = []
    for name in GROUPS:
        group = GROUPS[name]
        works = tuple(work for work in group.works if work in options.works)
        only = {contender for contender in group.contenders if contender in options.only}
        if name == "peers" and "laila" in only:
            only.add("laila-node")
        if works and only and name in (options.groups or GROUPS):
            chosen.append((group, Results(works, tuple(c for c in group.contenders if c in only))))
    return chosen


def set_up(chosen: list[tuple[Group, Results]], say: Say) -> str | None:
    """Make the environments; the path of a redis-server where a contender needs one. Raises SetupFailed."""
    facts = [group.contenders[name] for group, results in chosen for name in results.contenders]
    for environment in sorted({each.environment for each in facts}):
        ours = any(each.checkout for each in facts if each.environment == environment)
        environments.ensure(environment, say, checkout=ours)
    wanting = [group.name for group, results in chosen if "redis" in results.contenders]
    if not wanting:
        return None
    try:
        return environments.redis_server(say)
    except environments.SetupFailed:
        if "peers" in wanting:
            raise
        return None


def write(path: Path, plan: Plan, measured: Measured, when: dict[str, Any]) -> None:
    """The run as JSON: the machine, versions, every value, medians, and the bars."""
    used = {
        group.contenders[name].environment for group, results, _ in measured for name in results.contenders
    }
    document = {
        **when,
        "took_seconds": round(time.time() - when["began"], 1),
        "machine": {
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "versions": {environment: environments.versions(environment) for environment in sorted(used)},
        "repetitions": plan.repetitions,
        "pin": plan.pin,
        "groups": {group.name: _group(group, results, verdicts) for group, results, verdicts in measured},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1))


def _group(group: Group, results: Results, verdicts: list[Verdict]) -> dict[str, Any]:
    return {
        "values": results.values,
        "medians": {
            name: {metric: results.median(list(values.values())) for metric, values in metrics.items()}
            for name, metrics in results.values.items()
        },
        "bars": [
            {
                "words": describe(group, v.bar),
                **asdict(v.bar),
                "value": v.value,
                "range": None if v.value is None else [v.low, v.high],
                "met": v.met,
            }
            for v in verdicts
        ],
        "failures": results.failures,
        "remarks": results.remarks,
    }


if __name__ == "__main__":
    sys.exit(main())
