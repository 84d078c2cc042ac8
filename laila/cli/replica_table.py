"""What `laila replicas` prints for people: one line per replica, with what is wrong in words."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from laila.cli.output import plain, size, span, table

if TYPE_CHECKING:
    from laila.replication.views import View

WORDS = {
    "ok": "ok",
    "behind": "behind",
    "rebuilding": "being rebuilt",
    "blank": "blank",
    "unreachable": "unreachable",
    "foreign": "another store's",
}
"""The states of a replica, as people read them."""
_MOST = 50


def status_lines(found: Mapping[str, Any]) -> list[str]:
    """A sentence about the quorum, a table, and what is wrong with whom."""
    rows = [
        [
            plain(one["where"]),
            WORDS.get(one["state"], one["state"]),
            _number(one.get("names")),
            _number(one.get("behind")),
            _number(one.get("suspect")),
            _number(one.get("quarantined")),
            _number(one.get("number")),
        ]
        for one in found["replicas"]
    ]
    head = ["REPLICA", "STATE", "NAMES", "BEHIND", "SUSPECT", "QUARANTINED", "MEMBERSHIP"]
    lines = [quorum_words(found), "", table(head, rows)]
    wrong = [_said_of(one["where"], one["error"]) for one in found["replicas"] if one.get("error")]
    return [*lines, *(["", *wrong] if wrong else [])]


def quorum_words(found: Mapping[str, Any]) -> str:
    """What can be done with as many replicas as answer."""
    said = f"{found['fit']} of {found['count']} replicas answer and count"
    needed = found["needed"]
    if found["quorum"]:
        spare = found["fit"] - needed
        more = f"{spare} more may fail" if spare else "no other may fail"
        return f"quorum: {said}, {needed} are needed; saves and loads work, {more}"
    return (
        f"quorum LOST: {said}, {needed} are needed; saves and loads fail, and what was saved stays where it is: "
        "bring replicas back, nothing else is needed"
    )


def verify_lines(found: Mapping[str, Mapping[str, Mapping[str, Any]]], agreeing: Iterable[str]) -> list[str]:
    """All of one name; of several, those that do not agree."""
    agreed = set(agreeing)
    shown = [name for name in found if name not in agreed] if len(found) > 1 else list(found)
    rows = [
        [
            plain(name),
            plain(where),
            _verdict(one),
            _number(one["version"]),
            (one["digest"] or "-")[:16],
            _number(one["lag"]),
        ]
        for name in shown[:_MOST]
        for where, one in found[name].items()
    ]
    head = ["NAME", "REPLICA", "STATE", "VERSION", "DIGEST", "LAG"]
    lines = [table(head, rows), ""] if rows else []
    lines += [
        f"{plain(name)}: {_said_of(where, one['error'])}"
        for name in shown[:_MOST]
        for where, one in found[name].items()
        if one["error"]
    ]
    if len(shown) > _MOST:
        lines.append(f"and {len(shown) - _MOST:,} more names; --json has all")
    count = len(found)
    names = "name" if count == 1 else "names"
    lines.append(
        f"{'all replicas agree on' if len(agreed) == count else f'replicas agree on {len(agreed):,} of'} "
        f"{count:,} {names}" + ("" if len(agreed) == count else f"; {_remedy(shown)} brings the others up")
    )
    return lines


def _said_of(where: str, words: str) -> str:
    """What is wrong with a replica, with its place once."""
    from laila.replication.calls import said_of

    return plain(said_of(where, words))


def _remedy(names: Sequence[str]) -> str:
    """The command; without names only digests are compared, so damage that was just read would not be seen."""
    some = 3
    return (
        f"`laila replicas repair {' '.join(map(plain, names))}`"
        if len(names) <= some
        else "`laila replicas scrub`"
    )


def comparison_lines(found: Mapping[str, Any]) -> list[str]:
    """Names that differ, and who could not be asked."""
    differing: Mapping[str, Mapping[str, Mapping[str, Any]]] = found["differing"]
    rows = [
        [
            plain(name),
            plain(where),
            "forgotten" if one["gone"] else _number(one["version"]),
            (one["digest"] or "-")[:16],
            plain(one["error"]),
        ]
        for name in list(differing)[:_MOST]
        for where, one in differing[name].items()
    ]
    lines = [table(["NAME", "REPLICA", "VERSION", "DIGEST", "WHY"], rows), ""] if rows else []
    if len(differing) > _MOST:
        lines.append(f"and {len(differing) - _MOST:,} more names; --json has all")
    lines += [_said_of(where, why) for where, why in found["unreachable"].items()]
    names = f"{found['names']:,} {'name' if found['names'] == 1 else 'names'}"
    if differing:
        lines.append(f"{len(differing):,} of {names} differ; `laila replicas repair` brings them up")
    else:
        lines.append(f"all replicas that answer agree on {names}, by digests")
    return lines


def agree(replicas: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether all replicas of a name have the same version, whole and signed; or the same tombstone."""
    rows = list(replicas.values())
    return (
        all(one["valid"] and not one["error"] for one in rows) and len({one["digest"] for one in rows}) == 1
    )


