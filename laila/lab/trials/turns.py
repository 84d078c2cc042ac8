"""Does the faults of a schedule, turn by turn: inject, prove, let enough happen, heal, prove that, let enough happen.

Whatever happens in between, what was injected is healed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from laila.errors import LabError, LailaError
from laila.lab.faults import Bite, Fault, FaultSpec, Scene, ledger, make


@dataclass(slots=True)
class Turn:
    """One fault on its way."""

    fault: Fault
    entry: ledger.Entry | None = None
    injecting: float = 0.0
    injected: float = 0.0
    healing: float = 0.0
    healed: float = 0.0
    proof: str = ""
    proof_of_healing: str = ""

    @property
    def bite(self) -> Bite:
        times = (self.injecting, self.injected, self.healing, self.healed)
        return Bite(
            str(self.fault.spec), self.fault.kind, self.fault.nodes, *times, self.proof, self.proof_of_healing
        )


@dataclass(slots=True)
class Turns:
    """`enough` waits until enough operations were begun since a time, while things are broken or not, and raises when
    there are too few; `settled` waits until the system works again as a whole, and raises what the system did wrong;
    `event` tells the history.
    """

    scene: Scene
    hold: Callable[[], float]
    """How many seconds the next turn stays broken, at least."""
    enough: Callable[[str, float, bool], None]
    settled: Callable[[], None]
    event: Callable[[str, Fault, float], None]
    """`fault` or `heal`, of which, when."""
    bites: list[Bite] = field(default_factory=list)

    def play(self, specs: Sequence[FaultSpec]) -> None:
        """One turn. Raises NoBite, NotHealed, what `enough` and `settled` raise, and what could not be undone."""
        turns: list[Turn] = []
        problem: BaseException | None = None
        try:
            for spec in specs:
                turns.append(self._inject(spec))
            for turn in turns:
                turn.proof = turn.fault.prove()
                self.scene.tell(f"{turn.fault.spec}: {turn.proof}")
            since = max(turn.injected for turn in turns)
            if self._somebody_works(turns):
                self.enough(f"during {'+'.join(turn.fault.kind for turn in turns)}", since, True)
            time.sleep(max(0.0, since + self.hold() - time.monotonic()))
        except BaseException as error:
            problem = error
            raise
        finally:
            self._heal(turns, problem)
        for turn in reversed(turns):
            turn.proof_of_healing = turn.fault.prove_healed()
        self.settled()
        for turn in turns:
            turn.healed = time.monotonic()
            self.event("heal", turn.fault, turn.healed)
            self.bites.append(turn.bite)
        self.enough(f"after {'+'.join(turn.fault.kind for turn in turns)}", turns[-1].healed, False)

    def _somebody_works(self, turns: Sequence[Turn]) -> bool:
        """Whether there is a node beside which a client can do anything."""
        silent = {
            node
            for turn in turns
            for node in turn.fault.nodes
            if turn.fault.breaks_clients or turn.fault.silences
        }
        return bool(set(self.scene.names) - silent)

    def _inject(self, spec: FaultSpec) -> Turn:
        turn = Turn(make(self.scene, spec))
        self.scene.tell(f"{turn.fault.spec} strikes {', '.join(turn.fault.nodes)}")
        turn.injecting = time.monotonic()
        self.event("fault", turn.fault, turn.injecting)
        turn.entry = ledger.inject(turn.fault)
        turn.injected = time.monotonic()
        return turn

    def _heal(self, turns: Sequence[Turn], problem: BaseException | None) -> None:
        """All of them, whatever the others do. Raises the first trouble, unless there is a greater one already."""
        troubles: list[LailaError] = []
        for turn in reversed(turns):
            turn.healing = time.monotonic()
            try:
                if turn.entry is not None:
                    ledger.heal(turn.fault, turn.entry)
            except LailaError as error:
                troubles.append(error)
        if troubles and problem is None:
            raise LabError(f"could not undo what was broken: {troubles[0]}") from troubles[0]
