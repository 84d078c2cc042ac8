"""What is done to nodes while others work: kill -9, a pause, a cut-off. Each is proven to have bitten, and to be over.

A fault whose proof fails is an error of the lab, because nothing was shown then; a node that does not come back is the
nodes' own failure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from laila.errors import DeadlineExceeded, LabError
from laila.lab.checks import revival
from laila.lab.checks.base import Stage
from laila.lab.checks.replica_load import ReplicaLoad
from laila.lab.drivers.base import NodeState
from laila.lab.watch import EVERY

_LOOKING = 2 * EVERY + 1.5
"""What seeing a loss takes beside the configured time: looks, and a busy machine."""
REFUSED = frozenset({"QuorumLost", "DeadlineExceeded"})
"""How an operation ends that reaches too few replicas."""


@dataclass(frozen=True, slots=True)
class Bite:
    """One fault that was done to a node. Times are of the controller; `proof` says how it is known."""

    what: str
    node: str
    injecting: float
    injected: float
    healing: float
    healed: float
    proof: str


@dataclass(frozen=True, slots=True)
class Fault:
    """`inject` and `heal` do it; `proof` waits until it has bitten, and says how it is known."""

    what: str
    inject: Callable[[Stage, ReplicaLoad, str], None]
    proof: Callable[[Stage, ReplicaLoad, str, float], str]
    heal: Callable[[Stage, ReplicaLoad, str], None]


def faults(stage: Stage) -> list[Fault]:
    """Those that the driver can do."""
    can = stage.driver.capabilities
    found = [KILL] if can.kill else []
    found += [PAUSE] if can.pause else []
    return found + ([CUT] if can.cut else [])


def bite(stage: Stage, load: ReplicaLoad, fault: Fault, node: str) -> Bite:
    """Do it, prove it, let enough happen meanwhile, undo it, prove that."""
    load.phase = fault.what
    stage.tell(f"{node}: {fault.what}; the others work on")
    injecting = time.monotonic()
    stage.history.event("fault", f"{node}: {fault.what}", node=node, at=injecting)
    fault.inject(stage, load, node)
    injected = time.monotonic()
    healing = 0.0
    try:
        proof = fault.proof(stage, load, node, injecting)
        others = [name for name in stage.names if name != node]
        _enough(stage, load, fault.what, others)
        time.sleep(max(0.0, injecting + stage.effort.fault_for - time.monotonic()))
    finally:
        healing = time.monotonic()
        fault.heal(stage, load, node)
    links = tuple(link for link in stage.topology.directed_links() if node in link)
    revival.all_up(stage, links, f"{node} is back")
    healed = time.monotonic()
    stage.history.event("heal", f"{node} is back", node=node, at=healed)
    _works_again(stage, load, node, healed)
    load.phase = f"after {fault.what}"
    _enough(stage, load, load.phase, list(stage.names))
    return Bite(fault.what, node, injecting, injected, healing, healed, proof)


def _enough(stage: Stage, load: ReplicaLoad, phase: str, nodes: list[str]) -> None:
    """Wait until these nodes have done enough for a verdict."""
    least, end = stage.effort.least_replica_ops, time.monotonic() + stage.effort.heal_within
    while load.count(phase, nodes) < least:
        if time.monotonic() > end:
            errors = ", ".join(f"{n} times {error}" for error, n in load.errors(phase).most_common(3))
            stage.fail(
                f"{phase}: {', '.join(nodes)} did {load.count(phase, nodes)} operations in "
                f"{stage.effort.heal_within:g} s; {least} are the least",
                [errors] if errors else (),
            )
        time.sleep(0.05)


def _works_again(stage: Stage, load: ReplicaLoad, node: str, since: float) -> None:
    """Through the node itself something goes through that was begun after it was back."""
    end = since + stage.effort.heal_within
    while not any(d.ok and d.node == node and d.outcome.started > since for d in reversed(load.done)):
        if time.monotonic() > end:
            last = next((str(d) for d in reversed(load.done) if d.node == node), "nothing was tried")
            stage.fail(
                f"{node} is back for {stage.effort.heal_within:g} s, but nothing goes through it", [last]
            )
        time.sleep(0.05)


# -- kill -9 ------------------------------------------------------------------------------------------------


def _kill(stage: Stage, load: ReplicaLoad, node: str) -> None:
    load.expect_death(node)
    revival.kill(stage, node, "while all work on the replicated store")
    load.leave(node)


def _killed(stage: Stage, load: ReplicaLoad, node: str, since: float) -> str:
    if (state := stage.driver.state(node)) is not NodeState.EXITED:
        raise LabError(f"{node} was killed and is {state.value}: the fault did not bite")
    return f"its process is gone; {_lost_by_others(stage, node, since)}"


def _revive(stage: Stage, load: ReplicaLoad, node: str) -> None:
    revival.revive(stage, node)
    load.back(node)


# -- pause --------------------------------------------------------------------------------------------------


def _pause(stage: Stage, load: ReplicaLoad, node: str) -> None:
    stage.driver.pause(node)


def _paused(stage: Stage, load: ReplicaLoad, node: str, since: float) -> str:
    if (state := stage.driver.state(node)) is not NodeState.PAUSED:
        raise LabError(f"{node} was paused and is {state.value}: the fault did not bite")
    return f"it stands still; {_lost_by_others(stage, node, since)}"


def _resume(stage: Stage, load: ReplicaLoad, node: str) -> None:
    stage.driver.resume(node)


# -- cut off ------------------------------------------------------------------------------------------------


def _cut(stage: Stage, load: ReplicaLoad, node: str) -> None:
    stage.driver.cut(node)


def _cut_off(stage: Stage, load: ReplicaLoad, node: str, since: float) -> str:
    """Both sides say so, and what is asked through the node is refused for want of a quorum."""
    said = _lost_by_others(stage, node, since)
    own = [(node, other) for other in stage.names if other != node]
    try:
        stage.watch.wait(
            lambda: not any(stage.watch.up(a, b) for a, b in own),
            _allowed(stage),
            lambda: ", ".join(f"{a} still lists {b}" for a, b in own if stage.watch.up(a, b)),
        )
    except DeadlineExceeded as error:
        raise LabError(
            f"{node} was cut off, and does not see it ({error}): the fault did not bite"
        ) from error
    end = time.monotonic() + stage.effort.replica_timeout + stage.effort.op_timeout
    refused: list[str] = []
    while not refused:
        refused = [
            d.outcome.error for d in load.done if d.node == node and d.outcome.started > since and not d.ok
        ]
        refused = [error for error in refused if error in REFUSED]
        if time.monotonic() > end:
            raise LabError(f"nothing was refused through {node}, which is cut off: the fault did not bite")
        time.sleep(0.05)
    return f"{said}; it sees nobody; what is asked through it ends with {refused[0]}"


def _rejoin(stage: Stage, load: ReplicaLoad, node: str) -> None:
    stage.driver.rejoin(node)


def _lost_by_others(stage: Stage, node: str, since: float) -> str:
    """Wait until every other node itself says that the node is gone."""
    others = [(other, node) for other in stage.names if other != node]
    try:
        stage.watch.wait(
            lambda: not any(stage.watch.up(a, b) for a, b in others),
            _allowed(stage),
            lambda: ", ".join(f"{a} still lists {b}" for a, b in others if stage.watch.up(a, b)),
        )
    except DeadlineExceeded as error:
        raise LabError(
            f"the others do not see that {node} is gone ({error}): the fault did not bite"
        ) from error
    return f"the others saw it go within {time.monotonic() - since:.1f} s"


def _allowed(stage: Stage) -> float:
    return stage.topology.dead_after + _LOOKING + stage.effort.op_timeout


KILL = Fault("kill -9", _kill, _killed, _revive)
PAUSE = Fault("paused", _pause, _paused, _resume)
CUT = Fault("cut off", _cut, _cut_off, _rejoin)
