"""The printed report of a group: a table for each work with ratios to the references, then the bars."""

from __future__ import annotations

from collections.abc import Iterator

from .bars import Bar, Verdict
from .group import Group, Table
from .results import Results


def report(group: Group, results: Results, verdicts: list[Verdict]) -> str:
    """Everything, as text."""
    lines = [f"== {group.name} ==", ""]
    for work in results.works:
        for table in group.tables[work]:
            lines += _section(group, results, table)
    lines += [group.note, ""]
    lines += _bars(group, verdicts)
    lines += [*results.remarks, *(f"failed: {failure}" for failure in results.failures)]
    return "\n".join(lines)


def title(group: Group, name: str) -> str:
    """A contender's row heading; a mark says that its link is encrypted."""
    facts = group.contenders[name]
    return facts.title + (" *" if facts.encrypted else "")


def _section(group: Group, results: Results, table: Table) -> Iterator[str]:
    names = [n for n in results.contenders if any(results.all(n, metric) for metric, _, _ in table.columns)]
    if not names:
        return
    references = group.references if table.ratios else ()
    heads = [head for _, name, _ in table.columns for head in (name, *(label for _, label in references))]
    yield table.heading
    yield " " * 30 + "".join(f"{head:>12}" for head in heads)
    for name in names:
        cells = []
        for metric, _, form in table.columns:
            cells.append(_cell(results.median(results.ratios(name, metric, None)), form))
            cells += [
                _cell(results.median(results.ratios(name, metric, ref)), ".3f") for ref, _ in references
            ]
        yield f"  {title(group, name):<28}" + "".join(f"{cell:>12}" for cell in cells)
    yield ""


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _bars(group: Group, verdicts: list[Verdict]) -> Iterator[str]:
    if not verdicts:
        return
    yield f"{'bar':<62}{'needs':>10}{'median':>10}   range"
    for verdict in verdicts:
        bar = verdict.bar
        needs = f"{'≤' if bar.at_most else '≥'} {bar.bound:g}"
        words = {True: "met", False: "aim not reached" if bar.aim else "MISSED", None: "not measured"}[
            verdict.met
        ]
        shown = "-" if verdict.value is None else f"{verdict.value:.2f}"
        spread = "" if verdict.value is None else f"{verdict.low:.2f} - {verdict.high:.2f}"
        yield f"  {describe(group, bar):<60}{needs:>10}{shown:>10}   {spread:<18}{words}"
    judged = [verdict for verdict in verdicts if not verdict.bar.aim]
    met = sum(verdict.met is True for verdict in judged)
    unknown = sum(verdict.met is None for verdict in judged)
    yield f"bars: {met} met, {len(judged) - met - unknown} missed, {unknown} not measured"
    yield ""


def describe(group: Group, bar: Bar) -> str:
    """A bar in words."""
    subject = f"{bar.metric}: {group.contenders[bar.subject].title}"
    return f"{subject} / {group.contenders[bar.reference].title}" if bar.reference else subject
