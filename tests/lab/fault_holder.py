"""A controller of its own, which the fault conformance suite interrupts and kills: it does faults and holds them.

`python fault_holder.py RUN SPEC+SPEC SEED` prints a line with the proofs when all have bitten, and heals them when its
input ends, on Ctrl-C and on any error. `… SEED NAME NODE PID` says who holds a lock; it is asked for that twice, and
the second time it prints a line and waits for its end.
"""

from __future__ import annotations

import contextlib
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping

from laila.lab import faults, registry, standing
from laila.lab.drivers.base import Driver, NodeState, wait_until
from laila.lab.faults import Fault, FaultSpec, Scene, hands, ledger


def scene_of(driver: Driver, seed: int) -> Scene:
    """Nodes are ready when they say so themselves; those that are not laila's when they run."""

    def ready(node: str) -> None:
        wait_until(lambda: _works(driver, node), 30.0, f"{node} to work again")

    return Scene(driver, driver.topology.names, random.Random(seed), ready=ready, within=20.0)  # noqa: S311  a seed that is told


def _works(driver: Driver, node: str) -> bool:
    if driver.topology.client is not None:
        return driver.state(node) is NodeState.RUNNING
    return driver.exec(node, ["laila", "health"]).code == 0


def made(scene: Scene, text: str) -> list[Fault]:
    """Faults of one turn, that are not done yet."""
    return [faults.make(scene, FaultSpec.parse(one)) for one in text.split("+")]


def stuck_with(name: str, node: str, pid: str) -> Callable[[], Mapping[str, tuple[str, int]]]:
    """For `Scene.holders`: an answer once. Who asks again has stopped the holder, and gets no further."""
    asked: list[float] = []

    def holders() -> Mapping[str, tuple[str, int]]:
        asked.append(time.monotonic())
        if len(asked) > 1:
            print(f"asked again after {asked[1] - asked[0]:.3f} s", flush=True)
            sys.stdin.read()
        return {name: (node, int(pid))}

    return holders


def dismiss(scene: Scene) -> None:
    """End the scene's agents."""
    hands.dismiss(scene)


@contextlib.contextmanager
def held(driver: Driver, text: str, seed: int, *holder: str) -> Iterator[str]:
    """The faults, proved; healed afterwards."""
    scene, done = scene_of(driver, seed), []
    if holder:
        scene.holders = stuck_with(*holder)
    try:
        for fault in made(scene, text):
            done.append((fault, ledger.inject(fault)))
        yield "; ".join(fault.prove() for fault, _ in done)
    finally:
        for fault, entry in reversed(done):
            ledger.heal(fault, entry)
        hands.dismiss(scene)


def main(run_id: str, text: str, seed: str, *holder: str) -> None:
    with standing.attached(registry.load(run_id)) as driver, held(driver, text, int(seed), *holder) as proof:
        print(proof, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background jobs inherit that it is ignored
    main(*sys.argv[1:])
