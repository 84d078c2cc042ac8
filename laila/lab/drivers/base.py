"""What every driver can do with nodes, whatever they are made of.

A driver owns one run: everything that it makes carries the run's id, and `remove` takes away exactly that.
Nodes are named by the topology; a node that is killed and started again keeps its state. What a driver
cannot do is said by `capabilities`, as data, before anybody asks for it. All waiting is bounded, and says
on what it waited.
"""

from __future__ import annotations

import abc
import enum
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from laila.errors import BadConfig, DeadlineExceeded, LabError
from laila.lab.registry import Run
from laila.lab.topology import PLAIN, NodeSpec, Topology, VolumeSpec

if TYPE_CHECKING:
    from laila.lab.drivers.disks import Disks
    from laila.lab.drivers.link_control import LinkControl
    from laila.lab.drivers.placement import Placement

PEER_PORT = 7400
STATUS_PORT = 7480
MAX_LINE = 1 << 20
"""Bytes of one line that a program beside a node may print."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a driver's nodes have of their own, and what can be done to them."""

    own_network: bool
    """Each node has its own network address; nobody outside the run reaches it."""
    own_filesystem: bool
    """Each node sees only its own files and the volumes that it mounts."""
    resource_limits: bool
    pause: bool = True
    kill: bool = True
    cut: bool = False
    """A node can be cut off from the others, and only from them."""
    pods: bool = False
    """A scheduler places the nodes, and may replace them (`Driver.placement`)."""
    volume_kinds: tuple[str, ...] = (PLAIN,)

    def lines(self) -> list[str]:
        """One line for each thing that a run with this driver does not show."""
        missing = {
            "own_network": "nodes share this machine's network",
            "own_filesystem": "nodes share this machine's files",
            "resource_limits": "the topology's limits of memory, CPU and processes are not applied",
            "cut": "no node is cut off from the others",
        }
        return [text for field, text in missing.items() if not getattr(self, field)]


class Lever(enum.Enum):
    """What faults need of a driver beyond life and death. `Driver.lever` says why one is missing."""

    PACKETS = "packets"
    """An agent with root rights in the node's own network namespace, with iptables."""
    LINKS = "links"
    """A program of the lab carries every directed link, and can hold, cut or slow it (`Driver.links`)."""
    MOUNTS = "mounts"
    """An agent that can mount over a directory of the node, for this node alone."""
    DISK = "disk"
    """Each node's state lies on a disk of its own, of known size, that can be filled and can lose power."""
    CLOCK = "clock"
    """The node's wall clock can be shifted, and only that."""
    LIMITS = "limits"
    """Memory, processes, files and disk speed of a running node can be limited."""


class NodeState(enum.Enum):
    ABSENT = "absent"
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a node is reached by its peers, and its status page by a person on this machine."""

    host: str
    port: int
    status_port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def status_url(self) -> str:
        return f"http://{self.host}:{self.status_port}/"


@dataclass(frozen=True, slots=True)
class Inside:
    """What a program beside a node needs to reach that node: all of it as seen from inside."""

    peer: str
    status: str
    secret_file: str


@dataclass(frozen=True, slots=True)
class Output:
    """What a finished program left."""

    code: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class Ending:
    """How a node ended that does not run any more."""

    code: int | None = None
    """Its exit code, negative or 128+n for a signal; None when nobody knows."""
    oom: bool = False
    """The kernel killed it for want of memory."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a running node and the programs beside it use, and may use; 0 for what is not limited."""

    memory: int
    """Bytes."""
    pids: int
    """Processes and threads."""
    memory_limit: int = 0
    swap_limit: int = 0
    """Memory and swap together."""
    pids_limit: int = 0


