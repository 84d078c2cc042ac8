"""What is tried with locks: taking turns, hammering at the same time, and a holder that dies.

Each is done with `flock` and with `fcntl` byte ranges, since a volume may know one of them only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from .locking import EXCLUSIVE, FCNTL, SHARED
from .overlap import Hold, lost, overlaps
from .party import Answer, Member, Party, Races
from .races import SPACE
from .steps import MAX_WAIT
from .verdict import BAD, NOTE, OK, Evidence

GRANT = 2.0
"""Seconds within which a free lock must be had."""
INHERIT = 15.0
"""Seconds within which the lock of a killed holder must be had."""
ENOUGH = 3
"""Holds of each node, without which a race says nothing."""
_ELSEWHERE = 100


class _Unfit(Exception):
    """What makes the rest of a trial pointless, as a piece of evidence."""

    def __init__(self, text: str) -> None:
        super().__init__(text)


def turns(party: Party, how: str) -> Iterator[Evidence]:
    """One holds: the others are refused. It lets go: each of them gets it. Shared and shared, shared and exclusive."""
    party.tell(f"{how}: one holds, the others are refused; it lets go, the others get it")
    refused = granted = 0
    try:
        for holder in party.members:
            refused += _shut_out(party, how, holder, EXCLUSIVE)
            granted += _handed_over(party, how, holder)
            refused += _shut_out(party, how, holder, SHARED)
        beside = [*_sharing(party, how), *(_ranges(party) if how == FCNTL else ())]
    except _Unfit as unfit:
        yield Evidence(how, BAD, str(unfit), {"refused": refused, "granted": granted})
        return
    text = f"a held lock was refused to the other nodes {refused} times, a free one granted {granted} times"
    yield Evidence(how, OK, text, {"refused": refused, "granted": granted})
    yield from beside


def _take(party: Party, member: Member, how: str, mode: str, wait: float, first: int = 0) -> bool:
    """Raises _Unfit where nothing can be locked."""
    answer = party.ask(member, "lock", file=f"{how}.lock", how=how, mode=mode, wait=wait, first=first)
    if answer["error"]:
        raise _Unfit(f"{member} cannot lock by {how}: {answer['error']}")
    return bool(answer["held"])


def _drop(party: Party, member: Member, how: str) -> None:
    party.ask(member, "unlock", file=f"{how}.lock")


def _must_take(party: Party, member: Member, how: str, mode: str) -> None:
    if not _take(party, member, how, mode, GRANT):
        raise _Unfit(f"{member} did not get a {mode} {how} lock within {GRANT:g} s though nobody held it")


def _shut_out(party: Party, how: str, holder: Member, mode: str) -> int:
    """While `holder` holds, others must not: exclusively never, and shared only beside a shared one."""
    _must_take(party, holder, how, mode)
    refused = 0
    for other in party.others(holder):
        for wanted in (EXCLUSIVE, SHARED) if mode == EXCLUSIVE else (EXCLUSIVE,):
            if _take(party, other, how, wanted, 0.0):
                raise _Unfit(f"{other} got the {wanted} {how} lock while {holder} held the {mode} one")
            refused += 1
    _drop(party, holder, how)
    return refused


def _handed_over(party: Party, how: str, holder: Member) -> int:
    for other in party.others(holder):
        _must_take(party, other, how, EXCLUSIVE)
        _drop(party, other, how)
    return len(party.members) - 1


def _sharing(party: Party, how: str) -> Iterator[Evidence]:
    """Stricter than asked is safe: that shared locks exclude each other is worth a note."""
    holder, *others = party.members
    _must_take(party, holder, how, SHARED)
    denied = [other.name for other in others if not _take(party, other, how, SHARED, 1.0)]
    for member in party.members:
        _drop(party, member, how)
    if denied:
        text = f"shared {how} locks exclude each other ({', '.join(denied)} got none beside {holder}): readers wait"
        yield Evidence(how, NOTE, text, {"denied": len(denied)})
    else:
        yield Evidence(how, OK, f"all {len(party.members)} nodes held a shared {how} lock together")


def _ranges(party: Party) -> Iterator[Evidence]:
    holder, other = party.members[:2]
    _must_take(party, holder, FCNTL, EXCLUSIVE)
    apart = _take(party, other, FCNTL, EXCLUSIVE, 1.0, _ELSEWHERE)
    for member in (holder, other):
        _drop(party, member, FCNTL)
    text = (
        "another byte of the file could be locked beside it"
        if apart
        else "a lock on one byte locks the whole file"
    )
    yield Evidence(FCNTL, OK if apart else NOTE, text)


def hammer(party: Party, how: str, seconds: float) -> Iterator[Evidence]:
    """All nodes lock, count and unlock as fast as they can: no two holds overlap, and no count is lost."""
    party.tell(f"{how}: all nodes lock, count and unlock for {seconds:.1f} s")
    lock, counter = f"{how}.hammer", f"{how}.counter"
    party.ask(party.members[0], "write", file=counter, text="0" * SPACE)
    party.together(party.members[1:], "await_text", file=counter, text="0" * SPACE, wait=GRANT)
    holds: list[Hold] = []
    refused = rubbish = 0
    for length in (more := Races(seconds)):
        answers, slack = _raced(party, how, lock, counter, length)
        for member, answer in zip(party.members, answers, strict=True):
            refused, rubbish = refused + int(answer["refused"]), rubbish + int(answer["rubbish"])
            holds += [
                Hold(
                    member.name,
                    entered - member.offset,
                    left - member.offset,
                    int(number),
                    slack[member.name],
                )
                for entered, left, number in answer["holds"]
            ]
        more.enough = min(_each(party, holds).values()) >= ENOUGH
    final = _final(party, how, lock, counter)
    yield from _judged(party, how, holds, refused, rubbish, final)


def _raced(
    party: Party, how: str, lock: str, counter: str, seconds: float
) -> tuple[list[Answer], dict[str, float]]:
    """The answers, and how far each node's clock can be off: also by as much as it drifted meanwhile."""
    before = {member.name: (member.offset, member.slack) for member in party.members}
    answers = party.at_once(
        [(member, "hammer", {"how": how, "lock": lock, "file": counter}) for member in party.members], seconds
    )
    for member in party.members:
        party.synchronize(member)
    slack = {}
    for member in party.members:
        offset, unsure = before[member.name]
        slack[member.name] = member.slack + unsure + abs(member.offset - offset)
    return answers, slack


