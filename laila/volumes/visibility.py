"""What is tried with files: one winner by O_EXCL and by link, new versions by rename, reading what was written.

A version that was renamed in must be what the next open shows: the name may be gone for a moment (reported, not
judged), but an old version after a newer one was acknowledged is stale, and half a version is torn.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping

from .party import Party, Races
from .verdict import BAD, NOTE, OK, Evidence

SEEN = 3.0
"""Seconds within which a change must be seen by another node."""
LEAST_ROUNDS = 3
MOST_ROUNDS = 40
ENOUGH = 10
"""Rounds of a race that all nodes took part in, without which it says nothing."""
GAP = 0.004
"""Seconds between two rounds of it."""
SEVERAL = 3
"""Versions that each node must see while a file is replaced without pause."""
VERSIONED = "versioned"
_WORDS = {"create": "O_EXCL", "link": "link"}
_CANNOT = {"EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EMLINK"}
_APART = 1.0
"""Seconds between the times of two files written together, from which they cannot be compared."""


def sight(party: Party) -> Iterator[Evidence]:
    """Everybody sees what another has just written."""
    party.tell("every node reads what another has written")
    slowest = 0.0
    for number, member in enumerate(party.members):
        text, file = secrets.token_hex(8), f"mark-{number}"
        party.ask(member, "write", file=file, text=text)
        others = party.others(member)
        for other, answer in zip(
            others, party.together(others, "await_text", file=file, text=text, wait=SEEN), strict=True
        ):
            if not answer["same"]:
                text = (
                    f"{other} does not see what {member} has written, for {SEEN:g} s: these are two directories, "
                    "or the volume does not pass changes on"
                )
                yield Evidence("one volume", BAD, text)
                return
            slowest = max(slowest, float(answer["seconds"]))
    text = f"every node reads what another has written, after at most {slowest * 1000:.1f} ms"
    yield Evidence("one volume", OK, text, {"seconds": round(slowest, 4)})


def winners(party: Party, kind: str, seconds: float) -> Iterator[Evidence]:
    """All nodes try to make the same names at the same moments: each is made by one."""
    name = _WORDS[kind]
    party.tell(f"{name}: all nodes make the same names for {seconds:.1f} s")
    rounds = doubles = nobody = 0
    won, errors = Counter[str](), Counter[str]()
    for serial, length in enumerate(more := Races(seconds)):
        words = {"kind": kind, "file": f"{kind}-{serial}", "gap": GAP}
        answers = party.at_once([(member, "race", words) for member in party.members], length)
        shared = min(int(answer["tried"]) for answer in answers)
        claims = [number for answer in answers for number in answer["won"] if number < shared]
        doubles += len(claims) - len(set(claims))
        nobody += shared - len(set(claims))
        rounds += shared
        for member, answer in zip(party.members, answers, strict=True):
            won[member.name] += sum(number < shared for number in answer["won"])
            errors.update(answer["errors"])
        more.enough = rounds >= ENOUGH
        if errors:
            break
    numbers: dict[str, float | int | str] = {"rounds": rounds, "doubles": doubles, "nobody": nobody}
    share = ", ".join(f"{member} {won[member.name]}" for member in party.members)
    if doubles:
        text = f"{name}: two nodes made the same name in {doubles} of {rounds} rounds"
        yield Evidence(name, BAD, text, numbers)
    elif errors:
        yield _refused(name, errors, sum(won.values()))
    elif rounds < ENOUGH:
        text = f"{name}: only {rounds} rounds; a slow volume needs a longer --time"
        yield Evidence(name, "unknown", text, numbers)
    else:
        left = f"; {nobody} times nobody won" if nobody else ""
        yield Evidence(name, OK, f"{name}: one winner in each of {rounds} rounds ({share}){left}", numbers)


def _refused(name: str, errors: Mapping[str, int], won: int) -> Evidence:
    words = ", ".join(sorted(errors))
    if set(errors) <= _CANNOT and name == "link" and not won:
        return Evidence(name, NOTE, f"the volume makes no hard links ({words})")
    return Evidence(name, "unknown", f"{name} failed with {words}")


def renames(party: Party, seconds: float) -> Iterator[Evidence]:
    """One renames a new version in, and the next open of all others shows it; in turns, then without pause."""
    party.tell("rename: new versions are seen by the next open")
    version, stale, slowest, gone = 0, 0, 0.0, 0
    until = time.monotonic() + seconds / 2
    while version < LEAST_ROUNDS or (version < MOST_ROUNDS and time.monotonic() < until):
        writer = party.members[version % len(party.members)]
        version += 1
        answer = party.ask(writer, "publish", file=VERSIONED, version=version)
        if answer["error"]:
            text = f"{writer} cannot rename a new version over the old one: {answer['error']}"
            yield Evidence("atomic rename", BAD, text)
            return
        others = party.others(writer)
        looks = party.together(others, "look", file=VERSIONED, version=version, wait=SEEN)
        for other, seen in zip(others, looks, strict=True):
            gone += int(seen["gone"])
            slowest = max(slowest, float(seen["seconds"]))
            stale += seen["first"] != version or bool(seen["torn"])
            if seen["seen"] != version:
                text = f"{other} still saw version {seen['seen']} {SEEN:g} s after {writer} had renamed {version} in"
                yield Evidence("rename", BAD, text, {"rounds": version, "stale": stale})
                return
    numbers = {"rounds": version, "stale": stale, "gone": gone, "seconds": round(slowest, 4)}
    text = f"the next open showed the new version after each of {version} renames"
    if stale:
        late = f"for up to {slowest * 1000:.1f} ms"
        text = f"the next open did not show the new version {stale} times in {version} renames, {late}"
    yield Evidence("rename", BAD if stale else OK, text, numbers)
    yield from _replaced(party, version, seconds / 2)


def _replaced(party: Party, version: int, seconds: float) -> Iterator[Evidence]:
    """Everybody looks while one replaces the file without pause."""
    party.tell(f"rename: a file is replaced without pause and read for {seconds:.1f} s")
    writer, *readers = party.members
    total: Counter[str] = Counter()
    longest, versions = 0.0, 0
    for length in (more := Races(seconds)):
        publish = (writer, "publish", {"file": VERSIONED, "version": version + 1})
        watch = [(reader, "watch", {"file": VERSIONED}) for reader in readers]
        written, *looks = party.at_once([publish, *watch], length)
        version = int(written["last"])
        if written["error"]:
            yield Evidence("atomic rename", BAD, f"{writer} cannot replace a file: {written['error']}", total)
            return
        total["replaced"] += int(written["count"])
        for look in looks:
            total.update({name: int(look[name]) for name in ("looks", "torn", "back", "gone")})
            longest = max(longest, float(look["longest_gone"]))
        versions += min(int(look["versions"]) for look in looks)
        more.enough = versions >= SEVERAL
    yield _steady(total, versions, longest)


def _steady(total: Mapping[str, int], versions: int, longest: float) -> Evidence:
    numbers = {**total, "versions": versions, "longest_gone": round(longest, 4)}
    did = f"{total['replaced']} replacements, {total['looks']} opens"
    away = f"{total['gone']} of them found no file, for up to {longest * 1000:.1f} ms"
    if total["torn"]:
        outcome, text = BAD, f"{total['torn']} reads were torn ({did})"
    elif total["back"]:
        outcome, text = BAD, f"an older version came after a newer one {total['back']} times ({did})"
    elif longest > SEEN:
        outcome, text = BAD, f"a file that was replaced was gone for {longest:.1f} s ({did})"
    elif versions < SEVERAL:
        outcome, text = "unknown", f"too few versions were seen to tell anything ({did})"
    else:
        outcome, text = OK, f"no read was torn or went back ({did}{f'; {away}' if total['gone'] else ''})"
    return Evidence("replace", outcome, text, numbers)


def memory(party: Party, how: str, seconds: float) -> Iterator[Evidence]:
    """What one node writes in place under the lock, the others read under it."""
    party.tell(f"{how}: what was written under the lock is read under it")
    name, rounds, stale = f"{how} read-after-write", 0, 0
    until = time.monotonic() + seconds
    while rounds < LEAST_ROUNDS or (rounds < MOST_ROUNDS and time.monotonic() < until):
        writer = party.members[rounds % len(party.members)]
        text = secrets.token_hex(16) * (1 + 7 * (rounds % 3))  # sizes change, and stay the same
        words = {"how": how, "lock": f"{how}.memory", "file": f"{how}.text"}
        party.ask(writer, "store", text=text, **words)
        stale += sum(party.ask(other, "recall", **words)["text"] != text for other in party.others(writer))
        rounds += 1
    numbers: dict[str, float | int | str] = {"rounds": rounds, "stale": stale}
    if stale:
        text = f"{stale} reads under the {how} lock did not show what was written under it before ({rounds} rounds)"
        yield Evidence(name, BAD, text, numbers)
    else:
        text = f"every read under the {how} lock showed what was written under it before ({rounds} rounds)"
        yield Evidence(name, OK, text, numbers)


def clock(party: Party) -> Iterator[Evidence]:
    """How the volume's clock, which dates files, differs from that of each node. Told, not judged."""
    offsets: dict[str, float] = {}
    dated: list[float] = []
    for number, member in enumerate(party.members):
        answer = party.ask(member, "clock", file=f"clock-{number}")
        middle = (float(answer["before"]) + float(answer["after"])) / 2
        offsets[member.name] = round(float(answer["mtime"]) - middle, 4)
        before = time.time()
        there = float(party.ask(member, "time")["time"])
        dated.append(offsets[member.name] + there - (before + time.time()) / 2)
    apart = max(dated) - min(dated)
    words = ", ".join(f"{offset:+.3f} s from that of {name}" for name, offset in offsets.items())
    text = f"the clock that dates files is {words}"
    if apart > _APART:
        text += f"; files written together on two nodes are dated {apart:.1f} s apart: do not compare dates"
    yield Evidence("clock", NOTE, text, {**offsets, "apart": round(apart, 4)})
