"""Damaged, forged and old files: every node refuses them, says why, and goes on when the good file is back.

Every node has loaded the newest version before. Then, beside one node, the file is changed as an accident or a
stranger would change it; every node must see other bytes than before (the proof that the damage is there for it),
`load` must end with the right error, and `load_cached` with an error or with the newest version from its own verified
copy. At last the good file is put back, and every node loads it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from laila.errors import LabError
from laila.lab.checks.base import Stage
from laila.lab.checks.exclusion import ask
from laila.lab.checks.freshness import HOW, STORE, WRITER, load_everywhere
from laila.lab.crew import Worker

NAME = "damaged"
FILE = f"{STORE}/{NAME}.maif"
ASIDE = "lab-check/aside"
"""Where good, old and forged files are kept meanwhile, outside the store."""
SURGEON = WRITER
"""The worker that does the damage: another one than those that load."""
CORRUPT = ("ArtifactCorrupt", "NotAnArtifact", "UnsupportedVersion")
_VERSIONS = 3

Operation = Callable[[Stage, Worker], None]


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that happens to the file, and the errors that tell it rightly."""

    what: str
    do: Operation
    errors: tuple[str, ...]
    cached: tuple[str, ...] = ()
    """More of them that are right from `load_cached`, which looks at a file's head alone."""


@dataclass(slots=True)
class _Good:
    """The newest version: its file as all nodes see it, and its content."""

    digest: str
    print: str
    findings: list[str] = field(default_factory=list)
    cases: list[dict[str, Any]] = field(default_factory=list)


def is_refused(stage: Stage) -> str:
    stage.need_safe()
    surgeon = stage.crew.of(stage.random.choice(stage.names), SURGEON)
    good = _newest_everywhere(stage, surgeon)
    cases = _cases(stage, surgeon)
    for number, case in enumerate(cases, 1):
        stage.tell(f"{number} of {len(cases)}: {case.what}")
        _one_case(stage, surgeon, good, case)
    stage.facts["damage"] = {"cases": good.cases, "wrong": len(good.findings)}
    if good.findings:
        stage.fail(
            f"{len(good.findings)} loads of damaged, forged or old files ended as they must not",
            good.findings,
        )
    loads = len(cases) * len(stage.names) * len(HOW)
    return (
        f"{len(cases)} cases beside {surgeon.node} (a bit of every section flipped, truncations, strangers' signatures,"
        f" another artifact's file, an old version): {loads} loads on {len(stage.names)} nodes, none served, each for "
        "the right reason; then all loaded the good file again"
    )


def _newest_everywhere(stage: Stage, surgeon: Worker) -> _Good:
    """A few versions; the second newest is kept aside, the newest is loaded by every node."""
    made: dict[str, Any] = {}
    for number in range(_VERSIONS):
        if number == _VERSIONS - 1:
            ask(stage, surgeon, "copy", path=FILE, to=f"{ASIDE}/old")
        seed = stage.random.randrange(1 << 40)
        made = ask(stage, surgeon, "create", store=STORE, name=NAME, seed=seed)
    digest = ask(stage, surgeon, "copy", path=FILE, to=f"{ASIDE}/good")["digest"]
    good = _Good(digest, made["print"])
    if wrong := _not_good(stage, good):
        stage.fail("a node cannot load what was just created", wrong)
    return good


