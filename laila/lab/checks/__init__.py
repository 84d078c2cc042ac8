"""The steps of a check, in order. Each is a function of a `Stage` that says what it saw, or raises `CheckFailed`.

Every topology gets the main job. One whose nodes share a volume gets the steps on that volume too. Where the volume
is a network file system, those are all that differs, so the main job's other steps are left to a plain volume. Where
every node serves a replica, the replicated store is checked through them.
"""

from __future__ import annotations

from laila.lab.checks import (
    convergence,
    crash,
    damage,
    exclusion,
    freshness,
    fullness,
    links,
    logs,
    memory,
    passing,
    readonly,
    registers,
    registrations,
    replica_damage,
    replica_promises,
    replica_reads,
    stranger,
    trials,
    volume,
    writers,
)
from laila.lab.checks.base import (
    NETWORKED,
    SHARED,
    CannotHere,
    CheckFailed,
    Effort,
    Stage,
    Step,
    shared_by_all,
)
from laila.lab.checks.outfit import NEED_DISK, for_faults, outfit
from laila.lab.checks.trials import TrialOrder
from laila.lab.topology import STORE, Topology

READY: tuple[Step, ...] = (
    Step("start", "start nodes and clients", links.start, vital=True),
    Step("links", "every directed link shakes hands", links.shake_hands, vital=True),
    Step("lists", "both ends list each other", links.both_ends_list),
)
PEERING: tuple[Step, ...] = (
    Step("memory", "work on each other's memory", memory.work_in_every_direction),
    Step("stranger", "refuse the wrong secret", stranger.is_refused),
    Step("crash", "kill -9 under load, and heal", crash.kill_and_heal),
    Step("durable", "nothing acknowledged is lost", crash.nothing_is_lost),
)
ON_THE_VOLUME: tuple[Step, ...] = (
    Step("volume", "locks on the volume exclude", volume.is_judged),
    Step("exclusion", "one holder at a time", exclusion.one_holder_at_a_time),
    Step("registrations", "no registration is lost", registrations.none_is_lost),
    Step("fresh", "loads are fresh on every node", freshness.loads_are_fresh),
    Step("writers", "kill -9 of writers: old or new", writers.killed_writers),
    Step("full", "a full volume loses nothing", fullness.publishing_fails_and_nothing_is_lost),
    Step("read-only", "read-only readers read", readonly.readers_read_and_change_nothing),
    Step("damage", "refuse damage, forgery, rollback", damage.is_refused),
    Step("passing", "kill -9 of holders: the lock goes on", passing.killed_holders),
)
ON_REPLICAS: tuple[Step, ...] = (
    Step("registers", "replicas answer as one", registers.answers_are_linearizable),
    Step("reads", "what was read once stays", replica_reads.what_was_read_stays),
    Step("converge", "replicas become equal", convergence.replicas_become_equal),
    Step("promises", "nothing acknowledged is missing", replica_promises.everything_is_there),
    Step("hurt", "damaged replicas are made good", replica_damage.is_found_and_repaired),
)
INSIDE: tuple[Step, ...] = (
    Step("inside", "no node crashed inside", logs.no_node_crashed_inside, always=True),
)
MAIN_JOB: tuple[Step, ...] = (*READY, *PEERING, *INSIDE)


def effort(topology: Topology) -> Effort:
    """How much of it."""
    shared = shared_by_all(topology)
    if shared is None:
        return Effort()
    return NETWORKED if shared.networked else SHARED


def job(topology: Topology, trial: TrialOrder | None = None) -> tuple[Step, ...]:
    """What is checked of this topology; with `trial`, and where the nodes are not laila's, a trial alone."""
    if topology.foreign:
        foreign = Step("start", "start nodes", links.start_foreign, vital=True)
        return (foreign, *trials.steps(topology, trial or _on_others(topology)))
    if trial is not None:
        return (*READY[:2], *trials.steps(topology, trial), *INSIDE)
    shared = shared_by_all(topology)
    on_the_volume = ON_THE_VOLUME if shared is not None else ()
    peering = PEERING if shared is None or not shared.networked else ()
    on_replicas = ON_REPLICAS if _replicated(topology) else ()
    besides = usual_trial(topology)
    tried = () if besides is None else trials.steps(topology, besides)
    return (*READY, *on_the_volume, *peering, *on_replicas, *tried, *INSIDE)


def usual_trial(topology: Topology) -> TrialOrder | None:
    """The trial that is part of the standard check; None on a network volume, and for nodes that share nothing."""
    if topology.foreign:
        return _on_others(topology)
    shared = shared_by_all(topology)
    if shared is not None:
        return None if shared.networked else TrialOrder(usual=trials.ON_A_VOLUME)
    return TrialOrder(usual=trials.BESIDES) if _replicated(topology) else None


def _on_others(topology: Topology) -> TrialOrder:
    """On nodes that are not laila's: their state is put on other disks for nobody who did not ask for it."""
    disks = NEED_DISK if not topology.state_mib else ()
    return TrialOrder(usual=tuple(kind for kind in trials.USUAL if kind not in disks))


def _replicated(topology: Topology) -> bool:
    return len(topology.nodes) >= registers.LEAST_NODES and all(n.replica(STORE) for n in topology.nodes)


__all__ = [
    "MAIN_JOB",
    "CannotHere",
    "CheckFailed",
    "Effort",
    "Stage",
    "Step",
    "effort",
    "for_faults",
    "job",
    "outfit",
    "usual_trial",
]
