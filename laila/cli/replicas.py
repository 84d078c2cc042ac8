"""`laila replicas`: what the replicas of a store have, and what to do about those that differ."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from laila.cli.bar import Bar
from laila.cli.main import Parser
from laila.cli.output import fail, plain, show
from laila.cli.replica_table import (
    agree,
    comparison_lines,
    member_lines,
    membership,
    repair_lines,
    scrub_lines,
    status_lines,
    verify_lines,
    version_lines,
)
from laila.errors import BadConfig, BadValue, LailaError, MembershipBusy, NotFound, Unreachable

if TYPE_CHECKING:
    from laila.artifacts import TrustSet
    from laila.replication.repair import Progress
    from laila.replication.replica import Replica
    from laila.replication.store import ReplicatedStore

ENV = "LAILA_REPLICATED"
PATIENCE = 5.0
"""Seconds in which somebody has to say which store this is."""
AT_ONCE = 8
"""Names that are verified at the same time."""

_WHERE = """
Replicas are named by --replica (repeated, or separated by commas), else by LAILA_REPLICATED, which has them separated
by commas: a directory, or laila://HOST:PORT/STORE for one that a node serves under that name (needs --secret-file, or
LAILA_SECRET_FILE, or /run/secrets/laila_secret). Name all of them, or some: their membership document names the others.
"""
_TRUST = """
Who is believed: the keys given by --trust, and everybody whom the authority of the cluster with the secret vouches for.
Without either: this node's or user's own key.
"""
_CODES = """
exit codes: 0 {0};
1 {1};
2 too few replicas can be reached, or asked wrongly."""

_EXAMPLES = """\
examples:
  laila replicas status --replica /data/primary --replica /data/backup1 --replica /data/backup2
  export LAILA_REPLICATED=/data/primary,laila://node2:7400/store,laila://node3:7400/store
  laila replicas verify important-data
  laila replicas repair --rate 10MB/s
  laila replicas members replace laila://node3:7400/store laila://node4:7400/store"""


