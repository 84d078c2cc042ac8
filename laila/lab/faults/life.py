"""Nodes that die, stand still or are started anew. Proven by the driver's word, by their doors, by the main process.

While a node is down or stands still its door, which answered before, must not answer a stranger; when it is back it
must. Of a node that was started anew the main process must be another one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, ClassVar

from laila.errors import LabError
from laila.lab.drivers.base import Driver, NodeState
from laila.lab.faults.base import NoBite, NotHealed, Option, Scene
from laila.lab.faults.doorbell import Doorbell, Ring
from laila.lab.faults.family import incarnation
from laila.lab.faults.spec import FaultSpec
from laila.lab.faults.struck import NodeFault, start_fallen

_KILLED = (-9, 137)
"""Exit codes of who was killed by SIGKILL."""


class LifeFault(NodeFault):
    """What they have in common: who was there before, and that all are back."""

    def __init__(self, scene: Scene, spec: FaultSpec) -> None:
        super().__init__(scene, spec)
        self._bells: dict[str, Doorbell] = {}
        self._were: dict[str, str] = {}

    def _look(self, *also: NodeState) -> None:
        """Who is there, before anything is done. Raises LabError for nodes that neither run nor are `also` allowed."""
        for name in self.nodes:
            if (state := self.driver.state(name)) not in (NodeState.RUNNING, *also):
                raise LabError(f"{self.spec}: {name} is {state.value}")
        for name in self.nodes:
            self._were[name] = incarnation(self.driver, name)
            if (bell := Doorbell.of(self.driver, name)) is not None:
                self._bells[name] = bell

    def _unanswered(self, name: str) -> str:
        """That the door does not answer any more. Raises NoBite."""
        bell = self._bells.get(name)
        if bell is None:
            return "its door cannot be knocked at from here"
        ring: Ring | None = None

        def quiet() -> bool:
            nonlocal ring
            ring = bell.ring()
            return ring is None or not ring.answered

        self.until(quiet, NoBite, f"the door of {name} to answer no more")
        now = "nobody is left to knock" if ring is None else f"now it {ring}"
        return f"{bell} answered in {bell.before.seconds * 1000:.0f} ms before, {now}"

    def _back(self, name: str) -> str:
        """That it runs and answers. Raises NotHealed."""
        running = NodeState.RUNNING
        self.until(lambda: self.driver.state(name) is running, NotHealed, f"{name} to run")
        bell: Doorbell | None = None

        def answers() -> bool:
            nonlocal bell
            bell = Doorbell.of(self.driver, name)
            return bell is not None or not (name in self._bells or not self.driver.topology.foreign)

        self.until(answers, NotHealed, f"the door of {name} to answer")
        who = incarnation(self.driver, name)
        text = f"{name} runs" + (f" as {who}" if who else "")
        return text if bell is None else f"{text}, {bell} {bell.before}"

    def _renewed(self, name: str) -> str:
        """That another process runs now, and answers. Raises NotHealed."""
        text, was = self._back(name), self._were.get(name, "")
        if was and incarnation(self.driver, name) == was:
            raise NotHealed(f"{self.spec}: {name} still runs as {was}, as before")
        return f"{text} (before: {was})" if was else text

    @property
    def _looked_at(self) -> tuple[str, ...]:
        """Nobody else was touched."""
        return tuple(self._were)

    def heal(self) -> None:
        start_fallen(self.driver, self._looked_at)
        for name in self._looked_at:
            self.scene.ready(name)

    @classmethod
    def undo(cls, driver: Driver, facts: Mapping[str, Any]) -> None:
        start_fallen(driver, tuple(facts.get("nodes", ())))


class Kill(LifeFault):
    """SIGKILL; its disk stays."""

    kind: ClassVar[str] = "kill"
    summary: ClassVar[str] = "nodes die of SIGKILL and are started again later"
    breaks_clients: ClassVar[bool] = True

    @classmethod
    def hindrance(cls, driver: Driver) -> str:
        """See Fault.hindrance."""
        return "" if driver.capabilities.kill else f"the {driver.name} driver cannot kill nodes"

    def inject(self) -> dict[str, Any]:
        """Kill them one after another, as fast as that goes."""
        self._look(NodeState.PAUSED)
        self.remember(nodes=list(self.nodes))
        for name in self.nodes:
            self.scene.left(name)
        for name in self.nodes:
            self.driver.kill(name)
        return {}

    def prove(self) -> str:
        """They have exited, and their doors do not answer."""
        found = []
        for name in self.nodes:
            state = self.driver.state(name)
            if state is not NodeState.EXITED:
                raise NoBite(f"{self.spec}: {name} is {state.value}")
            code = self.driver.ending(name).code
            how = "has exited" if code is None else f"has exited with {code}"
            was = f" (was {self._were[name]})" if self._were.get(name) else ""
            found.append(f"{name} {how}{was}; {self._unanswered(name)}")
        return "; ".join(found)

    def prove_healed(self) -> str:
        """Others run in their place, and answer."""
        return "; ".join(self._renewed(name) for name in self.nodes)


class Pause(LifeFault):
    """Everything of the node stands still, and goes on later as if nothing had been."""

    kind: ClassVar[str] = "pause"
    silences: ClassVar[bool] = True
    summary: ClassVar[str] = "nodes stand still, and go on later"

    @classmethod
    def hindrance(cls, driver: Driver) -> str:
        """See Fault.hindrance."""
        return "" if driver.capabilities.pause else f"the {driver.name} driver cannot pause nodes"

    def inject(self) -> dict[str, Any]:
        """Freeze them one after another."""
        self._look()
        self.remember(nodes=list(self.nodes))
        for name in self.nodes:
            self.driver.pause(name)
        return {}

    def prove(self) -> str:
        """They stand still by the driver's word, and their doors take connections but say nothing."""
        found = []
        for name in self.nodes:
            state = self.driver.state(name)
            if state is not NodeState.PAUSED:
                raise NoBite(f"{self.spec}: {name} is {state.value}")
            found.append(f"{name} stands still; {self._unanswered(name)}")
        return "; ".join(found)

    def heal(self) -> None:
        """Let them go on; those that died of it are started again."""
        _resume(self.driver, self._looked_at)
        super().heal()

    def prove_healed(self) -> str:
        """They run and answer."""
        return "; ".join(self._back(name) for name in self.nodes)

    @classmethod
    def undo(cls, driver: Driver, facts: Mapping[str, Any]) -> None:
        """See Fault.undo."""
        names = tuple(facts.get("nodes", ()))
        _resume(driver, names)
        super().undo(driver, facts)


