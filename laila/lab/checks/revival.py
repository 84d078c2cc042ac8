"""A whole node dies by SIGKILL, with every program beside it, and is brought back on the same state."""

from __future__ import annotations

import time

from laila.errors import DeadlineExceeded
from laila.lab.checks.base import Stage
from laila.lab.clocks import Moment
from laila.lab.watch import name_missing


def kill(stage: Stage, node: str, why: str) -> Moment:
    """Returns when it died: between asking for it and knowing it."""
    began = time.monotonic()
    stage.driver.kill(node)
    died = Moment(began, time.monotonic())
    stage.history.event("kill", f"{node} killed with SIGKILL {why}", node=node, at=began)
    stage.leave(node)
    return died


def revive(stage: Stage, node: str) -> float:
    """Start it, wait for its client and for all its links; the seconds that it took."""
    began = time.monotonic()
    stage.driver.start(node)
    stage.history.event("up", f"{node} started again on the same state", node=node, at=began)
    stage.watch.follow(stage.join(node))
    links = tuple(link for link in stage.topology.directed_links() if node in link)
    all_up(stage, links, f"{node} is back")
    return time.monotonic() - began


def all_up(stage: Stage, links: tuple[tuple[str, str], ...], since: str) -> None:
    """Wait until these directed links are up; the nodes' failure when they do not heal. `since`: what is so by now."""
    within = stage.effort.heal_within
    try:
        stage.watch.wait(
            lambda: all(stage.watch.up(a, b) for a, b in links),
            within,
            lambda: name_missing(stage.watch, links),
        )
    except DeadlineExceeded:
        down = [f"{a} does not see {b}" for a, b in links if not stage.watch.up(a, b)]
        stage.fail(f"{since} for {within:g} s, but not all links healed", down)
