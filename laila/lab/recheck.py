"""Judge a run again from its folder alone: `laila lab recheck`.

The history is judged by the same judges as in the run, without a cluster, and compared with what the run said. What no
history tells, such as whether links healed, stays as the run saw it. A run that was interrupted is unknown whatever its
history looks like: what was under way when it ended is not in it, and may explain what looks wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from laila.lab import junit, old_records, report, saved
from laila.lab.checkers import history, holds, members, versions
from laila.lab.checkers import verdict as verdicts
from laila.lab.checkers.operations import INVOKED
from laila.lab.checkers.verdict import Judgement
from laila.lab.result import Result, StepResult, Verdict

STATES: Mapping[verdicts.Verdict, str] = {
    verdicts.Verdict.OK: "ok",
    verdicts.Verdict.ILLEGAL: "failed",
    verdicts.Verdict.UNKNOWN: "error",
}
"""How a step ends that says this."""
LISTED = 40
"""Judgements that are told one by one, the worst first."""


@dataclass(frozen=True, slots=True)
class Rechecked:
    """What became of it. `verdict` is the run's with these judgements instead of its own."""

    verdict: Verdict
    judgements: tuple[Judgement, ...]
    same: bool
    """Whether every judgement, and the verdict, is what the run said."""
    text: str
    """For people: the verdict, what differs, and every judgement."""


def recheck(folder: str | Path, *, write: bool = False) -> Rechecked:
    """Judge again. `write` puts the new judgements into the folder's report and junit.xml; result.json stays what the
    run said. Raises BadConfig for a folder that is none of a run.
    """
    with saved.trusting(folder):
        return _recheck(saved.read(folder, history=write), write)


def _recheck(run: saved.Saved, write: bool) -> Rechecked:
    records = saved.records(run.path, without=INVOKED)
    found = (*_workloads(run.path), *old_records.judge(records))
    found = tuple(map(_doubted, found)) if run.interrupted else found
    if not found:
        text = (
            "unknown: nothing in this history can be judged again; "
            f"the run said {run.result.verdict.value}: {run.result.sentence}"
        )
        return Rechecked(Verdict.UNKNOWN, (), False, text)
    result = _again(run, found)
    differing = _differences(run.result, found)
    if write:
        page = report.render(result, run.told, run.environment, run.files)
        (run.path / "report.html").write_text(page, encoding="utf-8")
        junit.write(result, run.path)
    same = not differing and not run.interrupted and result.verdict is run.result.verdict
    return Rechecked(result.verdict, found, same, _text(run, result, found, differing))


def _workloads(folder: Path) -> list[Judgement]:
    """What the judges of workloads say; nothing where there was none, and no line is damaged."""
    found = history.judge_history(saved.lines(folder))
    return [one for one in found if one.operations or one.check != history.CHECK or one.name]


def _doubted(one: Judgement) -> Judgement:
    """An accusation from the history of a run that was interrupted."""
    if one.why is None:
        return one
    reason = f"what was under way when the run ended is missing; without it: {one.why.kind}: {one.why.text}"
    return replace(one, verdict=verdicts.Verdict.UNKNOWN, why=None, faults=0, reason=reason)


# -- with what the run said ---------------------------------------------------------------------------------


def _again(run: saved.Saved, found: Sequence[Judgement]) -> Result:
    """The run's result with these judgements. Each step that judged says what it says now."""
    by_step: dict[str, list[Judgement]] = {}
    for one in found:
        by_step.setdefault(_step_of(one, run.result), []).append(one)
    steps = [_restated(step, by_step.pop(step.key, ())) for step in run.result.steps]
    if left := [one for judged in by_step.values() for one in judged]:
        detail = str(_worst(left)) if _state(left) != "ok" else f"{len(left)} histories are right"
        steps.append(StepResult("recheck", "judge the history again", _state(left), detail))
    facts = {**run.result.facts, "judgements": [one.to_dict() for one in found]}
    return replace(run.result, steps=tuple(steps), facts=facts)


