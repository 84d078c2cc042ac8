"""`laila status`, `laila peers` and `laila health`: what a node says about itself on its status port."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from laila.cli.fetch import Answer, get
from laila.cli.main import Parser
from laila.cli.output import show, size, span, table
from laila.errors import BadConfig, LailaError, ProtocolError
from laila.node.addresses import Address

_WHERE = """
The node is found by --status, else by LAILA_STATUS, else at 127.0.0.1:7480.
"""


def add_status(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser(
        "status",
        description="Show what a node is doing: readiness, pools, links.\n" + _WHERE,
        epilog="examples:\n  laila status\n  laila status --status node2:7480 --json",
    )
    _common(parser, timeout=5.0)
    parser.set_defaults(run=_status)


def add_peers(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser(
        "peers",
        description="Show a node's links to its peers, and the peers that it is still trying to reach."
        + _WHERE,
        epilog="examples:\n  laila peers\n  laila peers --status node2:7480 --json",
    )
    _common(parser, timeout=5.0)
    parser.set_defaults(run=_peers)


def add_health(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser(
        "health",
        description="Exit 0 if the node listens and its pools are usable, 1 if not. For health checks."
        + _WHERE,
        epilog="examples:\n  laila health\n  laila health --live    only: the process answers\n"
        '  HEALTHCHECK CMD ["laila", "health"]    in a Dockerfile',
    )
    _common(parser, timeout=3.0)
    parser.add_argument("--live", action="store_true", help="ask only whether the process answers (/healthz)")
    parser.set_defaults(run=_health)


def _common(parser: Parser, *, timeout: float) -> None:
    parser.add_argument("--status", metavar="HOST:PORT", help="the node's status port")
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=timeout,
        help=f"give up after this (default: {timeout:g})",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _where(arguments: argparse.Namespace) -> Address:
    given, source = arguments.status, "--status"
    if given is None:
        given, source = os.environ.get("LAILA_STATUS") or "127.0.0.1:7480", "LAILA_STATUS"
    try:
        return Address.parse(given, example="127.0.0.1:7480")
    except ValueError as error:
        raise BadConfig(f"status ({source}): {error}") from error


def _ask(arguments: argparse.Namespace, path: str) -> Answer:
    if not 0 < arguments.timeout < 3600:
        raise BadConfig(f"--timeout {arguments.timeout:g} is out of range; give seconds above 0")
    return get(_where(arguments), path, timeout=arguments.timeout)


def _snapshot(arguments: argparse.Namespace) -> dict[str, Any]:
    answer = _ask(arguments, "/status.json")
    if answer.status != 200:
        said = answer.body[:200].decode("utf-8", "replace").strip()
        raise ProtocolError(f"the status port answered {answer.status}: {said}")
    snapshot = answer.json()
    if not isinstance(snapshot, dict) or "peers" not in snapshot:
        raise ProtocolError(
            "the status port answered something else than a node's status; is it a laila node?"
        )
    return snapshot


def _health(arguments: argparse.Namespace) -> int:
    try:
        answer = _ask(arguments, "/healthz" if arguments.live else "/readyz")
        fit, reasons = answer.status == 200, answer.body.decode("utf-8", "replace").strip()
        if not arguments.live and answer.status in (200, 503) and answer.body.startswith(b"{"):
            reasons = "; ".join(answer.json()["reasons"])
    except BadConfig:
        raise
    except LailaError as error:
        fit, reasons = False, str(error)
    if arguments.json:
        show({"healthy": fit, "reasons": [] if fit else [reasons]})
    elif not fit:
        print(f"laila: {reasons}", file=sys.stderr)
    return 0 if fit else 1


def _status(arguments: argparse.Namespace) -> int:
    node = _snapshot(arguments)
    if arguments.json:
        show(node)
        return 0
    state = "ready" if node["ready"] else node["state"] if node["state"] != "ready" else "not ready"
    print(
        f"{node['name']}: {state}, up {span(node['now'] - node['started'])}, "
        f"laila {node['version']}, id {node['id']}"
    )
    print(f"listening on {node['listen']}, advertised as {node['advertise'] or 'nothing'}")
    for reason in node["reasons"]:
        print(f"not ready: {reason}")
    rows = [
        [p["name"], p["kind"], str(p["count"]), size(p["bytes"]), p["error"] or "ok"] for p in node["pools"]
    ]
    print("\n" + table(["POOL", "KIND", "ENTRIES", "SIZE", "STATE"], rows) + "\n")
    _print_links(node)
    return 0


def _peers(arguments: argparse.Namespace) -> int:
    node = _snapshot(arguments)
    if arguments.json:
        show({"peers": node["peers"], "dialers": node["dialers"]})
    else:
        _print_links(node)
    return 0


def _print_links(node: dict[str, Any]) -> None:
    rows = [_link_row(link, node["now"]) for link in node["peers"]]
    if rows:
        print(
            table(
                ["PEER", "STATE", "LINK", "ADDRESS", "CONTACT", "RTT", "ASKED", "SERVED", "SENT", "RECEIVED"],
                rows,
            )
        )
    else:
        print("no peer yet")
    for dialer in node["dialers"]:
        if dialer["state"] != "up":
            reason = f": {dialer['last_error']}" if dialer["last_error"] else ""
            print(
                f"dialing {dialer['peer']} ({dialer['address'] or 'no address'}), {dialer['state']}{reason}"
            )


def _link_row(link: dict[str, Any], now: float) -> list[str]:
    contact, rtt = link["last_contact"], link["rtt"]
    return [
        link["peer_name"] or link["peer_id"][:8],
        link["state"],
        link["direction"],
        link["address"] or "-",
        f"{span(now - contact)} ago" if contact else "-",
        f"{rtt * 1000:.1f} ms" if rtt is not None else "-",
        str(link["requests_out"]),
        str(link["requests_in"]),
        size(link["bytes_out"]),
        size(link["bytes_in"]),
    ]