def add_replicas(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser(
        "replicas",
        description="Look after the replicas of a ReplicatedStore.\n" + _WHERE,
        epilog=_EXAMPLES + "\n\nEvery action has its own --help.",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True, title="actions", parser_class=Parser)
    _add_status(actions)
    _add_verify(actions)
    _add_repair(actions)
    _add_scrub(actions)
    _add_accept(actions)
    _add_history(actions)
    _add_members(actions)


def _add_status(actions: argparse._SubParsersAction[Parser]) -> None:
    _action(
        actions,
        "status",
        _status,
        "how each replica is, and whether enough of them answer",
        "Show each replica's state, how many names it has and is behind with, and whether a quorum answers.",
        ("all replicas are ok", "a quorum answers, but something is wrong with some replica"),
        "examples:\n  laila replicas status --replica /data/primary,/data/backup1,/data/backup2\n"
        "  laila replicas status --replica laila://node1:7400/store --secret-file secret --json",
    )


def _add_verify(actions: argparse._SubParsersAction[Parser]) -> None:
    parser = _action(
        actions,
        "verify",
        _verify,
        "whether all replicas have the same, whole and signed",
        "With names, or --all: have every replica read and verify what it has, and compare: exists, valid, version,\n"
        "digest, lag (versions behind the newest), error. Without: compare all names by their digests; no content is\n"
        "read, and replicas that agree exchange a few bytes.",
        ("all agree", "some replica lacks the newest version, or has it damaged, or does not answer"),
        "examples:\n  laila replicas verify\n  laila replicas verify important-data\n"
        "  laila replicas verify --all --json",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="read and verify these")
    parser.add_argument("--all", action="store_true", help="read and verify every name of the store")


def _add_repair(actions: argparse._SubParsersAction[Parser]) -> None:
    parser = _action(
        actions,
        "repair",
        _repair,
        "bring every replica to the newest version",
        "Bring every replica to the newest version of the names given, or of all: missing, old and damaged ones.\n"
        "Damaged files go into quarantine, nothing is deleted. Replicas that agree exchange digests only.",
        ("every replica that answers has the newest version", "something could not be repaired"),
        "examples:\n  laila replicas repair\n  laila replicas repair important-data --rate 10MB/s",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="repair only these")
    parser.add_argument("--rate", metavar="SIZE/s", help="move at most so much, as in 10MB/s")


def _add_scrub(actions: argparse._SubParsersAction[Parser]) -> None:
    parser = _action(
        actions,
        "scrub",
        _scrub,
        "re-read every byte at rest, put what is damaged into quarantine, repair it",
        "Have every replica re-read and verify every byte that it keeps. What is damaged goes into quarantine, and is\n"
        "brought back from the other replicas.",
        ("nothing was damaged", "something was; it is said what became of it"),
        "examples:\n  laila replicas scrub\n  laila replicas scrub --replica /data/primary --rate 50MB/s",
    )
    parser.add_argument("--rate", metavar="SIZE/s", help="read and move at most so much, as in 50MB/s")


def _add_accept(actions: argparse._SubParsersAction[Parser]) -> None:
    parser = _action(
        actions,
        "accept",
        _accept,
        "take what is left of a name that a majority lost",
        "When a majority of replicas lost what they had of a name (damaged, removed), loads and saves of it fail: a\n"
        "minority may be old. This takes the newest version that any replica still has for the truth. Put better\n"
        "copies back first, if there are any: an acknowledged version that is on no replica any more is lost by it.",
        ("a version counts again", "nothing is left of it; the name is free"),
        "examples:\n  laila replicas accept important-data",
    )
    parser.add_argument("name", metavar="NAME", help="the artifact's name")


def _add_history(actions: argparse._SubParsersAction[Parser]) -> None:
    parser = _action(
        actions,
        "history",
        _history,
        "the versions of a name",
        "Show the versions of a name, oldest first, as its newest version tells them.",
        ("printed", "no replica knows the name"),
        "examples:\n  laila replicas history important-data",
    )
    parser.add_argument("name", metavar="NAME", help="the artifact's name")


def _add_members(actions: argparse._SubParsersAction[Parser]) -> None:
    parser = _action(
        actions,
        "members",
        _members,
        "which replicas belong to the store; add, remove, replace",
        "Show which replicas belong to the store, or change it. A new one is brought up to date before it counts;\n"
        "while that goes on both majorities are needed, the old members' and the next ones'. Of two changes at once\n"
        "one fails.",
        ("done", "another change is under way, or came first"),
        "examples:\n  laila replicas members\n  laila replicas members add /mnt/disk4\n"
        "  laila replicas members remove laila://node3:7400/store\n"
        "  laila replicas members replace laila://node3:7400/store laila://node4:7400/store --lost\n"
        "  laila replicas members resume        finish a change whose maker died\n"
        "  laila replicas members cancel        or undo it\n"
        "  laila replicas members renew         give rebuilt members their vote on changes back",
    )
    parser.add_argument(
        "change",
        nargs="*",
        metavar="add WHERE | remove WHERE | replace OLD NEW | resume | cancel | renew",
        help="without one: show the members",
    )
    parser.add_argument(
        "--lost", action="store_true", help="the replica that goes is gone for ever, and need not be told"
    )


def _action(
    actions: argparse._SubParsersAction[Parser],
    name: str,
    run: Any,
    help_line: str,
    description: str,
    codes: tuple[str, str],
    epilog: str,
) -> Parser:
    parser = actions.add_parser(
        name,
        help=help_line,
        description=description + "\n" + _WHERE + _TRUST + _CODES.format(*codes),
        epilog=epilog,
    )
    parser.add_argument(
        "--replica",
        metavar="WHERE",
        action="append",
        default=[],
        help="a replica, see above; may be repeated",
    )
    parser.add_argument("--secret-file", metavar="FILE", help="file with the secret of the nodes")
    parser.add_argument(
        "--trust",
        metavar="KEY",
        action="append",
        default=[],
        help="a trusted public key, 64 hex digits; may be repeated",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=30.0,
        help="for what asks a quorum once (default: 30)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, errors too")
    parser.set_defaults(run=lambda arguments: _guarded(run, arguments))
    return parser


def _guarded(run: Any, arguments: argparse.Namespace) -> int:
    try:
        return int(run(arguments))
    except (NotFound, MembershipBusy) as error:
        return fail(error, code=1, as_json=arguments.json)
    except LailaError as error:
        return fail(error, code=2, as_json=arguments.json)


# -- actions ---------------------------------------------------------------------------------------------


def _status(arguments: argparse.Namespace) -> int:
    with _opened(arguments) as store:
        found = store.status()
    found["ok"] = found["quorum"] and all(one["state"] == "ok" for one in found["replicas"])
    if arguments.json:
        show(found)
    else:
        print("\n".join(status_lines(found)))
    return 2 if not found["quorum"] else 0 if found["ok"] else 1


def _verify(arguments: argparse.Namespace) -> int:
    if arguments.names and arguments.all:
        raise BadConfig("say which names: NAME…, or --all, and not both")
    if not arguments.names and not arguments.all:
        return _compare(arguments)
    with _opened(arguments) as store, Bar("verifying") as bar:
        names = list(dict.fromkeys(arguments.names)) or store.names(settled=False)
        found: dict[str, dict[str, dict[str, Any]]] = {}
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for name, replicas in zip(names, threads.map(store.verify_replicas, names), strict=True):
                found[name] = replicas
                bar.turn(len(found), len(names))
    agreeing = [name for name, replicas in found.items() if agree(replicas)]
    if arguments.json:
        show({"ok": len(agreeing) == len(found), "count": len(found), "agree": len(agreeing), "names": found})
    else:
        print("\n".join(verify_lines(found, agreeing)))
    return 0 if len(agreeing) == len(found) else 1


def _compare(arguments: argparse.Namespace) -> int:
    with _opened(arguments) as store:
        found = store.compare().as_dict()
    if arguments.json:
        show(found)
    else:
        print("\n".join(comparison_lines(found)))
    return 0 if found["ok"] else 1


def _accept(arguments: argparse.Namespace) -> int:
    with _opened(arguments) as store:
        version = store.accept(arguments.name)
    if arguments.json:
        show({"name": arguments.name, "version": None if version is None else version.sequence})
    elif version is None:
        print(f"nothing is left of {plain(arguments.name)}; the name is free")
    else:
        print(f"version {version.sequence} of {plain(arguments.name)} counts again")
    return 1 if version is None else 0


def _repair(arguments: argparse.Namespace) -> int:
    rate = _rate(arguments.rate)
    with _opened(arguments) as store, Bar("repairing") as bar:
        report = store.repair(*arguments.names, rate=rate, progress=_shown(bar))
    if arguments.json:
        show(report.as_dict())
    else:
        print("\n".join(repair_lines(report.as_dict())))
    return 0 if report.ok else 1


def _scrub(arguments: argparse.Namespace) -> int:
    rate = _rate(arguments.rate)
    with _opened(arguments) as store, Bar("scrubbing") as bar:
        report = store.scrub(rate=rate, progress=_shown(bar))
    if arguments.json:
        show(report.as_dict())
    else:
        print("\n".join(scrub_lines(report.as_dict())))
    return 0 if report.ok and not report.damaged else 1


def _shown(bar: Bar) -> Callable[[Progress], None]:
    def progress(now: Progress) -> None:
        bar.turn(now.done, now.total or None, now.bytes)

    return progress


def _history(arguments: argparse.Namespace) -> int:
    with _opened(arguments) as store:
        versions = store.history(arguments.name)
    rows = [
        {"version": v.sequence, "at": v.at, "gone": v.gone, "root": v.root, "parent": v.parent}
        for v in versions
    ]
    if arguments.json:
        show({"name": arguments.name, "versions": rows})
    else:
        print("\n".join(version_lines(rows)))
    return 0


def _members(arguments: argparse.Namespace) -> int:
    change = _change(arguments.change, arguments.lost)
    with _opened(arguments) as store:
        if change is not None:
            change(store)
        found = membership(store.view)
    if arguments.json:
        show(found)
    else:
        print("\n".join(member_lines(found)))
    return 0


def _tell(line: str) -> None:
    if sys.stderr.isatty():
        print(line, file=sys.stderr, flush=True)


def _change(words: list[str], lost: bool) -> Callable[[ReplicatedStore], Any] | None:
    """What is to be done to the members. Raises BadConfig."""
    verb, places = (words[0], [_where(text, "members") for text in words[1:]]) if words else ("", [])
    match verb, places:
        case "", []:
            return None
        case "add", [where]:
            return lambda store: store.add_replica(where, progress=_tell)
        case "remove", [where]:
            return lambda store: store.remove_replica(where, lost=lost, progress=_tell)
        case "replace", [old, new]:
            return lambda store: store.replace_replica(old, new, lost=lost, progress=_tell)
        case "resume", []:
            return lambda store: store.resume_change(lost=lost, progress=_tell)
        case "renew", []:
            return lambda store: store.renew_members(lost=lost, progress=_tell)
        case "cancel", []:
            return lambda store: store.cancel_change(progress=_tell)
    raise BadConfig(
        f"members {' '.join(words)!r} is no change; write add WHERE, remove WHERE, replace OLD NEW, resume, cancel or "
        "renew"
    )


# -- opening ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(arguments: argparse.Namespace) -> Iterator[ReplicatedStore]:
    """The store of the replicas that are meant, for the block. Looking makes no store, and no directory."""
    wheres = _wheres(arguments)
    timeout: float = arguments.timeout
    if not 0 < timeout < 86_400:
        raise BadConfig(f"--timeout {timeout:g} is out of range; give seconds above 0")
    from laila.node.secretfile import command_secret, is_known

    named = arguments.secret_file
    secret = command_secret(named) if any(map(_remote, wheres)) or is_known(named) else None
    trust = _trust(arguments, secret)
    from laila.replication.directory import DirectoryReplica
    from laila.replication.locations import Locations
    from laila.replication.opening import MembershipDiffers
    from laila.replication.store import ReplicatedStore

    with contextlib.ExitStack() as undo:
        locations = Locations(trust, secret=secret, timeout=timeout)
        undo.callback(locations.close)
        replicas: list[Replica] = []
        for where in wheres:
            there = locations.open(where) if _remote(where) else DirectoryReplica(where, trust, create=False)
            undo.callback(there.close)
            replicas.append(there)
        _require_store(replicas, min(timeout, PATIENCE))
        undo.enter_context(warnings.catch_warnings())
        warnings.simplefilter(
            "ignore", MembershipDiffers
        )  # some of the members are enough to find the others
        yield undo.enter_context(
            ReplicatedStore(
                replicas, trust=trust, secret=secret, timeout=timeout, background=False, found=False
            )
        )


def _require_store(replicas: list[Replica], seconds: float) -> None:
    """Raises NotFound when nobody of these who answers belongs to a store, Unreachable when nobody answers."""
    from laila.replication.calls import Crowd

    asked = {replica.where: replica for replica in replicas}
    with contextlib.closing(Crowd(asked)) as crowd:
        answers = crowd.ask(
            asked,
            lambda id, replica: replica.stamp(),
            lambda answers: any(stamp.store for stamp in answers.got.values()),
            seconds,
        )
    if any(stamp.store for stamp in answers.got.values()):
        return
    reasons = {where: "it belongs to no store yet" for where in answers.got}
    reasons |= answers.reasons({})
    why = "; ".join(f"{where}: {reason}" for where, reason in reasons.items())
    if not answers.got:
        raise Unreachable(f"none of these replicas answers: {why}")
    raise NotFound(f"no store is known here, and looking makes none (saving does): {why}")


def _wheres(arguments: argparse.Namespace) -> list[str]:
    """Where the replicas are, each once, paths from the root on."""
    given = arguments.replica or [os.environ.get(ENV, "")]
    source = "--replica" if arguments.replica else ENV
    texts = [text.strip() for one in given for text in one.split(",") if text.strip()]
    if not texts:
        raise BadConfig(f"no replica is named; give --replica WHERE for each, or set {ENV}=WHERE,WHERE,…")
    return list(dict.fromkeys(_where(text, source) for text in texts))


def _where(text: str, source: str) -> str:
    if text.startswith("pool:"):
        raise BadConfig(
            f"{source}: {text} names a pool of a running program, which a command does not have; name a node that "
            "serves it, as in laila://node1:7400/store"
        )
    from laila.replication.locations import SCHEME, address_of, where_of

    try:
        where = where_of(text)
        node = where.removeprefix(SCHEME).partition("/")[0]
        if _remote(where) and address_of(node) is None:
            raise BadConfig(f"{text} names a node that only its peers know; write {SCHEME}HOST:PORT/STORE")
    except BadConfig as error:
        raise BadConfig(f"{source}: {error}") from error
    return where


def _remote(where: str) -> bool:
    return where.startswith("laila://")


def _trust(arguments: argparse.Namespace, secret: str | None) -> TrustSet:
    from laila.artifacts import TrustSet

    if not arguments.trust:
        return TrustSet.default(secret=secret)
    try:
        return TrustSet(arguments.trust, secret=secret)
    except BadValue as error:
        raise BadConfig(f"--trust: {error}") from error


def _rate(text: str | None) -> float | None:
    """Bytes a second of `10MB/s`."""
    if text is None:
        return None
    from laila.node.settings import Complaint, size

    try:
        rate = float(size(text.strip().removesuffix("/s")))
    except Complaint as error:
        raise BadConfig(f"--rate: {error}; or 10MB/s") from error
    if not rate > 0:
        raise BadConfig(f"--rate {text} moves nothing; give a size above 0, as in 10MB/s")
    return rate
