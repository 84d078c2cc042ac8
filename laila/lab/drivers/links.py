"""The program that carries every directed link of a run whose nodes are processes.

Nodes do not dial each other: each has, for every other node, a door of its own here (`doors`), and what comes in there
is carried on (`relay`). So a pair of nodes can be parted although all of them share one machine's network. There is one
such program for each run (`python -m laila.lab.drivers.links NAME…`). It keeps the run's ports, lives as long as the
run, also when its controller ends, and listens on the unix socket `control` in its working directory; when that is
removed it ends.

Whoever connects there speaks JSON lines, `{"id", "op", …}` → `{"id", "ok", "result" | "error"}`. A rule ends with the
connection that made it, however that ends, unless it has a time of its own (`seconds`).
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laila.lab.drivers.doors import Door, Place
from laila.lab.drivers.link_control import CONTROL
from laila.lab.drivers.relay import READ, Bucket, Loop, Way

ANYBODY = ""
"""Whoever dials a node at the door that is for all: it may be any node, so every rule about some other node counts."""
_ALIVE = 1.0
"""Seconds between two looks at whether the run still exists."""
_MAX_LINE = 1 << 20

Pair = tuple[str, str]


@dataclass(slots=True, eq=False)
class Rule:
    """What is done to bytes that travel from one node to another, for some such pairs."""

    name: str
    pairs: frozenset[Pair]
    drop: bool = False
    delay: float = 0.0
    jitter: float = 0.0
    kbit: int = 0
    reset: bool = False
    refuse: bool = False
    owner: Guest | None = None
    connections: int = 0
    resets: int = 0

    def concerns(self, source: str, target: str) -> bool:
        if ANYBODY in (source, target):
            return any(source in (a, ANYBODY) and target in (b, ANYBODY) for a, b in self.pairs)
        return (source, target) in self.pairs

    def touches(self, door: Door) -> bool:
        """Whether it is about connections that come in there, in either direction."""
        ends = (door.source, door.place.name)
        return self.concerns(*ends) or self.concerns(*reversed(ends))


class Links:
    """All nodes, doors and rules."""

    def __init__(self, loop: Loop, names: Sequence[str]) -> None:
        self.loop = loop
        self.names = tuple(names)
        self.rules: dict[str, Rule] = {}
        self.measured: dict[int, int] = {}
        self.places = {name: Place(name, loop) for name in names}
        who = (ANYBODY, *names)
        self.ways = {(a, b): Way() for a in who for b in who if a != b}
        self.doors = {
            (a, b): Door(a, self.places[b], loop, self.ways[a, b], self.ways[b, a], self._came, self.measured)
            for a, b in self.ways
            if b != ANYBODY
        }
        for (_, target), door in self.doors.items():
            self.places[target].doors.append(door)
        for place in self.places.values():
            place.look()

    def add(self, rule: Rule) -> None:
        """From now on, instead of one of that name."""
        self.rules[rule.name] = rule
        touched = self._touched(rule)
        rule.connections = sum(len(door.connections) for door in touched)
        self._settle()
        if rule.reset:
            rule.resets = rule.connections
            for connection in [one for door in touched for one in door.connections]:
                connection.abort()

    def drop(self, rules: Iterable[Rule]) -> None:
        """They hold no longer, those that still did."""
        for rule in list(rules):
            if self.rules.get(rule.name) is rule:
                del self.rules[rule.name]
        self._settle()

    def counters(self, rule: Rule) -> dict[str, int]:
        touched = self._touched(rule)
        held = sum(
            flow.waiting() for (a, b), way in self.ways.items() if rule.concerns(a, b) for flow in way.flows
        )
        return {
            "held_bytes": held,
            "connections": rule.connections,
            "refused": sum(door.refuse for door in touched) if rule.refuse else 0,
            "reset": rule.resets,
        }

    def _touched(self, rule: Rule) -> list[Door]:
        return [door for door in self.doors.values() if rule.touches(door)]

    def _settle(self) -> None:
        """Say to every way and door what holds now."""
        for (a, b), way in self.ways.items():
            found = [rule for rule in self.rules.values() if rule.concerns(a, b)]
            way.drop = any(rule.drop for rule in found)
            way.delay = sum(rule.delay for rule in found)
            way.jitter = sum(rule.jitter for rule in found)
            slowest = min((rule.kbit for rule in found if rule.kbit), default=0)
            if slowest != way.kbit:
                way.kbit, way.bucket = slowest, Bucket(slowest) if slowest else None
        for (a, b), door in self.doors.items():
            door.refuse = any(rule.refuse and rule.concerns(a, b) for rule in self.rules.values())
            door.reset = any(rule.reset and rule.touches(door) for rule in self.rules.values())
            door.settle()
            for connection in list(door.connections):
                connection.pump()

    def _came(self, door: Door) -> None:
        for rule in self.rules.values():
            if rule.touches(door):
                rule.connections += 1
                rule.resets += rule.reset


def _flag(request: Mapping[str, Any], name: str) -> bool:
    return request.get(name) is True


class Desk:
    """Takes in whoever connects to the control socket."""

    def __init__(self, links: Links, path: str) -> None:
        self._links = links
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(16)
        self._listener.setblocking(False)
        links.loop.watch(self._listener, 0, READ, self._came)

    def _came(self, mask: int) -> None:
        with contextlib.suppress(OSError):  # who came is gone again
            sock, _ = self._listener.accept()
            Guest(self._links, sock)


class Guest:
    """One who has connected, and what ends with the connection."""

    def __init__(self, links: Links, sock: socket.socket) -> None:
        self._links = links
        self._sock = sock
        self._text = b""
        self._measuring: set[int] = set()
        self._ops: dict[str, Callable[[Mapping[str, Any]], Any]] = {
            "hello": self._hello,
            "rule": self._rule,
            "clear": self._clear,
            "counters": self._counters,
            "measure": self._measure,
        }
        sock.setblocking(False)
        links.loop.watch(sock, 0, READ, self._ready)

    def _ready(self, mask: int) -> None:
        try:
            data = self._sock.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, self._text = (self._text + data).split(b"\n")
        try:
            for line in lines:
                answer = self._answer(line)
                if self._sock.send(answer) < len(answer):  # nobody reads answers there
                    data = b""
        except OSError:
            data = b""
        if not data or len(self._text) > _MAX_LINE:
            self._left()

    def _left(self) -> None:
        self._links.loop.watch(self._sock, READ, 0, self._ready)
        self._sock.close()
        for port in self._measuring:
            self._links.measured.pop(port, None)
        self._links.drop(rule for rule in list(self._links.rules.values()) if rule.owner is self)

    def _answer(self, line: bytes) -> bytes:
        number = None
        try:
            request = json.loads(line)
            number = request.get("id")
            answer = {"id": number, "ok": True, "result": self._ops[request["op"]](request)}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            code, message = type(error).__name__, f"the request cannot be understood: {error!r}"
            answer = {"id": number, "ok": False, "error": {"code": code, "message": message}}
        return json.dumps(answer, separators=(",", ":")).encode() + b"\n"

    def _hello(self, request: Mapping[str, Any]) -> dict[str, Any]:
        doors: dict[str, dict[str, int]] = {name: {} for name in self._links.names}
        for (source, target), door in self._links.doors.items():
            doors[target][source] = door.port
        ports = {name: place.ports for name, place in self._links.places.items()}
        return {"pid": os.getpid(), "ports": ports, "doors": doors}

    def _rule(self, request: Mapping[str, Any]) -> dict[str, Any]:
        seconds = float(request.get("seconds") or 0.0)
        rule = Rule(
            str(request["rule"]),
            frozenset((str(a), str(b)) for a, b in request["pairs"]),
            drop=_flag(request, "drop"),
            delay=float(request.get("delay_ms", 0.0)) / 1000,
            jitter=float(request.get("jitter_ms", 0.0)) / 1000,
            kbit=int(request.get("kbit", 0)),
            reset=_flag(request, "reset"),
            refuse=_flag(request, "refuse"),
            owner=None if seconds else self,
        )
        self._links.add(rule)
        if seconds:
            self._links.loop.at(time.monotonic() + seconds, lambda: self._links.drop([rule]))
        return {}

    def _clear(self, request: Mapping[str, Any]) -> dict[str, Any]:
        rule = self._links.rules.get(request["rule"])
        self._links.drop([] if rule is None else [rule])
        return {"cleared": rule is not None}

    def _counters(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        rule = self._links.rules.get(request["rule"])
        return None if rule is None else self._links.counters(rule)

    def _measure(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What is dialed from `port` is led to port `to` instead of to a node; 0 ends that."""
        port, to = int(request["port"]), int(request["to"])
        self._links.measured.pop(port, None)
        self._measuring.discard(port)
        if to:
            self._links.measured[port] = to
            self._measuring.add(port)
        return {}


def _stay(loop: Loop) -> None:
    """As long as the run is there."""
    loop.running = Path(CONTROL).exists()
    loop.at(time.monotonic() + _ALIVE, lambda: _stay(loop))


def main(names: Sequence[str]) -> None:
    """Carry the links of these nodes; in the working directory."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    loop = Loop()
    Desk(Links(loop, names), CONTROL)
    _stay(loop)
    loop.run()


if __name__ == "__main__":
    main(sys.argv[1:])
