"""`laila version`."""

from __future__ import annotations

import argparse
import platform

from laila.cli.main import Parser
from laila.cli.output import show


def add_version(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser(
        "version",
        description="Print the version.",
        epilog="examples:\n  laila version\n  laila version --json",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from laila.version import VERSION

    if arguments.json:
        show({"version": VERSION, "python": platform.python_version()})
    else:
        print(f"laila {VERSION} (Python {platform.python_version()})")
    return 0
