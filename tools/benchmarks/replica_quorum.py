"""What ReplicatedStore costs beside its own parts: the same copies given to the same peers one at a time.

It is the same links, in turns: `quorum` saves once and puts one copy to each peer alone, in all orders, because a save
returns before its third peer has answered, which the call after it feels. Artifacts and copies are made between turns.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import statistics
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

from laila.artifacts import Signer, TrustSet, default_identity
from laila.replication.copies import Copy
from laila.replication.locations import Locations
from laila.replication.peer import PeerReplica
from laila.replication.replica import Branch

from . import memory
from .laila_replicas import POOL, Laila, artifact_of
from .replica_contender import DIFFERING, SERVERS
from .replica_works import SIZE, Settings, in_turns, middle
from .works import MIB, Numbers, check

LARGE = 64 * MIB
ROUNDS = 3
PUTS = re.compile(r'^laila_replica_puts_total\{store="store"\} (\S+)$', re.MULTILINE)
FIRST_LOOK = 300.0  # seconds for what a node does when it is asked for its names for the first time
LATE = 0.5  # seconds for what a repair left to others
SLOW_ROUNDS = 12.0  # seconds after which no further round begins


class Alone:
    """The replicas of a store, each by itself, and whoever signs for them."""

    def __init__(self, contender: Laila) -> None:
        secret = contender.place.secret
        self.signer = Signer.of(default_identity(), secret)
        self.trust = TrustSet.default(secret=secret)
        locations = Locations(self.trust, policy=contender.policy, secret=secret, timeout=FIRST_LOOK)
        self.replicas = [locations.open(where) for where in contender.wheres]
        self.number = contender.store.view.number

    def copy(self, name: str, sequence: int, value: bytes) -> Copy:
        """A version, encoded once for all replicas."""
        artifact = artifact_of(value)
        artifact.name_as(name, sequence=sequence)
        return Copy.encode(name, artifact, self.signer, self.trust)

    def put(self, number: int, copy: Copy) -> object:
        return self.replicas[number].put(copy, self.number)

    def fetch(self, number: int, name: str) -> Copy:
        copy = self.replicas[number].fetch(name, self.number)
        assert copy is not None
        return copy

    def found(self, name: str) -> list[Any]:
        """What each has under the name."""
        return [replica.look([name], self.number)[0] for replica in self.replicas]


def quorum(contender: Laila, settings: Settings) -> Numbers:
    """Milliseconds of a save, and of the second-fastest replica's put alone; of a load, and of a copy from one."""
    alone, store, value = Alone(contender), contender.store, os.urandom(SIZE)
    prepared: dict[str, Any] = {}

    def prepare(turn: int) -> None:
        prepared["artifact"] = artifact_of(value)
        prepared["copy"] = alone.copy("alone", turn + 1, value)

    def one(number: int) -> Callable[[int], object]:
        return lambda turn: alone.put(number, prepared["copy"])

    def get(number: int) -> Callable[[int], object]:
        def fetched(turn: int) -> None:
            with alone.fetch(number, "saved") as copy:
                copy.require(alone.trust)
                copy.artifact().get_content_list()

        return fetched

    puts = {f"put.{number}": one(number) for number in range(SERVERS)}
    saves = in_turns(
        {"save": lambda turn: store.save("saved", prepared["artifact"]), **puts},
        2 * settings.seconds,
        prepare,
    )
    gets = {f"get.{number}": get(number) for number in range(SERVERS)}
    loads = in_turns(
        {"load": lambda turn: store.load("saved").get_content_list(), **gets},
        2 * settings.seconds,
    )
    check(store.load("saved").get_content_list()[0]["content"] == value, "load after save")
    check(len(set(alone.found("alone"))) == 1, "the same copy on each")
    save, put = middle(saves["save"]), second(saves, puts)
    load, fetched = middle(loads["load"]), second(loads, gets)
    return {
        "quorum.save": save * 1000,
        "quorum.put": put * 1000,
        "quorum.save.ratio": save / put,
        "quorum.load": load * 1000,
        "quorum.get": fetched * 1000,
        "quorum.load.ratio": load / fetched,
    }


