"""One node dies by SIGKILL while the others work on its durable pool, and comes back on the same state.

Judged from the outcomes of every operation and from what each survivor itself lists: the loss is seen
within the configured time; a call in flight ends with PeerLost, later ones with a link error, none with a
wrong value, none never; the links heal without help; work between the survivors is not disturbed; and all
that was acknowledged is there, byte for byte.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from laila.errors import DeadlineExceeded, LabError
from laila.lab.checks.base import Stage
from laila.lab.checks.load import Done, Load
from laila.lab.watch import EVERY, name_missing

LINK_ERRORS = frozenset({"PeerLost", "Unreachable", "UnknownPeer"})
"""How a call on a node that is down may end."""
AFTERMATH = 1.0
"""Seconds after healing in which a call may still fail: a proxy may hold the old link an instant longer."""
_LOOKING = 2 * EVERY + 0.5
"""What measuring adds to the configured time: two looks, and a busy machine."""
_BATCH = 500
_SHOWN = 5
"""Lost entries that are named; the history has them all."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Monotonic times of the controller around the death of the victim."""

    killing: float
    dead: float
    starting: float
    healed: float


def kill_and_heal(stage: Stage) -> str:
    victim = stage.random.choice(stage.names)
    durable = next((pool for pool in stage.topology.node(victim).pools if pool.name == "durable"), None)
    if durable is None:
        raise LabError(f"{victim} has no pool named durable, so its death cannot be judged")
    load = Load(stage, victim, durable.name)
    stage.facts |= {"victim": victim, "load": load}
    load.start()
    try:
        moments, lost = _die_and_return(stage, victim, load)
        load.phase = "after"
        stage.tell(f"{victim} is back; working on")
        time.sleep(stage.effort.load_for)
    finally:
        load.stop()
    slowest, healed = max(lost.values()), moments.healed - moments.starting
    cut = sum(1 for done in load.done if done.outcome.error == "PeerLost")
    stage.facts["crash"] = {"victim": victim, "lost_seen": lost, "healed": healed}
    _judge(stage, load, moments)
    return (
        f"{victim} killed under {len(load.done)} operations: loss seen in {slowest:.2f} s (allowed "
        f"{stage.topology.dead_after:g}), {cut} times PeerLost, healed {healed:.1f} s after its start"
    )


def _die_and_return(stage: Stage, victim: str, load: Load) -> tuple[Moments, dict[str, float]]:
    effort, survivors = stage.effort, [name for name in stage.names if name != victim]
    stage.tell(f"{len(survivors) * effort.workers} workers write to and read from {victim}")
    time.sleep(effort.load_for)
    if len(load.acknowledged) < effort.least_writes:
        raise LabError(
            f"only {len(load.acknowledged)} durable writes were acknowledged in {effort.load_for:g} s; "
            f"{effort.least_writes} are needed to say anything"
        )
    load.phase = "down"
    killing = time.monotonic()
    stage.driver.kill(victim)
    dead = time.monotonic()
    stage.history.event("kill", f"{victim} killed with SIGKILL under load", node=victim, at=killing)
    stage.leave(victim)
    lost = _loss_seen(stage, victim, survivors, killing)
    time.sleep(0.5)  # some calls while everybody knows
    stage.tell(f"{victim} is dead and its peers know; starting it again")
    starting = time.monotonic()
    stage.driver.start(victim)
    stage.history.event("up", f"{victim} started again on the same state", node=victim, at=starting)
    stage.watch.follow(stage.join(victim))
    links = [link for link in stage.topology.directed_links() if victim in link]
    try:
        stage.watch.wait(
            lambda: all(stage.watch.up(a, b) for a, b in links),
            effort.heal_within,
            lambda: name_missing(stage.watch, tuple(links)),
        )
    except DeadlineExceeded:
        down = [f"{a} does not see {b}" for a, b in links if not stage.watch.up(a, b)]
        stage.fail(f"{victim} is back for {effort.heal_within:g} s, but not all links healed", down)
    return Moments(killing, dead, starting, time.monotonic()), lost


def _loss_seen(stage: Stage, victim: str, survivors: Sequence[str], killing: float) -> dict[str, float]:
    """Seconds until each survivor itself listed the victim as gone."""
    allowed = stage.topology.dead_after + _LOOKING
    unaware = [name for name in survivors if stage.watch.up(name, victim)]
    while unaware and time.monotonic() - killing < allowed:
        stage.tell(f"{victim} is dead; {len(unaware)} of {len(survivors)} survivors do not know yet")
        time.sleep(0.02)
        unaware = [name for name in survivors if stage.watch.up(name, victim)]
    if unaware:
        lines = [f"{name} still lists {victim}" for name in unaware]
        stage.fail(f"{allowed:.1f} s after {victim} died, not all peers saw it", lines)
    seen = {name: stage.watch.sight(name, victim) for name in survivors}
    return {name: max(0.0, sight.seen - killing) for name, sight in seen.items() if sight is not None}


