"""One check from beginning to end: register, prepare, steps, logs, removal, report. Whatever happens, what
was made goes.

Ctrl-C, SIGTERM and SIGHUP end the steps, not the cleaning up. A step's CheckFailed makes the verdict
failed; any other error makes it unknown, because nothing was shown. After a vital step everything else is
skipped. A step that cannot be done on this machine is skipped with its reason; in CI that makes it unknown.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from laila.errors import LailaError
from laila.lab import drivers, junit, registry
from laila.lab.checks import (
    CannotHere,
    CheckFailed,
    Effort,
    Stage,
    Step,
    effort,
    for_faults,
    job,
    outfit,
    trials,
    usual_trial,
)
from laila.lab.checks.trials import TrialOrder
from laila.lab.drivers import Choice
from laila.lab.drivers.base import Driver
from laila.lab.faults import ledger
from laila.lab.folder import Folder, environment
from laila.lab.history import History
from laila.lab.procid import ProcessId
from laila.lab.progress import Progress
from laila.lab.report import render
from laila.lab.result import Result, StepResult
from laila.lab.topology import Topology

PREPARE = Step("prepare", "make network, volumes, secrets", lambda stage: "")
REMOVE = Step("remove", "remove what was made", lambda stage: "")


SHOWN = 8
"""Lines of evidence that the progress shows; the report has them all."""


class Interrupted(KeyboardInterrupt):
    """Somebody wants this run to end."""


@dataclass(frozen=True, slots=True)
class Order:
    """What a check is asked to do."""

    topology: Topology
    choice: Choice
    seed: int
    command: str
    out: str = "lab-runs"
    keep: bool = False
    effort: Effort | None = None
    """None given: what is usual for this topology."""
    steps: tuple[Step, ...] = ()
    """None given: all that is checked of this topology."""
    trial: TrialOrder | None = None
    """Given: a trial like this, and nothing else."""
    fail_fast: bool = False
    """After the first step that failed, only what must be known is still looked at."""


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end a run as Ctrl-C does (main thread only: elsewhere signals cannot be taken)."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Cleaning up is short and bounded: signals wait for nothing here."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def register(topology: Topology, choice: Choice, mode: str) -> registry.Run:
    """Put a new run on record, before anything of it exists."""
    controller = ProcessId.of(os.getpid())
    run = registry.Run(registry.new_run_id(), choice.name, topology.to_dict(), mode, controller)
    run.save()
    return run


def check(order: Order, progress: Progress) -> tuple[Result, Folder]:
    """Run the steps and judge. Never leaves anything running unless `keep` asks for it."""
    trial = None if order.steps else order.trial or usual_trial(order.topology)
    wanted = for_faults(outfit(order.topology), () if trial is None else trial.kinds())
    steps = order.steps or job(wanted, order.trial)
    order = replace(order, topology=wanted, steps=steps, trial=trial)
    run = register(order.topology, order.choice, "check")
    try:
        driver = drivers.make(run, order.topology)
        try:
            if trial is not None:
                trials.well_written(driver, trial)
            folder = Folder.make(order.out, run.run_id)
        except BaseException:
            driver.close()
            raise
    except BaseException:
        run.forget()
        raise
    with History(folder.history) as history:
        work = _Work(order, driver, history, progress, folder)
        with interruptible():
            result = work.run()
        result.save(folder.result)
        junit.write(result, folder.path)
        folder.report.write_text(render(result, history, work.environment), encoding="utf-8")
    driver.close()
    return result, folder


class _Work:
    """The state of one check while it runs."""

    def __init__(
        self, order: Order, driver: Driver, history: History, progress: Progress, folder: Folder
    ) -> None:
        self.order, self.driver, self.history, self.progress, self.folder = (
            order,
            driver,
            history,
            progress,
            folder,
        )
        self.stage = Stage(
            driver, history, progress, seed=order.seed, effort=order.effort or effort(order.topology)
        )
        self.results: list[StepResult] = []
        self.started = time.time()
        self.left: Sequence[str] = ()
        self.environment: dict[str, Any] = {}

    def run(self) -> Result:
        steps = (PREPARE, *self.order.steps, REMOVE)
        self.progress.plan({step.key: step.title for step in steps})
        try:
            try:
                self._steps()
            finally:
                with undisturbed():
                    self._end()
        except KeyboardInterrupt as interrupt:
            self._skip_rest(f"interrupted{f' by {interrupt}' if str(interrupt) else ''}")
        return self._result()

    def _steps(self) -> None:
        prepared = self._one(Step("prepare", PREPARE.title, self._prepare), vital=True)
        vital_failed = not prepared
        for step in self.order.steps:
            if vital_failed and not (step.always and prepared):
                self._record(step, "skipped", "an earlier step did not succeed", self.history.now())
                continue
            vital = step.vital or self.order.fail_fast
            vital_failed = not self._one(step, vital=vital) or vital_failed

    def _prepare(self, stage: Stage) -> str:
        self.environment = environment(self.driver, self.order.seed, self.order.command)
        self.folder.write_environment(self.environment)
        self.driver.prepare()
        if self.order.trial is not None:
            trials.foresee(stage, self.order.trial)
        return f"{self.driver.name} driver ({self.order.choice.reason}), run {self.driver.run.run_id}"

    def _one(self, step: Step, *, vital: bool) -> bool:
        """Run one step; False when a vital one did not succeed."""
        self.stage.step = step.key
        began = self.history.now()
        self.progress.begin(step.key)
        self.history.event("step", step.title)
        try:
            detail = step.run(self.stage)
        except CheckFailed as failure:
            self._record(step, "failed", str(failure), began, failure.evidence)
        except CannotHere as hindrance:
            self._record(step, "skipped", str(hindrance), began, excused=not os.environ.get("CI"))
            return True
        except Exception as error:  # whatever it was, nothing was shown, and cleaning up must go on
            own = isinstance(error, LailaError)
            evidence = () if own else tuple(traceback.format_exception(error)[-4:])
            self._record(
                step, "error", str(error) if own else f"{type(error).__name__}: {error}", began, evidence
            )
        except KeyboardInterrupt:
            self._record(step, "error", "interrupted", began)
            raise
        else:
            self._record(step, "ok", detail, began)
            return True
        return not vital

    def _record(
        self,
        step: Step,
        state: str,
        detail: str,
        began: float,
        evidence: Sequence[str] = (),
        *,
        excused: bool = False,
    ) -> None:
        seconds = self.history.now() - began
        self.results.append(
            StepResult(step.key, step.title, state, detail, began, seconds, tuple(evidence), excused)
        )
        self.progress.end(step.key, state, detail)
        if state in ("failed", "error"):
            self.history.event("note", f"{step.title}: {detail}")
            for line in evidence[:SHOWN]:
                self.progress.say(f"         {line}")

    def _skip_rest(self, why: str) -> None:
        done = {result.key for result in self.results}
        for step in self.order.steps:
            if step.key not in done:
                self._record(step, "skipped", why, self.history.now())

    def _end(self) -> None:
        """Logs, then removal; both always, also after an interrupt."""
        self.stage.step = REMOVE.key
        self.progress.begin(REMOVE.key)
        began = self.history.now()
        try:
            self.stage.close()
            self.folder.save_logs(self.driver)
            if self.order.keep and any(
                result.key == "start" and result.state == "ok" for result in self.results
            ):
                self.driver.note(standing_since=time.time())
                self.driver.run = registry.stand(self.driver.run)
                self._record(
                    REMOVE,
                    "ok",
                    f"kept, as asked; end it with: laila lab down {self.driver.run.run_id}",
                    began,
                )
                return
            self.left = ledger.end(self.driver)
            if not self.left:
                self.driver.run.forget()
        except (LailaError, OSError) as error:
            self.left = [str(error)]
        if self.left:
            self._record(REMOVE, "error", f"left behind: {', '.join(self.left)}; try laila lab gc", began)
        else:
            self._record(REMOVE, "ok", "nothing of this run is left", began)

    def _result(self) -> Result:
        order, facts = self.order, dict(self.stage.facts)
        facts.pop("load", None)
        facts["operations"] = dict(self.history.counts)
        return Result(
            run_id=self.driver.run.run_id,
            topology=order.topology.name,
            driver=self.driver.name,
            driver_reason=order.choice.reason,
            nodes=order.topology.names,
            seed=order.seed,
            command=order.command,
            started=self.started,
            seconds=self.history.now(),
            steps=tuple(sorted(self.results, key=lambda result: result.key == REMOVE.key)),
            facts=_plain(facts),
            left_behind=tuple(self.left),
        )


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in facts.items()
        if isinstance(value, str | int | float | dict | list | tuple)
    }
