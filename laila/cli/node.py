"""`laila node`: read the configuration, run the daemon."""

from __future__ import annotations

import argparse
import os

from laila.cli.main import Parser
from laila.cli.output import show
from laila.node.keys import KEYS

_DESCRIPTION = """\
Run a node until SIGTERM or SIGINT; then it finishes running requests within the grace
period and exits 0.

A flag wins over its environment variable (--listen over LAILA_LISTEN), that over the
config file (TOML, same names), that over the default. A configuration that cannot be run
gives one sentence on stderr and exit code 2."""

_EPILOG = """\
examples:
  laila secret new > secret && chmod 600 secret
  laila node --name n1 --secret-file secret
  laila node --name n2 --secret-file secret --listen 127.0.0.1:7401 --status 127.0.0.1:7481 \\
             --peers 127.0.0.1:7400 --pools kept=sqlite:/var/lib/laila/kept.sqlite
  LAILA_PEERS=dns:nodes:7400 LAILA_ACCESS='deny * *; allow n1 read kept' laila node --config node.toml
  laila node --config node.toml --check        show what would be run, and leave

node.toml:
  name = "n1"
  listen = "0.0.0.0:7400"
  advertise = "n1.example.org:7400"
  secret_file = "/run/secrets/laila_secret"
  state_dir = "/var/lib/laila"
  peers = ["n2.example.org:7400", "dns:more-nodes:7400"]
  access = ["deny * *", "allow n2 read,write kept"]

  [pools.kept]
  kind = "sqlite"
  path = "/var/lib/laila/kept.sqlite"

  [limits]
  max_links = 100
  max_body = "256MiB"
"""


def add_node(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser("node", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--config", metavar="FILE", help="TOML file (LAILA_CONFIG)")
    for key in KEYS:
        parser.add_argument(
            key.flag,
            dest=f"key_{key.name}",
            metavar=key.metavar,
            action="append" if key.repeat else "store",
            help=f"{key.help} ({key.env})" + ("; may be repeated" if key.repeat else ""),
        )
    parser.add_argument(
        "--check", action="store_true", help="check the configuration, print it as JSON, exit"
    )
    parser.add_argument("--json", action="store_true", help="print a configuration error as JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from laila.node.config import load

    flags = {key.name: getattr(arguments, f"key_{key.name}") for key in KEYS}
    config = load(flags, os.environ, config_file=arguments.config)
    if arguments.check:
        show(config.summary())
        return 0
    from laila.node.signals import Signals

    with Signals() as signals:
        from laila.node.daemon import run

        return run(config, signals.asked)
