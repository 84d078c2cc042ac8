"""What a container has beyond others to serve and mount a network volume: settings, places, permissions, a way to stand
still. The other end of all this is images/volumes/laila-volume-node.
"""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from laila.lab.topology import Topology

STORAGE_DIR = "/srv/volume"
"""What a node serves: a volume of its own, so that it is still there when the node was killed."""
KEY_DIR = "/run/volume"
KEY = "key"
"""By which the nodes of an sshfs volume know each other: the server's and the clients' in one."""

ROOT = "0"
_USER = "10001"
HOLD = ("sh", "-c", f"pkill -STOP -u {_USER}; for turn in $(seq 100); do "
        f"ps -L -o stat= -u {_USER} | grep -qv '^[TtZ]' || exit 0; sleep 0.05; done; exit 1")  # fmt: skip
"""Stops every program of the node's user and waits until all stand. A program that waits for FUSE cannot be frozen once
the daemon that it waits for is: so programs stop first, while daemons still answer them.
"""
LET_GO = ("pkill", "-CONT", "-u", _USER)


def settings(topology: Topology, name: str) -> dict[str, str]:
    """Environment of the program that mounts it; empty for a node that mounts none."""
    volume = topology.network_volume_of(name)
    if volume is None:
        return {}
    sharing = [node for node in topology.names if volume.mounted_by(node)]
    again = [v.at for v in topology.volumes_of(name) if v.read_only_of == volume.name]
    return {
        "VOLUME_KIND": volume.kind,
        "VOLUME_AT": volume.at,
        "VOLUME_NODE": name,
        "VOLUME_NODES": ",".join(sharing),
        "VOLUME_KEY": f"{KEY_DIR}/{KEY}",
        **({"VOLUME_READ_ONLY_AT": again[0]} if again else {}),
    }


def permission() -> dict[str, Any]:
    """Options of a container that may mount by FUSE, whose root stays read-only."""
    return {
        "cap_add": ["SYS_ADMIN"],
        "devices": ["/dev/fuse"],
        "tmpfs": {"/run": "size=16m,mode=0755", "/var/log": "size=64m,mode=0755"},
        "security_opt": ["apparmor=unconfined"],  # where there is AppArmor, it forbids mount
    }


def new_key() -> bytes:
    """A fresh Ed25519 private key, as ssh reads it."""
    key = Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