def second(times: dict[str, list[float]], which: Any) -> float:
    """The second-smallest of the medians: with that one, a majority has answered."""
    return sorted(middle(times[name]) for name in which)[1]


def stream(contender: Laila, settings: Settings) -> Numbers:
    """Milliseconds of 64 MiB to all, beside each alone; peak MiB over idle while it is saved, in the first round."""
    alone, store = Alone(contender), contender.store
    store.save("stream", artifact_of(os.urandom(MIB)))  # warm: imports, links
    gc.collect()
    pids = (os.getpid(), *settings.pids)
    idle = [memory.resident(pid) for pid in pids]
    peaks: list[float] = []
    times: dict[str, list[float]] = {}

    def timed(name: str, operation: Callable[[], Any]) -> Any:
        gc.collect()
        begin = time.perf_counter()
        result = operation()
        times.setdefault(name, []).append((time.perf_counter() - begin) * 1000)
        return result

    began = time.perf_counter()
    for turn in range(ROUNDS):
        value = os.urandom(LARGE)
        artifact = artifact_of(value)
        for pid in pids:
            memory.reset_peak(pid)
        timed("save", partial(store.save, "stream", artifact))
        settle(alone, "stream")
        if not turn:
            peaks = [(memory.peak(pid) - before) / MIB for pid, before in zip(pids, idle, strict=True)]
        with timed("encode", partial(alone.copy, "alone", 2 * turn + 1, value)) as copy:
            for number in range(SERVERS):
                timed(f"link.{number}", partial(alone.put, number, copy))
        with alone.copy("alone", 2 * turn + 2, value) as copy:
            timed("together", partial(together, alone, copy))
        timed("memorize", partial(memorize, contender, value))
        if time.perf_counter() - began > SLOW_ROUNDS:
            break
    medians = {name: statistics.median(each) for name, each in times.items()}
    link = max(medians[f"link.{number}"] for number in range(SERVERS))
    return {
        "stream.save": medians["save"],
        "stream.link": link,
        "stream.ratio": medians["save"] / link,
        "stream.encode": medians["encode"],
        "stream.together": medians["together"],
        "stream.rest": medians["save"] / (medians["encode"] + medians["together"]),
        "stream.memorize": medians["memorize"],
        "stream.client": peaks[0],
        "stream.node": max(peaks[1:]),
    }


def settle(alone: Alone, name: str) -> None:
    """Wait until all replicas have what a majority has: a save does not wait for the last one."""
    deadline = time.monotonic() + 60
    while len(set(alone.found(name))) > 1:
        check(time.monotonic() < deadline, "a replica did not get the version that the others have")
        time.sleep(0.01)


def together(alone: Alone, copy: Copy) -> None:
    """The copy to all replicas at once, until the last one has it."""
    with ThreadPoolExecutor(SERVERS) as threads:
        for done in [threads.submit(alone.put, number, copy) for number in range(SERVERS)]:
            done.result()


def memorize(contender: Laila, value: bytes) -> None:
    """The same bytes to one node's memory: what the link alone takes, without files and signatures."""
    import laila

    with laila.using(contender.peers[0]):
        entry = laila.constant(value)
        laila.memorize(entry, pool_nickname=POOL).wait()
        laila.forget(entry.global_id, pool_nickname=POOL).wait()


def taken(contender: Laila) -> int:
    """Copies that came to the nodes since they started, from whomever, whether they were news or not."""
    came = 0
    for number in range(SERVERS):
        url = f"http://127.0.0.1:{contender.place.other(number)}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:  # our own node
            text = answer.read().decode()
        came += int(float(PUTS.search(text)[1]))  # type: ignore[index]  # a node that serves a replica has it
    return came


