"""Nodes as plain processes of this machine: the driver where there is no container engine.

Each node has its own directory, session and loopback ports. Ports are found by binding to 0 and kept
reserved by a bound, never listening socket for as long as the driver lives, so that no other run and no
outgoing connection takes them while a node is down. Programs beside a node are tracked, and share its fate
as they do in a container.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, ClassVar

import laila.lab.drivers.mounts as mounts
import laila.lab.procid as procid
from laila.errors import DeadlineExceeded, LabError
from laila.lab.drivers.base import (
    MAX_LINE,
    Address,
    Capabilities,
    Channel,
    Driver,
    Inside,
    Lever,
    NodeState,
    Output,
    node_environment,
    wait_until,
)
from laila.lab.procid import ProcessId
from laila.lab.registry import Run
from laila.lab.topology import Topology

LAILA = (sys.executable, "-m", "laila.cli.main")
"""`laila`, whatever PATH says: the same interpreter and package as the controller's."""
_HOST = "127.0.0.1"
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "SYSTEMROOT")


class ProcessChannel(Channel):
    """A program with pipes; its complaints go to a file without a name."""

    def __init__(self, process: subprocess.Popen[bytes], complaints: IO[bytes]) -> None:
        self._process = process
        self._complaints = complaints

    def send(self, line: bytes) -> None:
        stdin = self._process.stdin
        try:
            if stdin is None or stdin.closed:
                raise BrokenPipeError
            stdin.write(line + b"\n")
            stdin.flush()
        except (OSError, ValueError) as error:
            raise LabError("the program beside the node is gone") from error

    def lines(self) -> Iterator[bytes]:
        stdout = self._process.stdout
        while stdout is not None and (line := stdout.readline(MAX_LINE + 1)):
            if len(line) > MAX_LINE:
                raise LabError(f"the program beside the node printed a line of over {MAX_LINE} bytes")
            yield line.rstrip(b"\n")

    def stderr(self) -> str:
        if self._complaints.closed:
            return ""
        size = os.fstat(self._complaints.fileno()).st_size
        return os.pread(self._complaints.fileno(), 65536, max(0, size - 65536)).decode("utf-8", "replace")

    def close(self, timeout: float = 5.0) -> int | None:
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):  # it ended first
                self._process.stdin.close()
        code = _end(self._process, timeout)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._complaints.close()
        return code


