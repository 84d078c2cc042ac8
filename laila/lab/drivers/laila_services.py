"""Compose services that are nodes of laila's: what a run adds to the files that say them.

The shipped files and the shipped topologies state the same facts, which a test compares; a run of them may ask for
fewer nodes, for other pools or for more volumes, and then the topology is right. Other people's files are left as they
are, but for the stranger, whom no file has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from laila.errors import BadConfig
from laila.lab.drivers import service_tables
from laila.lab.drivers.base import PEER_PORT, STATUS_PORT, node_environment
from laila.lab.drivers.compose_file import Table
from laila.lab.drivers.docker import NODE_UID, SECRET_FILE, STATE_DIR
from laila.lab.topology import SHIPPED, NodeSpec, Topology

SHIPPED_FILES = Path(__file__).parents[3] / "compose"
"""Beside the package, in laila's sources, as the Dockerfile of the nodes' image is."""
STRANGER = "stranger"
_STATE = "laila-lab-stranger"
_KEPT = (
    "image",
    "networks",
    "read_only",
    "tmpfs",
    "cap_drop",
    "security_opt",
    "deploy",
    "user",
    "init",
    "healthcheck",
)
"""What the stranger has of the node that it is made after."""


def shipped_file(topology: Topology) -> str:
    """The compose file of a shipped topology. Raises BadConfig where there is none."""
    if topology.name not in SHIPPED:
        raise BadConfig(
            f'the topology {topology.name!r} names no compose file: write `compose = "FILE"` into it, or take one of '
            f"{', '.join(SHIPPED)}"
        )
    file = SHIPPED_FILES / f"{topology.name}.yaml"
    if not file.is_file():
        raise BadConfig(
            f"{file} is not there: laila's compose files come with its sources; name one in a topology file with "
            '`compose = "FILE"`'
        )
    return str(file)


def settings(topology: Topology, node: NodeSpec, door: Callable[[str], str]) -> dict[str, str]:
    """A node's environment as its topology says it; `door` tells where others are dialed."""
    places = {volume.name: volume.at for volume in topology.volumes_of(node.name)}
    return node_environment(
        node,
        topology,
        listen=f"0.0.0.0:{PEER_PORT}",
        advertise=f"{node.name}:{PEER_PORT}",
        status=f"0.0.0.0:{STATUS_PORT}",
        peers=[door(peer) for peer in node.peers],
        places={**places, "state": STATE_DIR, "secret": SECRET_FILE},
    )


def agree(table: Table, topology: Topology) -> None:
    """Make the services of a shipped file say what the topology says."""
    for node in topology.nodes:
        service = table["services"][node.name]
        service_tables.environment(service, settings(topology, node, lambda peer: f"{peer}:{PEER_PORT}"))
        service["secrets"] = [_secret(node.secret)]
        _mount(table, service, topology, node.name)


def add_stranger(table: Table, topology: Topology, like: str, door: Callable[[str], str]) -> None:
    """A service as `like`, with another secret and a state of its own; of volumes it has those of the topology."""
    stranger, model = topology.stranger, table["services"][like]
    service: Table = {key: model[key] for key in _KEPT if key in model}
    service["hostname"] = STRANGER
    service["environment"] = dict(model.get("environment") or {})
    service_tables.environment(service, settings(topology, stranger, door))
    service["secrets"] = [_secret(stranger.secret)]
    if service.get("networks"):  # addresses and names on them are the model's own
        service["networks"] = dict.fromkeys(service["networks"])
    service_tables.mount(table, service, _STATE, STATE_DIR)
    _mount(table, service, topology, STRANGER)
    table["services"][STRANGER] = service


def name_secrets(table: Table, files: Mapping[str, Path]) -> None:
    """Say where the secrets lie that `agree` and `add_stranger` refer to."""
    for name, path in files.items():
        table.setdefault("secrets", {})[f"laila-lab-{name}"] = {"file": str(path)}


def _secret(name: str) -> dict[str, Any]:
    return {"source": f"laila-lab-{name}", "target": SECRET_FILE}


def _mount(table: Table, service: Table, topology: Topology, name: str) -> None:
    """Volumes of the topology that the file does not mount."""
    for volume in topology.volumes_of(name):
        source = volume.read_only_of or volume.name
        service_tables.mount(table, service, source, volume.at, read_only=bool(volume.read_only_of))
        if volume.size_mib:  # in memory: no engine can limit a volume on its disk
            options = f"size={volume.size_mib}m,uid={NODE_UID},gid=0,mode=0770"
            service_tables.driver_options(table, source, {"type": "tmpfs", "device": "tmpfs", "o": options})
