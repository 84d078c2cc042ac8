"""Machines for the ssh driver: containers that run sshd on a network of their own, with keys that are made for each
run, and the checkout's laila.

Their labels are those of a lab run, so `laila lab gc` removes what a killed test run left.
"""

from __future__ import annotations

import io
import os
import socket
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from lab_support import until

import laila
from laila.lab import registry
from laila.lab.drivers import engine
from laila.lab.drivers.engine import CONTROLLER_LABEL, MODE_LABEL, RUN_LABEL, tar_of
from laila.lab.procid import ProcessId
from laila.lab.topology import HostSpec, Topology, replicated

IMAGE = "laila-sshd:dev"
PYTHON = "/opt/laila/bin/python"
CHECKOUT = "/opt/checkout"
USERS = ("root", "lab")


def need_image() -> None:
    """Without an engine that has the image: in CI a failure, elsewhere a skip."""
    why_not = engine.hindrance(IMAGE)
    if why_not is not None:
        why_not = why_not.replace("tools/node-image", "tools/sshd-image")
        if os.environ.get("CI"):
            pytest.fail(f"container tests must run in CI, but {why_not}")
        pytest.skip(why_not)


@dataclass
class Key:
    """A fresh one."""

    private: bytes
    public: bytes

    @classmethod
    def make(cls) -> Key:
        made = Ed25519PrivateKey.generate()
        return cls(
            made.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
            made.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        )


@dataclass
class Machine:
    container: Any
    host_key: Key
    address: str = ""

    def run(self, *argv: str) -> str:
        """As root, past sshd. Raises AssertionError when it fails."""
        code, output = self.container.exec_run(list(argv))
        assert code == 0, f"{argv}: {output.decode()}"
        return str(output.decode())


@dataclass
class Machines:
    folder: Path
    gateway: str
    """This machine's address on their network."""
    key: Key = field(default_factory=Key.make)
    each: list[Machine] = field(default_factory=list)

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def host(self, number: int, user: str = "root", **changes: Any) -> HostSpec:
        address = self.each[number].address
        files = {"key": str(self.folder / "key"), "known_hosts": str(self.known_hosts)}
        return replace(HostSpec(address, user=user, python=PYTHON, **files), **changes)

    def topology(self, nodes: int = 3, user: str = "root") -> Topology:
        """`replicated`, node1 on the first machine and so on."""
        shape = replicated(nodes)
        placed = [replace(node, host=self.host(number, user)) for number, node in enumerate(shape.nodes)]
        return replace(shape, nodes=tuple(placed))


@contextmanager
def machines(folder: Path, count: int = 3) -> Iterator[Machines]:
    need_image()
    run_id = registry.new_run_id()
    labels = {RUN_LABEL: run_id, MODE_LABEL: "check", CONTROLLER_LABEL: str(ProcessId.of(os.getpid()))}
    client = engine.connect()
    network = client.networks.create(f"laila-{run_id}-network", internal=True, labels=labels)
    volume = client.volumes.create(f"laila-{run_id}-checkout", labels=labels)
    made: list[Any] = []
    try:
        network.reload()
        found = Machines(folder, network.attrs["IPAM"]["Config"][0]["Gateway"])
        for number in range(count):
            made.append(
                _create(client, f"laila-{run_id}-machine{number + 1}", network.name, volume.name, labels)
            )
            found.each.append(Machine(made[-1], Key.make()))
        made[0].put_archive(CHECKOUT, _package())
        for machine in found.each:
            _start(machine, found.key)
        _compile(found.each[0])
        _write_keys(found)
        yield found
    finally:
        for container in made:
            container.remove(force=True, v=True)
        volume.remove(force=True)
        network.remove()
        client.close()


def _create(client: Any, name: str, network: str, volume: str, labels: dict[str, str]) -> Any:
    return client.containers.create(
        IMAGE,
        name=name,
        hostname=name.rpartition("-")[2],
        network=network,
        labels=labels,
        volumes={volume: {"bind": CHECKOUT, "mode": "rw"}},
        cap_add=["NET_ADMIN", "SYS_ADMIN"],  # what root on a machine of its own may do too
        security_opt=["apparmor=unconfined"],
    )


def _start(machine: Machine, key: Key) -> None:
    machine.container.put_archive("/etc/ssh/lab", tar_of("host_key", machine.host_key.private, 0o600, 0))
    for user in USERS:
        machine.container.put_archive("/etc/ssh/lab", tar_of(f"{user}.keys", key.public + b"\n", 0o644, 0))
    machine.container.start()
    machine.container.reload()
    (place,) = machine.container.attrs["NetworkSettings"]["Networks"].values()
    machine.address = place["IPAddress"]
    until(lambda: _listens(machine.address), f"sshd of {machine.container.name}")


def _listens(address: str) -> bool:
    try:
        socket.create_connection((address, 22), 1.0).close()
    except OSError:
        return False
    return True


def _package() -> bytes:
    """The checkout's laila, without bytecode."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(
            Path(laila.__file__).parent,
            "laila",
            filter=lambda entry: None if "__pycache__" in entry.name else entry,
        )
    return buffer.getvalue()


def _compile(machine: Machine) -> None:
    """Once for all, so that not every start of a node does it."""
    machine.run(PYTHON, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", CHECKOUT)


def _write_keys(found: Machines) -> None:
    path = found.folder / "key"
    path.touch(mode=0o600)
    path.write_bytes(found.key.private)
    lines = [f"{machine.address} {machine.host_key.public.decode()}\n" for machine in found.each]
    found.known_hosts.write_text("".join(lines))
