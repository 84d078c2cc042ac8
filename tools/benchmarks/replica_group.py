"""Replicas that agree: laila.replication over three nodes beside etcd with three members and redis with two replicas.

All servers are real processes on this machine's loopback, with their files on its disk. The works of ReplicatedStore
alone hold it against its own parts, in the same process and in turns:

- `quorum`: a save of 1 KB beside the same encoded copy put to each replica alone, of which the second-fastest counts;
  a load beside one replica's copy fetched and verified.
- `stream`: a save of 64 MiB beside the same copy put to each replica alone, of which the slowest counts. Here, three
  links share their processors with three nodes, so all three at once, without a store, stand beside it as well.
- `verify` and `repair`: many names that agree, and then three that do not. A first look, for which each node reads and
  verifies what it finds in its directory, comes before. Transfers are what the nodes count, and not the store. The
  nodes are no peers of each other, so nobody but the store repairs.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import environments
from .bars import Bar
from .group import Group, Plan, Step, Table
from .processes import Child
from .replica_contender import CONTENDERS, LOCAL, OWN_WORKS, SERVERS, SHARED_WORKS, Place
from .results import Results

PATIENCE = 1800.0  # seconds for a batch of works; 100,000 names take a while to make
ONCE = ("verify", "repair")  # what they count is the same in every repetition
BATCHES = (SHARED_WORKS, ("quorum",), ("stream",), ONCE)  # works that share their processes
PROGRAMS = {"etcd": "BENCH_ETCD", "redis": "BENCH_REDIS_SERVER"}

TABLES: dict[str, tuple[Table, ...]] = {
    "durable": (
        Table(
            "1 KB, one after the other",
            (("durable.put", "put ms", ",.2f"), ("durable.get", "get ms", ",.2f")),
        ),
    ),
    "crowd": (
        Table("1 KB, 16 threads at once", (("crowd.put", "put/s", ",.0f"), ("crowd.get", "get/s", ",.0f"))),
    ),
    "quorum": (
        Table(
            "1 KB to three peers, beside one of them alone",
            (
                ("quorum.save", "save ms", ",.2f"),
                ("quorum.put", "one put ms", ",.2f"),
                ("quorum.save.ratio", "ratio", ".2f"),
                ("quorum.load", "load ms", ",.2f"),
                ("quorum.get", "one get ms", ",.2f"),
                ("quorum.load.ratio", "ratio", ".2f"),
            ),
            ratios=False,
        ),
    ),
    "stream": (
        Table(
            "64 MiB to three peers, beside the slowest of them alone",
            (
                ("stream.save", "save ms", ",.0f"),
                ("stream.link", "one put ms", ",.0f"),
                ("stream.ratio", "ratio", ".2f"),
                ("stream.encode", "encode ms", ",.0f"),
                ("stream.together", "3 at once", ",.0f"),
                ("stream.rest", "save / 3", ".2f"),
                ("stream.memorize", "memorize", ",.0f"),
            ),
            ratios=False,
        ),
        Table(
            "its peak memory over idle, MiB (the caller's own artifact is 64)",
            (("stream.client", "client", ",.0f"), ("stream.node", "node", ",.0f")),
            ratios=False,
        ),
    ),
    "verify": (
        Table(
            "many names that agree: digests, and all questions, to one replica",
            (
                ("verify.names", "names", ",.0f"),
                ("verify.exchanges", "exchanges", ",.0f"),
                ("verify.questions", "questions", ",.0f"),
                ("verify.wire", "wire KB", ",.1f"),
                ("verify.ms", "ms", ",.1f"),
                ("verify.first", "look, s", ",.1f"),
            ),
            ratios=False,
        ),
    ),
    "repair": (
        Table(
            "three of them differ, repaired",
            (
                ("repair.transfers", "transfers", ",.0f"),
                ("repair.reported", "reported", ",.0f"),
                ("repair.wire", "wire KB", ",.1f"),
                ("repair.ms", "ms", ",.1f"),
            ),
            ratios=False,
        ),
    ),
}

BARS: tuple[Bar, ...] = (
    Bar("quorum.save.ratio", 1.5, at_most=True),
    Bar("quorum.load.ratio", 1.5, at_most=True),
    Bar("stream.ratio", 1.3, at_most=True),
    Bar("stream.client", 96, at_most=True),
    Bar("stream.node", 80, at_most=True),
    Bar("verify.exchanges", 1, at_most=True),
    Bar("verify.wire", 1000, at_most=True),
    Bar("repair.transfers", 3, at_most=True),
    *(
        Bar(f"durable.{each}", 1, other, at_most=True, aim=True)
        for each in ("put", "get")
        for other in PROGRAMS
    ),
)


def steps(plan: Plan, results: Results) -> Iterator[Step]:
    """Interleaved: all contenders do a batch before the next begins."""
    missing = {name for name in PROGRAMS if name in results.contenders and not program(plan, name)}
    for name in sorted(missing):
        results.remarks.append(
            f"{CONTENDERS[name].title} was left out: there is no server; tools/setup installs it"
        )
    for repetition in range(plan.repetitions):
        for batch in BATCHES:
            for name in results.contenders:
                works = tuple(work for work in batch if work in results.works and CONTENDERS[name].does(work))
                if works and name not in missing and not (repetition and batch == ONCE):
                    yield repetition, works, name


def program(plan: Plan, name: str) -> str | None:
    """The server's program of a contender."""
    return {"etcd": plan.etcd, "redis": plan.redis}[name]


def do(plan: Plan, works: tuple[str, ...], name: str) -> dict[str, Any]:
    """One contender, one batch of works, once, with servers of its own."""
    folder = Path(tempfile.mkdtemp(prefix="replicas-", dir=plan.home))
    place = Place(folder, free_ports(2 * SERVERS), secrets.token_hex(32))
    python = environments.python(CONTENDERS[name].environment)
    settings = {"HOME": plan.home, "TMPDIR": plan.home}
    settings |= {variable: program(plan, each) or "" for each, variable in PROGRAMS.items()}
    try:
        with contextlib.ExitStack() as stack:
            servers = []
            for number in range(0 if name == LOCAL else SERVERS):
                command = [python, "-m", "benchmarks.replica_server", name, str(number), place.words()]
                servers.append(stack.enter_context(Child(command, settings, plan.home)))
            pids = ",".join(str(server.read(60)["pid"]) for server in servers)
            command = [
                python, "-m", "benchmarks.replica_driver", name, ",".join(works), str(plan.seconds),
                str(plan.names), place.words(), pids,
            ]  # fmt: skip
            return stack.enter_context(Child(command, settings, plan.home)).read(PATIENCE)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> tuple[int, ...]:
    """Loopback ports that were free a moment ago, each another."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return tuple(int(probe.getsockname()[1]) for probe in probes)


GROUP = Group(
    name="replicas",
    contenders=CONTENDERS,
    works=(*SHARED_WORKS, *OWN_WORKS),
    tables=TABLES,
    references=(("bare", "of bare"), ("etcd", "of etcd"), ("redis", "of redis")),
    note="* encrypted links. Ratios are medians of the ratio within each repetition; times are better when they are "
    "shorter. redis promises less than the others: see redis_replicas.py.",
    bars=BARS,
    steps=steps,
    do=do,
)
