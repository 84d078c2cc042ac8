"""Processes that keep each other's values: laila beside raw sockets and the libraries that do a similar job.

Each repetition does each batch of works with each contender in turn, with a server and a client of its own.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from . import environments
from .bars import Bar, ahead
from .contender import CONTENDERS, SMALL_WORKS
from .group import Group, Plan, Step, Table
from .processes import Child
from .results import Results
from .starting import start_up
from .works import Numbers

CLIENT_PROCESSES = 4
CLIENTS_EACH = 16
PATIENCE = 150.0  # seconds for a batch of works; laila-core needs about 20

TABLES: dict[str, tuple[Table, ...]] = {
    "seq": (
        Table(
            "one after the other, a 100-byte dict",
            (("seq.get", "get/s", ",.0f"), ("seq.put", "put/s", ",.0f")),
        ),
    ),
    "pipeline": (Table("1000 gets, 32 under way", (("pipeline.get", "get/s", ",.0f"),)),),
    "batch": (Table("1000 gets in one call", (("batch.get", "get/s", ",.0f"),)),),
    "bulk": (
        Table("64 MiB float64 array", (("bulk.put", "put MB/s", ",.0f"), ("bulk.get", "get MB/s", ",.0f"))),
        Table(
            "its peak memory over idle, in arrays (the caller's own is 1)",
            (
                ("bulk.put.client", "put, client", ".2f"),
                ("bulk.put.server", "server", ".2f"),
                ("bulk.get.client", "get, client", ".2f"),
                ("bulk.get.server", "server", ".2f"),
            ),
            ratios=False,
        ),
    ),
    "clients": (Table("64 clients at once", (("clients.get", "get/s", ",.0f"),)),),
    "idle": (
        Table(
            "resident at rest, one peer",
            (("idle.server", "server MiB", ".1f"), ("idle.client", "client MiB", ".1f")),
            ratios=False,
        ),
    ),
    "import": (
        Table(
            "import laila",
            (
                ("import.ms", "ms", ".0f"),
                ("import.bare", "bare ms", ".0f"),
                ("import.ratio", "ratio", ".2f"),
                ("import.modules", "modules", ".0f"),
                ("import.numpy", "numpy", ".0f"),
            ),
            ratios=False,
        ),
    ),
}

SEQUENTIAL = ("seq.get", "seq.put")
BULK = ("bulk.put", "bulk.get")

BARS: tuple[Bar, ...] = (
    *(Bar(metric, 0.6, "raw-tls") for metric in SEQUENTIAL),
    *ahead(SEQUENTIAL, "redis", "rpyc", "zeromq", "pyro5", "grpc"),
    *(Bar(metric, 20, "laila-core") for metric in SEQUENTIAL),
    Bar("pipeline.get", 0.35, "raw-tls"),
    *ahead(("pipeline.get",), "zeromq", "rpyc", "grpc", "pyro5"),
    Bar("pipeline.get", 1.0, "redis", aim=True),
    Bar("batch.get", 0.35, "raw-tls"),
    Bar("batch.get", 100, "laila-core"),
    *(Bar(metric, 0.85, "raw-tls") for metric in BULK),
    *ahead(BULK, "redis", "grpc", "rpyc", "pyro5"),
    *(Bar(f"{metric}.{side}", 1.3, at_most=True) for metric in BULK for side in ("client", "server")),
    Bar("clients.get", 1.0, "raw-tls"),
    *ahead(("clients.get",), "rpyc", "grpc", "pyro5"),
    Bar("idle.server", 45, at_most=True, subject="laila-node"),
    Bar("import.ratio", 4, at_most=True),
    Bar("import.numpy", 0, at_most=True),
)


def batches(works: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Works that share one pair of processes; those that look at memory have their own."""
    small = tuple(work for work in works if work in SMALL_WORKS)
    if small:
        yield small
    for work in ("bulk", "clients", "idle"):
        if work in works:
            yield (work,)


def steps(plan: Plan, results: Results) -> Iterator[Step]:
    """Interleaved: all contenders do a batch before the next begins."""
    for repetition in range(plan.repetitions):
        for batch in batches(results.works):
            for name in results.contenders:
                works = tuple(work for work in batch if CONTENDERS[name].does(work))
                if works:
                    yield repetition, works, name
    if "import" in results.works:
        for name in results.contenders:
            if name in ("laila", "laila-core"):
                yield 0, ("import",), name


def do(plan: Plan, works: tuple[str, ...], name: str) -> dict[str, Any]:
    """One contender, one batch of works, once."""
    if works == ("import",):
        return dict(start_up(name, plan.home))
    python = environments.python(CONTENDERS[name].environment)
    settings = {"HOME": plan.home, "TMPDIR": plan.home, "BENCH_REDIS_SERVER": plan.redis or ""}
    with Child(
        [python, "-m", "benchmarks.server", name], settings | plan.cores("server"), plan.home
    ) as server:
        address = json.dumps(server.read(60))
        settings |= plan.cores("client")
        command = [python, "-m", "benchmarks.driver", name]
        if works == ("clients",):
            return dict(
                crowd(
                    [*command, f"clients:{CLIENTS_EACH}", str(plan.crowd_seconds), address],
                    settings,
                    plan.home,
                )
            )
        with Child([*command, ",".join(works), str(plan.seconds), address], settings, plan.home) as driver:
            return driver.read(PATIENCE)


def crowd(command: list[str], settings: dict[str, str], folder: str) -> Numbers:
    """All client processes connect, then all begin; their gets per second together."""
    with contextlib.ExitStack() as stack:
        drivers = [stack.enter_context(Child(command, settings, folder)) for _ in range(CLIENT_PROCESSES)]
        for driver in drivers:
            driver.read(90)
        for driver in drivers:
            driver.write("go")
        done = [driver.read(PATIENCE) for driver in drivers]
    return {"clients.get": sum(one["operations"] / one["seconds"] for one in done)}


GROUP = Group(
    name="peers",
    contenders=CONTENDERS,
    works=(*SMALL_WORKS, "bulk", "clients", "idle", "import"),
    tables=TABLES,
    references=(("raw-tcp", "of TCP"), ("raw-tls", "of TLS")),
    note="* encrypted links. Ratios are medians of the ratio within each repetition.",
    bars=BARS,
    steps=steps,
    do=do,
)
