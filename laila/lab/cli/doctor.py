"""`laila lab doctor`: what this machine can and cannot do."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from laila.lab.cli import common

if TYPE_CHECKING:
    from laila.lab.doctor import Finding

EXAMPLES = """\
  laila lab doctor
  laila lab doctor mine.toml          the same for your own topology, its hosts and its compose file
  laila lab doctor --json

exit codes: 0 a driver can have these nodes here, 2 none can
"""


def add(subs: Any) -> None:
    doctor = common.add(
        subs, "doctor", _doctor, "what this machine can and cannot do, with reasons and remedies", EXAMPLES
    )
    doctor.add_argument("topology", nargs="?", metavar="TOPOLOGY", help="a .toml file, or a shipped topology")
    common.add_json(doctor)


def _doctor(options: argparse.Namespace) -> int:
    from laila.lab import topology
    from laila.lab.doctor import examine

    findings = examine(topology.load(options.topology) if options.topology else None)
    usable = any(one.fine for one in findings if one.about == "driver")
    if options.json:
        print(json.dumps({"usable": usable, "findings": [dataclasses.asdict(one) for one in findings]}))
        return 0 if usable else 2
    _show(findings)
    return 0 if usable else 2


GENERAL = ("machine", "program", "package", "driver")
"""What is looked at before faults are."""


def _show(findings: Sequence[Finding]) -> None:
    """What there is as lines, the faults as a table of drivers, and the reasons below."""
    from laila.cli.output import table

    about = ""
    for one in (found for found in findings if found.about in GENERAL):
        if one.about != about:
            about = one.about
            print(about)
        print(f"  {_mark(one.fine)} {one.what:<12} {one.detail}")
        if not one.fine and one.remedy:
            print(f"    {'':<12} {one.remedy}")
    by_driver: dict[str, dict[str, Finding]] = {}
    for one in (found for found in findings if found.about not in GENERAL):
        by_driver.setdefault(one.about, {})[one.what] = one
    kinds = list(dict.fromkeys(kind for found in by_driver.values() for kind in found))
    rows = [
        [kind, *(_mark(found[kind].fine) if kind in found else "?" for found in by_driver.values())]
        for kind in kinds
    ]
    if rows:
        print("\n" + table(["fault", *by_driver], rows))
    for driver, found in by_driver.items():
        lacking: dict[str, list[str]] = {}
        for one in found.values():
            if not one.fine:
                lacking.setdefault(one.detail, []).append(one.what)
        for why, faults in lacking.items():
            print(f"{driver}, {', '.join(faults)}: {why}")


def _mark(fine: bool | None) -> str:
    return "?" if fine is None else "✔" if fine else "✘"