class Channel(abc.ABC):
    """A program that runs beside a node and talks in lines. It must speak only when spoken to."""

    @abc.abstractmethod
    def send(self, line: bytes) -> None:
        """Write one line. Raises LabError when the program is gone."""

    @abc.abstractmethod
    def lines(self) -> Iterator[bytes]:
        """Its lines, until it ends. One reader only. A line over MAX_LINE ends the channel with LabError."""

    @abc.abstractmethod
    def stderr(self) -> str:
        """The last 64 KiB of what it complained about."""

    @abc.abstractmethod
    def close(self, timeout: float = 5.0) -> int | None:
        """Close its input, wait, then end it. Returns its exit code, None when the driver cannot know it."""


class Driver(abc.ABC):
    """One run's nodes. Use as a context manager: leaving it removes what it made."""

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]

    def __init__(self, run: Run, topology: Topology) -> None:
        self.run = run
        self.topology = topology

    # -- the run

    @property
    def guest(self) -> bool:
        """What its nodes run on stays when the run is removed, so that a fault which could not be undone stays too."""
        return False

    @abc.abstractmethod
    def prepare(self) -> None:
        """Make what the nodes share: secrets, volumes, a network. Nothing runs yet."""

    @abc.abstractmethod
    def remove(self) -> list[str]:
        """End and delete all that this run made, and nothing else. Returns what could not be removed
        (empty: all is gone).
        """

    @abc.abstractmethod
    def remains(self) -> list[str]:
        """What of this run exists now."""

    # -- one node

    @abc.abstractmethod
    def start(self, name: str) -> None:
        """Start a node that is absent or has exited; its state stays. Returns when it runs, not when it is
        ready.
        """

    def wait_ready(self, name: str, timeout: float = 60.0) -> None:
        """Wait until a node that was started works, as far as a driver can tell (its health check, if it has one).
        Raises LabError with its last words.
        """
        self.need(name, NodeState.RUNNING, "wait for")

    @abc.abstractmethod
    def stop(self, name: str, grace: float = 10.0) -> int:
        """Ask it to end (SIGTERM), wait, then kill it. Returns the exit code (negative or 128+n for a
        signal).
        """

    @abc.abstractmethod
    def kill(self, name: str) -> None:
        """SIGKILL. Returns when it is dead, and with it every program beside it."""

    @abc.abstractmethod
    def pause(self, name: str) -> None:
        """Freeze every program of the node."""

    @abc.abstractmethod
    def resume(self, name: str) -> None: ...

    def restart(self, name: str, grace: float = 10.0) -> None:
        """Stop it as an operator would, and start it again on the same state."""
        self.stop(name, grace)
        self.start(name)

    def cut(self, name: str) -> None:
        """Cut a running node off from the other nodes; programs beside it are still spoken with. Raises BadConfig
        where the driver cannot do it.
        """
        raise BadConfig(f"the {self.name} driver cannot cut {name} off from the others")

    def rejoin(self, name: str) -> None:
        """Undo `cut`."""
        raise BadConfig(f"the {self.name} driver cannot cut {name} off from the others")

    @abc.abstractmethod
    def state(self, name: str) -> NodeState: ...

    @abc.abstractmethod
    def logs(self, name: str) -> bytes:
        """Everything that it wrote, all its starts together."""

    @abc.abstractmethod
    def address(self, name: str) -> Address: ...

    @abc.abstractmethod
    def inside(self, name: str) -> Inside: ...

    @abc.abstractmethod
    def door(self, name: str, seen_from: str = "") -> str:
        """`host:port` at which the other nodes dial it; where each link has a way of its own, that of `seen_from`."""

    @property
    def near(self) -> bool:
        """Whether this machine reaches the nodes' addresses; where it does not, somebody else may answer at them."""
        return True

    def reach(self, name: str, port: int) -> str:
        """`host:port` at which this machine reaches a port of the node."""
        address = self.address(name)
        own = {PEER_PORT: address.port, STATUS_PORT: address.status_port}  # a plain process has others
        return f"{address.host}:{own.get(port, port)}"

    # -- for faults

    def reached(self, name: str) -> bool:
        """Whether what faults do to the node's packets and mounts is there: it goes with the node or its machine."""
        return self.state(name) in (NodeState.RUNNING, NodeState.PAUSED)

    def lever(self, lever: Lever) -> str:
        """Why faults that need this cannot be done with this driver here, and what to do about it; empty: they can."""
        return f"the {self.name} driver cannot do it"

    def ips(self, name: str) -> tuple[str, ...]:
        """The addresses from which the node's packets come, as its peers see them. Raises BadConfig without PACKETS."""
        raise BadConfig(f"nodes of the {self.name} driver have no address of their own")

    def lacks(self, feature: str) -> str:
        """Why the fault agent cannot do one thing with packets here (a key of `laila.lab.faults.agent.FEATURES`); empty
        when it can, or when that is known only when it is done.
        """
        return ""

    @property
    def links(self) -> LinkControl:
        """What can be done to the links between nodes. Raises BadConfig without LINKS."""
        raise BadConfig(f"the {self.name} driver carries no links of its nodes: {self.lever(Lever.LINKS)}")

    @property
    def disks(self) -> Disks:
        """The disks that the nodes' state lies on. Raises LabError without DISK."""
        raise LabError(f"the {self.name} driver has no disks of its nodes: {self.lever(Lever.DISK)}")

    @property
    def placement(self) -> Placement:
        """What a scheduler can do to the nodes. Raises BadConfig where none places them."""
        raise BadConfig(f"nodes of the {self.name} driver are no pods; use --driver kubernetes")

    def outside(self, name: str) -> Path:
        """The state directory of a node that lives, as this process sees it. Raises LabError where it does not."""
        raise LabError(f"the files of {name} are not seen from outside it")

    def agent(self, name: str) -> Channel:
        """The fault agent (`laila.lab.faults.agent`) with root rights, in the node's namespaces. It undoes what it
        did when its input ends. Raises LabError without PACKETS and MOUNTS.
        """
        raise LabError(f"{name}: {self.lever(Lever.PACKETS)}")

    def main_pid(self, name: str) -> int:
        """The node's main process, as programs beside it see it."""
        return 1  # what a container has

    def ending(self, name: str) -> Ending:
        """How a node that has exited did so, as far as the driver knows."""
        return Ending()

    def set_clock(self, name: str, shift: bytes) -> None:
        """Put a shift of the wall clock (`clock_shift.Shift.pack()`) where the node's programs look for it, also those
        that are started later. Raises LabError without CLOCK.
        """
        raise LabError(f"{name}: {self.lever(Lever.CLOCK)}")

    def usage(self, name: str) -> Usage:
        """Of a running node. Raises LabError without LIMITS."""
        raise LabError(f"{name}: {self.lever(Lever.LIMITS)}")

    def limit(
        self, name: str, *, memory: int | None = None, swap: int | None = None, pids: int | None = None
    ) -> None:
        """Limit a node that runs or has exited, and the programs beside it, together: bytes, bytes with swap (as many
        when not given), and processes with threads. 0 takes a limit away. Raises LabError without LIMITS.
        """
        raise LabError(f"{name}: {self.lever(Lever.LIMITS)}")

    def unslowable(self) -> str:
        """Why `slow_disk` cannot be done here, and what to do about it; empty when it can."""
        return self.lever(Lever.DISK)

    def slow_disk(self, name: str, rate: int) -> None:
        """Let a living node, and programs beside it, write so many bytes a second to its own disk; 0 takes that away.
        Raises LabError.
        """
        raise LabError(f"{name}: {self.unslowable()}")

    # -- beside a node

    @abc.abstractmethod
    def exec(self, name: str, argv: Sequence[str], *, timeout: float = 30.0) -> Output:
        """Run a program beside a node, inside its own network and files. `laila` is on its PATH."""

    @abc.abstractmethod
    def open(self, name: str, argv: Sequence[str]) -> Channel:
        """Start a program beside a node and talk with it."""

    @abc.abstractmethod
    def write(self, name: str, path: str, data: bytes) -> None:
        """Put a file into the node; `path` is relative to its state directory."""

    @abc.abstractmethod
    def read(self, name: str, path: str) -> bytes:
        """The bytes of a file; `path` is relative to the node's state directory."""

    @abc.abstractmethod
    def state_path(self, name: str) -> str:
        """The node's state directory, as programs beside it see it."""

    @abc.abstractmethod
    def volume_path(self, name: str, volume: str) -> str:
        """The directory of a volume, as programs beside that node see it. Raises BadConfig when the node
        mounts no such volume.
        """

    @abc.abstractmethod
    def describe(self) -> dict[str, str]:
        """Facts for the report: versions, image, where it ran."""

    # -- shared by all

    def note(self, **facts: Any) -> None:
        """Write facts into the run's record, where another command finds them."""
        self.run = self.run.with_facts(**facts)
        self.run.save()

    def node(self, name: str) -> NodeSpec:
        return self.topology.node(name)

    def volume(self, name: str, volume: str) -> VolumeSpec:
        """Raises BadConfig when the node does not mount it."""
        mounted = self.topology.volumes_of(name)
        for spec in mounted:
            if spec.name == volume:
                return spec
        has = ", ".join(spec.name for spec in mounted) or "none"
        raise BadConfig(f"{name} mounts no volume {volume!r}; it has {has}")

    def hindrance(self, volume: str) -> str:
        """Why a volume is not as its description asks: without its size limit, or not read-only. Empty when it is."""
        return str(self.run.facts.get("hindrances", {}).get(volume, ""))

    def need(self, name: str, state: NodeState, doing: str) -> None:
        """Raises LabError unless the node is in that state."""
        if (now := self.state(name)) is not state:
            raise LabError(f"cannot {doing} {name}: it is {now.value}, not {state.value}")

    def close(self) -> None:  # noqa: B027  most have nothing to let go of
        """Let go of what this object holds; nodes that run go on."""

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *exc: object) -> None:
        self.remove()
        self.close()


