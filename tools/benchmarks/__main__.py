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

from . import environments
from .bars import Verdict, judge
from .contender import ALL_WORKS, CONTENDERS
from .results import Results
from .run import Plan, run
from .table import describe, report

WORK_NAMES = (*ALL_WORKS, "import")
INTERRUPTED = "the run was interrupted"


def main() -> int:
    """Parse, set up, run, report."""
    options = parse()
    # both end the children on the way out, also where a shell started this in the background and ignores SIGINT
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.time()

    def say(line: str) -> None:
        print(f"{time.time() - began:7.1f} s  {line}", file=sys.stderr, flush=True)

    try:
        for environment in sorted({CONTENDERS[name].environment for name in options.only}):
            ours = environment == "peers" and "laila" in options.only
            environments.ensure(environment, say, checkout=ours)
        redis = environments.redis_server(say) if "redis" in options.only else None
    except environments.SetupFailed as error:
        print(f"tools/bench: {error}", file=sys.stderr)
        return 2
    load = [os.getloadavg()[0]]
    home = tempfile.mkdtemp(prefix="run-", dir=environments.BUILD)
    results = Results(works=options.works, contenders=options.only)
    plan = Plan(
        contenders=options.only,
        works=options.works,
        repetitions=options.reps,
        seconds=0.25 if options.quick else 0.5,
        crowd_seconds=1.0 if options.quick else 2.0,
        home=home,
        redis=redis,
        pin=options.pin,
    )
    try:
        run(plan, results, say)
    except KeyboardInterrupt:
        print("interrupted; what was measured until now:", file=sys.stderr)
        results.failures.append(INTERRUPTED)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    load.append(os.getloadavg()[0])
    verdicts = judge(results)
    print(report(results, verdicts))
    if load[0] > 0.5:
        print(f"The machine was busy before the run began (load {load[0]:.1f}): take the ratios as rough.")
    write(options.json, plan, results, verdicts, {"began": began, "load": load})
    print(f"written: {options.json}", file=sys.stderr)
    return 130 if INTERRUPTED in results.failures else 1 if results.failures else 0


def parse() -> argparse.Namespace:
    """Options; names are checked here."""
    parser = argparse.ArgumentParser(
        prog="tools/bench", description="Measure laila beside its peers, on loopback."
    )
    parser.add_argument(
        "--only", type=_names(CONTENDERS), default=tuple(CONTENDERS), metavar="A,B", help="contenders"
    )
    parser.add_argument("--works", type=_names(WORK_NAMES), default=WORK_NAMES, metavar="A,B", help="works")
    parser.add_argument("--reps", type=int, default=None, metavar="N", help="repetitions (5; 2 with --quick)")
    parser.add_argument("--quick", action="store_true", help="two repetitions of half the length")
    parser.add_argument(
        "--pin",
        choices=("free", "apart", "together"),
        default="free",
        help="cores: as the scheduler likes (the default, which the bars are about), one each, or both on one",
    )
    parser.add_argument("--json", type=Path, default=environments.BUILD / "result.json", metavar="FILE")
    parser.epilog = f"contenders: {', '.join(CONTENDERS)}. works: {', '.join(WORK_NAMES)}."
    options = parser.parse_args()
    options.reps = options.reps if options.reps is not None else 2 if options.quick else 5
    if options.reps < 1:
        parser.error("--reps must be 1 or more")
    if "laila" in options.only and "laila-node" not in options.only:
        options.only = tuple(name for name in CONTENDERS if name in (*options.only, "laila-node"))
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


def write(path: Path, plan: Plan, results: Results, verdicts: list[Verdict], when: dict[str, Any]) -> None:
    """The run as JSON: the machine, versions, every value, medians, and the bars."""
    used = sorted({CONTENDERS[name].environment for name in plan.contenders})
    document = {
        **when,
        "took_seconds": round(time.time() - when["began"], 1),
        "machine": {
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
        },
        "versions": {environment: environments.versions(environment) for environment in used},
        "repetitions": plan.repetitions,
        "pin": plan.pin,
        "values": results.values,
        "medians": {
            name: {metric: results.median(list(values.values())) for metric, values in metrics.items()}
            for name, metrics in results.values.items()
        },
        "bars": [
            {
                "words": describe(v.bar),
                **asdict(v.bar),
                "value": v.value,
                "range": [v.low, v.high],
                "met": v.met,
            }
            if v.value is not None
            else {"words": describe(v.bar), **asdict(v.bar), "value": None, "range": None, "met": None}
            for v in verdicts
        ],
        "failures": results.failures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    sys.exit(main())
