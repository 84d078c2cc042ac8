"""What a lab is made of, as plain data: nodes, their pools, volumes, secrets and limits.

A topology says *what*, a driver says *how*. So nothing here knows of ports, containers or directories:
paths are templates (`{state}` is the node's own state directory, `{shared}` the place of the volume of that
name), addresses are given by the driver when it starts a node. Two are shipped, any other comes from a TOML
file of the same fields.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from laila.errors import BadConfig

T = TypeVar("T")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")
_POOL_KINDS = ("memory", "filesystem", "sqlite")
PLAIN = "docker"
"""The kind of a volume that a driver makes by itself: one file system of one machine."""
NETWORK_KINDS = ("glusterfs", "glusterfs-default", "sshfs", "s3fs")
"""Volumes that the nodes serve and mount themselves, each by its own client: docs/lab.md says what each is."""
VOLUME_KINDS = (PLAIN, *NETWORK_KINDS)
MAX_NODES = 32
"""More than this on one machine measures the machine."""


def _check_name(what: str, name: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadConfig(
            f"{what} name {name!r} must be lower-case letters, digits and '-', starting with a letter"
        )


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """One pool of a node. `path` is a template such as `{state}/durable.sqlite`; empty for memory."""

    name: str
    kind: str
    path: str = ""

    def __post_init__(self) -> None:
        _check_name("pool", self.name)
        if self.kind not in _POOL_KINDS:
            raise BadConfig(f"pool {self.name!r}: kind {self.kind!r} is none of {', '.join(_POOL_KINDS)}")
        if (self.kind == "memory") == bool(self.path):
            raise BadConfig(
                f"pool {self.name!r}: a {self.kind} pool {'has no' if self.path else 'needs a'} path"
            )

    def text(self, places: Mapping[str, str]) -> str:
        """As the node's configuration spells it: `durable=sqlite:/var/lib/laila/durable.sqlite`."""
        if not self.path:
            return f"{self.name}={self.kind}"
        try:
            return f"{self.name}={self.kind}:{self.path.format_map(places)}"
        except KeyError as missing:
            raise BadConfig(f"pool {self.name!r}: no volume {missing} in {self.path!r}") from None


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """A replica that a node serves to its peers. `path` is a template such as `{state}/replica`."""

    name: str
    path: str

    def __post_init__(self) -> None:
        _check_name("replica", self.name)
        if not self.path:
            raise BadConfig(f"replica {self.name!r} needs a path")

    def text(self, places: Mapping[str, str]) -> str:
        """As the node's configuration spells it: `store=/var/lib/laila/replica`."""
        try:
            return f"{self.name}={self.path.format_map(places)}"
        except KeyError as missing:
            raise BadConfig(f"replica {self.name!r}: no volume {missing} in {self.path!r}") from None


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """A volume that several nodes mount, at `at` in containers. Each node's own state needs no mention."""

    name: str
    at: str
    nodes: tuple[str, ...] = ()
    """Who mounts it; empty means every node."""
    kind: str = PLAIN
    size_mib: int = 0
    """What fits on it, where the driver can see to that; 0 means no limit."""
    read_only_of: str = ""
    """No volume of its own, but the one of that name once more, where nobody may write."""

    def __post_init__(self) -> None:
        _check_name("volume", self.name)
        if self.size_mib < 0 or (self.size_mib and (self.networked or self.read_only_of)):
            raise BadConfig(f"volume {self.name!r}: only a {PLAIN} volume has a size, of 1 MiB or more")
        if not self.at.startswith("/"):
            raise BadConfig(f"volume {self.name!r}: `at` must be an absolute path, not {self.at!r}")
        if self.kind not in VOLUME_KINDS:
            raise BadConfig(f"volume {self.name!r}: kind {self.kind!r} is none of {', '.join(VOLUME_KINDS)}")

    @property
    def networked(self) -> bool:
        """Served by nodes to nodes, so that each has its own view of it."""
        return self.kind in NETWORK_KINDS

    def mounted_by(self, node: str) -> bool:
        return not self.nodes or node in self.nodes


@dataclass(frozen=True, slots=True)
class Resources:
    """Limits of one node, where the driver can set them. Memory in MiB."""

    memory_mib: int = 512
    cpus: float = 1.0
    pids: int = 256

    def __post_init__(self) -> None:
        if self.memory_mib < 64 or self.cpus <= 0 or self.pids < 16:
            raise BadConfig(f"a node cannot run within {self}")


STORE = "store"
"""The replicated store of the topology `replicated`; each node serves one replica of it."""
DEFAULT_REPLICAS = (ReplicaSpec(STORE, "{state}/replica"),)
DEFAULT_POOLS = (
    PoolSpec("scratch", "memory"),
    PoolSpec("durable", "sqlite", "{state}/durable.sqlite"),
    PoolSpec("files", "filesystem", "{state}/files"),
)


