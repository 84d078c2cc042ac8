"""`laila secret`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from laila.cli.main import Parser
from laila.cli.output import show
from laila.errors import BadConfig


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
    renew = actions.add_parser(
        "renew",
        help="let what was signed under an old secret be believed under the new one",
        description="Vouch under each secret for whoever signed the artifacts below a directory and is believed "
        "under one of them. Do it before the old secret goes, for the directories of shared stores and of agents; "
        "nodes do it by themselves for replicas that they serve. What is written, DIRECTORY/.laila/vouchers, is "
        "no secret.",
        epilog="examples:\n  laila secret renew /shared --secret-file new --also-accept old\n"
        "  LAILA_SECRET_FILE=new LAILA_ALSO_ACCEPT=old laila secret renew /shared /agents",
    )
    renew.add_argument(
        "directory", nargs="+", metavar="DIRECTORY", help="of a shared store, of agents, or a replica"
    )
    renew.add_argument(
        "--secret-file", metavar="FILE", help="the secret of the cluster (or LAILA_SECRET_FILE)"
    )
    renew.add_argument(
        "--also-accept", metavar="FILE[,FILE…]", help="further secrets, as the old one (or LAILA_ALSO_ACCEPT)"
    )
    renew.add_argument("--json", action="store_true", help="one object for each directory")
    renew.set_defaults(run=_renew)


def _new(arguments: argparse.Namespace) -> int:
    from laila.secret import new_secret

    secret = new_secret()
    if arguments.json:
        show({"secret": secret})
    else:
        print(secret)
    return 0


def _renew(arguments: argparse.Namespace) -> int:
    from laila.shared.renewal import renew

    secrets = _secrets(arguments)
    directories = [Path(one) for one in arguments.directory]
    if missing := next((one for one in directories if not one.is_dir()), None):
        raise BadConfig(f"{missing} is no directory; give the one that the artifacts are in")
    for directory in directories:
        done = renew(directory, secrets)
        if arguments.json:
            show({"directory": str(directory), **done.words()})
        else:
            print(f"{directory}: {done}")
    return 0


def _secrets(arguments: argparse.Namespace) -> list[str]:
    """The cluster's secret, and those that are accepted beside it. Raises BadConfig."""
    from laila.node.secretfile import command_secret, read_further

    others = arguments.also_accept or os.environ.get("LAILA_ALSO_ACCEPT", "")
    further = [read_further(Path(path.strip())) for path in others.split(",") if path.strip()]
    found = list(
        dict.fromkeys([command_secret(arguments.secret_file), *(one for one in further if one is not None)])
    )
    if len(found) == 1:
        raise BadConfig(
            "only one secret is known, so there is nothing to renew; give the old one by --also-accept"
        )
    return found
