"""Which program takes a workload's operations beside a node, and opening it.

For laila's own nodes it is `laila lab subject`; for other systems the topology names it. Clients of one subject beside
one node share a program, but for locks: two holders in one process would show less.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from laila.errors import BadConfig, LabError
from laila.lab.checks.base import shared_by_all
from laila.lab.drivers.base import Driver
from laila.lab.remote import RemoteClient
from laila.lab.topology import STORE, Topology
from laila.lab.trials.invoking import ProgramInvoker
from laila.lab.workloads.base import Who, Workload

LEAST_REPLICAS = 3
PLACE = "lab-trial"
"""The directory of a trial on a shared volume."""
HELLO = 30.0


def offered(topology: Topology) -> dict[str, str]:
    """The workloads that can be had of laila's own nodes: workload to subject. The first subject of each is usual."""
    found = {"peering": "memory", "sessions": "memory"}
    if shared_by_all(topology) is not None:
        found |= {"register": "shared", "cas": "shared", "lock": "locks", "registrations": "agents"}
    replicas = all(node.replica(STORE) for node in topology.nodes)
    if replicas and len(topology.nodes) >= LEAST_REPLICAS:
        found |= {"register": "replicas", "set": "replicas", "convergence": "replicas"}
    return found


def chosen(topology: Topology, wanted: Sequence[str]) -> dict[str, str]:
    """Workload to subject, of `NAME` or `NAME=SUBJECT`; of nothing given all. Raises BadConfig."""
    if topology.client is not None:
        names = [name.partition("=")[0] for name in wanted] or list(topology.client.workloads)
        return dict.fromkeys(names, "")
    if topology.foreign:
        raise BadConfig(
            f"the nodes of {topology.name!r} are not laila's, and nothing says how they are worked on: give it "
            "a [client] (docs/lab-clients.md), or, in a test, a client in Python: lab.run('register', client=Client)"
        )
    can = offered(topology)
    if not wanted:
        return can
    found = {}
    for word in wanted:
        name, _, subject = word.partition("=")
        if not subject and name not in can:
            has = ", ".join(f"{one}={by}" for one, by in can.items())
            raise BadConfig(f"{topology.name} offers no workload {name!r}; it offers {has}")
        found[name] = subject or can[name]
    return found


def argv(driver: Driver, node: str, subject: str, patience: float) -> list[str]:
    """The command of a subject's program beside a node."""
    words = ["laila", "lab", "subject", subject]
    for name, value in _options(driver, node, subject, patience).items():
        words += ["--set", f"{name}={value}"]
    return words


def _options(driver: Driver, node: str, subject: str, patience: float) -> Mapping[str, str]:
    topology = driver.topology
    if subject in ("memory", "replicas"):
        doors = {
            name: driver.inside(name).peer if name == node else driver.door(name, seen_from=node)
            for name in topology.names
        }
        nodes = json.dumps(doors, separators=(",", ":"))
        if subject == "memory":
            return {"nodes": nodes, "own": node}
        spec = topology.node(node).replica(STORE)
        if spec is None:
            raise BadConfig(f"{node} serves no replica named {STORE!r}")
        places = ",".join(f"laila://{name}/{STORE}" for name in topology.names)
        directory = spec.path.format(state=driver.state_path(node))
        return {"nodes": nodes, "replicas": places, "patience": f"{patience:g}", "directory": directory}
    shared = shared_by_all(topology)
    if shared is None:
        raise BadConfig(f"the nodes of {topology.name!r} share no volume, so there are no {subject} on it")
    place = f"{driver.volume_path(node, shared.name)}/{PLACE}"
    return {"service" if subject == "locks" else "directory": f"{place}/{subject}"}


@dataclass(slots=True)
class Programs:
    """The client programs of a trial. Safe under threads; `close` ends all."""

    driver: Driver
    subjects: Mapping[str, str]
    """Workload to subject."""
    patience: float
    _open: dict[tuple[str, str, int], SharedProgram] = field(default_factory=dict)
    _locks: dict[tuple[str, str, int], threading.Lock] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def start(self, workload: Workload, who: Who) -> SharedProgram:
        """The program of this client, started if need be. Raises LabError with its last words when it cannot be."""
        subject = self.subjects[workload.name]
        own = subject in ("", "locks")
        key = (who.node, subject or workload.name, who.number if own else 0)
        with self._guard:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:
            found = self._open.get(key)
            if found is None or found.gone:
                if found is not None:
                    found.client.close()
                self._open[key] = found = self._opened(who, subject)
        return found

    def _opened(self, who: Who, subject: str) -> SharedProgram:
        node = who.node
        if subject:
            client = RemoteClient(self.driver, node, argv=argv(self.driver, node, subject, self.patience))
        else:
            from laila.lab.drivers.local_client import open_client

            client = RemoteClient(open_client(self.driver, node, who.number), node)
        hello = client.call("hello", timeout=HELLO)
        if hello.error in (
            "ClientGone",
            "NoAnswer",
        ):  # another answer is one too: not every client knows `hello`
            said = client.complaints() or f" ({hello.message})"
            client.close(0.1)
            raise LabError(f"the client beside {node} did not start{said}")
        pid, ops = hello.result.get("pid"), hello.result.get("ops")
        offers = tuple(str(op) for op in ops) if isinstance(ops, list) else ()
        return SharedProgram(client, pid if isinstance(pid, int) else 0, offers)

    def leave(self, node: str) -> None:
        """Forget the programs of a node that dies."""
        with self._guard:
            keys = [key for key in self._open if key[0] == node]
            gone = [self._open.pop(key) for key in keys]
        for program in gone:
            program.client.close(0.5)

    def close(self) -> None:
        with self._guard:
            programs, self._open = list(self._open.values()), {}
        for program in programs:
            program.client.close()


class SharedProgram(ProgramInvoker):
    """A program that others use too: closing ends one's own use."""

    def close(self) -> None:
        """It is closed with the trial."""
