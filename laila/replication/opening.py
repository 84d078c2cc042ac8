"""Opening a store by a list of its replicas: found it when all are new, else find out who its members are.

- Nobody listed knows a membership, and most answer: the store is made. Number 1 is decided by those listed, so programs
  that open the same new list at the same moment end with one store. Then each is taught the membership, and marked.
- Somebody knows one: the newest counts, whatever the list says. Listing other places, or fewer, gives a
  `MembershipDiffers` warning; a replica that is no member, or of another store, is refused.
- Who does not answer now is a member all the same, and enrolled when it does (`enrol`).

Which blank replicas count at once. One that is blank was never used, or lost all that it had. It was never used when
its vote on the first membership is still there and belongs to nobody yet: whatever made it blank would have taken that,
too; likewise one that got its vote to be added, before it was a member. Any other is marked as rebuilding: what it says
of names counts only after it was given everything again. So a replica that was away while its store was made is rebuilt
needlessly, once; the other mistake would lose what was acknowledged. Only an exchange of a disk in the very moment in
which the store is made can go unnoticed.

A replica that lost its vote gets one that is silent for the number that is being decided (agreement.py). For this a
majority of the others has to say, after it was seen to be blank, which membership is the newest (`newest`): of the
members of that one, and not only of the last one that the program has heard of.
"""

from __future__ import annotations

import contextlib
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..artifacts import Signer, TrustSet
from ..errors import (
    ArtifactError,
    BadConfig,
    LailaError,
    MembershipStale,
    MixedReplicas,
    QuorumLost,
    StorageError,
)
from .agreement import Acceptor, because, claim, decide, majority, read_vote, reset
from .calls import Answers, Crowd, said_of
from .membership import Document, Membership, encode, names, place
from .replica import Replica, Stamp
from .views import READ, WRITE, Member, Quorums, View

GRACE = 2.0
"""Seconds that everybody is waited for; after that a majority is enough."""
FOUNDING = 5.0
"""Seconds that somebody else, who is making the store, has to mark a replica under another of its names."""


class MembershipDiffers(UserWarning):
    """The replicas listed, or the quorums given, are not those of the store's membership, which counts."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a replica said of itself."""

    stamp: Stamp
    document: Document | None

    @property
    def blank(self) -> bool:
        return not self.stamp.store


@dataclass(frozen=True, slots=True)
class Opened:
    """A store's membership, and its members as far as they are open, by id. `spare` were listed for nothing: they are
    the caller's to close."""

    membership: Membership
    known: dict[str, Replica]
    spare: list[Replica] = field(default_factory=list)


def open_membership(
    replicas: Sequence[Replica],
    open: Callable[[str], Replica],
    *,
    signer: Signer,
    trust: TrustSet,
    quorums: Quorums | None = None,
    timeout: float = 30.0,
    found: bool = True,
) -> Opened:
    """The store of these replicas. `open(where)` makes those of its members that were not listed. Without `found` a
    store is never made: somebody listed has to know one, else QuorumLost.

    The replicas given stay the caller's when this raises. Raises: BadConfig for a list or quorums that cannot be;
    QuorumLost when a new store's majority does not answer; MixedReplicas; ArtifactError when nobody trusted signed
    the membership.
    """
    quorums = quorums or Quorums()
    _check_list(replicas)
    opening = _Opening(replicas, open, signer, trust, quorums, time.monotonic() + timeout, found)
    try:
        return opening.run()
    except BaseException:
        opening.close_extra()
        raise
    finally:
        let_go(opening.crowd)


