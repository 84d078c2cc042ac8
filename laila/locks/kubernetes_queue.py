"""What a Lease object says about one lock: who holds it and who waits, in order of arrival. Without I/O and clock.

The standard fields of `spec` are for people and other programs: holderIdentity, leaseDurationSeconds, acquireTime,
renewTime and leaseTransitions, the number of exclusive holds so far. What decides is the annotation `laila/queue`:

    {"writes": 7, "token": 4711, "queue": [member, ...]}
    member: [id, "x" or "r", beat, seconds, token, node, host, pid, since, purpose]

A reader's turn has come when no writer is before it, a writer's when nobody is: once that is so it stays so, since
who arrives goes to the end. A reader whose turn has come holds; a writer holds once it has written its fencing token.
`beat` is a number that its owner changes to show that it lives; times are for people, and nobody compares them.

The fencing token is the object's resourceVersion at which the writer took its turn. docs/design.md says why.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import re
from base64 import b32encode
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .holder import Holder

NAME, QUEUE = "laila/lock", "laila/queue"
LABELS = {"app.kubernetes.io/managed-by": "laila", "app.kubernetes.io/component": "lock"}
MAX_BYTES = 200_000
"""Of a queue: Kubernetes takes annotations of 256 KiB together. Some 500 may wait, with the longest names."""
MOST = 2**31 - 1
"""leaseTransitions has 32 bits; there it stays."""


@dataclass(frozen=True, slots=True)
class Member:
    """Who holds or waits. `token` is 0 for readers, and for writers that do not hold yet."""

    who: str
    shared: bool
    beat: int
    seconds: int
    token: int
    node: str
    host: str
    pid: int
    since: float
    purpose: str

    @classmethod
    def of(cls, row: list[Any]) -> Member:
        """Raises ValueError, TypeError for what is none."""
        who, mode, beat, seconds, token, node, host, pid, since, purpose = row
        if mode not in ("x", "r") or int(seconds) < 1:
            raise ValueError(f"no member of a queue: {row}")
        texts, numbers = (str(who), str(node), str(host), str(purpose)), (int(beat), int(seconds), int(token))
        return cls(texts[0], mode == "r", *numbers, texts[1], texts[2], int(pid), float(since), texts[3])

    def row(self) -> list[Any]:
        mode = "r" if self.shared else "x"
        described = (self.node, self.host, self.pid, self.since, self.purpose)
        return [self.who, mode, self.beat, self.seconds, self.token, *described]

    def holder(self) -> Holder:
        return Holder(self.node, self.host, self.pid, self.since, self.purpose, self.token)

    @property
    def identity(self) -> str:
        """For `holderIdentity`."""
        return f"{self.node}_{self.host}_{self.pid}_{self.who}{'_shared' if self.shared else ''}"


@dataclass(frozen=True, slots=True)
class State:
    """A queue at one moment. Its methods give a new one."""

    writes: int = 0
    """So that each write changes the object: one that changes nothing would not change its resourceVersion."""
    token: int = 0
    """Of the last exclusive hold."""
    queue: tuple[Member, ...] = ()

    @classmethod
    def of(cls, text: str) -> State:
        """Raises ValueError, KeyError, TypeError for what is none."""
        found = json.loads(text)
        return cls(int(found["writes"]), int(found["token"]), tuple(Member.of(row) for row in found["queue"]))

    def text(self) -> str:
        found = {"writes": self.writes, "token": self.token, "queue": [each.row() for each in self.queue]}
        return json.dumps(found, ensure_ascii=False, separators=(",", ":"))

    def find(self, who: str) -> Member | None:
        return next((each for each in self.queue if each.who == who), None)

    def ahead(self, who: str, shared: bool) -> tuple[Member, ...]:
        """Those in its way: all before it, or for a reader the writers among them. It may still have to arrive."""
        before: list[Member] = []
        for each in self.queue:
            if each.who == who:
                break
            if not (shared and each.shared):
                before.append(each)
        return tuple(before)

    def holds(self, who: str) -> Member | None:
        """That member, if it holds."""
        mine = self.find(who)
        if mine is None or (self.ahead(who, True) if mine.shared else not mine.token):
            return None
        return mine

    def writer(self) -> Member | None:
        """Who holds it exclusively."""
        return self.queue[0] if self.queue and self.queue[0].token else None

    def readers(self) -> tuple[Member, ...]:
        """Those who share it."""
        return tuple(each for each in self.queue if each.shared and not self.ahead(each.who, True))

    def joined(self, member: Member) -> State:
        return dataclasses.replace(self, queue=(*self.queue, member))

    def without(self, whos: Collection[str]) -> State:
        if not whos:
            return self
        return dataclasses.replace(self, queue=tuple(each for each in self.queue if each.who not in whos))

    def beaten(self, beats: Mapping[str, int]) -> State:
        """With those members' new beats."""
        return self._with(
            dataclasses.replace(each, beat=beats[each.who])
            for each in self.queue if each.who in beats
        )  # fmt: skip

    def sealed(self, who: str, version: int, beat: int, since: float) -> State:
        """That writer holds it now. The token is above all earlier ones, whatever became of the object's versions."""
        token = max(version, self.token + 1)
        mine = next(each for each in self.queue if each.who == who)
        held = dataclasses.replace(mine, token=token, beat=beat, since=since)
        return dataclasses.replace(self._with([held]), token=token)

    def _with(self, changed: Iterable[Member]) -> State:
        by = {each.who: each for each in changed}
        return dataclasses.replace(self, queue=tuple(by.get(each.who, each) for each in self.queue))


