"""The steps of a trial: workloads on all nodes while faults strike in turns, and one verdict for each workload."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from laila.errors import BadConfig, LabError, LailaError
from laila.lab import faults, workloads
from laila.lab.checkers.verdict import Judgement, Verdict, worst
from laila.lab.checks import revival
from laila.lab.checks.base import CannotHere, Stage, Step
from laila.lab.drivers.base import Driver, NodeState
from laila.lab.faults import FaultSpec, Scene, Schedule
from laila.lab.faults.damage import Damage
from laila.lab.faults.placing import Drain, PlacingFault
from laila.lab.topology import Topology
from laila.lab.trials.clients import Programs, chosen
from laila.lab.trials.invoking import Invoker
from laila.lab.trials.trial import Plan, Trial, Unrecovered, summary
from laila.lab.workloads.base import Who, Workload

ALL = "all"
USUAL = ("pause", "kill", "isolate", "one-way", "latency", "reset", "power-loss")
"""What a trial does when nobody says what, as far as the driver can."""
BESIDES = ("one-way", "latency", "reset", "power-loss", "slow-fsync@most")
"""What the standard check of a replicated store does besides, because its other steps have done the rest: while most
disks are slow, a version is on few replicas for long, and who reads it must not see an older one afterwards."""
ON_A_VOLUME = ("pause", "kill-holder", "clock")
"""The same for the standard check of a shared volume."""
FACT = "trial"
SKIPPED = "skipped_faults"
NOTICING = 1.0
"""Seconds that a node may take beyond the configured time to tell that a peer is gone."""
LEAST_PEERING = 16.0
"""Seconds that peering must be watched to say anything."""


@dataclass(frozen=True, slots=True)
class TrialOrder:
    """What a trial is asked to do. Nothing given: the usual faults that can be done, every workload once."""

    workloads: tuple[str, ...] = ()
    faults: str | None = None
    """A schedule as `laila.lab.faults.schedule` takes it, or `all`, or `none`."""
    seconds: float = 0.0
    clients: int = 1
    usual: tuple[str, ...] = USUAL
    """The faults that come when `faults` says nothing, as far as the driver can."""

    def __post_init__(self) -> None:
        if self.clients < 1:
            raise BadConfig(
                f"a trial takes 1 client or more of each workload beside each node, not {self.clients}"
            )
        if not 0 <= self.seconds < math.inf:
            raise BadConfig(f"a trial takes seconds of 0 or more, not {self.seconds:g}")

    def schedule(self) -> Schedule | None:
        """None where the run chooses. Raises BadConfig for what is no schedule, or no fault."""
        if self.faults is None or self.faults == ALL:
            return None
        turns = () if self.faults == "none" else faults.schedule(self.faults)
        for spec in (spec for turn in turns for spec in turn):
            faults.known(spec)
        return turns

    def kinds(self) -> frozenset[str]:
        """The kinds of faults that may come."""
        turns = self.schedule()
        if turns is None:
            usual = (
                faults.KINDS if self.faults == ALL else (FaultSpec.parse(text).kind for text in self.usual)
            )
            return frozenset(usual)
        return frozenset(spec.kind for turn in turns for spec in turn)


def steps(topology: Topology, order: TrialOrder) -> tuple[Step, ...]:
    """One that plays the trial, one for each workload's verdict, one for what could not be done."""
    subjects = chosen(topology, order.workloads)
    titles = {name: workloads.WORKLOADS[name].summary for name in map(_known, subjects)}
    judged = tuple(
        Step(f"judge-{name}", f"{name}: {title}", verdict_of(name), always=True)
        for name, title in titles.items()
    )
    play = Step("trial", "work while faults strike", lambda stage: _play(stage, order, subjects))
    every = "every usual fault" if order.faults is None else "every fault that was asked for"
    return (play, *judged, Step("cannot", every, _skipped, always=True))


def _known(name: str) -> str:
    """Raises BadConfig for a workload that does not exist."""
    workloads.make(name)
    return name


def _play(stage: Stage, order: TrialOrder, subjects: dict[str, str]) -> str:
    programs = Programs(stage.driver, subjects, stage.effort.replica_timeout)
    prefix = f"{stage.driver.run.run_id.rpartition('-')[2]}-"
    made = tuple(made_for(stage.topology, name, prefix) for name in subjects)
    try:
        return play(stage, order, made, programs.start, programs.leave)
    finally:
        programs.close()


def made_for(topology: Topology, name: str, prefix: str = "") -> Workload:
    """The workload as it suits these nodes. `prefix` stands before every name, because a system may outlive a run."""
    if name == "peering":
        return workloads.make(name, **({} if topology.foreign else {"grace": topology.dead_after + NOTICING}))
    return workloads.make(name, prefix=prefix)


