"""One run of a group: its steps one after the other, each in fresh processes, interleaved by repetition."""

from __future__ import annotations

from collections.abc import Callable

from .group import Group, Plan
from .processes import ChildFailed
from .results import Results

Progress = Callable[[str], None]


def run(group: Group, plan: Plan, results: Results, progress: Progress) -> None:
    """Do every step; a step that fails is noted and the run goes on."""
    steps = list(group.steps(plan, results))
    for number, (repetition, works, name) in enumerate(steps, 1):
        place = f"[{number:>{len(str(len(steps)))}}/{len(steps)}] {name} {','.join(works)}"
        try:
            numbers = group.do(plan, works, name)
        except (ChildFailed, OSError) as error:
            results.failures.append(f"{name}, {','.join(works)}, repetition {repetition + 1}: {error}")
            progress(f"{place}: FAILED {error}")
            continue
        good = {metric: value for metric, value in numbers.items() if not metric.startswith("failed.")}
        results.add(name, repetition, good)
        progress(f"{place}: " + " ".join(f"{metric}={shorter(value)}" for metric, value in numbers.items()))
        for metric in numbers.keys() - good.keys():
            work = metric.removeprefix("failed.")
            results.failures.append(f"{name}, {work}, repetition {repetition + 1}: {numbers[metric]}")


def shorter(value: float | str) -> str:
    """A number for the progress line; a reason as it is."""
    return value if isinstance(value, str) else f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
