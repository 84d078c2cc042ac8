"""What a trial in a test has shown, and the folder that it leaves: the same evidence as a check's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laila.errors import LailaError
from laila.lab import junit
from laila.lab.checkers.verdict import Judgement, Verdict, worst
from laila.lab.checks import trials
from laila.lab.checks.base import CheckFailed, Stage
from laila.lab.folder import Folder, environment
from laila.lab.report import render
from laila.lab.result import Result, StepResult


@dataclass(frozen=True, slots=True)
class Ran:
    """A trial that was played. `folder` has its report and its history."""

    said: str
    """What was done, in a sentence."""
    judgements: tuple[Judgement, ...]
    bites: tuple[dict[str, Any], ...]
    """What was broken, with proofs: `spec`, `nodes`, `proof`, `proof_of_healing`, times."""
    folder: Path
    command: str = ""
    """What repeats the same operations and faults."""
    trouble: str = ""
    """Why nothing was shown."""

    @property
    def verdict(self) -> str:
        """`ok`, `illegal` or `unknown`."""
        if not self.judgements:
            return Verdict.UNKNOWN.value
        found = worst(self.judgements)
        return Verdict.UNKNOWN.value if self.trouble and found is Verdict.OK else found.value

    @property
    def ok(self) -> bool:
        return self.verdict == Verdict.OK.value

    def check(self) -> Ran:
        """Raises AssertionError, which says what is wrong and where the report is, unless all is well."""
        if self.ok:
            return self
        lines = [str(one) for one in self.judgements if one.verdict is not Verdict.OK]
        text = "\n".join(filter(None, [f"verdict: {self.verdict}", self.trouble, *lines]))
        raise AssertionError(f"{text}\nreport: {self.folder / 'report.html'}\nagain: {self.command}")


def write(
    folder: Folder, stage: Stage, started: float, command: str, seed: int, said: str, trouble: str
) -> Result:
    """Report, result, junit.xml, environment and logs, beside the history. `started` is in seconds since the epoch."""
    return _write(folder, stage, started, command, seed, _steps(stage, said, trouble))


def write_deeds(
    folder: Folder,
    stage: Stage,
    started: float,
    command: str,
    seed: int,
    trouble: str,
    bites: Sequence[dict[str, Any]],
) -> Result:
    """The same of a test that failed, and what it did by hand."""
    stage.facts["bites"] = list(bites)
    step = StepResult("test", "the test", "failed", trouble, seconds=stage.history.now())
    return _write(folder, stage, started, command, seed, [step])


def _write(
    folder: Folder, stage: Stage, started: float, command: str, seed: int, steps: Iterable[StepResult]
) -> Result:
    where = environment(stage.driver, seed, command)
    folder.write_environment(where)
    folder.save_logs(stage.driver)
    plain = (str, int, float, dict, list)
    facts = {
        key: value for key, value in stage.facts.items() if isinstance(value, plain) and key != trials.FACT
    }
    result = Result(
        run_id=stage.driver.run.run_id,
        topology=stage.topology.name,
        driver=stage.driver.name,
        driver_reason="a test",
        nodes=stage.topology.names,
        seed=seed,
        command=command,
        started=started,
        seconds=stage.history.now(),
        steps=tuple(steps),
        facts={**facts, "operations": dict(stage.history.counts)},
    )
    result.save(folder.result)
    junit.write(result, folder.path)
    folder.report.write_text(render(result, stage.history, where), encoding="utf-8")
    return result


def _steps(stage: Stage, said: str, trouble: str) -> Iterator[StepResult]:
    """As a check would list them."""
    state = "error" if trouble else "ok"
    yield StepResult("trial", "work while faults strike", state, trouble or said, seconds=stage.history.now())
    for name in dict.fromkeys(one.workload for one in stage.facts.get(trials.FACT, ())):
        yield _judged(stage, name, trials.verdict_of(name))


def _judged(stage: Stage, name: str, judge: Callable[[Stage], str]) -> StepResult:
    key, title, at = f"judge-{name}", f"{name}: judged", stage.history.now()
    try:
        return StepResult(key, title, "ok", judge(stage), at)
    except CheckFailed as failure:
        return StepResult(key, title, "failed", str(failure), at, evidence=failure.evidence)
    except LailaError as error:
        return StepResult(key, title, "error", str(error), at)
