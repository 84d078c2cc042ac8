"""Clients at work, faults in turns, and the verdicts.

A run in which too little happened before, during or after a fault has shown nothing, and is an error; so is a client
that lies. Operations are kept as they end, so that what was seen until an interruption can be judged.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from laila.errors import LabError
from laila.lab.checkers.operations import Op
from laila.lab.checkers.verdict import Judgement, Verdict
from laila.lab.faults import Bite, Fault, Scene, Schedule
from laila.lab.history import History
from laila.lab.remote import MARGIN
from laila.lab.trials.invoking import Invoker
from laila.lab.trials.player import Player, Trouble
from laila.lab.trials.turns import Turns
from laila.lab.workloads.base import Who, Workload

_REFUSALS = 20.0
"""Seconds after a turn of faults in which a system that answers may go on refusing."""
_BRIEFLY = 10.0
"""Seconds for final reads when it is known that nothing will come of some."""
AFTERMATH = 5.0
"""Seconds after a fault in which clients may still suffer from it. One that has worked since then does not."""


class Unrecovered(LabError):
    """Nothing is broken any more, and the system goes on refusing what it is asked."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a trial does. Times are seconds."""

    workloads: tuple[Workload, ...]
    turns: Schedule
    seed: int
    seconds: float = 0.0
    """At least so long: the schedule begins again until then. Every turn comes once, however long that takes."""
    clients: int = 2
    """Of each workload beside each node."""
    timeout: float = 5.0
    """Of one operation."""
    calm: float = 1.0
    """Before the first fault, and after the last one."""
    hold: tuple[float, float] = (1.0, 3.0)
    """How long a turn stays broken at least: between these, by the seed."""
    least: int = 10
    """Operations of each workload that must have been begun before, between and after faults."""
    least_broken: int = 3
    """The same while a fault lasts: what waits for a node that stands still is not begun again and again."""
    patience: float = 60.0
    """For that, and for openings and closings: longer than it takes to give up a client that does not begin, and start
    another."""


