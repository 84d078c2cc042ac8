"""Runs that never were: an honest register worked on by clients of five nodes, with faults, as a run leaves it."""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from laila.lab import junit, report
from laila.lab.checkers import integrity
from laila.lab.checkers.operations import FAIL, OK, UNKNOWN, Op
from laila.lab.checkers.verdict import Judgement, Verdict
from laila.lab.faults import Bite
from laila.lab.history import History
from laila.lab.result import Result, StepResult
from laila.lab.workloads import make

sys.path.append(
    str(Path(__file__).parents[1] / "node")
)  # the browser that looks at nodes looks at reports too
from browser import Browser

NODES = tuple(f"node{number}" for number in range(1, 6))
CUT = (0.2, 0.35)
"""Parts of the run in which node2 is cut off."""


def clients_at_work(count: int, seconds: float, seed: int = 7, clients: int = 2) -> list[Op]:
    """What clients of a register see that is one: each operation happens at one instant of its time."""
    chance = random.Random(seed)  # noqa: S311  repeatable on purpose
    mean = seconds * len(NODES) * clients / count
    found: list[tuple[float, Op]] = []
    for node in NODES:
        for number in range(clients):
            found += _client(node, number, mean, seconds, chance)
    value: dict[str, str] = {}
    ops = []
    for _, op in sorted(found, key=lambda one: one[0]):
        if op.op == "read" and op.ok:
            op = replace(op, result=value.get(op.key))
        elif op.op == "write" and op.outcome != FAIL:
            value[op.key] = op.value
        ops.append(op)
    return sorted(ops, key=lambda op: op.start)


def _client(
    node: str, number: int, mean: float, seconds: float, chance: random.Random
) -> list[tuple[float, Op]]:
    found = []
    time, turn, incarnation = chance.random() * mean, 0, 0
    while time < seconds:
        name = f"{node}/register/{number}" + (f"#{incarnation}" if incarnation else "")
        cut = node == "node2" and CUT[0] * seconds < time < CUT[1] * seconds
        luck, lasts = chance.random(), mean * chance.uniform(0.3, 0.9)
        outcome = OK if not cut else FAIL if luck < 0.6 else UNKNOWN
        end, error = round(time + lasts, 6), "" if not cut else "QuorumLost: 1 of 5 replicas answered"
        key, write = f"register-{chance.randrange(4)}", chance.random() < 0.4
        value = integrity.sealed(f"{name}.{turn}:") if write else None
        instant = chance.uniform(time, end)
        start = round(time, 6)
        op = Op(name, node, "write" if write else "read", key, value, None, start, end, outcome, error)
        found.append((instant, replace(op, end=math.inf) if outcome == UNKNOWN else op))
        incarnation += outcome == UNKNOWN
        time, turn = time + lasts + mean * 0.4, turn + 1
    return found


def with_a_stale_read(ops: Sequence[Op], after: float) -> list[Op]:
    """One read gives a value that was overwritten, acknowledged and read long before."""
    found = list(ops)
    for place, read in enumerate(ops):
        if read.op != "read" or not read.ok or read.start < after:
            continue
        writes = [
            op for op in ops if op.op == "write" and op.ok and op.key == read.key and op.end < read.start
        ]
        writes.sort(key=lambda op: op.end)
        for older, newer in reversed([*pairwise(writes)]):
            if older.end < newer.start and newer.end < read.start - 0.2:
                found[place] = replace(read, result=older.value)
                return found
    raise AssertionError("no read can be made stale")


@dataclass(frozen=True)
class Made:
    """A folder as a run leaves it."""

    path: Path
    ops: list[Op]
    judgements: list[Judgement]
    result: Result

    @property
    def page(self) -> str:
        return (self.path / "report.html").as_uri()


def bites(seconds: float) -> list[dict[str, Any]]:
    """Two faults, as a trial tells of them."""
    start, end = (part * seconds for part in CUT)
    long = (0.6 * seconds, 0.7 * seconds)
    cut = Bite(
        "partition@node2/node1", "partition", ("node2",), start, start + 0.1, end, end + 0.3, "cut", "whole"
    )
    slow = Bite("latency:ms=200", "latency", ("node4",), long[0], long[0], long[1], long[1], "203 ms", "1 ms")
    return [cut.to_dict(0.0), slow.to_dict(0.0)]


