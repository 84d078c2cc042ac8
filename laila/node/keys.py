"""The keys of a node's configuration: flags, environment, file and documentation come from this table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from laila.node.addresses import Address
from laila.node.pools import POOL_KINDS, pools
from laila.node.replicas import replicas
from laila.node.settings import (
    Parser,
    absolute_paths,
    access,
    address,
    choice,
    limits,
    name,
    node_ids,
    path,
    paths,
    peers,
    seconds,
    words,
)

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("json", "text")
MAX_GRACE = 3600.0


@dataclass(frozen=True, slots=True)
class Key:
    """One setting: how it is named everywhere, read, defaulted and explained."""

    name: str
    parse: Parser
    metavar: str
    help: str
    default: Any = None
    repeat: bool = False

    @property
    def env(self) -> str:
        return f"LAILA_{self.name.upper()}"

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"


KEYS: tuple[Key, ...] = (
    Key("name", name, "NAME", "name that peers and operators see (default: the host name)"),
    Key(
        "listen",
        address("0.0.0.0:7400", any_port=True),
        "HOST:PORT",
        "where peers connect; port 0 lets the system choose (default: 127.0.0.1:7400)",
        Address("127.0.0.1", 7400),
    ),
    Key(
        "advertise",
        address("node1:7400", any_port=False),
        "HOST:PORT",
        "address under which others reach this node, told to every peer (default: the listening address)",
    ),
    Key(
        "status",
        address("0.0.0.0:7480", any_port=True),
        "HOST:PORT",
        "where /healthz, /readyz, /metrics, /status.json and the page are served (default: 127.0.0.1:7480)",
        Address("127.0.0.1", 7480),
    ),
    Key(
        "secret_file",
        path,
        "FILE",
        "file with the secret that all nodes share, made by `laila secret new` "
        "(default: /run/secrets/laila_secret where that exists)",
    ),
    Key(
        "also_accept",
        paths,
        "FILE[,FILE…]",
        "files with further secrets that are accepted, while nodes change from one secret to another",
        (),
        repeat=True,
    ),
    Key(
        "allow_nodes",
        node_ids,
        "ID[,ID…]",
        "ids of the only nodes that are let in, of those that know the secret (default: all that know it)",
        (),
        repeat=True,
    ),
    Key(
        "state_dir",
        path,
        "DIR",
        "directory of the node's identity key; without it the node is somebody new at every start",
    ),
    Key(
        "peers",
        peers,
        "PEER[,PEER…]",
        "peers to keep a link to: HOST:PORT, or dns:NAME:PORT for all addresses of NAME, "
        "looked up again and again",
        (),
        repeat=True,
    ),
    Key(
        "pools",
        pools,
        "NAME=KIND[:PATH],…",
        f"pools to open and offer, KIND is {words(POOL_KINDS)}; in a file, tables [pools.NAME]",
        (),
        repeat=True,
    ),
    Key(
        "access",
        access,
        "RULE[;RULE…]",
        "who may do what, in order, the last match wins, as in 'deny * *; allow node2 read,write durable' "
        "(default: every peer, every pool)",
        (),
        repeat=True,
    ),
    Key(
        "volumes",
        absolute_paths,
        "DIR[,DIR…]",
        "directories of shared volumes that peers may try with `laila volume check`, in DIR/.laila/probe-* only",
        (),
        repeat=True,
    ),
    Key(
        "replicas",
        replicas,
        "NAME=PATH[,…]",
        "replicas that this node serves to peers, as laila://THIS-NODE/NAME: NAME=PATH, a directory, or "
        "NAME=pool:NICKNAME, one of the pools; in a file, the table [replicas]",
        (),
        repeat=True,
    ),
    Key(
        "resolve_every",
        seconds(0.1, 3600.0),
        "SECONDS",
        "how often the names of dns: peers are looked up again (default: 3)",
        3.0,
    ),
    Key(
        "await_names",
        choice(("yes", "no")),
        "yes|no",
        "whether this node is ready only when every dns: name of its peers was found once; for names that are "
        "published before nodes are ready (default: no)",
        "no",
    ),
    Key(
        "grace",
        seconds(0.0, MAX_GRACE),
        "SECONDS",
        "how long running requests may take to finish after SIGTERM (default: 10)",
        10.0,
    ),
    Key("log_level", choice(LOG_LEVELS), "LEVEL", f"{words(LOG_LEVELS)} (default: info)", "info"),
    Key(
        "log_format",
        choice(LOG_FORMATS),
        "FORMAT",
        f"{words(LOG_FORMATS)} lines on stderr (default: json)",
        "json",
    ),
    Key(
        "limits",
        limits,
        "NAME=VALUE,…",
        "bounds by name, numbers or sizes like 64MiB; in a file, the table [limits]; docs/node.md lists them",
        None,
        repeat=True,
    ),
)
BY_NAME: Mapping[str, Key] = {key.name: key for key in KEYS}
