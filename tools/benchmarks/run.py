"""One run: each repetition does each group of works with each contender in turn, in fresh processes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from . import environments
from .contender import CONTENDERS, SMALL_WORKS
from .processes import Child, ChildFailed
from .results import Results
from .starting import start_up
from .works import Numbers

CLIENT_PROCESSES = 4
CLIENTS_EACH = 16
PATIENCE = 150.0  # seconds for a group of works; laila-core needs about 20

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run. `seconds` is for one rate, `crowd_seconds` for the 64 clients."""

    contenders: tuple[str, ...]
    works: tuple[str, ...]
    repetitions: int
    seconds: float
    crowd_seconds: float
    home: str
    redis: str | None
    pin: str

    def cores(self, side: str) -> dict[str, str]:
        """The setting that keeps a side to its cores: `apart` is one core each, `together` both on one."""
        have = sorted(os.sched_getaffinity(0))
        if self.pin == "free":
            return {}
        return {"BENCH_CORES": str(have[-1] if self.pin == "apart" and side == "client" else have[0])}

    def groups(self) -> Iterator[tuple[str, ...]]:
        """Works that share one pair of processes; those that look at memory have their own."""
        small = tuple(work for work in self.works if work in SMALL_WORKS)
        if small:
            yield small
        for work in ("bulk", "clients", "idle"):
            if work in self.works:
                yield (work,)

    def steps(self) -> Iterator[tuple[int, tuple[str, ...], str]]:
        """(repetition, works, contender), interleaved."""
        for repetition in range(self.repetitions):
            for group in self.groups():
                for name in self.contenders:
                    works = tuple(work for work in group if work in CONTENDERS[name].works)
                    if works:
                        yield repetition, works, name
        if "import" in self.works:
            for name in self.contenders:
                if name in ("laila", "laila-core"):
                    yield 0, ("import",), name


def run(plan: Plan, results: Results, progress: Progress) -> None:
    """Do every step; a step that fails is noted and the run goes on."""
    steps = list(plan.steps())
    for number, (repetition, works, name) in enumerate(steps, 1):
        place = f"[{number:>{len(str(len(steps)))}}/{len(steps)}] {name} {','.join(works)}"
        try:
            numbers = step(plan, works, name)
        except (ChildFailed, OSError) as error:
            results.failures.append(f"{name}, {','.join(works)}, repetition {repetition + 1}: {error}")
            progress(f"{place}: FAILED {error}")
            continue
        good = {metric: value for metric, value in numbers.items() if not metric.startswith("failed.")}
        results.add(name, repetition, good)
        progress(f"{place}: " + " ".join(f"{metric}={shorter(value)}" for metric, value in numbers.items()))
        for metric in numbers.keys() - good.keys():
            work = metric.removeprefix("failed.")
            results.failures.append(f"{name}, {work}, repetition {repetition + 1}: {numbers[metric]}")


def shorter(value: float | str) -> str:
    """A number for the progress line; a reason as it is."""
    return value if isinstance(value, str) else f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def step(plan: Plan, works: tuple[str, ...], name: str) -> dict[str, Any]:
    """One contender, one group of works, once."""
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
