"""One fault on a lab that stays: it outlives the command that does it, until it is healed or its time is over."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from laila.errors import LabError
from laila.lab.faults import FaultSpec, Scene, ledger, make

LONGEST = 86_400.0
"""Seconds that a fault lasts at most when nobody heals it."""


def inject(scene: Scene, spec: FaultSpec, seconds: float | None) -> tuple[ledger.Entry, str]:
    """Do it and prove it; its entry in the ledger, and the proof. Raises NoBite after undoing it, LabError for what
    cannot be done here.
    """
    lasts = min(seconds or LONGEST, LONGEST)
    scene.until = time.time() + lasts
    fault = make(scene, spec)
    if why := fault.hindrance_of(scene.driver, spec):
        raise LabError(f"{spec.kind} cannot be done here: {why}")
    entry = ledger.inject(fault, scene.until)
    try:
        proof = fault.prove()
        for agent in scene.agents.values():
            agent.must("detach", seconds=lasts)
        entry.hand_over()
    except BaseException:
        ledger.heal(fault, entry)
        raise
    finally:
        for agent in scene.agents.values():
            agent.close()
    if seconds is not None:
        _heal_later(scene, entry, lasts)
    return entry, proof


def _heal_later(scene: Scene, entry: ledger.Entry, seconds: float) -> None:
    """A program of its own that heals in time, because not every fault ends by itself."""
    words = ["lab", "fault", "heal", "--run", scene.driver.run.run_id, "--after", f"{seconds:g}", entry.id]
    subprocess.Popen(
        [sys.executable, "-m", "laila.cli.main", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ.copy(),
        start_new_session=True,
    ).returncode = 0  # it is nobody's child: this command ends before it