def enrol(replica: Replica, id: str, document: Document, confirm: Callable[[], Document]) -> Stamp:
    """Make sure that a replica is member `id`, knows the membership, and has a vote; mark it when it is blank.

    `confirm` gives the newest membership that a majority of the others has. The top of this module says when a blank
    one counts at once. Raises: MixedReplicas for another one, MembershipStale when it is no member any more,
    QuorumLost, and what the replica raises.
    """
    view = document.view
    stamp = replica.stamp()
    raw, state = read_vote(replica)
    if not stamp.store:
        stamp = replica.stamp()  # whoever marks it does so before its vote gets an owner
    _require_same(replica, stamp, view, id)
    unused = state is not None and (state.replica, state.number) in {("", 1), (id, 0)}
    if state is None or (state.replica != id and not unused):
        document = max(confirm(), document, key=lambda one: one.view.number)
        number = document.view.number
        if all(member.id != id for member in document.view):
            message = f"{replica.where} is no member any more, under membership {number}"
            raise MembershipStale(message, number=number, document=document.data)
        reset(replica, raw, Acceptor(number + 1, id, silent=True))
    if not stamp.store:
        life = "" if unused else uuid.uuid4().hex[:16]
        fresh = Stamp(view.store, id, rebuilding=not unused, life=life)
        stamp = fresh if replica.mark(fresh, stamp) else replica.stamp()
        _require_same(replica, stamp, view, id)
    if unused:
        assert state is not None
        claim(replica, id)
        if state.number == 0:
            replica.cast(raw, Acceptor(1, id).encode())  # or it has voted meanwhile
    known = replica.membership()
    if known is None or known != document.data:
        replica.learn(document.data)
    return stamp


def share_vouchers(replica: Replica, trust: TrustSet) -> None:
    """Let a replica know what others keep of vouchers made anew, and this side what it keeps: else they would not
    believe what others signed. One that cannot keep them (full, read-only) is asked all the same.
    """
    replica.vouchers()
    if trust.learned:
        with contextlib.suppress(StorageError):
            replica.vouch(trust.learned.pairs())


