"""The printed report: a table for each work with ratios to the raw sockets, then the bars."""

from __future__ import annotations

from collections.abc import Iterator

from .bars import Bar, Verdict
from .contender import CONTENDERS
from .results import Results

# work -> (heading, rates shown with ratios, other columns)
Column = tuple[str, str, str]  # metric, heading, format
RATES: dict[str, tuple[str, tuple[Column, ...]]] = {
    "seq": (
        "one after the other, a 100-byte dict",
        (("seq.get", "get/s", ",.0f"), ("seq.put", "put/s", ",.0f")),
    ),
    "pipeline": ("1000 gets, 32 under way", (("pipeline.get", "get/s", ",.0f"),)),
    "batch": ("1000 gets in one call", (("batch.get", "get/s", ",.0f"),)),
    "bulk": ("64 MiB float64 array", (("bulk.put", "put MB/s", ",.0f"), ("bulk.get", "get MB/s", ",.0f"))),
    "clients": ("64 clients at once", (("clients.get", "get/s", ",.0f"),)),
}
PLAIN: dict[str, tuple[str, tuple[Column, ...]]] = {
    "bulk": (
        "its peak memory over idle, in arrays (the caller's own is 1)",
        (
            ("bulk.put.client", "put, client", ".2f"),
            ("bulk.put.server", "server", ".2f"),
            ("bulk.get.client", "get, client", ".2f"),
            ("bulk.get.server", "server", ".2f"),
        ),
    ),
    "idle": (
        "resident at rest, one peer",
        (("idle.server", "server MiB", ".1f"), ("idle.client", "client MiB", ".1f")),
    ),
    "import": (
        "import laila",
        (
            ("import.ms", "ms", ".0f"),
            ("import.bare", "bare ms", ".0f"),
            ("import.ratio", "ratio", ".2f"),
            ("import.modules", "modules", ".0f"),
            ("import.numpy", "numpy", ".0f"),
        ),
    ),
}
REFERENCES = (("raw-tcp", "of TCP"), ("raw-tls", "of TLS"))


def title(name: str) -> str:
    """A contender's row heading; a mark says that its link is encrypted."""
    facts = CONTENDERS[name]
    return facts.title + (" *" if facts.encrypted else "")


def report(results: Results, verdicts: list[Verdict]) -> str:
    """Everything, as text."""
    lines: list[str] = []
    for work in results.works:
        if work in RATES:
            lines += _section(results, *RATES[work], ratios=True)
        if work in PLAIN:
            lines += _section(results, *PLAIN[work], ratios=False)
    lines += ["* encrypted links. Ratios are medians of the ratio within each repetition.", ""]
    lines += _bars(verdicts)
    lines += [f"failed: {failure}" for failure in results.failures]
    return "\n".join(lines)


def _section(results: Results, heading: str, columns: tuple[Column, ...], *, ratios: bool) -> Iterator[str]:
    names = [n for n in results.contenders if any(results.all(n, metric) for metric, _, _ in columns)]
    if not names:
        return
    heads = [head for _, name, _ in columns for head in (name, *(label for _, label in REFERENCES if ratios))]
    yield heading
    yield " " * 30 + "".join(f"{head:>12}" for head in heads)
    for name in names:
        cells = []
        for metric, _, form in columns:
            cells.append(_cell(results.median(results.ratios(name, metric, None)), form))
            if ratios:
                cells += [
                    _cell(results.median(results.ratios(name, metric, ref)), ".3f") for ref, _ in REFERENCES
                ]
        yield f"  {title(name):<28}" + "".join(f"{cell:>12}" for cell in cells)
    yield ""


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _bars(verdicts: list[Verdict]) -> Iterator[str]:
    if not verdicts:
        return
    yield f"{'bar':<52}{'needs':>10}{'median':>10}   range"
    for verdict in verdicts:
        bar = verdict.bar
        needs = f"{'≤' if bar.at_most else '≥'} {bar.bound:g}"
        words = {True: "met", False: "aim not reached" if bar.aim else "MISSED", None: "not measured"}[
            verdict.met
        ]
        shown = "-" if verdict.value is None else f"{verdict.value:.2f}"
        spread = "" if verdict.value is None else f"{verdict.low:.2f} - {verdict.high:.2f}"
        yield f"  {describe(bar):<50}{needs:>10}{shown:>10}   {spread:<18}{words}"
    judged = [verdict for verdict in verdicts if not verdict.bar.aim]
    met = sum(verdict.met is True for verdict in judged)
    unknown = sum(verdict.met is None for verdict in judged)
    yield f"bars: {met} met, {len(judged) - met - unknown} missed, {unknown} not measured"
    yield ""


def describe(bar: Bar) -> str:
    """A bar in words."""
    subject = f"{bar.metric}: {CONTENDERS[bar.subject].title}"
    return f"{subject} / {CONTENDERS[bar.reference].title}" if bar.reference else subject