@dataclass(frozen=True, slots=True)
class HostSpec:
    """A machine that a node runs on, for the ssh driver. Its key must be known: `known_hosts` (a file of OpenSSH)."""

    address: str
    port: int = 22
    user: str = "root"
    key: str = ""
    """A private key file; empty takes those of the SSH agent and of ~/.ssh."""
    known_hosts: str = ""
    """Empty takes ~/.ssh/known_hosts. An unknown key is refused."""
    home: str = ""
    """Where the lab's files go over there; empty: below the user's home directory."""
    python: str = "python3"
    """The interpreter over there that has laila, and with which its nodes run."""
    inner: str = ""
    """Its address as the other nodes see it, when that is another one."""

    def __post_init__(self) -> None:
        if not self.address or not 0 < self.port < 65536:
            raise BadConfig(
                f"a host needs an address and a port from 1 to 65535, not {self.address!r}:{self.port}"
            )


BESIDE, HERE = "beside", "here"


@dataclass(frozen=True, slots=True)
class ClientSpec:
    """A client program of a system that is not laila: it takes operations as JSON lines (docs/lab-clients.md)."""

    argv: tuple[str, ...]
    """`{node}`, `{address}` (host and port of the node, as seen from where the client runs), `{files}` (the directory
    of its files there) and `{number}` (of the client beside its node) are filled in.
    """
    where: str = BESIDE
    """`beside`: inside each node's container or host. `here`: on this machine, once for each node."""
    port: int = 0
    """The node's port that `{address}` means."""
    workloads: tuple[str, ...] = ("register",)
    files: tuple[str, ...] = ()
    """Files of this machine that the client needs beside a node: copied there into a directory of the lab's."""
    directory: str = ""
    """What `files` are relative to, and where a client on this machine runs: that of the topology's own file."""

    def __post_init__(self) -> None:
        if not self.argv or self.where not in (BESIDE, HERE):
            raise BadConfig(f"a client needs argv, and where = {BESIDE!r} or {HERE!r}, not {self.where!r}")
        if not 0 <= self.port < 65536:
            raise BadConfig(f"a client's port is 1 to 65535, not {self.port}")


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """Where pods of the kubernetes driver run, and on what. Empty: as the kubeconfig and the cluster have it."""

    context: str = ""
    kubeconfig: str = ""
    """Its file; else KUBECONFIG says where it is."""
    storage_class: str = ""
    """For the nodes' own state; else the cluster's default, or a directory that goes with the pod."""
    shared_class: str = ""
    """One with ReadWriteMany, for volumes."""


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One node. `secret` names a secret (nodes that name the same one share it); `peers` whom it dials."""

    name: str
    pools: tuple[PoolSpec, ...] = DEFAULT_POOLS
    secret: str = "main"  # noqa: S105  a name, not a secret
    peers: tuple[str, ...] = ()
    access: tuple[str, ...] = ()
    """One-line access rules, as the node's configuration takes them."""
    replicas: tuple[ReplicaSpec, ...] = ()
    host: HostSpec | None = None
    """The machine that it runs on, for the ssh driver."""
    service: str = ""
    """Its service in the compose file, when that has another name."""
    state: str = ""
    """Where its state lies inside it, when it is not laila; empty: where its only volume is mounted."""

    def __post_init__(self) -> None:
        _check_name("node", self.name)
        _check_name("secret", self.secret)
        for what, names in (("pool", self.pools), ("replica", self.replicas)):
            if len({one.name for one in names}) != len(names):
                raise BadConfig(f"node {self.name!r} names a {what} twice")

    def pool(self, name: str) -> PoolSpec | None:
        return next((pool for pool in self.pools if pool.name == name), None)

    def replica(self, name: str) -> ReplicaSpec | None:
        return next((replica for replica in self.replicas if replica.name == name), None)