def _cases(stage: Stage, surgeon: Worker) -> list[Case]:
    chance = stage.random
    told = ask(stage, surgeon, "sections", path=FILE)
    found = [
        _flip(name, chance.randrange(begin, end), chance.randrange(8))
        for name, begin, end in told["sections"]
    ]
    size, (_, block, _) = told["size"], told["sections"][3]
    found += [
        _cut("its last byte", size - 1),
        _cut("half of it", size // 2),
        _cut("all but the header", block),
    ]
    found += [_cut("everything", 0)]
    for kind, what, error in (
        ("stranger", "a next version signed by a stranger is put there", "UntrustedSigner"),
        ("resigned", "it is signed anew by a stranger", "UntrustedSigner"),
        ("unsigned", "a next version without a signature is put there", "Unsigned"),
        ("other", "another artifact's file is put there", "ArtifactCorrupt"),
    ):
        found.append(Case(what, _forge(kind), (error,)))
    found.append(Case("the version before it is put back", _copy(f"{ASIDE}/old"), ("RolledBack",)))
    return found


def _one_case(stage: Stage, surgeon: Worker, good: _Good, case: Case) -> None:
    case.do(stage, surgeon)
    digests = {node: _look(stage, node)["digest"] for node in stage.names}
    if blind := [node for node, digest in digests.items() if digest == good.digest]:
        raise LabError(
            f"{case.what}, but {', '.join(blind)} still read the old bytes: the damage did not bite"
        )
    said: dict[str, list[dict[str, Any]]] = {node: [] for node in stage.names}
    served = 0
    for how in HOW:
        for reader, got in load_everywhere(stage, NAME, how):
            fine, words = _judged(good, case, how, got)
            served += "error" not in got and not fine
            said[got["node"]].append({"how": how, "said": words, "good": fine})
            if not fine:
                good.findings.append(f"{case.what}: {how} by {reader} gave {got.get('error', words)}")
                stage.history.event("bad", good.findings[-1], node=got["node"])
    proof = f"sha256 {good.digest[:8]}… became {next(iter(digests.values()))[:8] or 'nothing'}… on every node"
    good.cases.append({"what": case.what, "proof": proof, "said": said, "served": served})
    ask(stage, surgeon, "copy", path=f"{ASIDE}/good", to=FILE)
    if wrong := _not_good(stage, good):
        good.findings += [f"after the good file was put back: {line}" for line in wrong]


def _judged(good: _Good, case: Case, how: str, got: dict[str, Any]) -> tuple[bool, str]:
    """Whether this may be, and what to say of it."""
    if "error" in got:
        right = (*case.errors, *(case.cached if how == "load_cached" else ()))
        return got["code"] in right, got["code"]
    newest = got["print"] == good.print
    if how == "load_cached" and newest:
        return True, "its own good copy"
    return False, "served: " + ("the newest version" if newest else "other content")


def _not_good(stage: Stage, good: _Good) -> list[str]:
    """What is wrong with loading the good file, on any node."""
    wrong = []
    for how in HOW:
        for reader, got in load_everywhere(stage, NAME, how):
            if got.get("print") != good.print:
                wrong.append(f"{how} by {reader} gave {got.get('error', 'other content')}")
    return wrong


def _look(stage: Stage, node: str) -> dict[str, Any]:
    return ask(stage, stage.crew.of(node, SURGEON), "look", path=FILE)


def _flip(section: str, at: int, bit: int) -> Case:
    def do(stage: Stage, surgeon: Worker) -> None:
        ask(stage, surgeon, "flip", path=FILE, at=at, bit=bit)

    # A head cannot tell a lineage that was damaged from one that was never there, as in a file from before it.
    cached = ("RolledBack",) if section == "the lineage" else ()
    return Case(f"a bit of {section} is flipped (byte {at})", do, CORRUPT, cached)


def _cut(what: str, size: int) -> Case:
    def do(stage: Stage, surgeon: Worker) -> None:
        ask(stage, surgeon, "cut", path=FILE, size=size)

    return Case(f"{what} is cut off", do, CORRUPT)


def _forge(kind: str) -> Operation:
    def do(stage: Stage, surgeon: Worker) -> None:
        ask(stage, surgeon, "forge", path=FILE, to=f"{ASIDE}/{kind}", kind=kind)
        ask(stage, surgeon, "copy", path=f"{ASIDE}/{kind}", to=FILE)

    return do


def _copy(source: str) -> Operation:
    def do(stage: Stage, surgeon: Worker) -> None:
        ask(stage, surgeon, "copy", path=source, to=FILE)

    return do
