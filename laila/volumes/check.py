"""`laila volume check`: has real nodes try a volume together, and judges what they saw.

Any bad evidence makes the volume UNSAFE. Without bad evidence it is SAFE only when every trial was finished and said
something; a node that failed, a trial that was too short, or nodes that are one client of a network volume leave it
UNKNOWN. Everything happens in `PATH/.laila/probe-ID`, which is removed afterwards, also after Ctrl-C.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ..errors import BadValue, LailaError
from ..mounts import Mount
from . import advice, exclusion, visibility
from .ground import LAILA, new_probe
from .locking import FCNTL, FLOCK
from .nodes import NodeLink
from .party import PATIENCE, NodeFailed, Party, Tell
from .verdict import BAD, FILE, NOTE, OK, ONE_KERNEL, SAFE, UNKNOWN, UNSAFE, Evidence, Verdict

DEFAULT_SECONDS = 10.0
LEAST_SECONDS, MOST_SECONDS = 1.0, 600.0
_NOWHERE = Mount("unknown", "", (), "")
_NO_FURTHER = "one volume"
_RENAME = "atomic rename"
_LOCKS = (
    "flock",
    "flock hammer",
    "flock holder killed",
    "fcntl",
    "fcntl hammer",
    "fcntl holder killed",
    "O_EXCL",
    "link",
)
"""Checks whose failure is a failure to exclude."""
_SHOWS = ("read-after-write", "rename", "replace")
"""Checks, by the end of their names, whose failure is one of showing what is there, whatever the locks do."""

_NONSENSE = (TypeError, ValueError)
"""What answers lead to that are well-formed and not what was asked for."""

Trial = Callable[[], Iterator[Evidence]]


def run(
    path: str,
    nodes: Sequence[NodeLink],
    *,
    seconds: float = DEFAULT_SECONDS,
    tell: Tell = lambda line: None,
    keep: bool = True,
    patience: float = PATIENCE,
) -> Verdict:
    """Have the nodes try the volume at `path` (absolute; a node's own `path` wins), and judge.

    `seconds`: for all that is repeated for some time; the rest takes a few more. `tell`: gets lines of progress.
    `keep`: store the verdict on the volume, unless it is UNKNOWN; that it could not be stored is evidence, no error.
    `patience`: seconds beyond its bound after which a step's node counts as hanging. Raises BadValue for arguments out
    of range; whatever goes wrong on the nodes is evidence.
    """
    if not LEAST_SECONDS <= seconds <= MOST_SECONDS:
        raise BadValue(
            f"a check of {seconds:g} s is out of range; give {LEAST_SECONDS:g} to {MOST_SECONDS:g} seconds"
        )
    party = Party(nodes, path, new_probe(), tell, patience)
    evidence: list[Evidence] = []
    try:
        _conduct(party, seconds, evidence)
    finally:
        problems = party.disperse()
    evidence += [Evidence("clean up", NOTE, problem) for problem in problems]
    verdict = _judge(party, evidence)
    return _kept(party, verdict) if keep and verdict.answer != UNKNOWN else verdict


def _conduct(party: Party, seconds: float, evidence: list[Evidence]) -> None:
    try:
        party.gather()
    except (NodeFailed, BadValue) as failure:
        evidence.append(Evidence("nodes", "unknown", str(failure)))
        return
    except _NONSENSE as error:
        evidence.append(Evidence("nodes", "unknown", _nonsense(error)))
        return
    evidence.append(_introduced(party))
    if len(party.members) < 2:
        return
    for check, trial in _trials(party, seconds):
        try:
            for line in trial():
                evidence.append(line)
                party.tell(f"  {line.outcome}: {line.text}")
        except NodeFailed as failure:
            evidence.append(Evidence(check, "unknown", str(failure)))
            party.tell(f"  unknown: {failure}")
            if failure.gone:
                return
        except _NONSENSE as error:
            evidence.append(Evidence(check, "unknown", _nonsense(error)))
            return
        if check == _NO_FURTHER and evidence[-1].outcome == BAD:
            _still_locks(party, evidence)
            return


def _nonsense(error: Exception) -> str:
    return f"a node gave an answer that cannot be read ({type(error).__name__}: {error}); do all run the same laila?"


def _trials(party: Party, seconds: float) -> list[tuple[str, Trial]]:
    """In order, with their shares of the time."""
    return [
        (_NO_FURTHER, lambda: visibility.sight(party)),
        ("clock", lambda: visibility.clock(party)),
        (FLOCK, lambda: exclusion.turns(party, FLOCK)),
        (FCNTL, lambda: exclusion.turns(party, FCNTL)),
        ("flock holder killed", lambda: exclusion.killed(party, FLOCK)),
        ("fcntl holder killed", lambda: exclusion.killed(party, FCNTL)),
        ("flock hammer", lambda: exclusion.hammer(party, FLOCK, seconds * 0.3)),
        ("fcntl hammer", lambda: exclusion.hammer(party, FCNTL, seconds * 0.2)),
        ("flock read-after-write", lambda: visibility.memory(party, FLOCK, seconds * 0.08)),
        ("fcntl read-after-write", lambda: visibility.memory(party, FCNTL, seconds * 0.07)),
        ("rename", lambda: visibility.renames(party, seconds * 0.15)),
        ("O_EXCL", lambda: visibility.winners(party, "create", seconds * 0.1)),
        ("link", lambda: visibility.winners(party, "link", seconds * 0.1)),
    ]


def _still_locks(party: Party, evidence: list[Evidence]) -> None:
    """Nodes that do not see each other's files: that they do not lock each other out either is quickly shown."""
    with contextlib.suppress(NodeFailed):  # the verdict is clear already
        evidence.extend(exclusion.turns(party, FLOCK))


def _introduced(party: Party) -> Evidence:
    kernels = len({member.boot for member in party.members})
    seen: dict[Mount, list[str]] = {}
    for member in party.members:
        where = str(member) if member.name == member.host else f"{member} on {member.host}"
        seen.setdefault(replace(member.mount, device="", root="", point=""), []).append(where)
    who = "; ".join(f"{', '.join(names)}: {mount}" for mount, names in seen.items())
    numbers = {"nodes": len(party.members), "kernels": kernels, "clients": len(_clients(party))}
    return Evidence("nodes", OK, f"{who} ({kernels} {'kernel' if kernels == 1 else 'kernels'})", numbers)


def _clients(party: Party) -> set[tuple[str, int]]:
    """Who sees the volume through eyes of its own: a mount of a kernel."""
    return {(member.boot, member.device) for member in party.members}


def _judge(party: Party, evidence: list[Evidence]) -> Verdict:
    members = party.members
    mounts = tuple(member.mount for member in members)
    one_kernel = bool(members) and len({m.boot for m in members}) == 1 and all(m.one_kernel for m in mounts)
    answer, reason = _answer(party, evidence, mounts, one_kernel)
    return Verdict(
        answer,
        reason,
        tuple(evidence),
        mounts[0] if mounts else _NOWHERE,
        tuple(member.name for member in members) or tuple(link.name for link in party.links),
        time.time(),
        one_kernel,
        mounts,
    )


def _answer(
    party: Party, evidence: list[Evidence], mounts: Sequence[Mount], one_kernel: bool
) -> tuple[str, str]:
    bad = [line for line in evidence if line.outcome == BAD]
    if bad:
        return UNSAFE, _unsafe(bad, mounts)
    unknown = [line for line in evidence if line.outcome == "unknown"]
    if unknown:
        return UNKNOWN, f"the check was not finished: {unknown[0].text}"
    if len(party.members) < 2:
        return UNKNOWN, "one node alone shows nothing about others; name more with --with NODE"
    if one_kernel:
        return SAFE, f"{len(party.members)} processes excluded each other on {mounts[0].fstype}: {ONE_KERNEL}"
    if len(_clients(party)) < 2:
        return (
            UNKNOWN,
            f"all nodes use one mount ({mounts[0]}) of one kernel; name nodes that mount the volume themselves",
        )
    kernels = len({member.boot for member in party.members})
    where = f"{len(_clients(party))} mounts on {kernels} {'kernel' if kernels == 1 else 'kernels'}"
    return (
        SAFE,
        f"locks excluded and every read was fresh between {len(party.members)} nodes ({where}, {mounts[0].fstype})",
    )


def _unsafe(bad: Sequence[Evidence], mounts: Sequence[Mount]) -> str:
    """What was seen, why that may be, and what to do instead, in one sentence."""
    locks = [line for line in bad if line.check in _LOCKS]
    apart = [line for line in bad if line.check == _NO_FURTHER]
    if apart:
        why = advice.culprit(mounts, locks=False)
        known = f" ({why})" if why else ""
        return f"{apart[0].text}{known}; mount one volume on all nodes, or {advice.instead(locks=True, stale=False)}"
    first = (locks or bad)[0]
    if first.check == _RENAME:
        return f"{first.text}; artifacts are published by renaming over the old version: use another volume"
    why = advice.culprit(mounts, locks=bool(locks))
    known = f" ({why})" if why else ""
    stale = any(line.check.endswith(_SHOWS) for line in bad)
    return f"{first.text}{known}; {advice.instead(locks=bool(locks), stale=stale)}"


def _kept(party: Party, verdict: Verdict) -> Verdict:
    """Stored by the first node that can, an UNSAFE one by all: they may not see the same directory."""
    problems: list[str] = []
    for member in party.members:
        try:
            member.link.ask({"do": "keep", "path": member.path, "verdict": verdict.to_dict()}, PATIENCE)
            problems.clear()
        except LailaError as error:
            problems.append(f"{member}: {error}")
        else:
            if verdict.answer == SAFE:
                break
    if not problems:
        return verdict
    text = f"the verdict could not be kept at {party.members[0].path}/{LAILA}/{FILE}: {'; '.join(problems)}"
    return replace(verdict, evidence=(*verdict.evidence, Evidence("kept", NOTE, text)))