@dataclass(frozen=True, slots=True)
class Topology:
    """Nodes and what they share. `stranger` is the node with the wrong secret that a check sends to their
    doors.
    """

    name: str
    nodes: tuple[NodeSpec, ...]
    stranger: NodeSpec
    volumes: tuple[VolumeSpec, ...] = ()
    resources: Resources = Resources()
    image: str = "laila-node:dev"
    dead_after: float = 5.0
    """Seconds within which a node must see that a peer is gone."""
    volumes_image: str = "laila-volumes:dev"
    """For nodes that mount a network volume: the same node, and the programs of the file systems."""
    state_mib: int = 0
    """Each node's state lies on a disk of its own of this size, which can be full or lose power; 0: it does not."""
    clocks: bool = False
    """Nodes are started so that their wall clocks can be shifted."""
    compose: str = ""
    """A compose file whose services are the nodes, for the compose driver."""
    client: ClientSpec | None = None
    """Given: the nodes are not laila's, and this is how they are worked on."""
    cluster: ClusterSpec = ClusterSpec()
    attach: str = ""
    """A compose project that runs already: its services are the nodes, and they stay when the run ends."""
    theirs: bool = False
    """The nodes are not laila's, though no client says how they are worked on: somebody's test does. Of a topology file
    it is known by its services.
    """

    def __post_init__(self) -> None:
        _check_name("topology", self.name)
        names = [node.name for node in (*self.nodes, self.stranger)]
        least = 1 if self.foreign else 2
        if not least <= len(self.nodes) <= MAX_NODES:
            raise BadConfig(f"a topology has {least} to {MAX_NODES} nodes, not {len(self.nodes)}")
        if len(set(names)) != len(names):
            raise BadConfig(f"two nodes of {self.name!r} have the same name: {', '.join(names)}")
        if not 0.5 <= self.dead_after <= 600:
            raise BadConfig(f"dead_after must be 0.5 to 600 seconds, not {self.dead_after}")
        for node in (*self.nodes, self.stranger):
            if missing := [peer for peer in node.peers if peer not in names or peer == node.name]:
                raise BadConfig(f"node {node.name!r} cannot dial {', '.join(missing)}")
        self._check_volumes(names)

    def _check_volumes(self, names: list[str]) -> None:
        if len({volume.name for volume in self.volumes}) != len(self.volumes):
            raise BadConfig(f"topology {self.name!r} names a volume twice")
        for volume in self.volumes:
            known = self.names if volume.networked else names
            if missing := [node for node in volume.nodes if node not in known]:
                raise BadConfig(f"volume {volume.name!r} cannot be mounted by {', '.join(missing)}")
            originals = [other.name for other in self.volumes if not other.read_only_of]
            if volume.read_only_of and volume.read_only_of not in originals:
                raise BadConfig(f"volume {volume.name!r} is of no volume {volume.read_only_of!r}")
        networked = [volume.name for volume in self.volumes if volume.networked]
        if len(networked) > 1:
            raise BadConfig(f"a topology has one network volume, not {' and '.join(networked)}")

    @property
    def foreign(self) -> bool:
        """The nodes are not laila's."""
        return self.theirs or self.client is not None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(node.name for node in self.nodes)

    def node(self, name: str) -> NodeSpec:
        for node in (*self.nodes, self.stranger):
            if node.name == name:
                return node
        raise BadConfig(f"topology {self.name!r} has no node {name!r}; it has {', '.join(self.names)}")

    def volumes_of(self, name: str) -> tuple[VolumeSpec, ...]:
        """What a node mounts. Into a network volume the stranger is not let: it is made of the others."""
        inside = self.node(name) is not self.stranger
        return tuple(v for v in self.volumes if v.mounted_by(name) and (inside or not v.networked))

    def network_volume_of(self, name: str) -> VolumeSpec | None:
        return next((volume for volume in self.volumes_of(name) if volume.networked), None)

    def image_of(self, name: str) -> str:
        return self.image if self.network_volume_of(name) is None else self.volumes_image

    @property
    def images(self) -> tuple[str, ...]:
        """Every image that is needed, each once."""
        return tuple(dict.fromkeys(self.image_of(node.name) for node in (*self.nodes, self.stranger)))

    def directed_links(self) -> tuple[tuple[str, str], ...]:
        """Every ordered pair (who sees, who is seen)."""
        return tuple((a, b) for a in self.names for b in self.names if a != b)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _mesh(count: int, replicas: tuple[ReplicaSpec, ...] = ()) -> dict[str, Any]:
    """`count` nodes that all dial each other, and a stranger that dials them all."""
    if not 2 <= count <= MAX_NODES:
        raise BadConfig(f"--nodes must be 2 to {MAX_NODES}, not {count}")
    names = [f"node{number}" for number in range(1, count + 1)]
    nodes = tuple(
        NodeSpec(name, peers=tuple(n for n in names if n != name), replicas=replicas) for name in names
    )
    stranger = NodeSpec("stranger", pools=DEFAULT_POOLS[:1], secret="stranger", peers=tuple(names))  # noqa: S106
    return {"nodes": nodes, "stranger": stranger}


def replicated(nodes: int = 3) -> Topology:
    """Each node has its own volume, and on it a replica of one store; what they have in common they tell each other."""
    return Topology("replicated", **_mesh(nodes, DEFAULT_REPLICAS))


