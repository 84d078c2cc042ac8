"""Both ends of a link say the same: when A lists B, B lists A, but for a moment in which one of them learns it.

`peers` has in `result` the names that the node itself sees as up. Every node is asked again and again. What it said
twice in a row it is taken to have meant all the time between, unless that time is long or it gave no answer meanwhile.
In the end (operations with the key `closing`) every node must list every other one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from laila.lab.checkers.operations import OK, Op
from laila.lab.checkers.verdict import Explanation, Judgement, Verdict

CHECK = "symmetric peering"
CHECK_END = "all links up"
ONE_SIDED = "one node lists another that does not list it"
DOWN = "a link that is not up in the end"
DURING, CLOSING = "during", "closing"
"""Keys of the operations."""


@dataclass(frozen=True, slots=True)
class Run:
    """Answers of one node, one after another, that say the same of another one."""

    up: bool
    first: Op
    last: Op

    @property
    def since(self) -> float:
        return self.first.end

    @property
    def until(self) -> float:
        return self.last.start


def judge(ops: Iterable[Op], grace: float) -> list[Judgement]:
    """All links during the run, and all in the end. `grace` is how many seconds the two ends may differ."""
    asked = sorted((op for op in ops if op.op == "peers"), key=lambda op: op.start)
    nodes = sorted({op.node for op in asked})
    return [_during(asked, nodes, grace), _in_the_end([op for op in asked if op.key == CLOSING], nodes)]


def _during(asked: Sequence[Op], nodes: Sequence[str], grace: float) -> Judgement:
    count = sum(op.outcome == OK for op in asked)
    if len(nodes) < 2:
        reason = f"{len(nodes)} nodes were asked for their peers, and a link has two ends"
        return Judgement(CHECK, "links", Verdict.UNKNOWN, count, reason=reason)
    by_node = {node: [op for op in asked if op.node == node] for node in nodes}
    found: list[Explanation] = []
    shared: dict[tuple[str, str], float] = defaultdict(float)
    for turn, one in enumerate(nodes):
        for other in nodes[turn + 1 :]:
            ends = [*_runs(by_node[one], other, grace)], [*_runs(by_node[other], one, grace)]
            for here, there in _together(*ends):
                both = min(here.until, there.until) - max(here.since, there.since)
                shared[one, other] += both
                if here.up != there.up and both > grace:
                    found.append(_one_sided(here, there, both, grace))
    if found:
        first = min(found, key=lambda why: why.offender.end)
        return Judgement(CHECK, "links", Verdict.ILLEGAL, count, first, len(found))
    for turn, one in enumerate(nodes):
        for other in nodes[turn + 1 :]:
            if shared[one, other] <= grace:
                reason = (
                    f"the two ends of {one} and {other} were seen together for {shared[one, other]:.1f} s, and may "
                    f"differ for {grace:g} s"
                )
                return Judgement(CHECK, "links", Verdict.UNKNOWN, count, reason=reason)
    return Judgement(CHECK, "links", Verdict.OK, count)


def _in_the_end(asked: Sequence[Op], nodes: Sequence[str]) -> Judgement:
    last = {op.node: op for op in asked if op.outcome == OK}
    silent = [node for node in nodes if node not in last]
    if len(nodes) < 2 or silent:
        few = f"{len(nodes)} nodes were asked for their peers, and a link has two ends"
        reason = f"{', '.join(silent)} did not tell its peers in the end" if silent else few
        return Judgement(CHECK_END, "links", Verdict.UNKNOWN, len(last), reason=reason)
    found = []
    for node, op in sorted(last.items()):
        if missing := [other for other in nodes if other != node and other not in op.result]:
            when = f"({op.start:.4f} to {op.end:.4f} s)"
            text = f"{node} does not list {', '.join(missing)} {when}, after everything was healed"
            found.append(Explanation(DOWN, text, (op,), op))
    if found:
        return Judgement(CHECK_END, "links", Verdict.ILLEGAL, len(last), found[0], len(found))
    return Judgement(CHECK_END, "links", Verdict.OK, len(last))


def _runs(asked: Sequence[Op], other: str, longest: float) -> Iterator[Run]:
    """What one node said of another. Silence of more than `longest` seconds ends a run, and so does no answer."""
    first = last = None
    for op in asked:
        if op.outcome != OK:
            if first is not None and last is not None:
                yield Run(other in first.result, first, last)
            first = last = None
            continue
        if first is not None and last is not None:
            same = (other in op.result) == (other in first.result)
            if same and op.end - last.start <= longest:
                last = op
                continue
            yield Run(other in first.result, first, last)
        first = last = op
    if first is not None and last is not None:
        yield Run(other in first.result, first, last)


def _together(one: Sequence[Run], other: Sequence[Run]) -> Iterator[tuple[Run, Run]]:
    """Pairs of runs of the two ends that overlap."""
    here = there = 0
    while here < len(one) and there < len(other):
        if min(one[here].until, other[there].until) > max(one[here].since, other[there].since):
            yield one[here], other[there]
        if one[here].until <= other[there].until:
            here += 1
        else:
            there += 1


def _one_sided(here: Run, there: Run, both: float, grace: float) -> Explanation:
    up, down = (here, there) if here.up else (there, here)
    since, until = max(here.since, there.since), min(here.until, there.until)
    one, other = up.first.node, down.first.node
    text = (
        f"{one} listed {other} from {since:.2f} to {until:.2f} s, and {other} did not list {one}: {both:.1f} s, of "
        f"{grace:g} s that are allowed"
    )
    chosen = {id(op): op for op in (up.first, up.last, down.first, down.last)}
    operations = sorted(chosen.values(), key=lambda op: (op.start, op.end))
    return Explanation(ONE_SIDED, text, tuple(operations), down.last)