def _each(party: Party, holds: Sequence[Hold]) -> dict[str, int]:
    """How many holds each node had."""
    counts = Counter(hold.node for hold in holds)
    return {member.name: counts[member.name] for member in party.members}


def _final(party: Party, how: str, lock: str, counter: str) -> int | None:
    """What the counter says at the end; the lowest that any node reads under the lock, None when one reads rubbish."""
    texts = [
        party.ask(member, "recall", how=how, lock=lock, file=counter)["text"] for member in party.members
    ]
    numbers = [int(text) for text in texts if isinstance(text, str) and len(text) == SPACE and text.isdigit()]
    return min(numbers) if len(numbers) == len(texts) else None


def _judged(
    party: Party, how: str, holds: list[Hold], refused: int, rubbish: int, final: int | None
) -> Iterator[Evidence]:
    each = _each(party, holds)
    rounds = ", ".join(f"{name} {count}" for name, count in each.items())
    found = overlaps(holds)
    gone = lost(holds, final)
    numbers: dict[str, float | int | str] = {
        "holds": len(holds),
        "fewest": min(each.values()),
        "refused": refused,
        "overlaps": len(found),
        "lost": gone,
        "slack": round(max((hold.slack for hold in holds), default=0.0), 6),
    }
    name = f"{how} hammer"
    if found:
        longest = max(found, key=lambda overlap: overlap.seconds)
        text = (
            f"two nodes held one {how} lock at the same time, {len(found)} times in {len(holds)} holds ({rounds}): "
            f"{longest.one.node} and {longest.other.node} for {longest.seconds * 1000:.1f} ms"
        )
        yield Evidence(name, BAD, text, numbers)
    elif min(each.values()) < ENOUGH:
        text = f"too few holds to tell anything ({rounds}); a slow volume needs a longer --time"
        yield Evidence(name, "unknown", text, numbers)
    elif not refused:
        text = f"{len(holds)} holds ({rounds}) and no node was ever refused: there must be contention, and was none"
        yield Evidence(name, BAD, text, numbers)
    else:
        text = f"{len(holds)} holds ({rounds}), {refused} tries refused, no two holds overlap"
        yield Evidence(name, OK, text, numbers)
    yield _counted(how, gone, len(holds), rubbish, bool(found), numbers)


def _counted(
    how: str, gone: int, holds: int, rubbish: int, overlapped: bool, numbers: dict[str, float | int | str]
) -> Evidence:
    name = f"{how} counter"
    if gone or rubbish:
        why = "" if overlapped else ": the lock excludes, but nodes read stale bytes under it"
        unread = f" and {rubbish} found no number" if rubbish else ""
        return Evidence(
            name, BAD, f"{gone} of {holds} counts under the {how} lock were lost{unread}{why}", numbers
        )
    return Evidence(name, OK, f"all {holds} counts under the {how} lock are there", numbers)


def killed(party: Party, how: str) -> Iterator[Evidence]:
    """A process that holds the lock is killed with SIGKILL: another node gets it."""
    party.tell(f"{how}: a holder is killed")
    name, slowest = f"{how} holder killed", 0.0
    for holder, other in party.pairs:
        answer = party.ask(holder, "hold", file=f"{how}.killed", how=how)
        if not answer["held"]:
            yield Evidence(name, BAD, f"a process of {holder} cannot lock by {how}: {answer['error']}")
            return
        if _try(party, other, how, 0.0)["held"]:
            yield Evidence(name, BAD, f"{other} got the {how} lock while a process of {holder} held it")
            return
        party.ask(holder, "kill", file=f"{how}.killed")
        waited = 0.0
        while not (answer := _try(party, other, how, MAX_WAIT))["held"]:
            waited += float(answer["seconds"])
            if waited > INHERIT or answer["error"]:
                text = (
                    f"{other} did not get the {how} lock of {holder}'s killed process within {waited:.1f} s"
                )
                if answer["error"]:
                    text = f"{other} cannot lock by {how}: {answer['error']}"
                yield Evidence(name, BAD, text, {"seconds": round(waited, 3)})
                return
        party.ask(other, "unlock", file=f"{how}.killed")
        slowest = max(slowest, waited + float(answer["seconds"]))
    text = f"a killed holder's {how} lock was had by another node after at most {slowest * 1000:.1f} ms"
    yield Evidence(name, OK, text, {"seconds": round(slowest, 4), "kills": len(party.members)})


def _try(party: Party, member: Member, how: str, wait: float) -> Answer:
    return party.ask(member, "lock", file=f"{how}.killed", how=how, mode=EXCLUSIVE, wait=wait)
