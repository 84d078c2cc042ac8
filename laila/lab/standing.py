"""Labs that stay: start one, find it again from another command, end it; and gc for what nobody wants any
more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from laila.errors import BadConfig, LabError
from laila.lab import drivers, leftovers, registry, topology
from laila.lab.checks import links
from laila.lab.checks.base import Stage
from laila.lab.drivers import Choice
from laila.lab.drivers.base import Driver, NodeState
from laila.lab.faults import ledger
from laila.lab.history import History
from laila.lab.progress import Progress
from laila.lab.runner import interruptible, register, undisturbed
from laila.lab.topology import Topology


def up(wanted: Topology, choice: Choice, progress: Progress) -> registry.Run:
    """Start all nodes, wait until every directed link is up, and leave them. On any failure nothing is
    left.
    """
    driver = drivers.make(register(wanted, choice, "up"), wanted)
    titles = {"prepare": "make network, volumes, secrets", "start": "start nodes", "links": "shake hands"}
    progress.plan({key: titles[key] for key, _ in _works(wanted)})
    with History(driver.run.path / "history.jsonl") as history:
        stage = Stage(driver, history, progress, seed=0)
        try:
            with interruptible():
                for key, work in _works(wanted):
                    stage.step = key
                    progress.begin(key)
                    progress.end(key, "ok", work(stage))
                stage.close()
                return registry.stand(driver.run)
        except BaseException:
            with undisturbed():
                progress.end(stage.step, "failed", "")
                stage.close()
                if not driver.remove():
                    driver.run.forget()
            raise
        finally:
            driver.close()


def _works(wanted: Topology) -> tuple[tuple[str, Callable[[Stage], str]], ...]:
    """What is done, in order. Nodes that are not laila's shake no hands."""
    if wanted.foreign:
        return (("prepare", _prepare), ("start", links.start_foreign))
    return (("prepare", _prepare), ("start", links.start), ("links", links.shake_hands))


def _prepare(stage: Stage) -> str:
    stage.driver.prepare()
    return f"{stage.driver.name} driver, run {stage.driver.run.run_id}"


def find(run_id: str | None) -> registry.Run:
    """The lab of that id, or the only one that stands. Raises BadConfig listing what there is."""
    if run_id is not None:
        return registry.load(run_id)
    standing = [run for run in registry.runs() if run.state == "standing"]
    if len(standing) == 1:
        return standing[0]
    if not standing:
        raise BadConfig("no lab stands on this machine; start one with `laila lab up`")
    raise BadConfig(
        f"several labs stand here; name one with --run: {', '.join(run.run_id for run in standing)}"
    )


@contextmanager
def attached(run: registry.Run) -> Iterator[Driver]:
    """The driver of a run that another command started."""
    driver = drivers.make(run, topology.from_dict(dict(run.topology)))
    try:
        yield driver
    finally:
        driver.close()


def down(run: registry.Run) -> None:
    """End it. Raises LabError with what could not be removed."""
    with attached(run) as driver, undisturbed():
        if left := ledger.end(driver):
            raise LabError(f"could not remove {', '.join(left)}; try again")
        run.forget()


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node as `laila lab status` shows it."""

    name: str
    state: str
    address: str
    page: str
    peers: tuple[str, ...]


def view(driver: Driver) -> list[NodeView]:
    """Every node, asked from inside whom it sees."""
    found = []
    for name in driver.topology.names:
        state = driver.state(name)
        if state is NodeState.ABSENT:
            found.append(NodeView(name, state.value, "", "", ()))
            continue
        address = driver.address(name)
        seen = _peers(driver, name) if state is NodeState.RUNNING else ()
        where = str(address) if address.port else address.host
        page = address.status_url if address.status_port else ""
        found.append(NodeView(name, state.value, where, page, seen))
    return found


def _peers(driver: Driver, name: str) -> tuple[str, ...]:
    if driver.topology.foreign:
        return ()
    asked = driver.exec(name, ["laila", "peers", "--json"], timeout=15)
    if asked.code:
        return ()
    listed = json.loads(asked.stdout)
    items = listed if isinstance(listed, list) else listed.get("peers", [])
    return tuple(sorted(str(item.get("peer_name")) for item in items if item.get("state") == "up"))


@dataclass(frozen=True, slots=True)
class Collected:
    """What gc did with one run."""

    run_id: str
    driver: str
    left: tuple[str, ...]
    healed: tuple[str, ...] = ()
    """Faults that were undone on a lab that stays."""


def collect(*, everything: bool = False) -> list[Collected]:
    """Remove runs whose controller is dead and that nobody meant to stay; with `everything`, all but those
    being worked on. Of labs that stay, faults are undone whose controller is dead.

    Runs whose record is lost are found by the labels of the engine's and the cluster's objects. Another machine's runs
    there are left alone.
    """
    done = []
    for run in registry.runs():
        if run.abandoned or (everything and not (run.state == "working" and run.controller.alive)):
            done.append(_collect(run))
        elif run.state == "standing" and (found := _mend(run)) is not None:
            done.append(found)
    return done + _collect_unregistered(everything)


def _collect(run: registry.Run) -> Collected:
    try:
        with attached(run) as driver:
            left = ledger.end(driver)
    except LabError as error:
        left = [str(error)]
    except Exception as error:  # a damaged record, or one of another version: the other runs go all the same
        left = [f"what {run.path} says cannot be undone: {type(error).__name__}: {error}"]
    if not left:
        run.forget()
    return Collected(run.run_id, run.driver, tuple(left))


def _mend(run: registry.Run) -> Collected | None:
    """Undo the faults whose controller is dead; the lab stays. None when there are none."""
    healed: tuple[str, ...] = ()
    try:
        orphans = ledger.orphans(run)
        if not orphans:
            return None
        with attached(run) as driver:
            left = ledger.heal_all(driver, [entry.id for entry in orphans])
        open_ = {entry.id for entry in ledger.open_entries(run)}
        healed = tuple(entry.spec for entry in orphans if entry.id not in open_)
    except LabError as error:
        left = [str(error)]
    except Exception as error:  # as above
        left = [f"what {run.path} says cannot be undone: {type(error).__name__}: {error}"]
    return Collected(run.run_id, run.driver, tuple(left), healed)


def _collect_unregistered(everything: bool) -> list[Collected]:
    """Containers, networks, volumes and namespaces whose run has no record on this machine any more."""
    known = {run.run_id for run in registry.runs()}
    done = []
    for run in leftovers.runs():
        gone = run.controller.here and not run.controller.alive
        if run.run_id not in known and gone and (run.mode == "check" or everything):
            done.append(_collect(run))
    return done
