"""Nodes and their clients as processes that are killed (-9) at random instants, again and again.

    python -m tests.replication.fleet ROOT KILLS SEED

Three nodes serve a replica each; clients save and load a few shared names, and save and forget names of their own,
through all three. Each client notes what it begins and what came of it, in one write each, so a note is there as a
whole or not at all. The last line printed is what was done, as JSON; judging it is the test's.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from laila.artifacts import TrustSet, create_maif
from laila.errors import ArtifactNotFound, LailaError
from laila.policy import DefaultPolicy
from laila.replication.directory import DirectoryReplica
from laila.replication.service import ReplicaService
from laila.replication.store import ReplicatedStore
from laila.transport.identity import Identity
from laila.transport.tcp import DefaultTCPIPProtocol

SECRET = "4f1c2a9d8b7e6f5041327c6d5e4f3a2b"  # noqa: S105  only the nodes of these tests have it
NODES, CLIENTS, NAMES = 3, 3, 4
WORK = 900
"""Bytes of notes between two kills: some five operations."""
PATIENCE = 3.0
"""Seconds to wait for them at most."""


def trust_of(root: Path) -> TrustSet:
    return TrustSet([identity(root)], secret=SECRET)


def identity(root: Path) -> Identity:
    """One for all clients: what they write is told apart by its bytes alone."""
    return Identity.load_or_create(root / "identity")


def open_store(root: Path, ports: list[int], **options: Any) -> ReplicatedStore:
    places = [f"laila://127.0.0.1:{port}/store" for port in ports]
    return ReplicatedStore(
        places, identity=identity(root), trust=trust_of(root), secret=SECRET, state=root / "state", **options
    )


def node(root: Path, number: int, port: int) -> NoReturn:
    """A child: serves its replica until it is killed."""
    policy = DefaultPolicy(name=f"node{number}", identity_dir=root / f"node{number}")
    trust = trust_of(root)
    replica = DirectoryReplica(root / f"replica{number}", trust)
    service = ReplicaService(replica, trust, alive=policy.communication.is_connected)
    policy.services.offer("replica/store", service)
    policy.communication.add_connection(
        DefaultTCPIPProtocol(host="127.0.0.1", port=port, peer_secret_key=SECRET)
    )
    while True:
        signal.pause()


def client(root: Path, name: str, ports: list[int], seed: int) -> NoReturn:
    """A child: saves, loads and forgets until it is killed."""
    chance = random.Random(seed)  # noqa: S311  repeatable on purpose
    log = os.open(root / "logs" / f"{name}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(**words: Any) -> None:
        os.write(log, (json.dumps({**words, "at": time.monotonic()}) + "\n").encode())

    while True:
        try:
            store = open_store(root, ports, timeout=5.0)
            break
        except LailaError as error:
            note(do="open", error=f"{type(error).__name__}: {error}")
            time.sleep(0.05)
    for turn in itertools.count():
        number, kind = f"{name}-{turn}", chance.random()
        target = f"shared-{chance.randrange(NAMES)}"
        try:
            if kind < 0.4:
                note(do="save", id=number, name=target, value=number)
                save(store, target, number)
                note(did=number)
            elif kind < 0.85:
                note(do="load", id=number, name=target)
                note(did=number, value=load(store, target))
            else:
                target = f"own-{number}"
                save(store, target, number)
                note(do="forget", id=number, name=target)
                store.forget(target)
                note(did=number)
        except LailaError as error:
            note(failed=number, error=f"{type(error).__name__}: {error}"[:300])
            time.sleep(0.01)


def save(store: ReplicatedStore, name: str, value: str) -> None:
    artifact = create_maif("fleet")
    artifact.add_text(value * 40)
    store.save(name, artifact)


def load(store: ReplicatedStore, name: str) -> str | None:
    try:
        text = str(store.load(name).get_content_list()[0]["text"])
    except ArtifactNotFound:
        return None
    value = text[: len(text) // 40]
    return value if text == value * 40 else f"torn {text[:60]!r}"


class Fleet:
    """The processes. This one has no threads, so that it may fork."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.chance = random.Random(seed)  # noqa: S311  repeatable on purpose
        (root / "logs").mkdir()
        identity(root)
        self.ports = free_ports()
        self.children: dict[str, int] = {}
        self.started = 0
        self.noted = 0
        self.killed = {"node": 0, "client": 0}

    def start(self, name: str) -> None:
        self.started += 1
        child = os.fork()
        if child:
            self.children[name] = child
            return
        try:
            if name.startswith("node"):
                number = int(name[4:])
                node(self.root, number, self.ports[number])
            client(self.root, f"{name}.{self.started}", self.ports, self.started)
        except BaseException as error:
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(1)

    def kill(self, name: str) -> None:
        child = self.children.pop(name)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        self.killed[name[:-1]] += 1

    def run(self, kills: int) -> None:
        nodes = [f"node{number}" for number in range(NODES)]
        clients = [f"client{number}" for number in range(CLIENTS)]
        for name in (*nodes, *clients):
            self.start(name)
        due: dict[str, float] = {}
        turn = 0
        while turn < kills:
            self.wait_for_notes()
            time.sleep(self.chance.uniform(0.0, 0.05))
            for name in [name for name, when in due.items() if when <= time.monotonic()]:
                self.start(name)
                del due[name]
            victims = [name for name in (nodes if turn % 2 else clients) if name in self.children]
            if len(due) > 1 or not victims:
                victims = [name for name in clients if name in self.children]
            if not victims:
                continue  # all are being started again
            victim = self.chance.choice(victims)
            self.kill(victim)
            turn += 1
            due[victim] = time.monotonic() + self.chance.uniform(0.0, 0.3)
        for name in list(self.children):
            if name in clients:
                self.kill(name)
        for name in nodes:
            if name not in self.children:
                self.start(name)

    def wait_for_notes(self) -> None:
        """Until something has been done since the last time, however busy the machine is; but not for ever."""
        end, before = time.monotonic() + PATIENCE, self.noted
        while self.noted < before + WORK and time.monotonic() < end:
            time.sleep(0.005)
            self.noted = sum(path.stat().st_size for path in (self.root / "logs").iterdir())

    def close(self) -> None:
        for name in list(self.children):
            self.kill(name)


def free_ports() -> list[int]:
    sockets = [socket.socket() for _ in range(NODES)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def main(root: Path, kills: int, seed: int) -> None:
    fleet = Fleet(root, seed)
    try:
        fleet.run(kills)
        with open_store(root, fleet.ports, timeout=30.0, background=False) as store:
            report = store.repair()
            end = time.monotonic() + 60  # those that were started last may not listen yet
            while not report.ok and time.monotonic() < end:
                time.sleep(0.2)
                report = store.repair()
            names = store.names()
            final = {name: load(store, name) for name in names}
            ended = time.monotonic()
            agree = {name: store.verify_replicas(name) for name in names}
        done = {
            "killed": fleet.killed,
            "repair": report.as_dict(),
            "final": final,
            "agree": agree,
            "ended": ended,
        }
        print(json.dumps(done), flush=True)
    finally:
        fleet.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