def shared_volume(nodes: int = 3, kind: str = PLAIN) -> Topology:
    """The same, and one volume that all of them mount at /mnt/shared, of one of VOLUME_KINDS."""
    return Topology(
        "shared-volume", volumes=(VolumeSpec("shared", "/mnt/shared", kind=kind),), **_mesh(nodes)
    )


SHIPPED: Mapping[str, Callable[[int], Topology]] = {"replicated": replicated, "shared-volume": shared_volume}


def load(name_or_file: str, nodes: int | None = None) -> Topology:
    """A shipped topology by name, or one from a `.toml` file. Raises BadConfig, which lists what exists."""
    if name_or_file in SHIPPED:
        return SHIPPED[name_or_file](3 if nodes is None else nodes)
    path = Path(name_or_file)
    if path.suffix == ".toml" and path.is_file():
        if nodes is not None:
            raise BadConfig(f"--nodes goes with a shipped topology; {path} lists its own nodes")
        return from_toml(path.read_text(encoding="utf-8"), source=str(path))
    raise BadConfig(
        f"unknown topology {name_or_file!r}; there are {', '.join(SHIPPED)}, or give a .toml file"
    )


def from_toml(text: str, *, source: str = "topology") -> Topology:
    """Tables: `name`, `[[nodes]]`, `[stranger]`, `[[volumes]]`, `[resources]`, `image`, `volumes_image`,
    `dead_after`.

    A node without `peers` dials all others; without `pools` it has the default ones (a list of
    `{name, kind, path}`); `replicas` (`{name, path}`) are those that it serves. A stranger may be left out, and with
    `compose` or `attach` the nodes too: then they are all services. Raises BadConfig naming the table and key.
    """
    try:
        return from_dict(tomllib.loads(text), source=source)
    except tomllib.TOMLDecodeError as error:
        raise BadConfig(f"{source} is not TOML: {error}") from error


def from_dict(table: Mapping[str, Any], *, source: str = "topology") -> Topology:
    """The same from parsed tables; `from_dict(t.to_dict()) == t`, also after a trip through JSON."""
    if any(table.get(key) for key in ("compose", "attach", "client")):
        from laila.lab.drivers import compose_file  # which asks compose for the services

        table = compose_file.completed(table, Path(source).parent)
    tables = table.get("nodes")
    if not isinstance(tables, list | tuple):
        raise BadConfig(f"{source}: it needs [[nodes]] tables, each with a name")
    names = [item.get("name") for item in tables if isinstance(item, dict)]
    fields: dict[str, Any] = {"name": Path(source).stem, **table}
    fields["nodes"] = tuple(_node(item, names, source) for item in tables)
    stranger = table.get("stranger", {})
    if not isinstance(stranger, dict):
        raise BadConfig(f"{source}: [stranger] is a table, not {stranger!r}")
    fields["stranger"] = _node({"name": "stranger", "secret": "stranger", **stranger}, names, source)
    fields["volumes"] = tuple(_build(VolumeSpec, item, source, "nodes") for item in table.get("volumes", []))
    if isinstance(fields.get("client"), dict):
        fields["client"] = _build(ClientSpec, fields["client"], source, "argv", "workloads", "files")
    fields["resources"] = _build(Resources, table.get("resources", {}), source)
    fields["cluster"] = _build(ClusterSpec, table.get("cluster", {}), source)
    return _build(Topology, fields, source)


def _node(item: Any, names: list[Any], source: str) -> NodeSpec:
    if not isinstance(item, dict):
        raise BadConfig(f"{source}: a node is a table, not {item!r}")
    fields = dict(item)
    fields.setdefault("peers", [name for name in names if name != item.get("name")])
    kinds: tuple[tuple[str, type[Any]], ...] = (("pools", PoolSpec), ("replicas", ReplicaSpec))
    for key, kind in kinds:
        if key in fields:
            fields[key] = tuple(_build(kind, one, source) for one in fields[key])
    if isinstance(fields.get("host"), dict):
        fields["host"] = _build(HostSpec, fields["host"], source)
    return _build(NodeSpec, fields, source, "peers", "access")


def _build(kind: type[T], fields: Any, source: str, *lists: str) -> T:
    if not isinstance(fields, dict):
        raise BadConfig(f"{source}: {kind.__name__} is a table, not {fields!r}")
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # only called with dataclasses
    if unknown := sorted(set(fields) - known):
        has = ", ".join(sorted(known))
        raise BadConfig(f"{source}: unknown key {', '.join(unknown)}; {kind.__name__} has {has}")
    values = {key: tuple(value) if key in lists else value for key, value in fields.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise BadConfig(f"{source}: {kind.__name__}: {error}") from error