def _verdict(one: Mapping[str, Any]) -> str:
    if one["exists"]:
        return "damaged" if not one["valid"] else "behind" if one["error"] else "ok"
    if one["valid"]:
        return "forgotten"
    return "missing" if one["lag"] else "no answer" if one["error"] else "absent"


def version_lines(versions: Sequence[Mapping[str, Any]]) -> list[str]:
    """The history of one name, oldest first."""
    rows = [
        [
            _number(one["version"]),
            _when(one["at"]),
            "forgotten" if one["gone"] else "saved",
            (one["root"] or "-")[:16],
            (one["parent"] or "-")[:16],
        ]
        for one in versions
    ]
    return [table(["VERSION", "WHEN", "WHAT", "ROOT", "PARENT"], rows)]


def membership(view: View) -> dict[str, Any]:
    """Who belongs to a store, for JSON. A role is `member`, and while that changes `joining` or `leaving`."""
    now, following = set(view.members), set(view.next)
    members = [
        {
            "id": member.id,
            "where": member.where,
            "role": "joining"
            if member not in now
            else "leaving"
            if following and member not in following
            else "member",
        }
        for member in view
    ]
    return {"store": view.store, "number": view.number, "changing": bool(view.next), "members": members}


def member_lines(found: Mapping[str, Any]) -> list[str]:
    """Who belongs to the store, and whether that is changing."""
    rows = [[plain(one["where"]), plain(one["id"])[:12], one["role"]] for one in found["members"]]
    lines = [
        f"store {found['store'][:12]}, membership {found['number']}",
        "",
        table(["REPLICA", "ID", "ROLE"], rows),
    ]
    if found["changing"]:
        lines += [
            "",
            "the membership is changing; if whoever changes it has died: laila replicas members resume",
        ]
    return lines


def _names(count: int) -> str:
    return f"{count:,} {'name' if count == 1 else 'names'}"


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _when(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "-"


def repair_lines(found: Mapping[str, Any]) -> list[str]:
    """What a repair did, and what it could not."""
    lines = [
        f"{_names(found['looked'])} compared, {found['repairs']:,} repaired, {size(found['bytes'])} moved "
        f"in {span(found['seconds'])}"
    ]
    lines += [f"{plain(where)}: was rebuilt, and counts again" for where in found["rebuilt"]]
    lines += [_said_of(where, reason) for where, reason in found["unreachable"].items()]
    failed = found["failed"]
    lines += [
        f"{plain(one['name'])}: {plain(one['replica'] or 'no replica')}: {plain(one['reason'])}"
        for one in failed[:_MOST]
    ]
    if (more := found["failures"] - min(len(failed), _MOST)) > 0:
        lines.append(f"and {more:,} more that failed")
    lines += [
        f"{plain(where)}: still {_names(count)} behind" for where, count in found["left"].items() if count
    ]
    if found["ok"]:
        lines.append("every replica has the newest version of everything that was looked at")
    return lines


def scrub_lines(found: Mapping[str, Any]) -> list[str]:
    """What a scrub found, and what became of it."""
    damaged = found["damaged"]
    lines = [
        f"{found['looked']:,} files read ({size(found['bytes'])}) in {span(found['seconds'])}, "
        f"{f'{len(damaged):,} damaged' if damaged else 'none damaged'}"
    ]
    lines += [
        f"{plain(one['name'])}: {plain(one['replica'])}: {plain(one['reason'])}" for one in damaged[:_MOST]
    ]
    lines += [_said_of(where, reason) for where, reason in found["unreachable"].items()]
    return [*lines, *(repair_lines(found["repair"]) if found["repair"] else [])]