def run_folder(path: Path, ops: Sequence[Op], seconds: float, **changes: Any) -> Made:
    """History, result, environment, junit.xml and report of a trial of the workload `register`."""
    path.mkdir(parents=True)
    (path / "logs").mkdir()
    workload = make("register")
    judgements = [replace(one, workload="register") for one in workload.judge(ops)]
    illegal = [one for one in judgements if one.verdict is Verdict.ILLEGAL]
    with History(path / "history.jsonl") as history:
        for node in NODES:
            history.event("up", f"{node} started", node=node, at=history.began + 0.01)
            (path / "logs" / f"{node}.log").write_text("started\n")
        history.workload("register", workload.settings())
        for op in ops:
            history.invoke("register", op)
        state = "failed" if illegal else "ok"
        detail = f"{len(illegal)} contradictions" if illegal else f"{len(ops)} operations judged"
        steps = (
            StepResult("trial", "work while faults strike", "ok", "a lot of work", 0.0, seconds),
            StepResult("judge-register", "register: reads and writes", state, detail, seconds, 0.1),
        )
        facts = {
            "bites": bites(seconds),
            "judgements": [one.to_dict() for one in judgements],
            "operations": dict(history.counts),
        }
        fields: dict[str, Any] = {"steps": steps, "facts": facts, **changes}
        command = "laila lab check replicated --seed 7"
        result = Result(
            path.name, "replicated", "docker", "asked for", NODES, 7, command, 1.8e9, seconds, **fields
        )
        environment = {"topology": {"name": "replicated", "nodes": [{"name": name} for name in NODES]}}
        environment |= {"seed": 7, "command": command, "driver": {"name": "docker"}}
        (path / "environment.json").write_text(json.dumps(environment))
        (path / "report.html").write_text(report.render(result, history, environment), encoding="utf-8")
    result.save(path / "result.json")
    junit.write(result, path)
    return Made(path, list(ops), judgements, result)


class Window(Browser):
    """A browser whose mouse and keys can be used."""

    def act(self, *sources: dict[str, Any]) -> None:
        self._ask("POST", f"{self._session}/actions", {"actions": list(sources)})

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """In pixels of the window."""
        steps = [{"type": "pointerMove", "x": start[0], "y": start[1]}, {"type": "pointerDown", "button": 0}]
        steps += [
            {"type": "pointerMove", "x": end[0], "y": end[1], "duration": 50},
            {"type": "pointerUp", "button": 0},
        ]
        self.act({"type": "pointer", "id": "mouse", "actions": steps})

    def point(self, x: int, y: int) -> None:
        self.act({"type": "pointer", "id": "mouse", "actions": [{"type": "pointerMove", "x": x, "y": y}]})

    def click(self, x: int, y: int) -> None:
        steps = [{"type": "pointerMove", "x": x, "y": y}, {"type": "pointerDown", "button": 0}]
        self.act({"type": "pointer", "id": "mouse", "actions": [*steps, {"type": "pointerUp", "button": 0}]})

    def wheel(self, x: int, y: int, by: int, *held: str) -> None:
        """Turn it there, with keys held."""
        turn = {"type": "scroll", "x": x, "y": y, "deltaX": 0, "deltaY": by}
        idle = {"type": "pause"}
        down = [{"type": "keyDown", "value": key} for key in held]
        up = [{"type": "keyUp", "value": key} for key in held]
        keys = {"type": "key", "id": "keys", "actions": [*down, idle, *up]}
        self.act(
            keys,
            {"type": "wheel", "id": "wheel", "actions": [*[idle] * len(held), turn, *[idle] * len(held)]},
        )

    def press(self, *keys: str) -> None:
        steps = [
            step
            for key in keys
            for step in ({"type": "keyDown", "value": key}, {"type": "keyUp", "value": key})
        ]
        self.act({"type": "key", "id": "keys", "actions": steps})

    def settle(self) -> None:
        """Wait until what was asked for is painted."""
        self._ask(
            "POST",
            f"{self._session}/execute/async",
            {"script": "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))", "args": []},
        )
