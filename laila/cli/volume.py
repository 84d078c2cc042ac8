"""`laila volume check|show|probe`: whether locks on a shared volume exclude, found out by real nodes."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from laila.cli.main import Parser
from laila.cli.output import fail, show
from laila.errors import BadConfig, LailaError
from laila.volumes.verdict import SAFE, UNSAFE, Evidence, Verdict, assess

_CHECK = """\
Have two or more real nodes try a shared volume together: who holds a lock keeps the others out,
a killed holder's lock comes free, one of many makes a name, what was written is read. The verdict
is SAFE, UNSAFE or UNKNOWN, with the evidence, and is kept at PATH/.laila/volume.json, where the
artifact stores find it. Everything else happens in PATH/.laila/probe-*, and is removed.

This process is the first node, unless --not-here is given. The others, named by --with
(repeated, or separated by commas):

  docker:CONTAINER   docker exec -i CONTAINER laila volume probe
  ssh:HOST           ssh -o BatchMode=yes HOST laila volume probe
  exec:COMMAND       any command that runs `laila volume probe` there
  HOST:PORT          a laila node that offers the volume (`volumes` in its configuration), by peering;
                     needs --secret-file, or LAILA_SECRET_FILE, or /run/secrets/laila_secret
  local              another process on this machine

Where the volume has another path on a node, it follows: docker:n2=/mnt/other; behind exec:COMMAND
as a last word: exec:'kubectl exec -i pod -- laila volume probe =/mnt/other'."""

_EXAMPLES = """\
examples:
  laila volume check /mnt/shared --with ssh:node2 --with ssh:node3
  laila volume check /data --not-here --with docker:n1,docker:n2
  laila volume check /mnt/shared --with node2:7400,node3:7400=/srv/shared --secret-file secret
  laila volume check /mnt/shared --not-here --with exec:'kubectl exec -i pod-0 -- laila volume probe' \\
                                 --with exec:'kubectl exec -i pod-1 -- laila volume probe'

Exit codes: 0 SAFE, 1 UNSAFE, 2 UNKNOWN or an error."""

_CODES = {SAFE: 0, UNSAFE: 1}


def add_volume(commands: argparse._SubParsersAction[Parser]) -> None:
    parser = commands.add_parser(
        "volume",
        description="Find out whether locks on a shared volume exclude, and what is known about it.",
        epilog="examples:\n  laila volume check /mnt/shared --with ssh:node2\n  laila volume show /mnt/shared",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True, title="actions", parser_class=Parser)
    _add_check(actions)
    shown = actions.add_parser(
        "show",
        help="what is known about a volume",
        description="Show which mount PATH lies on, and the verdict of its last check that still holds.\n"
        "Exit codes: 0 SAFE, 1 UNSAFE, 2 UNKNOWN or an error.",
        epilog="examples:\n  laila volume show /mnt/shared\n  laila volume show /mnt/shared --json",
    )
    shown.add_argument("path", metavar="PATH", help="the volume, or a directory on it")
    shown.add_argument("--json", action="store_true", help="print JSON, errors too")
    shown.set_defaults(run=_show)
    probe = actions.add_parser(
        "probe",
        help="carry out the steps of a check (started by `laila volume check` on other nodes)",
        description="Carry out the steps of a check: JSON lines on stdin, answers as JSON lines on stdout. It speaks\n"
        "only when spoken to, and ends, leaving nothing behind, when its input ends.",
        epilog='example:\n  echo \'{"id": 1, "step": {"do": "hello"}}\' | laila volume probe',
    )
    probe.set_defaults(run=_probe)


def _add_check(actions: argparse._SubParsersAction[Parser]) -> None:
    parser = actions.add_parser(
        "check", help="have real nodes try a volume together", description=_CHECK, epilog=_EXAMPLES
    )
    parser.add_argument("path", metavar="PATH", help="the volume, or a directory on it")
    parser.add_argument("--with", dest="nodes", metavar="NODE", action="append", default=[], help="see above")
    parser.add_argument(
        "--not-here", action="store_true", help="this process takes no part; PATH need not exist here"
    )
    parser.add_argument(
        "--time",
        metavar="SECONDS",
        type=float,
        default=10.0,
        help="for what is repeated for some time, in all; the rest takes a few seconds more (default: 10)",
    )
    parser.add_argument(
        "--secret-file", metavar="FILE", help="file with the secret of the nodes named HOST:PORT"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, errors too")
    parser.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    try:
        verdict = _checked(arguments)
    except LailaError as error:
        return fail(error, code=2, as_json=arguments.json)
    if arguments.json:
        show(verdict.to_dict())
    else:
        _print(verdict)
    return _CODES.get(verdict.answer, 2)


def _checked(arguments: argparse.Namespace) -> Verdict:
    from laila.node.secretfile import command_secret
    from laila.volumes.check import run
    from laila.volumes.nodes import Nodes, NodeSpec, parse

    path = Path(arguments.path)
    if arguments.not_here and not path.is_absolute():
        raise BadConfig(
            f"{path} is no absolute path, and --not-here has it used on other nodes; write it from /"
        )
    if not arguments.not_here and not path.is_dir():
        raise BadConfig(f"{path} is no directory here; with --not-here only the nodes of --with take part")
    specs = parse(arguments.nodes)
    here = () if arguments.not_here else (NodeSpec("local", "", None, "here"),)
    with Nodes(lambda: command_secret(arguments.secret_file)) as nodes:
        links = [nodes.open(spec) for spec in (*here, *specs)]
        return run(str(path.absolute()), links, seconds=arguments.time, tell=_tell)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show(arguments: argparse.Namespace) -> int:
    try:
        verdict = assess(arguments.path)
    except LailaError as error:
        return fail(error, code=2, as_json=arguments.json)
    if arguments.json:
        show(verdict.to_dict())
    else:
        _print(verdict)
    return _CODES.get(verdict.answer, 2)


def _print(verdict: Verdict) -> None:
    print(f"{verdict.answer}: {verdict.reason}")
    print(f"mount: {verdict.mount}")
    if verdict.nodes:
        at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(verdict.at))
        print(f"checked {at} by {', '.join(verdict.nodes)}")
    for line in verdict.evidence:
        print(_line(line))


def _line(line: Evidence) -> str:
    return f"{line.outcome:8}{line.check:24}{line.text}"


def _probe(arguments: argparse.Namespace) -> int:
    from laila.volumes.agent import run

    return run()
