"""Ways that are made of packets: rules, queues and measurements by the agents of both ends.

What is dropped, refused or reset is so at both ends, so that a node that is killed and started again in the meantime,
whose network is a new one, still gets through to nobody. Loss and delay are done where packets arrive, bandwidth
where they leave.
"""

from __future__ import annotations

import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

from laila.errors import LabError
from laila.lab.drivers.base import PEER_PORT
from laila.lab.faults import hands
from laila.lab.faults.base import Scene
from laila.lab.faults.hands import Agent, hand
from laila.lab.faults.sides import Way
from laila.lab.faults.wires import RESET, Dial, Effect, Wires
from laila.lab.remote import Outcome

_MARGIN = 10.0
"""Seconds more than an operation may take by itself."""
_BURST_RATE = 4000
"""Datagrams a second."""

Rule = dict[str, Any]


class PacketWires(Wires):
    """See the top of this file."""

    unit: ClassVar[str] = "packets"

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._standing: dict[Way, tuple[Agent, int]] = {}
        self._touched: dict[str, set[str]] = defaultdict(set)
        self._ports: dict[Agent, int] = {}
        self._good: dict[Way, str] = {}
        self._last: dict[str, list[str]] = {}

    def impose(self, fault: str, ways: Sequence[Way], effect: Effect) -> None:
        nodes = self._alive(name for way in ways for name in way)
        self._touched[fault] |= nodes
        agents = self._hands(nodes)
        addresses = {name: list(self._scene.driver.ips(name)) for name in nodes}
        self._last |= addresses
        present = [way for way in ways if set(way) <= nodes]
        rules: dict[str, list[Rule]] = defaultdict(list)
        peers: dict[str, list[str]] = defaultdict(list)
        for a, b in present:
            peers[a] += addresses[b]
            for node, rule in _filtered(a, b, addresses, effect):
                rules[node].append(rule)
        if effect.reset and not effect.again:
            for node, rule in self._of_connections(present, agents, addresses):
                rules[node].append(rule)
        tasks = {node: _task(agents[node], "filter", fault, rules=some) for node, some in rules.items()}
        if effect.delay_ms:
            self._delay(fault, present, effect)
        if effect.kbit:
            tasks |= {
                node: _task(agents[node], "shape", fault, peers=some, kbit=effect.kbit)
                for node, some in peers.items()
            }
        hands.at_once(tasks)

    def _delay(self, fault: str, ways: Sequence[Way], effect: Effect) -> None:
        """Where packets arrive; where no kernel can hold them there, by netem where they leave."""
        words = {"fault": fault, "ms": effect.delay_ms, "jitter_ms": effect.jitter_ms}

        def at(node: str, others: Iterable[str], direction: str) -> Outcome:
            peers = [ip for other in others for ip in self._scene.driver.ips(other)]
            return hand(self._scene, node).call(
                "delay", timeout=30, peers=peers, direction=direction, **words
            )

        senders, receivers = _grouped((b, a) for a, b in ways), _grouped(ways)
        found = hands.at_once({b: partial(at, b, some, "in") for b, some in senders.items()})
        if any(one.error == "NoQueue" for one in found.values()):
            found = hands.at_once({a: partial(at, a, some, "out") for a, some in receivers.items()})
        for node, one in found.items():
            if not one.ok:
                raise LabError(f"delay beside {node}: {one}")

    def lift(self, fault: str) -> None:
        agents = self._hands(self._alive(self._touched.get(fault, ())))
        hands.at_once({node: _task(agent, "clear", fault) for node, agent in agents.items()})

    def hits(self, fault: str) -> int:
        agents = self._hands(self._alive(self._touched.get(fault, ())))
        found = hands.at_once({node: _task(agent, "counters", fault) for node, agent in agents.items()})
        return sum(int(one["packets"]) for one in found.values())

    def knock(self, way: Way) -> None:
        for host in self._last.get(way[1], ()):
            words = {"host": host, "port": PEER_PORT, "within": 0.3}
            hand(self._scene, way[0]).call("probe", timeout=_MARGIN, **words)

    # -- measuring

    def dial(self, way: Way, patience: float) -> Dial:
        """By each address of the far end until one answers; the outcome at the last when none does."""
        result = Dial("it has no address", 0.0)
        for host in self._addresses(way):
            answer = self._ask(way, "probe", patience, host=host, trips=1)
            result = Dial(str(answer["outcome"]), float(answer["seconds"]) + sum(answer["trips"]))
            if result.ok:
                self._good[way] = host
                break
        return result

    def arrived(self, way: Way, count: int) -> tuple[int, int]:
        tag = secrets.token_hex(4)
        self._ask(way, "burst", count / _BURST_RATE + _MARGIN, tag=tag, count=count, rate=_BURST_RATE)
        far, seen, changed = hand(self._scene, way[1]), -1, time.monotonic()
        while time.monotonic() - changed < 0.3:  # nothing more comes
            now = int(far.must("counted", tag=tag)["arrived"])
            if now != seen:
                seen, changed = now, time.monotonic()
            if seen >= count:
                break
            time.sleep(0.02)
        return count, seen

    def trips(self, way: Way, count: int, patience: float) -> list[float]:
        answer = self._ask(way, "probe", patience, count + 2, trips=count)
        return [float(one) for one in answer["trips"]]

    def pour(self, way: Way, nbytes: int, patience: float) -> float:
        words = {"bytes": nbytes, "seconds": patience}
        answer = hand(self._scene, way[0]).call(
            "pour", timeout=3 * patience + _MARGIN, within=patience, **self._target(way), **words
        )
        if not answer.ok and answer.error != "Unconnected":
            raise LabError(f"pour beside {way[0]}: {answer}")
        took = float(answer.result.get("seconds", 0.0))
        size = int(answer.result.get("bytes", 0))
        return size * 8 / 1000 / max(took, 1e-6) if size else 0.0

    def stand(self, way: Way) -> None:
        agent = hand(self._scene, way[0])
        answer = agent.call("dial", timeout=2 + _MARGIN, within=2.0, **self._target(way))
        if answer.ok:
            self._standing[way] = agent, int(answer.result["connection"])

    def talk(self, way: Way, patience: float) -> str:
        if way not in self._standing:
            self.stand(way)
        if way not in self._standing:
            return "not connected"
        agent, connection = self._standing[way]
        answer = agent.call("exchange", timeout=patience + _MARGIN, within=patience, connection=connection)
        return (
            str(answer.result["outcome"]) if answer.ok else RESET
        )  # the agent ended, and its connection with it

    def end(self) -> None:
        for agent, connection in self._standing.values():
            agent.call("hang_up", connection=connection)
        self._standing.clear()

    # -- inside

    def _alive(self, names: Iterable[str]) -> set[str]:
        """Those that have a network now."""
        return {name for name in names if self._scene.driver.reached(name)}

    def _hands(self, nodes: set[str]) -> dict[str, Agent]:
        return hands.at_once({node: partial(hand, self._scene, node) for node in sorted(nodes)})

    def _addresses(self, way: Way) -> list[str]:
        """Of the far end; first that at which it answered before."""
        every = list(self._scene.driver.ips(way[1]))
        return sorted(every, key=lambda one: one != self._good.get(way))

    def _target(self, way: Way) -> dict[str, Any]:
        far = hand(self._scene, way[1])
        if far not in self._ports:
            self._ports[far] = int(far.must("sink")["port"])
        return {"host": next(iter(self._addresses(way))), "port": self._ports[far]}

    def _ask(self, way: Way, op: str, patience: float, times: int = 2, **words: Any) -> dict[str, Any]:
        """An operation of the near end's agent that aims at the sink of the far end."""
        near = hand(self._scene, way[0])
        aim = {**self._target(way), **words}
        return near.must(op, timeout=times * patience + _MARGIN, within=patience, **aim)

    def _of_connections(
        self, ways: Sequence[Way], agents: dict[str, Agent], addresses: dict[str, list[str]]
    ) -> list[tuple[str, Rule]]:
        """Rules that reset the connections that stand now, and no later ones: by both their ports."""
        found = []
        for a, b in ways:
            for _, port, peer, peer_port in agents[b].must("connections", peers=addresses[a])["connections"]:
                words = {"proto": "tcp", "packets": "open", "action": "reset", "direction": "both"}
                ends = {"peers": [peer], "local_port": port, "peer_port": peer_port}
                found.append((b, {**words, **ends}))
        return found


def _filtered(a: str, b: str, addresses: dict[str, list[str]], effect: Effect) -> list[tuple[str, Rule]]:
    """Rules for packets from a to b, and where."""
    what: Rule = {}
    if effect.drop:
        what = {"proto": "tcp", "packets": "new"} if effect.new else {"action": "drop"}
    elif effect.refuse:
        what = {"proto": "tcp", "packets": "new", "action": "reset"}
    elif effect.reset and effect.again:
        what = {"proto": "tcp", "packets": "open", "action": "reset"}
    elif effect.loss:
        return [(b, {"direction": "in", "peers": addresses[a], "chance": effect.loss})]
    if not what:
        return []
    there = {**what, "direction": "in", "peers": addresses[a]}
    here = {**what, "direction": "out", "peers": addresses[b]}
    return [(b, there), (a, here)]


def _grouped(ways: Iterable[Way]) -> dict[str, list[str]]:
    """The second of each by the first."""
    found: dict[str, list[str]] = defaultdict(list)
    for one, other in ways:
        found[one].append(other)
    return found


def _task(agent: Agent, op: str, fault: str, **words: Any) -> Callable[[], dict[str, Any]]:
    return partial(agent.must, op, fault=fault, timeout=30, **words)
