"""What the commands of `laila lab` share: how a parser is made, how errors end, how a topology is asked for."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from laila.errors import BadConfig, LailaError


def add(subs: Any, name: str, run: Callable[[argparse.Namespace], int], text: str, examples: str) -> Any:
    """A subcommand whose help ends with examples."""
    parser = subs.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog="examples:\n" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=guarded(run))
    return parser


def add_json(parser: Any) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def add_run(parser: Any) -> None:
    parser.add_argument("--run", dest="run_id", metavar="RUN", help="which lab (default: the only one)")


def add_topology(parser: Any) -> None:
    """What `check` and `up` are told of the nodes."""
    parser.add_argument(
        "topology",
        nargs="?",
        default="replicated",
        metavar="TOPOLOGY",
        help="replicated, shared-volume, or a .toml file",
    )
    parser.add_argument(
        "--driver",
        default="auto",
        metavar="DRIVER",
        help="auto (default), docker, process, compose, ssh, kubernetes",
    )
    parser.add_argument(
        "--context", metavar="NAME", help="which cluster of the kubeconfig (default: the present one)"
    )
    parser.add_argument(
        "--storage-class",
        metavar="NAME",
        help="the cluster's storage class for what nodes keep (default: the cluster's default class)",
    )
    parser.add_argument(
        "--shared-class",
        metavar="NAME",
        help="the cluster's storage class with ReadWriteMany, for shared volumes",
    )
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


def wanted(options: argparse.Namespace) -> Any:
    """The topology that was asked for. Raises BadConfig."""
    import dataclasses

    from laila.lab import topology

    found = topology.load(options.topology, options.nodes)
    if options.volume:
        if options.topology != "shared-volume":
            raise BadConfig("--volume goes with shared-volume; a .toml file describes its own volumes")
        found = topology.shared_volume(len(found.nodes), options.volume)
    given = {
        "context": options.context,
        "storage_class": options.storage_class,
        "shared_class": options.shared_class,
    }
    if said := {name: value for name, value in given.items() if value}:
        if options.driver != "kubernetes":
            raise BadConfig(f"--{next(iter(said)).replace('_', '-')} goes with --driver kubernetes")
        found = dataclasses.replace(found, cluster=dataclasses.replace(found.cluster, **said))
    return dataclasses.replace(found, image=options.image) if options.image else found


def driver(options: argparse.Namespace, topology: Any) -> Any:
    """Which driver takes these nodes. Raises BadConfig for an --image that none of them would be made of."""
    from laila.lab import drivers

    if options.image and (topology.compose or topology.attach):
        raise BadConfig(
            "--image is not for a compose file of yours: each of its services names its own image"
        )
    if options.image and all(topology.network_volume_of(name) for name in topology.names):
        raise BadConfig(
            f"--image is not for nodes on a network volume: they are made of {topology.volumes_image}"
        )
    choice = drivers.choose(options.driver, topology)
    if options.image and choice.name not in ("docker", "compose", "kubernetes"):
        raise BadConfig(
            f"--image is what containers are made of, and the {choice.name} driver ({choice.reason}) makes none: "
            "leave it out, or take --driver docker"
        )
    return choice


def in_words(topology: Any, choice: Any) -> str:
    return f"{len(topology.nodes)} nodes, {choice.name} driver ({choice.reason})"


def near(variable: str, otherwise: str) -> str:
    """An address of the node beside us, from its own configuration; every-address means loopback from here."""
    return os.environ.get(variable, otherwise).replace("0.0.0.0", "127.0.0.1")  # noqa: S104  no bind


def guarded(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """Errors of the lab end with 2: 1 is kept for nodes that did wrong."""

    def guarded(options: argparse.Namespace) -> int:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # what clients say need be no text
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
