"""`laila secret new`."""

from __future__ import annotations

import argparse

from laila.cli.main import Parser
from laila.cli.output import show


def add_secret(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser("secret", description="The secret that all nodes of a group share.")
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True, parser_class=Parser)
    new = actions.add_parser(
        "new",
        help="print a new random secret",
        description="Print a new random secret of 256 bits. Nodes that know it trust each other.",
        epilog="examples:\n  laila secret new > secret && chmod 600 secret\n"
        "  laila secret new | docker secret create laila_secret -",
    )
    new.add_argument("--json", action="store_true", help='print {"secret": "…"}')
    new.set_defaults(run=_new)


def _new(arguments: argparse.Namespace) -> int:
    from laila.secret import new_secret

    secret = new_secret()
    if arguments.json:
        show({"secret": secret})
    else:
        print(secret)
    return 0
