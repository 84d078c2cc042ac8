"""The steps of the main job, in order. Each is a function of a `Stage` that says what it saw, or raises
`CheckFailed`.
"""

from __future__ import annotations

from laila.lab.checks import crash, links, logs, memory, stranger
from laila.lab.checks.base import CheckFailed, Effort, Stage, Step

MAIN_JOB: tuple[Step, ...] = (
    Step("start", "start nodes and clients", links.start, vital=True),
    Step("links", "every directed link shakes hands", links.shake_hands, vital=True),
    Step("lists", "both ends list each other", links.both_ends_list),
    Step("memory", "work on each other's memory", memory.work_in_every_direction),
    Step("stranger", "refuse the wrong secret", stranger.is_refused),
    Step("crash", "kill -9 under load, and heal", crash.kill_and_heal),
    Step("durable", "nothing acknowledged is lost", crash.nothing_is_lost),
    Step("inside", "no node crashed inside", logs.no_node_crashed_inside, always=True),
)

__all__ = ["MAIN_JOB", "CheckFailed", "Effort", "Stage", "Step"]