@dataclass(frozen=True, slots=True)
class Wire:
    """What has been asked and sent on the links until now, each way."""

    questions: tuple[int, ...]
    bytes: int

    @classmethod
    def now(cls, contender: Laila) -> Wire:
        links = [peer.info() for peer in contender.peers]
        return cls(
            tuple(link.requests_out for link in links), sum(link.bytes_in + link.bytes_out for link in links)
        )


def fill(contender: Laila, alone: Alone, names: int) -> float:
    """Give every replica the same version of each name, by its file; seconds until all have looked at them."""
    if not (contender.directory(0) / f"{name_of(names - 1)}.maif").exists():
        for number in range(names):
            name = name_of(number)
            with alone.copy(name, 1, os.urandom(SIZE)) as copy:
                data = bytes(copy.read(0, copy.size))
            for each in range(SERVERS):
                (contender.directory(each) / f"{name}.maif").write_bytes(data)
    begin = time.perf_counter()
    with ThreadPoolExecutor(SERVERS) as threads:
        trees = list(threads.map(lambda replica: replica.branches([""])[0], alone.replicas))
    check(len({tree.digest for tree in trees}) == 1 and trees[0].count >= names, "the replicas agree")
    return time.perf_counter() - begin


def name_of(number: int) -> str:
    return f"name-{number:06}"


@contextlib.contextmanager
def exchanges() -> Iterator[Counter[str]]:
    """How often this process asks each replica for digests meanwhile, by where it is."""
    asked: Counter[str] = Counter()
    plain = PeerReplica.branches

    def counted(replica: PeerReplica, prefixes: Sequence[str]) -> list[Branch]:
        asked[replica.where] += 1
        return plain(replica, prefixes)

    with mock.patch.object(PeerReplica, "branches", counted):
        yield asked


def verify(contender: Laila, settings: Settings) -> Numbers:
    """All names agree: exchanges of digests and all questions to a replica, KB on all links together, milliseconds."""
    first = fill(contender, Alone(contender), settings.names)
    contender.store.exists(name_of(0))  # a store that is in use knows that its members are who they were
    with exchanges() as asked:
        before, begin = Wire.now(contender), time.perf_counter()
        report = contender.store.repair()
        took, after = time.perf_counter() - begin, Wire.now(contender)
    check(report.ok and report.transferred == 0, f"nothing to repair: {report}")
    return {
        "verify.names": settings.names,
        "verify.exchanges": max(asked.values()),
        "verify.questions": max(
            now - then for now, then in zip(after.questions, before.questions, strict=True)
        ),
        "verify.wire": (after.bytes - before.bytes) / 1000,
        "verify.ms": took * 1000,
        "verify.first": first,
    }


def repair(contender: Laila, settings: Settings) -> Numbers:
    """Each replica lacks the newest version of another name: copies sent, KB on all links together, milliseconds."""
    alone = Alone(contender)
    fill(contender, alone, settings.names)
    differing = [name_of(number * settings.names // DIFFERING) for number in range(DIFFERING)]
    for number, name in enumerate(differing):
        with alone.copy(name, 2, b"newer") as copy:
            for each in {*range(SERVERS)} - {number % SERVERS}:
                alone.put(each, copy)
    came = taken(contender)
    before, begin = Wire.now(contender), time.perf_counter()
    report = contender.store.repair()
    took, after = time.perf_counter() - begin, Wire.now(contender)
    time.sleep(LATE)
    for name in differing:
        found = alone.found(name)
        check(len(set(found)) == 1 and found[0].sequence == 2, f"{name} is repaired: {found}")
    return {
        "repair.transfers": taken(contender) - came,
        "repair.reported": report.transferred,
        "repair.wire": (after.bytes - before.bytes) / 1000,
        "repair.ms": took * 1000,
    }


WORKS: dict[str, Callable[[Laila, Settings], Numbers]] = {
    "quorum": quorum,
    "stream": stream,
    "verify": verify,
    "repair": repair,
}