def _step_of(one: Judgement, result: Result) -> str:
    """The step that judged this in the run, by its key; empty when there is none."""
    keys = {step.key for step in result.steps}
    judge = f"judge-{one.workload}"
    return next((key for key in (f"{judge}-{one.check}-{one.name}", judge, one.workload) if key in keys), "")


def _restated(step: StepResult, judged: Sequence[Judgement]) -> StepResult:
    if not judged or step.state in (_state(judged), "skipped"):
        return step
    if step.state == "ok" or _state(judged) == "failed":
        return replace(step, state=_state(judged), detail=f"judged again: {_worst(judged)}")
    if step.key.startswith("judge-"):  # it did nothing but judge
        return replace(step, state=_state(judged), detail=f"judged again: {_worst(judged)}", evidence=())
    if _by_its_judge(step):
        return replace(
            step, state="error", detail=f"judged again, its history is right; it said: {step.detail}"
        )
    return step


def _differences(result: Result, found: Sequence[Judgement]) -> list[str]:
    """What is judged otherwise than in the run."""
    before = {_key(one): str(one["verdict"]) for one in result.facts.get("judgements", ())}
    now = {_key(one.to_dict()): one for one in found}
    steps = {step.key: step for step in result.steps}
    differing = []
    for key, one in now.items():
        was = before.get(key, "") if before else ""
        if not was and (step := steps.get(one.workload)) is not None:
            was = _said(step, one, result)
        if was and was != one.verdict.value:
            differing.append(f"the run said {was}, now it is {one}")
        elif not was:
            differing.append(f"the run said nothing of it, now it is {one}")
    gone = [f"{' '.join(key[1:])}: the run said {was}" for key, was in before.items() if key not in now]
    return differing + [f"{one}, and it is not in the history" for one in gone]


def _key(one: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(one.get("workload", "")), str(one["check"]), str(one["name"])


def _said(step: StepResult, one: Judgement, result: Result) -> str:
    """What a step that judges among other things said of this."""
    if one.check == old_records.REGISTER:
        illegal = {why["name"] for why in result.facts.get("registers", {}).get("why", ())}
        return "illegal" if one.name in illegal else "ok"
    return "illegal" if _by_its_judge(step) else "ok"


def _by_its_judge(step: StepResult) -> bool:
    """Whether a step failed by what a judge found, and not by anything else that it looks at."""
    told = "\n".join((step.detail, *step.evidence))
    return step.state == "failed" and any(kind in told for kind in _KINDS)


_KINDS = tuple(
    value
    for module in (holds, members, versions)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
)


# -- words --------------------------------------------------------------------------------------------------


def _state(judged: Iterable[Judgement]) -> str:
    return STATES[verdicts.worst(judged)]


def _worst(judged: Iterable[Judgement]) -> Judgement:
    return min(judged, key=_badness)


def _badness(one: Judgement) -> int:
    """The worst first."""
    return (verdicts.Verdict.ILLEGAL, verdicts.Verdict.UNKNOWN, verdicts.Verdict.OK).index(one.verdict)


def _text(run: saved.Saved, result: Result, found: Sequence[Judgement], differing: Sequence[str]) -> str:
    operations = sum(one.operations for one in found)
    lines = [f"{result.verdict.value}: {len(found)} histories of {operations:,} operations judged again"]
    if run.interrupted:
        lines.append(
            "the run was interrupted, so what was under way at its end is not in the history: no verdict"
        )
    elif differing:
        lines += [f"differs: {line}" for line in differing]
    else:
        lines[0] += ", each as the run judged it"
    if not run.interrupted and result.verdict is not Verdict.OK:
        lines.append(result.sentence)
    shown = sorted(found, key=_badness)
    lines += [f"  {one} ({one.operations:,} operations)" for one in shown[:LISTED]]
    if len(shown) > LISTED:
        counts = Counter(one.verdict.value for one in found)
        told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        lines.append(f"  and {len(shown) - LISTED} more; in all {told}")
    return "\n".join(lines)