def object_name(full: str) -> str:
    """The name of the Lease for a lock: what can be read of it, and a hash that tells it from all others."""
    plain = re.sub(r"[^a-z0-9]+", "-", full.lower())[-32:].strip("-")
    digest = b32encode(hashlib.blake2b(full.encode(), digest_size=15).digest()).decode().lower()
    return f"laila-{plain}-{digest}" if plain else f"laila-{digest}"


def fresh(namespace: str, name: str, full: str) -> dict[str, Any]:
    """A Lease that nobody holds."""
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": dict(LABELS),
            "annotations": {NAME: full, QUEUE: State().text()},
        },
        "spec": {"leaseTransitions": 0},
    }


def state_of(lease: Mapping[str, Any], full: str) -> State:
    """What it says. Raises ValueError with a clause for people when that is not about this lock."""
    notes = lease["metadata"].get("annotations") or {}
    if notes.get(NAME) != full:
        raise ValueError(
            f"it is not laila's Lease of {full!r}: its annotation {NAME} says {notes.get(NAME)!r}"
        )
    try:
        return State.of(notes[QUEUE])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"its annotation {QUEUE} was changed by somebody else, and cannot be read") from None


def version_of(lease: Mapping[str, Any]) -> int:
    """Raises ValueError with a clause for people when this server's versions are no numbers."""
    text = str(lease["metadata"].get("resourceVersion", ""))
    if not text.isdecimal():
        raise ValueError(f"its resourceVersion is {text!r}, and fencing tokens need numbers that rise")
    return int(text)


def written(lease: Mapping[str, Any], old: State, new: State, at: float) -> dict[str, Any]:
    """The object to put in its place; `at` in seconds since the epoch. Raises ValueError when the queue is too long."""
    text = dataclasses.replace(new, writes=old.writes + 1).text()
    if len(text.encode()) > MAX_BYTES:
        raise ValueError(f"{len(new.queue)} hold it or wait for it already, more than an annotation can name")
    spec = dict(lease.get("spec") or {})
    for key in ("holderIdentity", "leaseDurationSeconds", "acquireTime", "renewTime"):
        spec.pop(key, None)
    shown = new.writer() or next(iter(new.readers()), None)
    if shown is not None:
        times = {"acquireTime": moment(shown.since), "renewTime": moment(at)}
        spec.update(holderIdentity=shown.identity, leaseDurationSeconds=shown.seconds, **times)
    if new.token != old.token:
        spec["leaseTransitions"] = min(MOST, int(spec.get("leaseTransitions") or 0) + 1)
    metadata = {key: value for key, value in lease["metadata"].items() if key != "managedFields"}
    metadata["annotations"] = {**metadata["annotations"], QUEUE: text}
    return {**lease, "metadata": metadata, "spec": spec}


def moment(at: float) -> str:
    """As Kubernetes writes a MicroTime."""
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