class Restart(LifeFault):
    """Stopped as an operator would, and started again at once."""

    kind: ClassVar[str] = "restart"
    summary: ClassVar[str] = "nodes are asked to end, and are started again at once"
    options: ClassVar[Mapping[str, Option]] = {
        "grace": Option(30.0, "how long a node may take to end", "s", 0.1, 600),
    }
    breaks_clients: ClassVar[bool] = True

    def __init__(self, scene: Scene, spec: FaultSpec) -> None:
        super().__init__(scene, spec)
        self._codes: dict[str, int] = {}

    @classmethod
    def hindrance(cls, driver: Driver) -> str:
        """See Fault.hindrance."""
        return ""

    def inject(self) -> dict[str, Any]:
        """Stop all of them, then start all of them."""
        self._look(NodeState.PAUSED)
        self.remember(nodes=list(self.nodes), were=self._were)
        for name in self.nodes:
            self.scene.left(name)
        for name in self.nodes:
            self._codes[name] = self.driver.stop(name, self.option("grace"))
        start_fallen(self.driver, self.nodes)
        return {}

    def prove(self) -> str:
        """Each ended by itself, and another process runs in its place."""
        found = []
        for name in self.nodes:
            if name not in self._codes:
                raise NoBite(f"{self.spec}: {name} was not restarted")
            if (code := self._codes[name]) in _KILLED:
                raise NoBite(
                    f"{self.spec}: {name} did not end within {self.option('grace'):g} s and was killed; give it more "
                    f"time with restart:grace=SECONDS, or use kill"
                )
            found.append(f"{name} ended with {code}; {self._other(name)}")
        return "; ".join(found)

    def _other(self, name: str) -> str:
        was, now = self._were[name], incarnation(self.driver, name)
        if was and was == now:
            raise NoBite(f"{self.spec}: {name} still runs as {was}")
        return f"it ran as {was} and runs as {now}" if was and now else "it was started again"

    def prove_healed(self) -> str:
        """They run and answer."""
        return "; ".join(self._renewed(name) for name in self.nodes)

    @classmethod
    def undo(cls, driver: Driver, facts: Mapping[str, Any]) -> None:
        """See Fault.undo. One that was asked to end may be about to do so: the restart is brought to its end."""
        for name, was in facts.get("were", {}).items():
            if was and driver.state(name) is NodeState.RUNNING and incarnation(driver, name) == was:
                with suppress(LabError):  # it ended meanwhile
                    driver.stop(name)
        super().undo(driver, facts)


def _resume(driver: Driver, names: tuple[str, ...]) -> None:
    """Let those go on that stand still. A freezer that does not let go is asked again."""
    for attempt in (1, 2, 3):
        for name in names:
            if driver.state(name) is NodeState.PAUSED:
                try:
                    driver.resume(name)
                except LabError:
                    if attempt == 3:
                        raise