def consult(crowd: Crowd, document: Document, trust: TrustSet, timeout: float) -> Document:
    """The newest membership that the members of this one know, of whom most have to answer, each as who it is.

    When it is a newer one than `document`, its members may know one that is newer still. Raises QuorumLost.
    """
    view = document.view
    groups = [[member.id for member in group] for group in view.groups]

    def call(id: str, replica: Replica) -> Document | None:
        stamp = replica.stamp()
        if (stamp.store, stamp.replica) != (view.store, id):
            raise MixedReplicas("it is blank" if not stamp.store else "another replica is in its place")
        raw = replica.membership()
        return None if raw is None else Document.read(raw, trust)

    def enough(answers: Answers[Document | None]) -> bool:
        return majority(groups, answers.got) or not majority(groups, set(answers.got) | answers.silent)

    answers = crowd.ask([member.id for member in view], call, enough, timeout)
    if not majority(groups, answers.got):
        reasons = because(answers, groups, {member.id: member.where for member in view})
        why = "; ".join(said_of(where, reason) for where, reason in reasons.items())
        raise QuorumLost(
            f"which membership is the newest cannot be told: most replicas have to answer: {why}",
            needed=max(len(group) // 2 + 1 for group in groups),
            reasons=reasons,
        )
    known = [one for one in answers.got.values() if one is not None and one.view.store == view.store]
    return max([document, *known], key=lambda one: one.view.number)


def newest(
    replicas: Mapping[str, Replica],
    open: Callable[[str], Replica],
    document: Document,
    trust: TrustSet,
    timeout: float,
) -> Document:
    """The newest membership, by a majority of its own members: `consult`, until nobody knows a newer one.

    Members that are not among `replicas` (by id) are opened, and closed again. Raises QuorumLost.
    """
    deadline = time.monotonic() + timeout
    extra: dict[str, Replica] = {}
    try:
        while True:
            for member in document.view:
                if member.id not in replicas and member.id not in extra:
                    with contextlib.suppress(LailaError):  # what cannot be opened does not answer
                        extra[member.id] = open(member.where)
            crowd = Crowd({**replicas, **extra})
            try:
                newer = consult(crowd, document, trust, max(0.0, deadline - time.monotonic()))
            finally:
                let_go(crowd)
            if newer.view.number == document.view.number:
                return document
            document = newer
    finally:
        for replica in extra.values():
            with contextlib.suppress(LailaError):
                replica.close()


def _require_same(replica: Replica, stamp: Stamp, view: View, id: str) -> None:
    """Raises MixedReplicas unless it is this member, or blank."""
    if stamp.store and (stamp.store, stamp.replica) != (view.store, id):
        raise MixedReplicas(
            f"{replica.where} is replica {stamp.replica[:8]}… of store {stamp.store[:8]}…, where replica {id[:8]}… of "
            f"store {view.store[:8]}… should be: somebody mixed up disks or addresses; put the right one there"
        )


def let_go(crowd: Crowd) -> None:
    """End a crowd without waiting for who hangs; its replicas stay open."""
    for id in crowd.replicas:
        crowd.dismiss(id)
    crowd.close()


class _Opening:
    """One opening. Listed replicas are asked by their place in the list."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        open: Callable[[str], Replica],
        signer: Signer,
        trust: TrustSet,
        quorums: Quorums,
        deadline: float,
        may_found: bool,
    ) -> None:
        self.listed = {str(number): replica for number, replica in enumerate(replicas)}
        self.crowd = Crowd(self.listed)
        self._open = open
        self._signer = signer
        self._trust = trust
        self._quorums = quorums
        self._deadline = deadline
        self._may_found = may_found
        self._extra: dict[str, Replica] = {}
        self._answered: set[int] = set()
        self._where = {key: replica.where for key, replica in self.listed.items()}

    def run(self) -> Opened:
        patience = min(self._deadline, time.monotonic() + FOUNDING)
        while True:
            answers = self._survey()
            document = self._newest(answers)
            if document is None and not self._may_found:
                raise self._unknown(answers)
            if document is None and self._prepare(answers):
                answers = self._survey()
                document = self._newest(answers)
            document = document or self._found(answers)
            if document is None:
                continue
            known, strangers, differences = self._match(document, answers)
            if not strangers:
                break
            unmarked = any(answers.got[key].blank for key in strangers)
            if document.view.number > 1 or not unmarked or time.monotonic() >= patience:
                raise self._stranger(document.view, strangers[0])
            time.sleep(0.05)
        document, known = self._reach_all(document, known)
        if lines := differences + self._differences(document.view):
            warnings.warn(
                f"{'; '.join(lines)}. The membership of the store counts (number {document.view.number}: "
                f"{names(document.view.everybody)})",
                MembershipDiffers,
                stacklevel=4,
            )
        self._enrol(document, known)
        used = set(map(id, known.values()))
        spare = [replica for replica in self.listed.values() if id(replica) not in used]
        return Opened(Membership(document, self._trust), known, spare)

    def close_extra(self) -> None:
        for replica in self._extra.values():
            with contextlib.suppress(LailaError):
                replica.close()

    # -- asking --

    def _survey(self) -> Answers[Said]:
        """Everybody for a moment, and then until most have answered."""

        def call(key: str, replica: Replica) -> Said:
            return self._ask(replica)

        answers = self.crowd.ask(self.listed, call, lambda answers: False, min(GRACE, self._left()))
        lacking = len(self.listed) // 2 + 1 - len(answers.got)
        if lacking > 0 and answers.silent:
            later = self.crowd.ask(
                answers.silent, call, lambda answers: len(answers.got) >= lacking, self._left()
            )
            answers.got |= later.got
            answers.failed |= later.failed
            answers.silent = later.silent
        return answers

    def _ask(self, replica: Replica) -> Said:
        stamp = replica.stamp()
        replica.vouchers()
        raw = replica.membership()
        said = Said(stamp, None if raw is None else Document.read(raw, self._trust))
        self._answered.add(id(replica))
        return said

    def _newest(self, answers: Answers[Said]) -> Document | None:
        """The newest membership that somebody knows. Raises MixedReplicas, ArtifactError."""
        stores: dict[str, list[str]] = {}
        for key in sorted(answers.got, key=int):
            said = answers.got[key]
            for store in {said.stamp.store, said.document.view.store if said.document else ""} - {""}:
                stores.setdefault(store, []).append(self._where[key])
        if len(stores) > 1:
            which = "; ".join(
                f"{', '.join(wheres)} of store {store[:8]}…" for store, wheres in stores.items()
            )
            raise MixedReplicas(
                f"these replicas belong to different stores: {which}. List those of one store, and empty a directory "
                "that is to join another one"
            )
        documents = [said.document for said in answers.got.values() if said.document is not None]
        if documents:
            return max(documents, key=lambda one: one.view.number)
        for error in answers.failed.values():
            if isinstance(error, ArtifactError):
                raise error
        if stores:
            store, wheres = next(iter(stores.items()))
            raise MixedReplicas(
                f"{wheres[0]} belongs to store {store[:8]}…, and nobody who is listed and answers knows its members; "
                "list its other replicas as well"
            )
        return None

    def _unknown(self, answers: Answers[Said]) -> QuorumLost:
        """Nobody knows a store, and none is to be made."""
        blank = dict.fromkeys(
            answers.got, "it is blank: never used, or its disk was exchanged or is not mounted"
        )
        reasons = answers.reasons(self._where)
        reasons |= {self._where[key]: reason for key, reason in blank.items()}
        why = "; ".join(said_of(where, reason) for where, reason in sorted(reasons.items()))
        return QuorumLost(
            "no replica that is listed knows of a store, and here none is made: list one that has the store; a new "
            f"one is made by a program that saves to it: {why}",
            needed=1,
            reasons=reasons,
        )

    # -- making a store --

    def _prepare(self, answers: Answers[Said]) -> bool:
        """Nobody knows a store, so one may begin: let what is missing be made; whether anything was."""
        missing = [key for key in self.listed if key not in answers.got]

        def call(key: str, replica: Replica) -> None:
            replica.prepare()

        return bool(self.crowd.ask(missing, call, lambda answers: False, min(GRACE, self._left())).got)

    def _found(self, answers: Answers[Said]) -> Document | None:
        """Decide number 1; None when others did, and went on. Raises QuorumLost."""
        count = len(self.listed)
        self._quorums.check(count)
        view = View(
            uuid.uuid4().hex,
            1,
            tuple(Member(uuid.uuid4().hex, replica.where) for replica in self.listed.values()),
            quorums=self._quorums,
        )
        needed = count // 2 + 1
        if len(answers.got) < needed:
            reasons = answers.reasons(self._where)
            why = "; ".join(said_of(where, reason) for where, reason in reasons.items())
            raise QuorumLost(
                f"{len(answers.got)} of {count} replicas answer and none of them knows a store; to make one, {needed} "
                f"are needed: {why}",
                needed=needed,
                reasons=reasons,
            )
        self._require_different(answers)
        data = encode(view, self._signer, self._trust, change="made the store")

        def be_there(key: str, replica: Replica) -> None:
            if replica.ballot() is None:
                replica.cast(None, Acceptor(1).encode())

        self.crowd.ask(answers.got, be_there, lambda answers: False, min(GRACE, self._left()))
        try:
            data = decide(self.crowd, [self.listed], 1, data, timeout=self._left(), where=self._where)
        except MembershipStale:  # it was made, and changed, since they were asked
            if not self._left():
                raise
            return None
        return Document.read(data, self._trust)

    def _require_different(self, answers: Answers[Said]) -> None:
        """Raises MixedReplicas when two directories are one, by a link or a mount: it would have two votes."""
        seen: dict[tuple[int, int], str] = {}
        for key in sorted(answers.got, key=int):
            where = Path(self._where[key])
            if not where.is_absolute():
                continue
            with contextlib.suppress(OSError):  # a name that only a peer knows
                status = where.stat()
                other = seen.setdefault((status.st_dev, status.st_ino), key)
                if other != key:
                    raise MixedReplicas(
                        f"{self._where[other]} and {where} are two names of one place; each replica has to be a place "
                        "of its own: list it once"
                    )

    # -- who is who --

    def _match(
        self, document: Document, answers: Answers[Said]
    ) -> tuple[dict[str, Replica], list[str], list[str]]:
        """Members among the listed by id, keys of those that are none, and how the list differs, in words."""
        places = {place(member.where): member for member in document.view}
        members = {member.id: member for member in document.view}
        known: dict[str, Replica] = {}
        strangers, differences = [], []
        for key, replica in self.listed.items():
            said = answers.got.get(key)
            if said is None or said.blank:
                continue
            member = members.get(said.stamp.replica)
            if member is None:
                strangers.append(key)
            elif member.id in known:
                raise MixedReplicas(
                    f"{known[member.id].where} and {replica.where} are the same replica: two names of one place, or "
                    "one is a copy of the other; list it once, and empty the copy"
                )
            else:
                known[member.id] = replica
                if place(member.where) != place(replica.where):
                    differences.append(f"{replica.where} is listed, which is the member {member.where}")
        for key, replica in self.listed.items():
            if replica in known.values() or key in strangers:
                continue
            member = places.get(place(replica.where))
            if member is not None and member.id not in known:
                known[member.id] = replica
            elif key in answers.got:
                strangers.append(key)
            else:
                differences.append(f"{replica.where} is listed, is no member, and does not answer")
        missing = [member for member in document.view if member.id not in known]
        if missing:
            differences.append(
                f"{names(missing)} {'is a member' if len(missing) == 1 else 'are members'} not listed"
            )
        return known, strangers, differences

    def _stranger(self, view: View, key: str) -> MixedReplicas:
        where = self._where[key]
        return MixedReplicas(
            f"{where} is no member of this store ({view.store[:8]}…, membership {view.number}: "
            f"{names(view.everybody)}): leave it out, and to have it as a member call add_replica({where!r}), or run "
            f"`laila replicas members add {where}`"
        )

    def _differences(self, view: View) -> list[str]:
        """How the quorums given differ from the store's."""
        count, mine, theirs = len(view.members), self._quorums, view.quorums
        lines = []
        for word, kind, given in (("write_quorum", WRITE, mine.write), ("read_quorum", READ, mine.read)):
            if given is not None and given != theirs.of(kind, count):
                lines.append(f"{word}={given} is given, and the store's is {theirs.of(kind, count)}")
        if mine.stale != theirs.stale:
            lines.append(f"allow_stale_reads={mine.stale} is given, and the store's is {theirs.stale}")
        return lines

    def _reach_all(
        self, document: Document, known: Mapping[str, Replica]
    ) -> tuple[Document, dict[str, Replica]]:
        """Open the members that were not listed; go on while they know a newer membership."""
        while True:
            members = {member.id: member.where for member in document.view}
            lacking = {id: where for id, where in members.items() if id not in known}
            if not lacking:
                return document, {id: known[id] for id in members}
            opened: dict[str, Replica] = {}
            for id, where in lacking.items():
                with contextlib.suppress(LailaError):  # what cannot be opened is not there
                    opened[id] = self._extra.setdefault(id, self._open(where))
            said = self._ask_members(opened, document.view.store)
            newer = [one for one in said.values() if one.view.number > document.view.number]
            known = {**known, **opened}
            if not newer:
                return document, {id: known[id] for id in members if id in known}
            document = max(newer, key=lambda one: one.view.number)

    def _ask_members(self, replicas: Mapping[str, Replica], store: str) -> dict[str, Document]:
        crowd = Crowd(replicas)
        answers = crowd.ask(
            replicas, lambda id, replica: self._ask(replica), lambda answers: False, min(GRACE, self._left())
        )
        let_go(crowd)
        documents = {id: said.document for id, said in answers.got.items() if said.stamp.replica == id}
        return {id: one for id, one in documents.items() if one is not None and one.view.store == store}

    def _enrol(self, document: Document, known: Mapping[str, Replica]) -> None:
        """Teach and mark those that answer. The others are enrolled when they are asked again."""
        there = [key for key, replica in known.items() if id(replica) in self._answered]
        crowd = Crowd(known)

        def learn(key: str, replica: Replica) -> None:
            share_vouchers(replica, self._trust)
            replica.learn(document.data)

        def confirm() -> Document:
            return newest(known, self._open, document, self._trust, self._left())

        def call(key: str, replica: Replica) -> Stamp:
            return enrol(replica, key, document, confirm)

        crowd.ask(there, learn, lambda answers: False, min(GRACE, self._left()))
        answers = crowd.ask(there, call, lambda answers: False, min(2 * GRACE, self._left()))
        let_go(crowd)
        self._require_places(known, answers)

    def _require_places(self, known: Mapping[str, Replica], answers: Answers[Stamp]) -> None:
        """Raises MixedReplicas when a place that is listed turned out to be another member than was thought."""
        listed = set(map(id, self.listed.values()))
        for key, error in answers.failed.items():
            if isinstance(error, MixedReplicas) and id(known[key]) in listed:
                raise MixedReplicas(
                    f"{error}. If it is another name of a place that is listed, list that once, empty it, and begin "
                    "again: each replica has to be a place of its own"
                ) from error

    def _left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())


def _check_list(replicas: Iterable[Replica]) -> None:
    """Raises BadConfig."""
    seen: set[str] = set()
    for replica in replicas:
        where = place(replica.where)
        if where in seen:
            raise BadConfig(f"{replica.where} is listed twice; each replica is a place of its own")
        seen.add(where)
    if not seen:
        raise BadConfig(
            "no replicas are listed; give at least one directory, laila://NODE/STORE or pool:NICKNAME"
        )