def play(
    stage: Stage,
    order: TrialOrder,
    made: tuple[Workload, ...],
    start: Callable[[Workload, Who], Invoker],
    leave: Callable[[str], None] = lambda node: None,
) -> str:
    """Play a trial on nodes that run; what was done, in a sentence. `leave` is told of nodes that are going to die.

    The facts of the stage have all that was seen, also when this raises what kept it from showing anything.
    """
    scene = _scene(stage)
    turns = _turns(stage, scene, order, [one.name for one in made])
    scene.left = _all_of(scene.left, leave)
    seed = stage.random.randrange(1 << 31)
    least = LEAST_PEERING if any(one.name == "peering" for one in made) else 0.0
    plan = Plan(made, turns, seed, max(order.seconds, least), order.clients, timeout=stage.effort.op_timeout)
    trial = Trial(
        plan,
        scene,
        stage.history,
        start,
        settled=lambda: _settled(stage),
        alive=lambda node: node not in _away(stage) and stage.driver.state(node) is NodeState.RUNNING,
    )
    scene.holders = trial.holders
    stage.facts[FACT] = trial.judgements
    try:
        trial.run()
    except Unrecovered as error:
        stage.fail(str(error))
    finally:
        found = trial.facts()
        stage.facts |= {**found, "bites": [*stage.facts.get("bites", ()), *found["bites"]]}
        for agent in scene.agents.values():
            agent.close()
    counts = stage.facts["trial_operations"].values()
    total = sum(sum(one.values()) for one in counts)
    open_ends = sum(one.get("unknown", 0) for one in counts)
    done = f"{summary(trial.bites)}, each proven to bite and to heal" if trial.bites else "nothing was broken"
    return (
        f"{total} operations of {len(made)} workloads through {len(scene.names)} nodes, {open_ends} of them without an "
        f"answer; {done}"
    )


def _all_of(*calls: Callable[[str], None]) -> Callable[[str], None]:
    def all_of(node: str) -> None:
        for call in calls:
            call(node)

    return all_of


# -- the scene ----------------------------------------------------------------------------------------------


def _away(stage: Stage) -> set[str]:
    """Nodes that are about to be killed, or are not back."""
    found: set[str] = stage.facts.setdefault("nodes away", set())
    return found


def _scene(stage: Stage) -> Scene:
    def left(node: str) -> None:
        _away(stage).add(node)
        stage.history.event("kill", f"{node} is going to be ended", node=node)
        stage.leave(node)

    def ready(node: str) -> None:
        stage.driver.wait_ready(node, stage.effort.ready_within)
        stage.history.event("up", f"{node} started again on the same state", node=node)
        if not stage.topology.foreign:
            stage.watch.follow(stage.join(node))
        _away(stage).discard(node)

    chance = random.Random(stage.random.randrange(1 << 31))  # noqa: S311  repeatable on purpose
    return Scene(stage.driver, stage.names, chance, ready, left, stage.tell, within=stage.effort.heal_within)


def _settled(stage: Stage) -> None:
    """Of laila's nodes: every directed link is up again."""
    if stage.topology.foreign:
        return
    revival.all_up(stage, stage.topology.directed_links(), "nothing is broken any more")


def _turns(stage: Stage, scene: Scene, order: TrialOrder, played: Collection[str]) -> Schedule:
    """The schedule; where the run chooses, without what cannot be done here. That is kept for the step `cannot`."""
    found = ahead(stage.driver, order, played)
    stage.facts[SKIPPED] = dict(found.skipped)
    turns = list(found.turns)
    if order.schedule() is None:
        scene.chance.shuffle(turns)
    return tuple(turns)


# -- what can be done


