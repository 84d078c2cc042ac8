"""Labs that stay: `laila lab up`, `status`, `logs`, `exec`, `down`; and `gc` for what nobody wants any more."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from laila.errors import BadConfig, LailaError
from laila.lab.cli import common


def add(subs: Any) -> None:
    up = common.add(
        subs,
        "up",
        _up,
        "start a lab that stays",
        "  laila lab up\n  laila lab up shared-volume --driver process --json",
    )
    common.add_topology(up)
    common.add_json(up)
    for name, run, text, examples in (
        (
            "status",
            _status,
            "the nodes of a lab that stays, and whom they see",
            "  laila lab status\n  laila lab status RUN --json",
        ),
        ("down", _down, "end a lab that stays", "  laila lab down"),
    ):
        parser = common.add(subs, name, run, text, examples)
        parser.add_argument("run_id", nargs="?", metavar="RUN", help="which lab (default: the only one)")
        common.add_json(parser)
    logs = common.add(
        subs, "logs", _logs, "what a node wrote", "  laila lab logs node1\n  laila lab logs node1 --json"
    )
    logs.add_argument("node", metavar="NODE")
    common.add_run(logs)
    common.add_json(logs)
    execute = common.add(
        subs,
        "exec",
        _exec,
        "run a command beside a node",
        "  laila lab exec node1 -- laila peers\n  laila lab exec --json node1 -- laila health",
    )
    common.add_run(execute)
    execute.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS")
    common.add_json(execute)
    execute.add_argument("node", metavar="NODE")
    execute.add_argument(
        "argv", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="for example: -- laila peers"
    )
    gc = common.add(
        subs,
        "gc",
        _gc,
        "remove what killed runs left, and undo what killed commands broke",
        "  laila lab gc\n  laila lab gc --all --json",
    )
    gc.add_argument("--all", action="store_true", dest="everything", help="also labs that were meant to stay")
    common.add_json(gc)


def _up(options: argparse.Namespace) -> int:
    from laila.lab import progress, standing

    wanted = common.wanted(options)
    choice = common.driver(options, wanted)
    title = f"laila lab up {options.topology}: {common.in_words(wanted, choice)}"
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
    import dataclasses

    from laila.lab import standing

    done = standing.collect(everything=options.everything)
    if options.json:
        print(json.dumps([dataclasses.asdict(item) for item in done]))
    else:
        for item in done:
            healed = f"healed: {', '.join(item.healed)}" if item.healed else ""
            left = f"left: {', '.join(item.left)}" if item.left else ""
            what = "; ".join(filter(None, (healed, left))) or "removed"
            print(f"{item.run_id} ({item.driver}): {what}")
        if not done:
            print("nothing to remove")
    return 2 if any(item.left for item in done) else 0
