"""Nodes as plain processes of this machine: the driver where there is no container engine.

Each node has its own directory, session and loopback ports. Nodes, and programs beside them, dial other nodes through
a program of the lab that carries every directed link (`links`), so that links can be cut, and a node that is reached by
no peer is still reached by programs beside it. That program also keeps the ports while a node is down. Programs beside
a node are tracked, and share its fate as they do in a container.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, ClassVar

import laila.lab.drivers.carrier as carrier
import laila.lab.drivers.cgroups as cgroups
import laila.lab.drivers.clock_shift as clock_shift
import laila.lab.drivers.disks as disks
import laila.lab.drivers.mounts as mounts
import laila.lab.procid as procid
import laila.lab.registry as registry
from laila.errors import DeadlineExceeded, LabError
from laila.lab.drivers.base import (
    Address,
    Capabilities,
    Channel,
    Driver,
    Ending,
    Inside,
    Lever,
    NodeState,
    Output,
    Usage,
    node_environment,
    wait_until,
)
from laila.lab.drivers.disks import Disks
from laila.lab.drivers.link_control import CONTROL, LinkControl
from laila.lab.drivers.process_channel import ProcessChannel
from laila.lab.procid import ProcessId
from laila.lab.registry import Run
from laila.lab.topology import Topology

LAILA = (sys.executable, "-m", "laila.cli.main")
"""`laila`, whatever PATH says: the same interpreter and package as the controller's."""
_HOST = "127.0.0.1"
_PARTS = ("nodes", "secrets", "links")
_NO_PACKETS = (
    "nodes that are processes share this machine's network, so that no packet is of one node; the program that carries "
    "their links does what it can, and --driver docker does the rest"
)
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "SYSTEMROOT")


