"""Programs that run beside nodes and speak JSON lines: `laila lab client`, `worker`, `subject`."""

from __future__ import annotations

import argparse
import os
from typing import Any

from laila.errors import BadConfig
from laila.lab import subjects
from laila.lab.cli import common


def add(subs: Any) -> None:
    client = common.add(
        subs,
        "client",
        _client,
        "work beside a node: JSON lines in, JSON lines out (see docs/lab.md)",
        '  echo \'{"op": "peers"}\' | laila lab client',
    )
    own = common.near("LAILA_LISTEN", "127.0.0.1:7400")
    status = common.near("LAILA_STATUS", "127.0.0.1:7480")
    secret = os.environ.get("LAILA_SECRET_FILE", "/run/secrets/laila_secret")
    client.add_argument("--connect", default=own, metavar="HOST:PORT", help=f"the node (default: {own})")
    client.add_argument(
        "--status", default=status, metavar="HOST:PORT", help=f"its status port (default: {status})"
    )
    client.add_argument(
        "--secret-file", default=secret, metavar="FILE", help=f"its secret (default: {secret})"
    )
    client.add_argument(
        "--wait", type=float, default=0.0, metavar="SECONDS", help="for a node that is starting"
    )
    worker = common.add(
        subs,
        "worker",
        _worker,
        "work on a shared volume beside a node: JSON lines in, JSON lines out (see docs/lab.md)",
        '  echo \'{"op": "space"}\' | laila lab worker --volume /mnt/shared',
    )
    worker.add_argument("--volume", required=True, metavar="DIR", help="the volume, as this node sees it")
    subject = common.add(
        subs,
        "subject",
        _subject,
        "take the operations of workloads beside a node: JSON lines in, JSON lines out (see docs/lab-clients.md)",
        '  echo \'{"id": 1, "op": "acquire", "key": "a", "wait": 1}\' | '
        "laila lab subject locks --set service=/mnt/shared/locks",
    )
    subject.add_argument("subject", metavar="SUBJECT", help=", ".join(subjects.names()))
    subject.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="an option of the subject"
    )


def _client(options: argparse.Namespace) -> int:
    from laila.lab import client

    return client.run(options.connect, options.secret_file, options.status, wait=options.wait)


def _worker(options: argparse.Namespace) -> int:
    from laila.lab.worker import program

    return program.run(options.volume)


def _subject(options: argparse.Namespace) -> int:
    from laila.lab.subjects import base

    pairs = [word.partition("=") for word in options.set]
    if wrong := [name for name, sign, _ in pairs if not sign or not name]:
        raise BadConfig(f"--set takes NAME=VALUE, not {wrong[0]!r}")
    return base.run(subjects.kind(options.subject), {name: value for name, _, value in pairs})
