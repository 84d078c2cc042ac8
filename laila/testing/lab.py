"""A lab in a test: nodes that run, faults as context managers, and trials with a verdict."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from laila.errors import BadConfig, LabError, LailaError
from laila.lab import drivers, registry, topology, workloads
from laila.lab.checks import effort, for_faults, links, trials
from laila.lab.checks.base import CheckFailed, Stage
from laila.lab.checks.trials import TrialOrder
from laila.lab.drivers import Choice
from laila.lab.drivers.base import Driver, NodeState
from laila.lab.faults import Fault, FaultSpec, Scene, hands, ledger, make, schedule
from laila.lab.faults import known as known_fault
from laila.lab.folder import Folder
from laila.lab.history import History
from laila.lab.progress import Quiet
from laila.lab.remote import RemoteClient
from laila.lab.runner import register, undisturbed
from laila.lab.topology import Topology
from laila.lab.trials.clients import Programs, chosen
from laila.lab.trials.invoking import Invoker, ObjectInvoker
from laila.lab.trials.turns import Turn
from laila.lab.workloads.base import Keyed, Who, Workload
from laila.testing import ran as evidence
from laila.testing.deeds import Deeds
from laila.testing.node import Node
from laila.testing.ran import Ran

Client = Callable[[Node], Any]
"""Makes a client of a node: an object with `invoke(op)`, and `close()` if it needs that."""
OUT = "lab-runs"


@dataclass(slots=True, repr=False)
class Lab:
    """Nodes of one topology that run: by `Lab.start`, `Lab.adopt` or the fixture `lab`. A context manager: leaving it
    closes it.
    """

    driver: Driver
    seed: int
    out: Path
    order: TrialOrder = field(default_factory=lambda: TrialOrder(faults="none"))
    """What a trial does unless `run` says otherwise: from the marker `faults`."""
    name: str = ""
    """What is being tested, for the names of folders."""
    command: str = ""
    """What repeats it."""
    runs: list[Ran] = field(default_factory=list)
    deeds: Deeds = field(default_factory=Deeds)
    """What was done by hand since the test began."""
    _scene: Scene | None = None
    _count: int = 0

    @classmethod
    def start(
        cls,
        what: str | Topology = "replicated",
        *,
        driver: str = "auto",
        nodes: int | None = None,
        seed: int | None = None,
        out: str | Path = OUT,
        faults: str | None = None,
    ) -> Lab:
        """Start a topology: a shipped one, a `.toml` file, or a Topology. Returns when every node is ready, and, of
        laila's own nodes, when every directed link has shaken hands.

        `faults` is a schedule that will come: where it needs disks of the nodes' own, or clocks that can be shifted,
        the nodes are started with them. Raises BadConfig for what does not exist, LabError for what cannot be had here.
        """
        shape = topology.load(what, nodes) if isinstance(what, str) else what
        if faults is not None:
            shape = for_faults(shape, TrialOrder(faults=faults).kinds())
        lab = cls._of(shape, drivers.choose(driver, shape), seed, out)
        try:
            if faults is not None:
                trials.well_written(lab.driver, TrialOrder(faults=faults))
            lab.driver.prepare()
            with History(lab.driver.run.path / "history.jsonl") as history:
                stage = lab._stage(history)
                try:
                    if shape.foreign:
                        links.start_foreign(stage)
                    else:
                        links.start(stage)
                        links.shake_hands(stage)
                except CheckFailed as failure:
                    raise LabError("; ".join((str(failure), *failure.evidence[:3]))) from failure
                finally:
                    stage.close()
                    lab.deeds.take(history, history.began)
        except BaseException as error:
            if isinstance(error, LailaError) and not isinstance(error, BadConfig):
                lab.leave_for(error)
            with suppress(LailaError):  # the first trouble is the one to tell; the registry knows of the rest
                lab.close()
            raise
        lab.deeds = Deeds()
        return lab

    @classmethod
    def adopt(cls, containers: Mapping[str, Any], *, seed: int | None = None, out: str | Path = OUT) -> Lab:
        """Take running containers as nodes, by the names that you give them: testcontainers' objects, the Docker SDK's,
        or names or ids. They stay when the lab is closed: healed, and as they were found.

        Raises BadConfig for what is no container and for a name that no node can have, LabError for a container that
        does not run, that has no network of its own, or shares none with the others.
        """
        import laila.lab.drivers.adopted as adopted

        shape, found = adopted.shape(containers)
        lab = cls._of(shape, Choice(adopted.NAME, "containers of a test"), seed, out)
        try:
            lab.driver.note(containers=found)
            lab.driver.prepare()
        except BaseException:
            with suppress(LailaError):
                lab.close()
            raise
        return lab

    @classmethod
    def _of(cls, shape: Topology, choice: Choice, seed: int | None, out: str | Path) -> Lab:
        run = register(shape, choice, "check")
        try:
            made = drivers.make(run, shape)
        except BaseException:
            run.forget()
            raise
        return cls(made, random.randrange(1 << 31) if seed is None else seed, Path(out))  # noqa: S311  no secret

    @property
    def topology(self) -> Topology:
        return self.driver.topology

    @property
    def nodes(self) -> dict[str, Node]:
        """By name."""
        return {name: Node(self, name) for name in self.topology.names}

    def begin(self, name: str, command: str, order: TrialOrder) -> None:
        """Another test begins on it: choices are made anew from the seed."""
        self.name, self.command, self.order = name, command, order
        self.runs, self.deeds = [], Deeds()
        self._let_go()

    # -- faults

    @contextmanager
    def fault(self, text: str) -> Iterator[list[str]]:
        """Break something for as long as the block lasts: `KIND[:OPTION=VALUE][@NODE]`, several joined by `+`.

        It is proven to bite before the block begins (the proofs are what you get), and to be over after it.
        Raises NoBite, NotHealed, BadConfig, and LabError for what this machine cannot do.
        """
        turns = schedule(text)
        if len(turns) != 1:
            raise BadConfig(
                f"one after the other is for lab.run(faults={text!r}); a block has faults joined by +"
            )
        self._need(turns[0])
        done: list[Turn] = []
        try:
            try:
                for spec in turns[0]:
                    done.append(self._strike(make(self._the_scene(), spec)))
                for turn in done:
                    turn.proof = turn.fault.prove()
            except LailaError as error:
                self.deeds.refused(turns[0], error)
                raise
            yield [turn.proof for turn in done]
        finally:
            self._heal(done)
        for turn in reversed(done):
            turn.proof_of_healing = turn.fault.prove_healed()
            turn.healed = time.monotonic()

    def _strike(self, fault: Fault) -> Turn:
        turn = Turn(fault, injecting=time.monotonic())
        turn.entry, turn.injected = ledger.inject(fault), time.monotonic()
        self.deeds.strikes(turn)
        return turn

    def _need(self, specs: Sequence[FaultSpec]) -> None:
        """Raises LabError for what cannot be done here: a test that asked for it must not go on without."""
        for spec in specs:
            if why := known_fault(spec).hindrance_of(self.driver, spec):
                raise LabError(f"{spec} cannot be done here: {why}")

    def _heal(self, done: Sequence[Turn]) -> None:
        """All of them, whatever the others do."""
        troubles = []
        for turn in reversed(done):
            turn.healing = time.monotonic()
            try:
                if turn.entry is not None:
                    ledger.heal(turn.fault, turn.entry)
            except LailaError as error:
                troubles.append(error)
        if troubles:
            raise LabError(f"could not undo what was broken: {troubles[0]}") from troubles[0]

    def _the_scene(self) -> Scene:
        if self._scene is None:
            chance = random.Random(self.seed)  # noqa: S311  repeatable on purpose
            self._scene = Scene(self.driver, self.topology.names, chance, ready=self.wait_ready)
        return self._scene

    def wait_ready(self, name: str) -> None:
        """Until a node that was started works: its health check says so; one of laila's answers a client beside it.
        Raises LabError with its last words.
        """
        within = effort(self.topology).ready_within
        self.driver.wait_ready(name, within)
        if self.topology.foreign:
            return
        client = RemoteClient(self.driver, name, wait=within)
        try:
            hello = client.call("hello", timeout=within + 5)
            if not hello.ok:
                complaint = client.complaints() or f" ({hello})"
                raise LabError(f"{name} was started and does not answer{complaint}")
        finally:
            client.close()

    def mend(self) -> None:
        """Heal all that is broken, and start what does not run. Raises LabError when that cannot be."""
        if left := ledger.heal_all(self.driver):
            raise LabError(f"could not undo {'; '.join(left)}")
        for name in self.topology.names:
            state = self.driver.state(name)
            if state is NodeState.PAUSED:
                self.driver.resume(name)
            elif state is not NodeState.RUNNING:
                self.driver.start(name)
            else:
                continue
            self.wait_ready(name)

    # -- trials

    def run(
        self,
        *names: str | Workload,
        client: Client | None = None,
        faults: str | None = None,
        time: float | None = None,
        clients: int | None = None,
    ) -> Ran:
        """Play workloads on all nodes while faults strike in turns, and judge.

        `client(node)` makes a client in Python; without it the topology's own client program is used, or laila's.
        `faults` is a schedule (`kill,partition+latency`), `all` (that can be done here) or `none`; `time` is in
        seconds, at least; `clients` are those of each workload beside each node. All default to the marker's, and
        without one to none, 0 and 1.

        Never raises for what the system did: see `Ran.check`. Raises BadConfig for what does not exist, and LabError
        for a fault that cannot be done here.
        """
        order = TrialOrder(
            (),
            self.order.faults if faults is None else faults,
            self.order.seconds if time is None else float(time),
            self.order.clients if clients is None else clients,
        )
        for turn in order.schedule() or ():
            self._need(turn)
        self._count += 1
        play = self._player(names, client)
        folder = Folder.make(str(self.out), f"{self.name or self.driver.run.run_id}-{self._count}")
        found = self._played(play, order, folder)
        self.runs.append(found)
        return found

    def _player(
        self, names: Sequence[str | Workload], client: Client | None
    ) -> Callable[[Stage, TrialOrder], str]:
        """What plays these workloads by such clients. Raises BadConfig before anything is done."""
        own = {one.name: one for one in names if not isinstance(one, str)}
        words = [one if isinstance(one, str) else one.name for one in names]
        if client is not None:
            if not words:
                raise BadConfig("say which workload the client is for: lab.run('register', client=Client)")
            made = tuple(self._fresh(own.get(name) or workloads.make(name)) for name in words)

            def start(workload: Workload, who: Who) -> Invoker:
                try:
                    return ObjectInvoker(client(self.nodes[who.node]))
                except Exception as error:  # whatever the user's class raises
                    raise LabError(f"no client of {who.node}: {type(error).__name__}: {error}") from error

            return lambda stage, order: trials.play(stage, order, made, start)
        subjects = chosen(self.topology, words)
        suited = tuple(
            self._fresh(own.get(name) or trials.made_for(self.topology, name, self._prefix))
            for name in subjects
        )

        def play(stage: Stage, order: TrialOrder) -> str:
            programs = Programs(self.driver, subjects, stage.effort.replica_timeout)
            try:
                return trials.play(stage, order, suited, programs.start, programs.leave)
            finally:
                programs.close()

        return play

    @property
    def _prefix(self) -> str:
        return f"{self.driver.run.run_id.rpartition('-')[2]}-{self._count}-"

    def _fresh(self, workload: Workload) -> Workload:
        """On names that no other run on these nodes has: what that left is not what this one wrote."""
        if isinstance(workload, Keyed) and not workload.prefix:
            return replace(workload, prefix=self._prefix)
        return workload

    def _played(self, play: Callable[[Stage, TrialOrder], str], order: TrialOrder, folder: Folder) -> Ran:
        began, said, trouble = time.time(), "", ""
        with History(folder.history) as history:
            stage = self._stage(history)
            try:
                if not self.topology.foreign:
                    stage.each(lambda name: stage.watch.follow(stage.join(name)), stage.names)
                    links.shake_hands(stage)
                said = play(stage, order)
            except CheckFailed as failure:
                trouble = "; ".join((str(failure), *failure.evidence[:3]))
            except LailaError as error:
                trouble = str(error)
            finally:
                stage.close()
            evidence.write(folder, stage, began, self._repeat, self.seed, said, trouble)
        judged, bites = stage.facts.get(trials.FACT, ()), stage.facts.get("bites", ())
        return Ran(said, tuple(judged), tuple(bites), folder.path, self._repeat, trouble)

    @property
    def _repeat(self) -> str:
        return self.command or f"the same test with seed={self.seed}"

    def _stage(self, history: History) -> Stage:
        quiet = Quiet()
        quiet.plan({"trial": "work while faults strike"})
        stage = Stage(self.driver, history, quiet, seed=self.seed, effort=effort(self.topology))
        stage.step = "trial"
        return stage

    # -- the end

    def leave(self, trouble: str) -> Path | None:
        """The folder with the evidence of what was done by hand since the test began: the nodes' logs, the faults, a
        result. None where every run has left its own, and nothing was done besides.
        """
        if self.runs and not self.deeds:
            return None
        folder = Folder.make(str(self.out), self.name or f"{self.topology.name}-{self.driver.run.run_id}")
        with History(folder.history) as history:
            bites = self.deeds.tell(history, self.topology.names)
            evidence.write_deeds(
                folder, self._stage(history), self.deeds.started, self._repeat, self.seed, trouble, bites
            )
        return folder.path

    def leave_for(self, error: Exception) -> Path | None:
        """The same; the error says where it is. What keeps it from being written is not worth another error."""
        with suppress(LailaError, OSError):
            if (folder := self.leave(f"{type(error).__name__}: {error}")) is not None:
                error.add_note(f"evidence: {folder / 'report.html'}")
                return folder
        return None

    def keep(self) -> str:
        """Leave the nodes as they are, when this process ends too; how to look at them, and how to end them."""
        self._let_go()
        self.driver.run = registry.stand(self.driver.run)
        run_id = self.driver.run.run_id
        self.driver.close()
        return f"look at it with `laila lab status {run_id}`, end it with `laila lab down {run_id}`"

    def close(self) -> None:
        """Heal and remove everything. Raises LabError with what could not be removed."""
        try:
            self._let_go()
            with undisturbed():
                left = ledger.end(self.driver)
                if not left:
                    self.driver.run.forget()
        finally:
            self.driver.close()
        if left:
            raise LabError(f"left behind: {', '.join(left)}; try laila lab gc")

    def _let_go(self) -> None:
        if self._scene is not None:
            hands.dismiss(self._scene)
            self._scene = None

    def __repr__(self) -> str:
        return f"<Lab {self.topology.name}, {self.driver.name} driver, run {self.driver.run.run_id}>"

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception):
            self.leave_for(error)
        self.close()