class ProcessDriver(Driver):
    """See the top of this file."""

    name: ClassVar[str] = "process"
    capabilities: ClassVar[Capabilities] = Capabilities(
        own_network=False, own_filesystem=False, resource_limits=False, cut=True
    )

    def __init__(self, run: Run, topology: Topology) -> None:
        super().__init__(run, topology)
        self._root = run.path
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._beside: dict[str, list[subprocess.Popen[bytes]]] = {}
        self._carrier: subprocess.Popen[bytes] | None = None
        self._links: LinkControl | None = None
        self._seen = 0

    # -- the run

    def prepare(self) -> None:
        every = (*self.topology.nodes, self.topology.stranger)
        (self._root / "secrets").mkdir(mode=0o700)
        for name in sorted({node.secret for node in every}):
            path = self._root / "secrets" / name
            path.touch(mode=0o600)
            path.write_text(secrets.token_urlsafe(32) + "\n", encoding="ascii")
        for node in every:
            (self._root / "nodes" / node.name / "state").mkdir(mode=0o700, parents=True)
        self._carry_links([node.name for node in every])
        self.note(pids={}, paused=[])
        self.note(hindrances=mounts.make(self._root / "volumes", self.topology.volumes))
        if self.topology.state_mib:
            self.note(disks=self.disks.place({node.name: self.outside(node.name) for node in every}))
        if self.topology.clocks:
            self.note(clocks=self._place_clocks())

    def remove(self) -> list[str]:
        left = []
        for name in list(self._beside):
            self._end_beside(name)
        for name in self.run.facts.get("pids", {}):
            if not self._kill(name):
                left.append(f"process {name}")
        if (links := self._carrier_id) is not None and not links.end():
            left.append("the program that carries the links")
        for pid in procid.marked(self.run.run_id):
            if pid != os.getpid() and not ProcessId.of(pid).end():
                left.append(f"process {pid}")
        if self._carrier is not None and not left:
            self._carrier.wait()
        self.close()
        left += mounts.undo(self._root / "volumes") + mounts.undo(self._root / "nodes") + self.disks.remove()
        left += [why for group in cgroups.of_run(self._group("").name) for why in group.remove()]
        for part in (*_PARTS, "volumes") if not left else _PARTS:
            shutil.rmtree(self._root / part, ignore_errors=True)
            if (self._root / part).exists():
                left.append(str(self._root / part))
        return left

    def close(self) -> None:
        for process in self._nodes.values():
            if process.poll() is None:
                process.returncode = 0  # it stays, and is no longer ours to wait for
        if self._carrier is not None and self._carrier.poll() is None:
            self._carrier.returncode = 0
        self._let_go_of_links()

    def remains(self) -> list[str]:
        found = [f"process {pid}" for pid in procid.marked(self.run.run_id) if pid != os.getpid()]
        parts = [self._root / part for part in (*_PARTS, "volumes")]
        found += [f"control group {group.name}" for group in cgroups.of_run(self._group("").name)]
        return found + [str(part) for part in parts if part.exists()] + self.disks.remains()

    # -- one node

    def start(self, name: str) -> None:
        if self.state(name) not in (NodeState.ABSENT, NodeState.EXITED):
            raise LabError(f"cannot start {name}: it is {self.state(name).value}")
        self.node(name)
        if self.topology.state_mib and not self.lever(Lever.DISK):
            self.disks.mount(name, self.outside(name))  # which is a journal's replay after a power failure
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
        process = self._child(name)
        return process.wait() if process is not None else 0

    def kill(self, name: str) -> None:
        if self.state(name) not in (NodeState.RUNNING, NodeState.PAUSED):
            raise LabError(f"cannot kill {name}: it is {self.state(name).value}")
        if not self._kill(name):
            raise DeadlineExceeded(f"waited 5 s for {name} to die of SIGKILL")
        self._end_beside(name)

    def cut(self, name: str) -> None:
        """See Driver.cut. It ends with this object, or the process that has it."""
        self.need(name, NodeState.RUNNING, "cut off")
        others = [node.name for node in (*self.topology.nodes, self.topology.stranger) if node.name != name]
        pairs = [pair for other in others for pair in ((name, other), (other, name))]
        self.links.rule(f"cut {name}", pairs, drop=True)

    def rejoin(self, name: str) -> None:
        """See Driver.rejoin."""
        self.node(name)
        self.links.clear(f"cut {name}")

    def pause(self, name: str) -> None:
        self.need(name, NodeState.RUNNING, "pause")
        self.note(paused=[*self.run.facts["paused"], name])  # first, so that who comes after us lets it go on
        self._signal_all(name, signal.SIGSTOP)
        wait_until(lambda: self._stopped(name), 5.0, f"{name} to stand still")

    def resume(self, name: str) -> None:
        self.need(name, NodeState.PAUSED, "resume")
        self._signal_all(name, signal.SIGCONT)
        self.note(paused=[other for other in self.run.facts["paused"] if other != name])

    def state(self, name: str) -> NodeState:
        self.node(name)
        self._catch_up()
        if name not in self.run.facts.get("pids", {}):
            return NodeState.ABSENT
        if not self._running(name):
            return NodeState.EXITED
        if (links := self._carrier_id) is None or not links.alive:
            raise LabError(
                f"{name} runs, but the program that carries its links is gone{self.links.last_words()}"
            )
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
        """See Driver.door. Programs beside a node dial it directly. Who is seen from nowhere comes in by a door for
        anybody, where every rule holds that is about this node and any other.
        """
        own = self.address(name)
        if seen_from:
            self.node(seen_from)
        return str(own) if seen_from == name else f"{_HOST}:{self.run.facts['doors'][name][seen_from]}"

    # -- for faults

    def lever(self, lever: Lever) -> str:
        """See Driver.lever."""
        why = self._levers.get(lever)
        return super().lever(lever) if why is None else why()

    @property
    def _levers(self) -> dict[Lever, Callable[[], str]]:
        """Of each that this driver has: why it cannot be used on this machine."""
        return {
            Lever.LINKS: lambda: "",
            Lever.PACKETS: lambda: _NO_PACKETS,
            Lever.DISK: lambda: disks.missing(self),
            Lever.MOUNTS: mounts.hindrance,
            Lever.CLOCK: lambda: clock_shift.lever(self),
            Lever.LIMITS: cgroups.hindrance,
        }

    @property
    def links(self) -> LinkControl:
        """See Driver.links."""
        if self._links is None:
            self._links = LinkControl(self._root / "links" / CONTROL, self.run.facts.get("doors", {}))
        return self._links

    @property
    def disks(self) -> Disks:
        """See Driver.disks."""
        return Disks(self._root / "disks", self.topology.state_mib)

    def outside(self, name: str) -> Path:
        """See Driver.outside."""
        return Path(self.state_path(name))

    def main_pid(self, name: str) -> int:
        """See Driver.main_pid."""
        return self._process_id(name).pid

    def ending(self, name: str) -> Ending:
        """See Driver.ending. The exit code of a node that another command started is not known."""
        self.need(name, NodeState.EXITED, "say what ended")
        process = self._child(name)
        return Ending(None if process is None else process.returncode, self._group(name).oom_kills() > 0)

    def set_clock(self, name: str, shift: bytes) -> None:
        """See Driver.set_clock."""
        if why := self.lever(Lever.CLOCK):
            raise LabError(f"{name}: {why}")
        fresh = self._directory(name) / "clock.new"
        fresh.write_bytes(shift)
        fresh.replace(self._directory(name) / "clock")

    def usage(self, name: str) -> Usage:
        """See Driver.usage. Programs beside it that started before it was limited are not counted."""
        self.need(name, NodeState.RUNNING, "see what is used by")
        return self._group(name).usage(cgroups.descent(self.main_pid(name)))

    def limit(
        self, name: str, *, memory: int | None = None, swap: int | None = None, pids: int | None = None
    ) -> None:
        """See Driver.limit. Swap is not counted. Programs beside it are limited that start afterwards."""
        if why := self.lever(Lever.LIMITS):
            raise LabError(f"{name}: {why}")
        lives = self.state(name) in (NodeState.RUNNING, NodeState.PAUSED)
        its = cgroups.descent(self.main_pid(name)) if lives else []
        for controller, most in ((cgroups.MEMORY, memory), (cgroups.PIDS, pids)):
            if most:
                self._group(name).limit(controller, most, its)
            elif most is not None:
                self._group(name).unlimit(controller)

    def unslowable(self) -> str:
        """See Driver.unslowable."""
        return self.lever(Lever.DISK) or cgroups.hindrance(cgroups.IO)

    def slow_disk(self, name: str, rate: int) -> None:
        """See Driver.slow_disk. Programs beside it are slowed that start afterwards."""
        if why := self.unslowable():
            raise LabError(f"{name}: {why}")
        if not rate:
            self._group(name).unlimit(cgroups.IO)
        else:
            limit = cgroups.writes(self.disks.number(name), rate)
            self._group(name).limit(cgroups.IO, limit, cgroups.descent(self.main_pid(name)))

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
        settings = node_environment(
            node,
            self.topology,
            listen=str(address),
            advertise=self.door(name),
            status=f"{_HOST}:{address.status_port}",
            peers=[self.door(peer, seen_from=name) for peer in node.peers],
            places=self._places(name),
        )
        bent = clock_shift.environment(str(self._clock_library), str(self._directory(name) / "clock"))
        return {**self._inherited(), **settings, **(bent if clock_shift.made(self.run) else {})}

    @property
    def _clock_library(self) -> Path:
        return self._root / "nodes" / clock_shift.LIBRARY

    def _place_clocks(self) -> str:
        """Put the library there that nodes preload; why not."""
        try:
            self._clock_library.write_bytes(clock_shift.library())
        except (LabError, OSError) as error:
            return str(error)
        return ""

    def _group(self, name: str) -> cgroups.Group:
        return cgroups.Group(f"laila-lab-{self.run.run_id}-{name}")

    def _inherited(self) -> dict[str, str]:
        """What every process of the run has in its environment."""
        found = {key: os.environ[key] for key in _INHERITED if key in os.environ}
        return {**found, procid.RUN_VARIABLE: self.run.run_id, "PYTHONUNBUFFERED": "1"}

    def _carry_links(self, names: Sequence[str]) -> None:
        """Start the program that carries the links; it chooses all ports."""
        self._carrier, found = carrier.start(self._root / "links", names, self._inherited())
        self.note(carrier=str(ProcessId.of(self._carrier.pid)))
        self.note(ports=found["ports"], doors=found["doors"])

    @property
    def _carrier_id(self) -> ProcessId | None:
        return ProcessId.from_text(self.run.facts.get("carrier", ""))

    def _let_go_of_links(self) -> None:
        if self._links is not None:
            self._links.close()
            self._links = None

    def _spawn(
        self, name: str, argv: Sequence[str], *, stdin: int, stderr: int | IO[bytes]
    ) -> subprocess.Popen[bytes]:
        command = [*LAILA, *argv[1:]] if argv[0] == "laila" else list(argv)
        command = self._group(name).entering(command)
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
        if (process := self._child(name)) is not None:
            return process.poll() is None
        return self._process_id(name).alive

    def _child(self, name: str) -> subprocess.Popen[bytes] | None:
        """Its process when it was started here, and not by another command since."""
        process = self._nodes.get(name)
        if process is None or process.pid == self._process_id(name).pid:
            return process
        process.wait()  # whoever started it anew has ended this one
        return None

    def _catch_up(self) -> None:
        """Take in what another command wrote into the run's record."""
        try:
            stamp = (self._root / "run.json").stat().st_mtime_ns
        except FileNotFoundError:
            return
        if stamp != self._seen:
            self.run, self._seen = registry.load(self.run.run_id), stamp

    def _kill(self, name: str) -> bool:
        ended = self._process_id(name).end()
        if ended and (process := self._child(name)) is not None:
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
