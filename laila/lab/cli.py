"""`laila lab …`: options in, exit codes out. 0 is ok, 1 a check that failed, 2 unknown or an error.

Modules that need the kit's extras are imported by the handler that uses them: `laila lab client` runs in
images that have none of them.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shlex
import sys
from collections.abc import Callable
from typing import Any

from laila.errors import BadConfig, LailaError

EXAMPLES = """\
examples:
  laila lab check replicated                      three nodes peer, and their replicas agree, whatever breaks
  laila lab check replicated --driver process     the same with plain processes
  laila lab check shared-volume                   three nodes on one volume: locks, artifacts, agents, damage
  laila lab check shared-volume --volume glusterfs  the same on a network volume, across three containers
  laila lab check mine.toml --keep                your own topology; the nodes stay afterwards
  laila lab up && laila lab status                a lab that stays
  laila lab exec node1 -- laila peers             a command beside a node
  laila lab down
  laila lab gc                                    remove what killed runs left

exit codes: 0 ok, 1 a check failed, 2 unknown or error
"""


def add_parser(commands: Any) -> None:
    """Add `lab` and its subcommands."""
    lab = commands.add_parser(
        "lab",
        help="start real nodes, work on them from the inside, break them, judge",
        description="Start real nodes, work on them from the inside, break them, judge.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subs = lab.add_subparsers(dest="lab_command", metavar="COMMAND", required=True)
    _add_check(subs)
    _add_up(subs)
    for name, run, text in (
        ("status", _status, "the nodes of a lab that stays, and whom they see"),
        ("down", _down, "end a lab that stays"),
    ):
        parser = _add(subs, name, run, text)
        parser.add_argument("run_id", nargs="?", metavar="RUN", help="which lab (default: the only one)")
        _json(parser)
    logs = _add(subs, "logs", _logs, "what a node wrote")
    logs.add_argument("node", metavar="NODE")
    logs.add_argument("--run", dest="run_id", metavar="RUN", help="which lab (default: the only one)")
    _json(logs)
    execute = _add(subs, "exec", _exec, "run a command beside a node")
    execute.add_argument("--run", dest="run_id", metavar="RUN", help="which lab (default: the only one)")
    execute.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS")
    _json(execute)
    execute.add_argument("node", metavar="NODE")
    execute.add_argument(
        "argv", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="for example: -- laila peers"
    )
    gc = _add(subs, "gc", _gc, "remove what killed runs left")
    gc.add_argument("--all", action="store_true", dest="everything", help="also labs that were meant to stay")
    _json(gc)
    _add_client(subs)
    _add_worker(subs)


_EXAMPLES = {
    "up": "  laila lab up\n  laila lab up shared-volume --driver process --json",
    "status": "  laila lab status\n  laila lab status RUN --json",
    "down": "  laila lab down",
    "logs": "  laila lab logs node1\n  laila lab logs node1 --json",
    "exec": "  laila lab exec node1 -- laila peers\n  laila lab exec --json node1 -- laila health",
    "gc": "  laila lab gc\n  laila lab gc --all --json",
    "worker": '  echo \'{"op": "space"}\' | laila lab worker --volume /mnt/shared',
    "client": '  echo \'{"op": "peers"}\' | laila lab client',
}


def _add(subs: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> Any:
    parser = subs.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog="examples:\n" + _EXAMPLES[name] if name in _EXAMPLES else EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_guarded(run))
    return parser


def _json(parser: Any) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def _add_check(subs: Any) -> None:
    check = _add(subs, "check", _check, "start a topology, work on it, break it, judge")
    _topology(check)
    check.add_argument(
        "--out", default="lab-runs", metavar="DIR", help="where the run's folder goes (default: lab-runs)"
    )
    check.add_argument(
        "--keep", action="store_true", help="leave the nodes running afterwards; end them with `lab down`"
    )
    check.add_argument("--seed", type=int, metavar="N", help="repeat the choices of an earlier run")
    _json(check)


def _add_up(subs: Any) -> None:
    up = _add(subs, "up", _up, "start a lab that stays")
    _topology(up)
    _json(up)


def _topology(parser: Any) -> None:
    parser.add_argument(
        "topology",
        nargs="?",
        default="replicated",
        metavar="TOPOLOGY",
        help="replicated, shared-volume, or a .toml file",
    )
    parser.add_argument("--driver", default="auto", metavar="DRIVER", help="auto (default), docker, process")
    parser.add_argument(
        "--volume",
        metavar="KIND",
        help="what the nodes of shared-volume share: docker (default, one file system of this machine), glusterfs, "
        "glusterfs-default, sshfs, s3fs",
    )
    parser.add_argument("--nodes", type=int, metavar="N", help="how many (default: 3)")
    parser.add_argument(
        "--image", metavar="NAME", help="the node image for containers (default: laila-node:dev)"
    )


def _add_client(subs: Any) -> None:
    client = _add(
        subs, "client", _client, "work beside a node: JSON lines in, JSON lines out (see docs/lab.md)"
    )
    own = _near("LAILA_LISTEN", "127.0.0.1:7400")
    status = _near("LAILA_STATUS", "127.0.0.1:7480")
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


def _add_worker(subs: Any) -> None:
    worker = _add(
        subs,
        "worker",
        _worker,
        "work on a shared volume beside a node: JSON lines in, JSON lines out (see docs/lab.md)",
    )
    worker.add_argument("--volume", required=True, metavar="DIR", help="the volume, as this node sees it")


def _near(variable: str, otherwise: str) -> str:
    """An address of the node beside us, from its own configuration; every-address means loopback from here."""
    return os.environ.get(variable, otherwise).replace("0.0.0.0", "127.0.0.1")  # noqa: S104  no bind


def _guarded(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Errors of the lab end with 2: 1 is kept for nodes that did wrong."""

    def guarded(options: argparse.Namespace) -> int:
        try:
            return run(options)
        except LailaError as error:
            if getattr(options, "json", False):
                print(
                    json.dumps(
                        {"verdict": "unknown", "error": {"kind": type(error).__name__, "message": str(error)}}
                    )
                )
            print(f"laila lab: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("laila lab: interrupted; what was made is removed", file=sys.stderr)
            return 2

    return guarded


def _check(options: argparse.Namespace) -> int:
    from laila.lab import drivers, progress
    from laila.lab.runner import Order, check

    wanted = _wanted(options)
    choice = drivers.choose(options.driver, wanted)
    seed = secrets.randbelow(1 << 31) if options.seed is None else options.seed
    title = f"laila lab check {options.topology}: {_words(wanted, choice)}, seed {seed}"
    shown = progress.for_stream(sys.stderr if options.json else sys.stdout, title)
    if missing := drivers.capabilities(choice.name).lines():
        shown.say(f"not shown by the {choice.name} driver: {'; '.join(missing)}")
    try:
        result, folder = check(
            Order(wanted, choice, seed, _command(options, choice.name, seed), options.out, options.keep),
            shown,
        )
    finally:
        shown.close()
    if options.json:
        print(json.dumps({**result.to_dict(), "folder": str(folder.path)}, default=str))
    else:
        print(f"\n{result.verdict.value.upper()}: {result.sentence}\nreport: {folder.report}")
        if result.verdict.exit_code:
            print(f"repeat: {result.command}")
    return result.verdict.exit_code


def _wanted(options: argparse.Namespace) -> Any:
    import dataclasses

    from laila.lab import topology

    wanted = topology.load(options.topology, options.nodes)
    if options.volume:
        if options.topology != "shared-volume":
            raise BadConfig("--volume goes with shared-volume; a .toml file describes its own volumes")
        wanted = topology.shared_volume(len(wanted.nodes), options.volume)
    return dataclasses.replace(wanted, image=options.image) if options.image else wanted


def _words(wanted: Any, choice: Any) -> str:
    return f"{len(wanted.nodes)} nodes, {choice.name} driver ({choice.reason})"


def _command(options: argparse.Namespace, driver: str, seed: int) -> str:
    words = ["laila", "lab", "check", options.topology, "--driver", driver]
    words += ["--volume", options.volume] if options.volume else []
    words += ["--nodes", str(options.nodes)] if options.nodes is not None else []
    words += ["--image", options.image] if options.image else []
    return shlex.join([*words, "--seed", str(seed)])


def _up(options: argparse.Namespace) -> int:
    from laila.lab import drivers, progress, standing

    wanted = _wanted(options)
    choice = drivers.choose(options.driver, wanted)
    title = f"laila lab up {options.topology}: {_words(wanted, choice)}"
    shown = progress.for_stream(sys.stderr if options.json else sys.stdout, title)
    try:
        run = standing.up(wanted, choice, shown)
    except Exception as error:
        if isinstance(error, LailaError):
            raise
        from laila.errors import LabError

        raise LabError(f"the lab did not come up: {error}") from error
    finally:
        shown.close()
    if options.json:
        print(json.dumps({"run_id": run.run_id, "driver": run.driver, "nodes": list(wanted.names)}))
    else:
        print(f"\nup: {run.run_id}\nsee it with `laila lab status`, end it with `laila lab down`")
    return 0


def _status(options: argparse.Namespace) -> int:
    import dataclasses

    from laila.cli.output import table
    from laila.lab import standing

    run = standing.find(options.run_id)
    with standing.attached(run) as driver:
        nodes = standing.view(driver)
    if options.json:
        print(
            json.dumps(
                {
                    "run_id": run.run_id,
                    "driver": run.driver,
                    "nodes": [dataclasses.asdict(node) for node in nodes],
                }
            )
        )
    else:
        print(f"{run.run_id} ({run.driver} driver)")
        rows = [
            [node.name, node.state, node.address, ", ".join(node.peers) or "-", node.page] for node in nodes
        ]
        print(table(["node", "state", "address", "sees", "page"], rows))
    return 0


def _logs(options: argparse.Namespace) -> int:
    from laila.lab import standing

    with standing.attached(standing.find(options.run_id)) as driver:
        text = driver.logs(options.node)
    if options.json:
        print(json.dumps({"node": options.node, "text": text.decode(errors="replace")}))
    else:
        sys.stdout.buffer.write(text)
    sys.stdout.flush()
    return 0


def _exec(options: argparse.Namespace) -> int:
    from laila.lab import standing

    argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    if not argv:
        raise BadConfig("say what to run, as in: laila lab exec node1 -- laila peers")
    with standing.attached(standing.find(options.run_id)) as driver:
        output = driver.exec(options.node, argv, timeout=options.timeout)
    if options.json:
        texts = {
            "stdout": output.stdout.decode(errors="replace"),
            "stderr": output.stderr.decode(errors="replace"),
        }
        print(json.dumps({"code": output.code, **texts}))
        return output.code
    sys.stdout.buffer.write(output.stdout)
    sys.stderr.buffer.write(output.stderr)
    sys.stdout.flush()
    return output.code if output.code >= 0 else 128 - output.code


def _down(options: argparse.Namespace) -> int:
    from laila.lab import standing

    run = standing.find(options.run_id)
    standing.down(run)
    print(json.dumps({"run_id": run.run_id, "removed": True}) if options.json else f"down: {run.run_id}")
    return 0


def _gc(options: argparse.Namespace) -> int:
    from laila.lab import standing

    done = standing.collect(everything=options.everything)
    if options.json:
        print(
            json.dumps([{"run_id": item.run_id, "driver": item.driver, "left": item.left} for item in done])
        )
    else:
        for item in done:
            what = f"left: {', '.join(item.left)}" if item.left else "removed"
            print(f"{item.run_id} ({item.driver}): {what}")
        if not done:
            print("nothing to remove")
    return 2 if any(item.left for item in done) else 0


def _client(options: argparse.Namespace) -> int:
    from laila.lab import client

    return client.run(options.connect, options.secret_file, options.status, wait=options.wait)


def _worker(options: argparse.Namespace) -> int:
    from laila.lab.worker import program

    return program.run(options.volume)