@dataclass(slots=True)
class Trial:
    """`start` makes a client of a workload; `settled` waits until the system works as a whole."""

    plan: Plan
    scene: Scene
    history: History
    start: Callable[[Workload, Who], Invoker]
    settled: Callable[[], None] = lambda: None
    alive: Callable[[str], bool] = lambda node: True
    ops: dict[str, list[Op]] = field(default_factory=lambda: defaultdict(list))
    bites: list[Bite] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)
    _players: list[Player] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)
    _stuck: LabError | None = None
    """Who did not answer again when nothing was broken any more."""

    def run(self) -> None:
        """Play and judge. Raises what kept it from showing anything, after everything was judged that was seen."""
        self._players = [self._player(*place) for place in self._places()]
        for workload in self.plan.workloads:
            self.history.workload(workload.name, workload.settings())
        try:
            self._open()
            threads = [threading.Thread(target=one.run, name=one.who.name) for one in self._players]
            for thread in threads:
                thread.start()
            try:
                self._break_things()
            finally:
                self._over.set()
                for thread in threads:
                    thread.join()
            self._end()
        finally:
            for player in self._players:
                player.close()
            self._judge()
        if self._stuck:
            raise self._stuck
        self._believe()

    def facts(self) -> dict[str, Any]:
        """For the report: what was broken, and what was judged."""
        return {
            "bites": [one.to_dict(self.history.began) for one in self.bites],
            "judgements": [one.to_dict() for one in self.judgements],
            "trial_operations": {
                name: dict(Counter(op.outcome for op in ops)) for name, ops in self.ops.items()
            },
        }

    def holders(self) -> dict[str, tuple[str, int]]:
        """Who holds a lock now: the client's name to its node and its process there."""
        held = [one for one in self._players if one.holding and one.pid]
        return {one.who.name: (one.who.node, one.pid) for one in held}

    # -- clients

    def _places(self) -> list[tuple[Workload, str, int]]:
        nodes, plan = self.scene.names, self.plan
        return [(work, node, n) for work in plan.workloads for node in nodes for n in range(plan.clients)]

    def _player(self, workload: Workload, node: str, number: int) -> Player:
        nodes, plan = self.scene.names, self.plan
        who = Who(f"{node}/{workload.name}/{number}", node, number, len(nodes) * plan.clients, nodes)
        common = (self.alive, plan.seed, self.history.began, plan.timeout, self._over)
        return Player(workload, who, self.start, self._sink, *common)

    def _sink(self, workload: Workload, op: Op) -> None:
        with self._lock:
            self.ops[workload.name].append(op)
        self.history.invoke(workload.name, op)

    def _open(self) -> None:
        """One client of each workload prepares what it needs."""
        first = {player.workload.name: player for player in reversed(self._players)}
        for name, player in first.items():
            self.scene.tell(f"{name}: clients begin")
            if not player.once(player.workload.opening, "opening", self.plan.patience):
                raise LabError(f"the workload {name} could not begin{self._last_trouble()}")

    def _end(self) -> None:
        """Final reads, by every client, side by side; those of others show what was lost where one is stuck."""
        self.scene.tell("final reads")
        failed: list[Player] = []
        within = _BRIEFLY if self._stuck else self.plan.patience

        def close(player: Player) -> None:
            if not player.once(player.workload.closing, "closing", within):
                failed.append(player)

        threads = [threading.Thread(target=close, args=(one,)) for one in self._players]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed and not self._stuck:
            raise _refused(failed, within) or LabError(
                f"{len(failed)} clients could not make their final reads within {within:g} s: "
                f"{', '.join(sorted(one.who.name for one in failed)[:4])}{self._last_trouble()}"
            )

    # -- faults

    def _break_things(self) -> None:
        plan = self.plan
        chance = random.Random(f"{plan.seed} turns")  # noqa: S311  repeatable on purpose
        turns = Turns(
            self.scene,
            lambda: chance.uniform(*plan.hold),
            self._enough,
            self.settled,
            self._event,
            self.bites,
        )
        began = time.monotonic()
        self.scene.tell("undisturbed work")
        self._enough("before any fault", began)
        time.sleep(plan.calm)
        done = 0
        while plan.turns and (done < len(plan.turns) or time.monotonic() - began < plan.seconds):
            turns.play(plan.turns[done % len(plan.turns)])
            done += 1
            if not self._answered_again(lambda player: bool(player.refusal)):
                return  # the next fault would show nothing more, and hide which one it did not recover from
        since = time.monotonic()
        time.sleep(max(plan.calm, began + plan.seconds - since))
        self._enough("at the end", since)
        self._answered_again(lambda player: bool(player.troubles))

    def _answered_again(self, suffered: Callable[[Player], bool]) -> bool:
        """Wait until every client that suffered has answered since, with nothing broken any more: one that never does
        so has shown nothing, and no fault explains it.
        """
        healed = max((bite.healed for bite in self.bites), default=0.0)
        since = time.monotonic()
        for player in self._players:
            while suffered(player) and player.answered < healed:
                patience = min(self.plan.patience, _REFUSALS if player.refusal else math.inf)
                if time.monotonic() > since + patience:
                    self._stuck = _refused([player], patience) or LabError(
                        f"{player.who.name} ended or hung {len(player.troubles)} times, and did not answer within "
                        f"{patience:g} s with nothing broken any more{self._last_trouble()}"
                    )
                    return False
                time.sleep(0.05)
        return True

    def _event(self, what: str, fault: Fault, at: float) -> None:
        for node in fault.nodes:
            text = f"{fault.spec}" if what == "fault" else f"{fault.spec} is over"
            self.history.event(what, text, node=node, at=at)

    def _enough(self, phase: str, since: float, broken: bool = False) -> None:
        """Wait until every workload has begun enough since then. Raises LabError when it does not."""
        least = self.plan.least_broken if broken else self.plan.least
        wanted = frozenset() if broken else frozenset(self.scene.names)
        deadline = time.monotonic() + self.plan.patience
        start = since - self.history.began
        for workload in self.plan.workloads:
            while True:
                begun = self._begun(workload.name, start)
                count = sum(begun.values())
                if count >= least and wanted <= begun.keys():
                    break
                if time.monotonic() > deadline:
                    if idle := sorted(wanted - begun.keys()):
                        raise LabError(
                            f"{phase}: clients of the workload {workload.name} beside {', '.join(idle)} did nothing "
                            f"for {self.plan.patience:g} s{self._last_trouble()}"
                        )
                    raise LabError(
                        f"{phase}: only {count} operations of the workload {workload.name} in "
                        f"{self.plan.patience:g} s, and {least} are needed to show anything"
                        f"{self._last_trouble()}"
                    )
                time.sleep(0.05)

    def _begun(self, name: str, since: float) -> Counter[str]:
        """How many operations were begun since then, by node."""
        with self._lock:
            ops = self.ops[name]
            begun: Counter[str] = Counter()
            for op in reversed(ops):
                if op.start < since - self.plan.timeout - MARGIN:
                    break
                if op.start >= since:
                    begun[op.node] += 1
        return begun

    # -- verdicts

    def _judge(self) -> None:
        for workload in self.plan.workloads:
            found = workload.judge(self.ops[workload.name])
            self.judgements += [replace(one, workload=workload.name) for one in found]
        for one in self.judgements:
            if one.verdict is Verdict.ILLEGAL and one.why is not None:
                why = one.why
                at = self.history.began + min(why.offender.end, self.history.now())
                text = f"{one.check}, {one.name}: {why.kind}: {why.text}"
                self.history.event("bad", text, node=why.offender.node, at=at)

    def _believe(self) -> None:
        """Raises LabError when clients were not what they must be: nothing is known of what they did then."""
        if lies := [lie for player in self._players for lie in player.lies]:
            raise LabError(f"{len(lies)} answers were none, first: {lies[0]}")
        if broken := [one for one in self._troubles() if not self._excused(one)]:
            raise LabError(
                f"{len(broken)} times a client did not work, with nothing broken: {broken[0].text}"
            )

    def _excused(self, trouble: Trouble) -> bool:
        """Whether something was broken at that time, or right before and its program has not worked since."""
        return any(
            bite.injecting < trouble.ended
            and (
                trouble.began < bite.healed
                or (trouble.began < bite.healed + AFTERMATH and not bite.healed <= trouble.worked < math.inf)
            )
            for bite in self.bites
        )

    def _troubles(self) -> list[Trouble]:
        found = [trouble for player in self._players for trouble in player.troubles]
        return sorted(found, key=lambda trouble: trouble.ended)

    def _last_trouble(self) -> str:
        lies = [lie for player in self._players for lie in player.lies]
        texts = lies[:1] or [trouble.text for trouble in self._troubles()[-1:]]
        return f"; {texts[0]}" if texts else ""


def _refused(players: Sequence[Player], seconds: float) -> Unrecovered | None:
    """When it is the system that does not answer these clients, and not they that do not work."""
    refusals = [(one.who.name, one.refusal) for one in players if one.refusal]
    if not refusals:
        return None
    name, text = refusals[0]
    return Unrecovered(
        f"the system does not recover: {seconds:g} s after everything was healed {len(refusals)} clients are still "
        f"refused, {name} with {text}"
    )


def summary(bites: Sequence[Bite]) -> str:
    """What was broken, for people: `kill 2 times, pause`."""
    counts = Counter(bite.kind for bite in bites)
    return ", ".join(kind if count == 1 else f"{kind} {count} times" for kind, count in counts.items())