def _judge(stage: Stage, load: Load, moments: Moments) -> None:
    findings: dict[str, list[Done]] = {}
    for done in load.done:
        if finding := find_fault(done, load.victim, moments):
            findings.setdefault(finding, []).append(done)
    if findings:
        wrong = sum(map(len, findings.values()))
        lines = [
            f"{len(cases)} times {finding}; the first: {cases[0]}" for finding, cases in findings.items()
        ]
        first = min((case for cases in findings.values() for case in cases), key=lambda d: d.outcome.ended)
        stage.history.event("bad", f"the first: {first}", node=first.at, at=first.outcome.ended)
        stage.fail(f"{wrong} of {len(load.done)} operations ended as they must not", lines)
    on_victim = [done for done in load.done if done.at == load.victim]
    cut = sum(1 for d in on_victim if d.outcome.started < moments.dead and d.outcome.error == "PeerLost")
    after = sum(1 for done in on_victim if done.outcome.ok and done.outcome.started > moments.healed)
    if not cut:
        raise LabError("no call was in flight when the node died, so nothing was shown; use more workers")
    if after < stage.effort.least_after:
        raise LabError(f"only {after} operations went through after {load.victim} was back: too few to judge")
    stage.facts["cut_calls"] = cut


def find_fault(done: Done, victim: str, moments: Moments) -> str:
    """What is wrong with one outcome, empty when nothing is."""
    outcome = done.outcome
    if done.wrong_value:
        return "a wrong value"
    if outcome.error == "NoAnswer":
        return "a hang"
    if outcome.error == "EntryNotFound":
        return "an acknowledged entry was not there"
    if done.at != victim:
        return "" if outcome.ok else "work between survivors was disturbed"
    if outcome.ok:
        dead_all_along = outcome.started > moments.dead and outcome.ended < moments.starting
        return "an answer for a dead node" if dead_all_along else ""
    if outcome.ended < moments.killing:
        return "a failure before the kill"
    if outcome.started > moments.healed + AFTERMATH:
        return "a failure after healing"
    if outcome.started < moments.dead:
        return (
            ""
            if outcome.error == "PeerLost"
            else "a call in flight that ended with something else than PeerLost"
        )
    return "" if outcome.error in LINK_ERRORS else "a call to a node that is down and no link error"


def nothing_is_lost(stage: Stage) -> str:
    """Reads every acknowledged entry on the node that was killed, by a client beside it."""
    load: Load | None = stage.facts.get("load")
    if load is None or load.victim not in stage.clients:
        raise LabError("no node was killed and came back, so there is nothing to look for")
    known = list(load.acknowledged.items())
    lost: list[str] = []
    for begin in range(0, len(known), _BATCH):
        lost += _missing(stage, load, known[begin : begin + _BATCH])
        stage.tell(f"{min(begin + _BATCH, len(known))} of {len(known)} entries compared")
    if lost:
        stage.facts |= {"acknowledged": len(known), "lost": len(lost)}
        more = [f"and {len(lost) - _SHOWN} more"] if len(lost) > _SHOWN else []
        stage.history.event(
            "bad", f"{len(lost)} acknowledged writes are not on {load.victim}", node=load.victim
        )
        stage.fail(
            f"{len(lost)} of {len(known)} acknowledged durable writes are lost or changed",
            [*lost[:_SHOWN], *more],
        )
    if len(known) < stage.effort.least_writes:
        raise LabError(f"only {len(known)} durable writes were acknowledged; nothing can be said")
    stage.facts["acknowledged"] = len(known)
    return f"all {len(known)} acknowledged durable writes are on {load.victim}, byte for byte"


def _missing(stage: Stage, load: Load, part: list[tuple[str, tuple[str, int]]]) -> list[str]:
    ids = [entry_id for entry_id, _ in part]
    there = stage.must(load.victim, "exists", ids=ids, pool=load.pool)["exists"]
    present = [(entry_id, known[0]) for (entry_id, known), yes in zip(part, there, strict=True) if yes]
    lost = [f"{entry_id} is gone" for entry_id, yes in zip(ids, there, strict=True) if not yes]
    if present:
        prints = stage.must(
            load.victim, "remember", ids=[entry_id for entry_id, _ in present], pool=load.pool
        )["prints"]
        lost += [
            f"{entry_id} changed" for (entry_id, was), now in zip(present, prints, strict=True) if was != now
        ]
    return lost