class ProcessDriver(Driver):
    """See the top of this file."""

    name: ClassVar[str] = "process"
    capabilities: ClassVar[Capabilities] = Capabilities(
        own_network=False, own_filesystem=False, resource_limits=False
    )

    def __init__(self, run: Run, topology: Topology) -> None:
        super().__init__(run, topology)
        self._root = run.path
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._beside: dict[str, list[subprocess.Popen[bytes]]] = {}
        self._reserved: list[socket.socket] = []

    # -- the run

    def prepare(self) -> None:
        every = (*self.topology.nodes, self.topology.stranger)
        ports = {node.name: [self._reserve(), self._reserve()] for node in every}
        (self._root / "secrets").mkdir(mode=0o700)
        for name in sorted({node.secret for node in every}):
            path = self._root / "secrets" / name
            path.touch(mode=0o600)
            path.write_text(secrets.token_urlsafe(32) + "\n", encoding="ascii")
        for node in every:
            (self._root / "nodes" / node.name / "state").mkdir(mode=0o700, parents=True)
        self.note(ports=ports, pids={}, paused=[])
        self.note(hindrances=mounts.make(self._root / "volumes", self.topology.volumes))

    def remove(self) -> list[str]:
        left = []
        for name in list(self._beside):
            self._end_beside(name)
        for name in self.run.facts.get("pids", {}):
            if not self._kill(name):
                left.append(f"process {name}")
        for pid in procid.marked(self.run.run_id):
            if pid != os.getpid() and not ProcessId.of(pid).end():
                left.append(f"process {pid}")
        self.close()
        left += mounts.undo(self._root / "volumes")
        for part in ("nodes", "secrets", "volumes") if not left else ("nodes", "secrets"):
            shutil.rmtree(self._root / part, ignore_errors=True)
            if (self._root / part).exists():
                left.append(str(self._root / part))
        return left

    def close(self) -> None:
        for process in self._nodes.values():
            if process.poll() is None:
                process.returncode = 0  # it stays, and is no longer ours to wait for
        for held in self._reserved:
            held.close()
        self._reserved.clear()

    def remains(self) -> list[str]:
        found = [f"process {pid}" for pid in procid.marked(self.run.run_id) if pid != os.getpid()]
        parts = [self._root / part for part in ("nodes", "secrets", "volumes")]
        return found + [str(part) for part in parts if part.exists()]

    # -- one node

    def start(self, name: str) -> None:
        if self.state(name) not in (NodeState.ABSENT, NodeState.EXITED):
            raise LabError(f"cannot start {name}: it is {self.state(name).value}")
        self.node(name)
        with (self._directory(name) / "log").open("ab") as log:
            process = subprocess.Popen(
                [*LAILA, "node"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(name),
                cwd=self._directory(name),
                start_new_session=True,
            )
        self._nodes[name] = process
        pids = {**self.run.facts["pids"], name: str(ProcessId.of(process.pid))}
        self.note(pids=pids, paused=[other for other in self.run.facts["paused"] if other != name])

    def stop(self, name: str, grace: float = 10.0) -> int:
        if self.state(name) is NodeState.PAUSED:
            self.resume(name)
        self.need(name, NodeState.RUNNING, "stop")
        node = self._process_id(name)
        os.kill(node.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while self._running(name) and time.monotonic() < deadline:
            time.sleep(0.02)
        self._end_beside(name)
        if self._running(name):
            self._kill(name)
        process = self._nodes.get(name)
        return process.wait() if process is not None else 0

    def kill(self, name: str) -> None:
        if self.state(name) not in (NodeState.RUNNING, NodeState.PAUSED):
            raise LabError(f"cannot kill {name}: it is {self.state(name).value}")
        if not self._kill(name):
            raise DeadlineExceeded(f"waited 5 s for {name} to die of SIGKILL")
        self._end_beside(name)

    def pause(self, name: str) -> None:
        self.need(name, NodeState.RUNNING, "pause")
        self._signal_all(name, signal.SIGSTOP)
        self.note(paused=[*self.run.facts["paused"], name])
        wait_until(lambda: self._stopped(name), 5.0, f"{name} to stand still")

    def resume(self, name: str) -> None:
        self.need(name, NodeState.PAUSED, "resume")
        self._signal_all(name, signal.SIGCONT)
        self.note(paused=[other for other in self.run.facts["paused"] if other != name])

    def state(self, name: str) -> NodeState:
        self.node(name)
        if name not in self.run.facts.get("pids", {}):
            return NodeState.ABSENT
        if not self._running(name):
            return NodeState.EXITED
        return NodeState.PAUSED if name in self.run.facts["paused"] else NodeState.RUNNING

    def logs(self, name: str) -> bytes:
        self.node(name)
        path = self._directory(name) / "log"
        return path.read_bytes() if path.exists() else b""

    def address(self, name: str) -> Address:
        self.node(name)
        peer, status = self.run.facts["ports"][name]
        return Address(_HOST, peer, status)

    def inside(self, name: str) -> Inside:
        address = self.address(name)
        return Inside(str(address), f"{_HOST}:{address.status_port}", self._places(name)["secret"])

    def door(self, name: str, seen_from: str = "") -> str:
        return str(self.address(name))

    # -- for faults

    def lever(self, lever: Lever) -> str:
        """See Driver.lever."""
        why = self._levers.get(lever)
        return super().lever(lever) if why is None else why()

    @property
    def _levers(self) -> dict[Lever, Callable[[], str]]:
        """Of each that this driver has: why it cannot be used on this machine."""
        return {}

    # -- beside a node

    def exec(self, name: str, argv: Sequence[str], *, timeout: float = 30.0) -> Output:
        self.need(name, NodeState.RUNNING, "run a program beside")
        process = self._spawn(name, argv, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise DeadlineExceeded(f"waited {timeout:g} s for `{' '.join(argv)}` beside {name}") from None
        finally:
            self._beside[name].remove(process)
        return Output(process.returncode, out, err)

    def open(self, name: str, argv: Sequence[str]) -> Channel:
        self.need(name, NodeState.RUNNING, "run a program beside")
        complaints = tempfile.TemporaryFile()  # noqa: SIM115  the channel closes it
        return ProcessChannel(self._spawn(name, argv, stderr=complaints, stdin=subprocess.PIPE), complaints)

    def write(self, name: str, path: str, data: bytes) -> None:
        target = self._state_path(name, path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)

    def read(self, name: str, path: str) -> bytes:
        try:
            return self._state_path(name, path).read_bytes()
        except OSError as error:
            raise LabError(f"cannot read {path} of {name}: {error.strerror}") from error

    def state_path(self, name: str) -> str:
        self.node(name)
        return str(self._directory(name) / "state")

    def volume_path(self, name: str, volume: str) -> str:
        return str(self._root / "volumes" / self.volume(name, volume).name)

    def describe(self) -> dict[str, str]:
        return {"nodes are": "processes", "python": platform.python_version(), "directory": str(self._root)}

    # -- inside

    def _directory(self, name: str) -> Path:
        return self._root / "nodes" / name

    def _state_path(self, name: str, path: str) -> Path:
        state = (self._directory(name) / "state").resolve()
        target = (state / path).resolve()
        if not target.is_relative_to(state):
            raise LabError(f"{path!r} is not inside the state directory of {name}")
        return target

    def _places(self, name: str) -> dict[str, str]:
        node = self.node(name)
        volumes = {v.name: self.volume_path(name, v.name) for v in self.topology.volumes_of(name)}
        places = {"state": self._directory(name) / "state", "secret": self._root / "secrets" / node.secret}
        return {**volumes, **{key: str(path) for key, path in places.items()}}

    def _environment(self, name: str) -> dict[str, str]:
        node, address = self.node(name), self.address(name)
        inherited = {key: os.environ[key] for key in _INHERITED if key in os.environ}
        settings = node_environment(
            node,
            self.topology,
            listen=str(address),
            advertise=str(address),
            status=f"{_HOST}:{address.status_port}",
            peers=[self.door(peer) for peer in node.peers],
            places=self._places(name),
        )
        return {**inherited, **settings, procid.RUN_VARIABLE: self.run.run_id, "PYTHONUNBUFFERED": "1"}

    def _reserve(self) -> int:
        held = socket.socket()
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # so that the node may bind it beside us
        held.bind((_HOST, 0))
        self._reserved.append(held)
        return int(held.getsockname()[1])

    def _spawn(
        self, name: str, argv: Sequence[str], *, stdin: int, stderr: int | IO[bytes]
    ) -> subprocess.Popen[bytes]:
        command = [*LAILA, *argv[1:]] if argv[0] == "laila" else list(argv)
        try:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=self._environment(name),
                cwd=self._directory(name),
                start_new_session=True,
            )
        except OSError as error:
            raise LabError(f"cannot run {argv[0]!r} beside {name}: {error.strerror}") from error
        self._beside.setdefault(name, []).append(process)
        return process

    def _process_id(self, name: str) -> ProcessId:
        found = ProcessId.from_text(self.run.facts["pids"].get(name, ""))
        if found is None:
            raise LabError(f"{name} was never started")
        return found

    def _running(self, name: str) -> bool:
        if (process := self._nodes.get(name)) is not None:
            return process.poll() is None
        return self._process_id(name).alive

    def _kill(self, name: str) -> bool:
        ended = self._process_id(name).end()
        if ended and (process := self._nodes.get(name)) is not None:
            process.wait()
        return ended

    def _end_beside(self, name: str) -> None:
        for process in self._beside.pop(name, []):
            if process.poll() is None:
                process.kill()
            process.wait()

    def _signal_all(self, name: str, number: signal.Signals) -> None:
        beside = [process.pid for process in self._beside.get(name, []) if process.poll() is None]
        for pid in (self._process_id(name).pid, *beside):
            os.kill(pid, number)

    def _stopped(self, name: str) -> bool:
        try:
            stat = Path(f"/proc/{self._process_id(name).pid}/stat").read_text(
                encoding="ascii", errors="replace"
            )
        except OSError:
            return True  # no /proc here: SIGSTOP cannot be refused
        return stat.rpartition(")")[2].split()[0] in ("T", "t")


def _end(process: subprocess.Popen[bytes], timeout: float) -> int:
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
