"""Fault agents at work: one for each node of a scene, opened when it is first asked for.

A node that was killed and started again has another network; its agent says that it is left behind, and another one is
opened. An agent with a lease (one on a machine far away) is told again and again that it may go on, for as long as this
process lives and reaches it.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from laila.errors import LabError
from laila.lab.drivers.base import Driver
from laila.lab.faults.base import Scene
from laila.lab.remote import RemoteClient

T = TypeVar("T")
HELLO = 30.0
"""Seconds that an agent may take to start."""
_opening: dict[str, threading.Lock] = defaultdict(threading.Lock)
"""By node: several are opened side by side, and none of them twice."""


class Agent(RemoteClient):
    """The controller's end of a fault agent. `must` raises LabError with the agent's own words."""

    def __init__(self, driver: Driver, node: str) -> None:
        super().__init__(driver, node, channel=driver.agent(node))
        self._closed = threading.Event()
        hello = self.call("hello", timeout=HELLO)
        if not hello.ok:
            complaint = self.complaints() or f" ({hello})"
            super().close(0.5)
            raise LabError(f"the fault agent of {node} did not start{complaint}")
        self.lease = float(hello.result["lease"])
        if self.lease:
            threading.Thread(target=self._renew, name=f"lease of {node}", daemon=True).start()

    @property
    def stale(self) -> bool:
        """It ended, or its node has another network by now."""
        if self.gone:
            return True
        hello = self.call("hello")
        return not (hello.ok and hello.result["alive"])

    def close(self, timeout: float = 10.0) -> None:
        """End it; it undoes what it did, and has as long for it."""
        self._closed.set()
        super().close(timeout)

    def _renew(self) -> None:
        while not self._closed.wait(self.lease / 4) and not self.gone:
            self.call("lease", seconds=self.lease, timeout=self.lease / 4)


def hand(scene: Scene, node: str) -> Agent:
    """The agent of a node, opened or reused. Raises LabError when there can be none."""
    with _opening[node]:
        agent: Agent | None = scene.agents.get(node)
        if agent is not None and agent.stale:
            scene.agents.pop(node).close(1.0)
            agent = None
        if agent is None:
            agent = scene.agents[node] = Agent(scene.driver, node)
        return agent


def dismiss(scene: Scene) -> None:
    """End all agents of a scene; what they did is undone."""
    agents = dict(scene.agents)
    scene.agents.clear()
    at_once({node: agent.close for node, agent in agents.items()})


@contextmanager
def visiting(driver: Driver, node: str) -> Iterator[Agent | None]:
    """An agent for a moment, to undo what another one left; none where the node does not live, and its network and
    mounts are gone with it.
    """
    if not driver.reached(node):
        yield None
        return
    agent = Agent(driver, node)
    try:
        yield agent
    finally:
        agent.close()


def clear(driver: Driver, fault: str, nodes: Iterable[str]) -> None:
    """Undo what a fault did on these nodes, whoever did it."""

    def one(node: str) -> None:
        with visiting(driver, node) as agent:
            if agent is not None:
                agent.must("clear", fault=fault, timeout=30)

    at_once({node: partial(one, node) for node in nodes})


def at_once(tasks: Mapping[str, Callable[[], T]]) -> dict[str, T]:
    """Do all of them side by side; their results. Raises what the first of them raised, when all have ended."""
    if not tasks:
        return {}
    with ThreadPoolExecutor(min(len(tasks), 16)) as pool:
        futures = {name: pool.submit(task) for name, task in tasks.items()}
    return {name: future.result() for name, future in futures.items()}