@dataclass(frozen=True, slots=True)
class Ahead:
    """What will be done of an order, and which of the faults that nobody named fall away, with the reasons."""

    turns: Schedule
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Those that this machine or driver cannot do."""
    idle: Mapping[str, str] = field(default_factory=dict)
    """Those that would find nothing to strike, whatever the machine can do, or that nobody wants unasked."""


def well_written(driver: Driver, order: TrialOrder) -> None:
    """Raises BadConfig for a fault that names a node, an option or a value that these nodes do not have. Nothing needs
    to be prepared for that.
    """
    asked = order.schedule()
    if asked == () and order.faults != "none":
        raise BadConfig("no fault is named; to break nothing say none")
    nobody = random.Random(0)  # noqa: S311  whom the seed chooses is chosen later
    for spec in (spec for turn in asked or () for spec in turn):
        faults.make(Scene(driver, driver.topology.names, nobody), spec)


def ahead(driver: Driver, order: TrialOrder, played: Collection[str]) -> Ahead:
    """What can be done of an order while these workloads are played, on a driver that is prepared.

    Raises BadConfig as `well_written` does, and LabError for a fault that was asked for by its name and cannot be done,
    and when of `all` none can.
    """
    well_written(driver, order)
    asked = order.schedule()
    if asked is not None:
        why = {
            str(spec): _idle(spec, driver, played) or _hindrance(driver, spec)
            for turn in asked
            for spec in turn
        }
        if cannot := "; ".join(
            f"{spec} cannot be done here: {reason}" for spec, reason in why.items() if reason
        ):
            raise LabError(cannot)
        return Ahead(asked)
    turns: list[tuple[FaultSpec, ...]] = []
    skipped: dict[str, str] = {}
    idle: dict[str, str] = {}
    for spec in map(FaultSpec.parse, order.usual if order.faults is None else tuple(faults.KINDS)):
        if reason := _idle(spec, driver, played) or _unasked(spec, driver):
            idle[str(spec)] = reason
        elif reason := _hindrance(driver, spec):
            skipped[str(spec)] = reason
        else:
            turns.append((spec,))
    if not turns and order.faults == ALL:
        raise LabError("none of the faults can be done here: see `laila lab doctor`")
    return Ahead(tuple(turns), skipped, idle)


def foresee(stage: Stage, order: TrialOrder) -> None:
    """Before any node runs: say which faults fall away and why. Raises as `ahead` does."""
    found = ahead(stage.driver, order, chosen(stage.topology, order.workloads))
    stage.facts[SKIPPED] = dict(found.skipped)
    for spec, why in found.skipped.items():
        stage.progress.say(f"cannot be done here, skipped: {spec}: {why}")
    for spec, why in found.idle.items():
        stage.progress.say(f"left out: {spec}: {why}")


def _hindrance(driver: Driver, spec: FaultSpec) -> str:
    return faults.known(spec).hindrance_of(driver, spec)


def _idle(spec: FaultSpec, driver: Driver, played: Collection[str]) -> str:
    """Why it would find nothing to strike; empty when it will, or when that is not known."""
    if spec.kind == "kill-holder" and "lock" not in played and set(played) <= set(workloads.WORKLOADS):
        return f"none of the workloads has locks ({', '.join(played)}); add lock"
    replicas = any(node.replicas for node in driver.topology.nodes)
    if issubclass(faults.known(spec), Damage) and "files" not in spec.options and not replicas:
        return f"the nodes serve no replica whose files could be damaged; write {spec.kind}:files=PATTERN"
    return ""


def _unasked(spec: FaultSpec, driver: Driver) -> str:
    """Why it is not among all faults, whatever the machine can do; empty when it is."""
    kind = faults.known(spec)
    if issubclass(kind, PlacingFault) and not driver.capabilities.pods:
        return f"nodes of the {driver.name} driver are no pods"
    if issubclass(kind, Drain):
        return "it closes machines of the cluster for everybody; name it to have it"
    return ""


# -- verdicts -----------------------------------------------------------------------------------------------


def verdict_of(workload: str) -> Callable[[Stage], str]:
    def judged(stage: Stage) -> str:
        found: Sequence[Judgement] = [one for one in stage.facts.get(FACT, ()) if one.workload == workload]
        if not found:
            raise Unjudged("nothing was judged")
        verdict = worst(found)
        if verdict is Verdict.ILLEGAL:
            bad = [one for one in found if one.verdict is Verdict.ILLEGAL]
            first = min(bad, key=lambda one: one.why.offender.end if one.why else 0.0)
            kind = first.why.kind if first.why else "illegal"
            stage.fail(
                f"{sum(one.faults for one in bad)} contradictions in {len(bad)} of {len(found)} histories, "
                f"first {kind}",
                [str(one) for one in bad],
            )
        if verdict is Verdict.UNKNOWN:
            raise Unjudged("; ".join(str(one) for one in found if one.verdict is Verdict.UNKNOWN)[:500])
        names = ", ".join(dict.fromkeys(one.check for one in found))
        return f"{sum(one.operations for one in found)} operations judged: {names}"

    return judged


class Unjudged(LailaError):
    """Nothing could be decided."""


def _skipped(stage: Stage) -> str:
    skipped: dict[str, str] = stage.facts.get(SKIPPED, {})
    if skipped:
        raise CannotHere("; ".join(f"{spec}: {why}" for spec, why in skipped.items()))
    return "all of them can be done here"
