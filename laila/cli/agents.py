"""`laila agents` and `laila results`: who works on a shared directory, and what they published."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laila.cli.main import Parser
from laila.cli.output import show, span, table
from laila.errors import BadConfig, BadValue, NotFound

if TYPE_CHECKING:
    from laila.agents.directory import Directory
    from laila.artifacts import TrustSet

_TRUST = """
Who is believed: the keys given by --trust, and everybody whom the authority of the cluster with the --secret-file
vouches for. Without either: this node's or user's own key, and the cluster of LAILA_SECRET_FILE. What others signed
is listed as untrusted, and never printed.

exit codes: 0 listed or printed; 1 no such directory or result, or none to be believed; 2 asked wrongly."""


def add_agents(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser(
        "agents",
        description="List the agents that are registered in a shared directory, and which of them are alive.\n"
        + _TRUST,
        epilog="examples:\n  laila agents --store /mnt/shared/coordination\n"
        "  laila agents --store /mnt/shared/coordination --active --capability resize --json",
    )
    _common(parser)
    parser.add_argument("--active", action="store_true", help="only those that are alive")
    parser.add_argument("--capability", metavar="NAME", help="only those that can do this")
    parser.set_defaults(run=_agents)


def add_results(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser(
        "results",
        description="List the results in a shared directory, or print the first result of one task.\n"
        + _TRUST,
        epilog="examples:\n  laila results --store /mnt/shared/coordination\n"
        "  laila results --store /mnt/shared/coordination task-001 --wait 60",
    )
    parser.add_argument("task", nargs="?", metavar="TASK", help="print the result of this task, as JSON")
    _common(parser)
    parser.add_argument(
        "--all",
        action="store_true",
        help="with TASK: a line for each agent's result, instead of the first result",
    )
    parser.add_argument(
        "--wait", metavar="SECONDS", type=float, default=0.0, help="with TASK: wait so long for a result"
    )
    parser.set_defaults(run=_results)


def _common(parser: Parser) -> None:
    parser.add_argument("--store", metavar="PATH", required=True, help="the directory that the agents share")
    parser.add_argument(
        "--trust",
        metavar="KEY",
        action="append",
        default=[],
        help="a trusted public key, 64 hex digits; may be repeated",
    )
    parser.add_argument(
        "--secret-file", metavar="FILE", help="trust everybody whom this cluster's authority vouches for"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, errors too")


def _directory(arguments: argparse.Namespace) -> Directory:
    from laila.agents.directory import Directory

    return Directory(arguments.store, _trust(arguments))


def _trust(arguments: argparse.Namespace) -> TrustSet:
    from laila.artifacts import TrustSet
    from laila.node.secretfile import read_secret

    secret = read_secret(Path(arguments.secret_file)) if arguments.secret_file else None
    try:
        if arguments.trust or secret:  # asked to judge by these alone, so no key of one's own is made for it
            return TrustSet(arguments.trust, secret=secret)
        return TrustSet.default()
    except BadValue as error:
        raise BadConfig(f"--trust: {error}") from error


def _agents(arguments: argparse.Namespace) -> int:
    found = _directory(arguments).agents()
    if arguments.active:
        found = [one for one in found if one["status"] == "active"]
    if arguments.capability is not None:
        found = [one for one in found if arguments.capability in one.get("capabilities", ())]
    if arguments.json:
        show({"store": arguments.store, "count": len(found), "agents": found})
    elif not found:
        print("no agent")
    else:
        head = ["AGENT", "STATUS", "SEEN", "NODE", "CAPABILITIES", "SIGNED BY", "REGISTERED"]
        print(table(head, [_printable(_agent_row(one)) for one in found]))
        _print_problems(found, "agent_id")
    return 0


def _agent_row(one: dict[str, Any]) -> list[str]:
    return [
        one["agent_id"] or "-",
        one["status"],
        f"{span(one['age'])} ago" if one.get("age") is not None else "-",
        one.get("node") or "-",
        ",".join(one.get("capabilities", ())) or "-",
        _node(one),
        _time(one["registered_at"]),
    ]


def _results(arguments: argparse.Namespace) -> int:
    if arguments.task is None and (arguments.all or arguments.wait):
        raise BadConfig("--all and --wait are about one task; give its id")
    if not 0 <= arguments.wait < 86_400 * 365:
        raise BadConfig(f"--wait {arguments.wait:g} is out of range; give seconds from 0")
    directory = _directory(arguments)
    if arguments.task is not None and not arguments.all:
        return _result(directory, arguments)
    if arguments.task is None:
        found = directory.results()
    else:
        if arguments.wait:
            directory.wait_result(arguments.task, arguments.wait)
        found = directory.get_results(arguments.task)
    if arguments.json:
        show({"store": arguments.store, "count": len(found), "results": found})
    elif not found:
        print("no result")
    else:
        rows = [
            [one["task_id"], one["agent_id"] or "-", one["status"], _node(one), _time(one["timestamp"])]
            for one in found
        ]
        print(table(["TASK", "AGENT", "STATUS", "SIGNED BY", "PUBLISHED"], [_printable(row) for row in rows]))
        _print_problems(found, "task_id")
    return 0


def _result(directory: Directory, arguments: argparse.Namespace) -> int:
    if arguments.wait:
        found: dict[str, Any] | None = directory.wait_result(arguments.task, arguments.wait)
    else:
        found = directory.get_result(arguments.task)
    if found is None:
        raise NotFound(
            f"task {arguments.task!r} has no result in {arguments.store}; wait for one with --wait SECONDS"
        )
    if arguments.json:
        show(found)
    else:
        print(json.dumps(found["result"], indent=2, ensure_ascii=False))
    return 0


def _print_problems(found: list[dict[str, Any]], name: str) -> None:
    for one in found:
        if one.get("problem"):
            print("\n" + ": ".join(_printable([one[name] or "-", one["problem"]])))


def _printable(cells: list[str]) -> list[str]:
    """What others wrote, without what a terminal would obey."""
    return ["".join(c if c.isprintable() else "\ufffd" for c in cell) for cell in cells]


def _node(one: dict[str, Any]) -> str:
    """The signer's node, short; of a stranger only the beginning of the key."""
    said = one.get("signed_by") or ""
    if said.startswith("node "):
        return str(said[5:13])
    return f"key {one['signer'][:8]}…" if one.get("signer") else "-"


def _time(text: str | None) -> str:
    """The local time of what an ISO text says; other texts as they are."""
    from datetime import datetime

    if not text:
        return "-"
    try:
        seconds = datetime.fromisoformat(text).timestamp()
    except ValueError:
        return text
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
