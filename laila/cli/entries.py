"""`laila memorize`, `remember`, `forget` and `ls`: work on a node's memory from a shell.

The command is a peer of its own for a moment: it makes a policy without pools of interest, links to the
node with the shared secret, asks, and leaves.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from laila.cli.main import Parser
from laila.cli.output import show
from laila.errors import BadConfig
from laila.node.addresses import Address

_WHERE = """
The node is --node, else LAILA_NODE, else LAILA_LISTEN, else 127.0.0.1:7400. The secret is
read from --secret-file, else LAILA_SECRET_FILE, else /run/secrets/laila_secret.
"""


def add_memorize(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser(
        "memorize",
        description="Store a value on a node and print its id.\n" + _WHERE,
        epilog="""examples:
  laila memorize '{"a": [1, 2]}' --pool durable
  laila memorize 42 --nickname answer --node node2:7400 --secret-file secret
  laila memorize --file photo.jpg --bytes
  date | laila memorize --file - --text""",
    )
    parser.add_argument("value", nargs="?", metavar="JSON", help="the value, as JSON")
    parser.add_argument("--file", metavar="FILE", help="read the value from FILE; - is standard input")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--bytes", action="store_true", help="store it as bytes, not as the JSON that it says")
    kind.add_argument("--text", action="store_true", help="store it as text, not as the JSON that it says")
    parser.add_argument(
        "--nickname", metavar="NAME", help="give the entry a nickname; its id follows from it"
    )
    _common(parser)
    parser.set_defaults(run=_memorize)


def add_remember(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser(
        "remember",
        description="Print a value that a node has.\n" + _WHERE,
        epilog="""examples:
  laila remember f69bf63a-dc0f-5a54-a7bc-92438d0f83df --pool durable
  laila remember --nickname answer --at node3
  laila remember --nickname photo --bytes > photo.jpg""",
    )
    _which(parser, nargs="?")
    parser.add_argument(
        "--bytes", action="store_true", help="write a bytes or text value as it is, without a newline"
    )
    _common(parser)
    parser.set_defaults(run=_remember)


def add_forget(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser(
        "forget",
        description="Remove entries from a pool of a node.\n" + _WHERE,
        epilog="""examples:
  laila forget f69bf63a-dc0f-5a54-a7bc-92438d0f83df
  laila forget --nickname answer""",
    )
    _which(parser, nargs="*")
    _common(parser)
    parser.set_defaults(run=_forget)


def add_ls(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser(
        "ls",
        description="List the ids in a pool of a node.\n" + _WHERE,
        epilog="examples:\n  laila ls\n  laila ls --pool durable --at node3 --json",
    )
    _common(parser)
    parser.set_defaults(run=_ls)


def _which(parser: Parser, *, nargs: str) -> None:
    parser.add_argument("id", nargs=nargs, metavar="ID", help="the entry's id")
    parser.add_argument("--nickname", metavar="NAME", help="the entry's nickname, instead of its id")


def _common(parser: Parser) -> None:
    parser.add_argument("--node", metavar="HOST:PORT", help="the node to ask")
    parser.add_argument(
        "--secret-file", metavar="FILE", help="file with the secret that the node listens with"
    )
    parser.add_argument(
        "--pool", metavar="NICK", help="the pool's nickname (default: the node's default pool)"
    )
    parser.add_argument(
        "--at", metavar="PEER", help="work on this peer of the node (name or id), through the node"
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=10.0, help="give up after this (default: 10)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, errors too")


def _node_address(arguments: argparse.Namespace) -> Address:
    given = [("--node", arguments.node)] + [
        (name, os.environ.get(name)) for name in ("LAILA_NODE", "LAILA_LISTEN")
    ]
    source, text = next(((source, text) for source, text in given if text), ("default", "127.0.0.1:7400"))
    try:
        return Address.parse(text, example="node1:7400").reachable()
    except ValueError as error:
        raise BadConfig(f"node ({source}): {error}") from error


@contextlib.contextmanager
def _peer(arguments: argparse.Namespace) -> Iterator[Any]:
    """A proxy for the node (or for its peer `--at`), linked for the length of the block."""
    from laila.node.secretfile import command_secret

    address, secret = _node_address(arguments), command_secret(arguments.secret_file)
    if not 0 < arguments.timeout < 86_400:
        raise BadConfig(f"--timeout {arguments.timeout:g} is out of range; give seconds above 0")
    from laila.macros.defaults import DefaultPolicy

    policy = DefaultPolicy(name=f"laila-cli-{os.getpid()}")
    try:
        peer_id = policy.communication.add_tcpip_peer(
            address.host, address.port, secret, timeout=arguments.timeout
        )
        peer = policy.peers[peer_id]
        yield peer.at(arguments.at) if arguments.at else peer
    finally:
        policy.close()


def _chosen(arguments: argparse.Namespace) -> dict[str, Any]:
    """The entries that are meant, as keyword arguments of a verb."""
    ids = arguments.id if isinstance(arguments.id, list) else [arguments.id] if arguments.id else []
    if bool(ids) == bool(arguments.nickname):
        raise BadConfig("say which entry: give its id, or --nickname, and not both")
    chosen: dict[str, Any] = {"nickname": arguments.nickname} if arguments.nickname else {"entry_ids": ids}
    return {**chosen, "pool_nickname": arguments.pool}


def _memorize(arguments: argparse.Namespace) -> int:
    from laila.cli.values import read_value

    value = read_value(arguments.value, arguments.file, as_bytes=arguments.bytes, as_text=arguments.text)
    from laila.entries import constant

    entry = constant(value, nickname=arguments.nickname)
    with _peer(arguments) as peer:
        peer.memorize(entries=entry, pool_nickname=arguments.pool).wait(arguments.timeout)
    if arguments.json:
        show({"id": entry.global_id, "nickname": arguments.nickname, "pool": arguments.pool})
    else:
        print(entry.global_id)
    return 0


def _remember(arguments: argparse.Namespace) -> int:
    from laila.cli.values import plain, readable

    with _peer(arguments) as peer:
        future = peer.remember(**_chosen(arguments))
        future.wait(arguments.timeout)
        value = future.data[0] if isinstance(future.data, list) and not arguments.nickname else future.data
    if arguments.bytes:
        _write_raw(value)
    elif arguments.json:
        show({"value": plain(value), "type": type(value).__name__})
    else:
        print(readable(value))
    return 0


def _write_raw(value: Any) -> None:
    if isinstance(value, str):
        value = value.encode()
    if not isinstance(value, bytes | bytearray | memoryview):
        raise BadConfig(f"the value is a {type(value).__name__}, not bytes or text; leave --bytes out")
    sys.stdout.buffer.write(value)
    sys.stdout.buffer.flush()


def _forget(arguments: argparse.Namespace) -> int:
    chosen = _chosen(arguments)
    with _peer(arguments) as peer:
        peer.forget(**chosen).wait(arguments.timeout)
    if arguments.json:
        from laila.ids import nickname_id

        ids = chosen.get("entry_ids") or [nickname_id(arguments.nickname)]
        show({"forgotten": ids, "pool": arguments.pool})
    return 0


def _ls(arguments: argparse.Namespace) -> int:
    with _peer(arguments) as peer:
        future = peer.keys(pool_nickname=arguments.pool)
        future.wait(arguments.timeout)
        keys = sorted(future.data)
    if arguments.json:
        show({"pool": arguments.pool, "count": len(keys), "ids": keys})
    else:
        for key in keys:
            print(key)
    return 0
