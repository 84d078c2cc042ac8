"""Some directories, and clients of the register over them, without a membership that could change."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from laila.artifacts import Artifact, Signer, TrustSet, create_maif
from laila.errors import MembershipStale
from laila.replication.calls import Crowd
from laila.replication.copies import Copy
from laila.replication.directory import DirectoryReplica
from laila.replication.register import Register
from laila.replication.replica import Stamp
from laila.replication.succession import follow, tombstone
from laila.replication.views import Member, Quorums, View
from tests.replication.faulty import Faulty

STORE = "5" * 32


def _refuse(error: MembershipStale) -> None:
    raise error


@dataclass
class Client:
    """One program that saves and loads."""

    register: Register
    signer: Signer
    trust: TrustSet
    owed: set[tuple[str, str]]

    def save(self, name: str, text: str) -> Artifact:
        artifact = create_maif("writer")
        artifact.add_text(text)
        return self.save_artifact(name, artifact)

    def save_artifact(self, name: str, artifact: Artifact) -> Artifact:
        follow(name, artifact, self.register.newest(name), self.signer)
        with Copy.encode(name, artifact, self.signer, self.trust) as copy:
            self.register.write(copy)
        return artifact

    def forget(self, name: str) -> None:
        newest = self.register.newest(name)
        assert newest is not None
        with Copy.encode(name, tombstone(name, newest), self.signer, self.trust) as copy:
            self.register.write(copy)

    def load(self, name: str) -> Artifact | None:
        """None when there is none, or it was forgotten."""
        copy = self.register.read(name)
        if copy is None:
            return None
        with copy:
            return None if copy.stand.gone else copy.artifact(self.trust)

    def text(self, name: str) -> str | None:
        artifact = self.load(name)
        return None if artifact is None else str(artifact.get_content_list()[0]["text"])


@dataclass
class Cluster:
    """`replicas` by member id, each behind a fault that does nothing yet."""

    view: View
    replicas: dict[str, Faulty]
    signer: Signer
    trust: TrustSet
    rebuilding: set[str] = field(default_factory=set)
    _crowds: list[Crowd] = field(default_factory=list)

    def client(self, signer: Signer | None = None, *, timeout: float = 20.0) -> Client:
        crowd = Crowd(dict(self.replicas))
        self._crowds.append(crowd)
        owed: set[tuple[str, str]] = set()
        lock = threading.Lock()

        def owe(id: str, name: str) -> None:
            with lock:
                owed.add((id, name))

        def paid(id: str, name: str) -> None:
            with lock:
                owed.discard((id, name))

        register = Register(
            crowd,
            lambda: self.view,
            self.trust,
            timeout=timeout,
            stale=_refuse,
            rebuilding=lambda id: id in self.rebuilding,
            owe=owe,
            paid=paid,
        )
        return Client(register, signer or self.signer, self.trust, owed)

    def file(self, id: str, name: str) -> Path:
        return Path(self.replicas[id].where) / f"{name}.maif"

    def settle_down(self) -> None:
        """Wait for what goes on in the background."""
        for crowd in self._crowds:
            crowd.ask([], lambda id, replica: None, lambda answers: True, 0)
            crowd.close()
        self._crowds.clear()


@contextmanager
def cluster(root: Path, signer: Signer, trust: TrustSet, count: int = 3, **quorums: int) -> Iterator[Cluster]:
    ids = [f"{number:032x}" for number in range(count)]
    replicas = {id: Faulty(DirectoryReplica(root / f"replica-{id[-1]}", trust)) for id in ids}
    for id, replica in replicas.items():
        replica.mark(Stamp(STORE, id))
    members = tuple(Member(id, replica.where) for id, replica in replicas.items())
    made = Cluster(View(STORE, 1, members, quorums=Quorums(**quorums)), replicas, signer, trust)
    try:
        yield made
    finally:
        for replica in replicas.values():
            replica.release()
        made.settle_down()
        for replica in replicas.values():
            replica.close()
