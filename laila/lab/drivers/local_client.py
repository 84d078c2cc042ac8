"""Client programs of systems that are not laila: beside a node, in its container, or on this machine.

A topology's `[client]` says which program it is (docs/lab-clients.md: what it is asked and answers). One on this
machine shares the fate of its node as one beside it does: it ends when the node is killed or stopped, because what is
started then may have another address. It finds the node in its arguments and in LAB_NODE and LAB_ADDRESS.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from laila.errors import BadConfig, LabError
from laila.lab import procid
from laila.lab.drivers import process_channel
from laila.lab.drivers.base import Channel, Driver, NodeState
from laila.lab.drivers.process_channel import ProcessChannel
from laila.lab.topology import HERE, ClientSpec

FILES_DIR = "/tmp/laila-lab"  # noqa: S108  inside a container
LOOPBACK = "127.0.0.1"


def open_client(driver: Driver, node: str, number: int = 0) -> Channel:
    """Start the topology's client program for a running node; `number` tells several of one node apart. Raises
    BadConfig when there is none, or a file of it is missing; LabError when it cannot be started.
    """
    from laila.lab.drivers.compose import ComposeDriver

    spec = driver.topology.client
    if spec is None:
        raise BadConfig(
            f"the topology {driver.topology.name!r} has no [client], which says how its nodes are asked"
        )
    if not isinstance(driver, ComposeDriver):
        raise BadConfig(f"a topology with a [client] takes the compose driver, not the {driver.name} driver")
    driver.need(node, NodeState.RUNNING, "start a client of")
    files = read_files(spec)
    if spec.where == HERE:
        known = facts(node, number, str(driver.address(node)), spec.directory)
        return driver.local.open(node, filled(spec.argv, known), variables(known), spec.directory)
    driver.carry(node, FILES_DIR, files)
    known = facts(node, number, f"{LOOPBACK}:{spec.port}", FILES_DIR)
    return driver.open(node, filled(spec.argv, known), variables(known))


def read_files(spec: ClientSpec) -> dict[str, bytes]:
    """What the client needs, by plain name. Raises BadConfig for what is not there."""
    found: dict[str, bytes] = {}
    for file in spec.files:
        path = Path(spec.directory) / file
        if path.name in found:
            raise BadConfig(f"two of the client's files are named {path.name}")
        try:
            found[path.name] = path.read_bytes()
        except OSError as error:
            raise BadConfig(f"the client's file {path} cannot be read: {error.strerror}") from error
    return found


def facts(node: str, number: int, address: str, files: str) -> dict[str, str]:
    """What a client is told, by the name that stands in its arguments."""
    return {"node": node, "number": str(number), "address": address, "files": files}


def filled(argv: Sequence[str], known: Mapping[str, str]) -> list[str]:
    """Arguments with what they name; other braces stay as they are."""
    words = []
    for word in argv:
        for name, value in known.items():
            word = word.replace(f"{{{name}}}", value)
        words.append(word)
    return words


def variables(known: Mapping[str, str]) -> dict[str, str]:
    return {f"LAB_{name.upper()}": known[name] for name in ("node", "number", "address")}


class LocalPrograms:
    """Programs of this machine that work on the nodes of a run. They carry the run's mark, by which gc finds them."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._open: dict[str, list[subprocess.Popen[bytes]]] = {}

    def open(
        self, node: str, argv: Sequence[str], environment: Mapping[str, str], directory: str = ""
    ) -> Channel:
        complaints = tempfile.TemporaryFile()  # noqa: SIM115  the channel closes it
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                env={**os.environ, **environment, procid.RUN_VARIABLE: self._run_id, "PYTHONUNBUFFERED": "1"},
                cwd=directory or None,
                start_new_session=True,
            )
        except OSError as error:
            complaints.close()
            raise LabError(f"cannot run {argv[0]!r} on this machine: {error.strerror}") from error
        alive = [one for one in self._open.get(node, []) if one.poll() is None]
        self._open[node] = [*alive, process]
        return ProcessChannel(process, complaints)

    def end(self, node: str) -> None:
        """SIGKILL all that work on this node."""
        for process in self._open.pop(node, []):
            process_channel.end(process)

    def end_all(self) -> None:
        for node in list(self._open):
            self.end(node)