def node_environment(
    spec: NodeSpec,
    topology: Topology,
    *,
    listen: str,
    advertise: str,
    status: str,
    peers: Sequence[str],
    places: Mapping[str, str],
) -> dict[str, str]:
    """The configuration of a node, as `laila node` reads it. `places` has `state`, `secret` and every
    volume.
    """
    ping = min(2.0, topology.dead_after / 3)
    environment = {
        "LAILA_NAME": spec.name,
        "LAILA_LISTEN": listen,
        "LAILA_ADVERTISE": advertise,
        "LAILA_STATUS": status,
        "LAILA_SECRET_FILE": places["secret"],
        "LAILA_STATE_DIR": places["state"],
        "LAILA_PEERS": ",".join(peers),
        "LAILA_POOLS": ",".join(pool.text(places) for pool in spec.pools),
        "LAILA_LIMITS": f"dead_after={topology.dead_after:g},ping_interval={ping:g}",
    }
    if volumes := topology.volumes_of(spec.name):
        environment["LAILA_VOLUMES"] = ",".join(places[volume.name] for volume in volumes)
    if spec.replicas:
        environment["LAILA_REPLICAS"] = ",".join(replica.text(places) for replica in spec.replicas)
    if spec.access:
        environment["LAILA_ACCESS"] = ";".join(spec.access)
    return environment


def wait_until(done: Callable[[], bool], timeout: float, waiting_for: str, *, every: float = 0.05) -> float:
    """Ask until it is so; returns the seconds that it took. Raises DeadlineExceeded that says on what it
    waited.
    """
    started = time.monotonic()
    while not done():
        if time.monotonic() - started > timeout:
            raise DeadlineExceeded(f"waited {timeout:g} s for {waiting_for}")
        time.sleep(every)
    return time.monotonic() - started
