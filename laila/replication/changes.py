"""Changing the members of a store while it is used: old members, both groups jointly, new members.

    stable, number k      the old ones
    joint, k+1            decided by a majority of the old ones. Whatever is read or written needs enough of both groups
    stable, k+2           decided by majorities of both groups, after every name was brought to a quorum of the new one

(Joint majorities as in Lamport's reconfigurable state machines and Raft's membership changes; here for registers.)

Why nothing is lost
- Before anything is caught up, so many old members have learned number k+1 that no quorum, of reads or of writes, is
  left of those that have not: a replica refuses calls with an older number, also after the work was done. So what was
  acknowledged under k is there when catching up begins, and what is written from then on is written to both groups.
- Under k+1 both groups are read and written, so it does not matter how long it lasts, or who is still under it when
  k+2 is decided: a quorum of the new group is among those that it asks.
- Before number n+1 is proposed, a majority of every group of n has learned n. So who comes late finds the newest.

A program that dies between leaves the joint membership, under which the store works on. Anybody may `resume` it to the
end, or `cancel` it: what comes of it is number k+2, which is decided like all others.
"""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace

from ..artifacts import Signer, TrustSet
from ..errors import (
    BadConfig,
    BadValue,
    LailaError,
    MembershipBusy,
    MembershipStale,
    MixedReplicas,
    QuorumLost,
)
from .agreement import Acceptor, decide, majority, read_vote, reset
from .calls import Answers, Crowd, said_of
from .membership import Document, Membership, encode, here, names, place
from .opening import GRACE, consult, enrol, let_go, newest, share_vouchers
from .replica import Replica, Stamp
from .views import READ, WRITE, Member, View

Progress = Callable[[str], None]
Ids = Collection[str]
_SHORTEST = 8
"""Digits of an id that are enough to name a member."""


class Changes:
    """Changes of one store's members. Safe under threads; one at a time.

    `open(where)` makes a replica; `follow(view, known)` lets the crowd be the members of a view, taking over replicas
    that are `known` by id. `catch_up(view)` brings every name to a write quorum of `view.next`, by reading and writing
    under the joint view that it is given, and raises when it could not.

    Each method gives the view that holds afterwards, and raises: MembershipBusy when another change came first or is
    under way; QuorumLost when too few members answer: what was begun is then joint, and `resume()` goes on;
    MixedReplicas; what `catch_up` raises. `progress` is told in words how far it is.
    """

    def __init__(
        self,
        crowd: Crowd,
        membership: Membership,
        *,
        signer: Signer,
        trust: TrustSet,
        open: Callable[[str], Replica],
        follow: Callable[[View, dict[str, Replica]], None],
        catch_up: Callable[[View], None],
        timeout: float = 30.0,
        by: str = "",
    ) -> None:
        self._crowd = crowd
        self._membership = membership
        self._signer = signer
        self._trust = trust
        self._open = open
        self._follow = follow
        self._catch_up = catch_up
        self._timeout = timeout
        self._by = by
        self._busy = threading.Lock()
        self._doing = ""

    # -- what can be changed --

    def add(self, where: str | Replica, progress: Progress | None = None) -> View:
        """Have one more: a blank replica, or one that was a member before."""
        text = _where(where)
        with self._one(f"add {text}", progress) as tell:
            view = self._stable(tell)
            if known := _at(view, text):
                raise BadConfig(f"{text} is a member already (replica {known.id[:8]}…)")
            with self._newcomer(view, where) as (member, opened):
                return self._change(view, (*view.members, member), f"add {text}", opened, frozenset(), tell)

    def remove(self, which: str, *, lost: bool = False, progress: Progress | None = None) -> View:
        """Have one less, named by its place or id. `lost`: nobody can reach it any more, so it need not be told."""
        with self._one(f"remove {which}", progress) as tell:
            view = self._stable(tell)
            old = _find(view, which)
            left = tuple(member for member in view.members if member != old)
            if not left:
                raise BadConfig(
                    f"{old.where} is the last replica; add another one before, or remove the store's files"
                )
            return self._change(
                view, left, f"remove {old.where}", {}, frozenset([old.id] if lost else []), tell
            )

    def replace(
        self, old: str, new: str | Replica, *, lost: bool = False, progress: Progress | None = None
    ) -> View:
        """Have a new one instead of an old one. One whose disk was exchanged in its place needs no change: it is given
        everything again by repair.
        """
        text = _where(new)
        with self._one(f"replace {old} by {text}", progress) as tell:
            view = self._stable(tell)
            gone = _find(view, old)
            if known := _at(view, text):
                raise BadConfig(f"{text} is a member already (replica {known.id[:8]}…)")
            with self._newcomer(view, new) as (member, opened):
                following = tuple(member if one == gone else one for one in view.members)
                words = f"replace {gone.where} by {text}"
                return self._change(
                    view, following, words, opened, frozenset([gone.id] if lost else []), tell
                )

    def resume(self, *, lost: bool = False, progress: Progress | None = None) -> View:
        """Finish a change that somebody began, also one that was voted on and never told; nothing when there is none.
        `lost`: as for `remove`.
        """
        with self._one("resume a change", progress) as tell:
            document = self._begun(tell)
            view = document.view
            if not view.next:
                return view
            stay = {member.id for member in view.next}
            left = frozenset(member.id for member in view.members if member.id not in stay)
            return self._finish(document, left if lost else frozenset(), tell)

    def cancel(self, *, progress: Progress | None = None) -> View:
        """Go back to the old members, while a change is under way; nothing when there is none."""
        with self._one("cancel a change", progress) as tell:
            document = self._begun(tell)
            view = document.view
            if not view.next:
                return view
            tell("every name is on a quorum of the old members; going back to them")
            return self._settle(document, view.members, f"cancel: {document.change}", tell)

    def renew(self, *, lost: bool = False, progress: Progress | None = None) -> View:
        """Give members that lost their vote on memberships, with all they had, a vote again: by one more membership
        with the same members. Nothing when all that answer have one. To be called when a replica was rebuilt.

        When so many lost theirs that nothing can be decided any more: `lost` is the caller's word that no program is
        changing the members now, nor one that still runs was when they were lost. All members have to answer then; what
        those that kept their votes know of one that was begun is brought to its end.
        """
        with self._one("renew the membership", progress) as tell:
            view = self._stable(tell)
            answers = self._votes(view)
            silent = {id for id, state in answers.got.items() if _may_not(state, id, view.number + 1)}
            if not silent:
                return view
            if lost:
                self._believe(view, answers, silent, tell)
            again = replace(view, number=view.number + 1)
            where = ", ".join(member.where for member in view if member.id in silent)
            document, _ = self._decide(again, f"give {where} a vote again", {}, tell)
            self._tell_all(document, self._groups(document.view), tell)
            if document.view.next:
                raise self._overtaken(document, f"give {where} a vote again")
            return self._membership.view

    # -- how --

    def _votes(self, view: View) -> Answers[Acceptor | None]:
        """Of those that answer soon."""
        return self._crowd.ask(
            [member.id for member in view],
            lambda id, replica: read_vote(replica)[1],
            lambda answers: False,
            min(GRACE, self._timeout),
        )

    def _believe(self, view: View, answers: Answers[Acceptor | None], silent: Ids, tell: Progress) -> None:
        """Give votes to those that lost theirs, on the caller's word, and all that the others know of that number."""
        number = view.number + 1
        kept = [
            state
            for id, state in answers.got.items()
            if id not in silent and state is not None and state.number == number
        ]
        promised = max((one.promised for one in kept if one.promised is not None), default=None)
        accepted = max(
            ((one.accepted, one.document) for one in kept if one.accepted is not None), default=None
        )
        tell(f"giving votes on membership {number} to those that lost theirs")

        def call(id: str, replica: Replica) -> None:
            stamp = replica.stamp()
            if (stamp.store, stamp.replica) != (view.store, id):
                raise MixedReplicas("it is blank" if not stamp.store else "another replica is in its place")
            raw, state = read_vote(replica)
            if _may_not(state, id, number):
                ballot, document = accepted or (None, b"")
                reset(replica, raw, Acceptor(number, id, False, promised, ballot, document))

        if not answers.failed and not answers.silent:
            answers = self._crowd.ask(silent, call, lambda answers: False, min(GRACE, self._timeout))
        if answers.failed or answers.silent:
            reasons = answers.reasons({member.id: member.where for member in view})
            why = "; ".join(said_of(where, reason) for where, reason in reasons.items())
            raise QuorumLost(
                f"lost votes are given on somebody's word only when all members answer: {why}",
                needed=len(view.members),
                reasons=reasons,
            )

    @contextlib.contextmanager
    def _one(self, what: str, progress: Progress | None) -> Iterator[Progress]:
        if not self._busy.acquire(blocking=False):
            raise MembershipBusy(
                f"cannot {what}: this program is about to {self._doing}; wait until it is done"
            )
        try:
            self._doing = what
            yield progress or (lambda words: None)
        finally:
            self._busy.release()

    def _refresh(self, tell: Progress) -> Document:
        """The newest membership, taken over."""
        tell("asking the members which membership is the newest")
        while True:
            document = self._membership.document
            newest = consult(self._crowd, document, self._trust, self._timeout)
            if newest.view.number == document.view.number:
                return document
            self._take(newest, {})

    def _begun(self, tell: Progress) -> Document:
        """The newest membership, after a vote on the next one, which somebody left half-way, was brought to its end."""
        document = self._refresh(tell)
        view = document.view
        if view.next:
            return document
        answers = self._votes(view)
        begun = [
            (state.accepted, state.document)
            for state in answers.got.values()
            if state is not None and state.accepted is not None and state.number == view.number + 1
        ]
        if not begun:
            return document
        tell(f"bringing a vote on membership {view.number + 1} to its end")
        data = max(begun)[1]
        self._vote(document, data, Document.read(data, self._trust).change, tell)
        document = self._membership.document
        self._tell_all(document, self._groups(document.view), tell)
        return document

    def _stable(self, tell: Progress) -> View:
        """The newest membership, learned by a majority, under which no change is under way."""
        document = self._refresh(tell)
        if document.view.next:
            raise MembershipBusy(
                f"a change is under way: {document.change} (membership {document.view.number}, by {document.by}). If "
                "whoever began it is gone, finish it with resume() or go back with cancel(), or run `laila replicas "
                "members resume`"
            )
        self._tell_all(document, self._groups(document.view), tell)
        return document.view

    @contextlib.contextmanager
    def _newcomer(self, view: View, where: str | Replica) -> Iterator[tuple[Member, dict[str, Replica]]]:
        """A replica that can become a member, with a vote of its own; closed again unless it became one."""
        new = self._open(where) if isinstance(where, str) else where
        id = ""
        try:
            id = self._admitted(view, new)
            yield Member(id, new.where), {id: new}
        finally:
            if isinstance(where, str) and self._crowd.replicas.get(id) is not new:
                with contextlib.suppress(LailaError):
                    new.close()

    def _admitted(self, view: View, new: Replica) -> str:
        crowd = Crowd({"new": new})
        try:

            def call(id: str, replica: Replica) -> str:
                replica.prepare()
                return _admit(view, replica)

            answers = crowd.ask(["new"], call, lambda answers: False, self._timeout)
        finally:
            let_go(crowd)
        for error in answers.failed.values():
            raise error
        if not answers.got:
            raise QuorumLost(
                f"{new.where} does not answer, so it cannot become a member",
                needed=1,
                reasons=answers.reasons({"new": new.where}),
            )
        return answers.got["new"]

    def _change(
        self,
        view: View,
        following: tuple[Member, ...],
        words: str,
        opened: dict[str, Replica],
        lost: frozenset[str],
        tell: Progress,
    ) -> View:
        try:
            view.quorums.check(len(following))
        except BadConfig as error:
            raise BadConfig(f"cannot {words}, which leaves {len(following)} replicas: {error}") from error
        joint = replace(view, number=view.number + 1, next=following)
        document, mine = self._decide(joint, words, opened, tell)
        if not mine:
            # Whoever made it may be dead, and then nobody else would learn of it.
            with contextlib.suppress(QuorumLost):
                self._tell_all(document, self._groups(document.view), tell)
            raise self._overtaken(document, words)
        return self._finish(document, lost, tell)

    def _finish(self, document: Document, lost: frozenset[str], tell: Progress) -> View:
        """From joint to the new members."""
        view = document.view
        self._tell_all(document, self._barrier(view, lost), tell)
        tell(f"bringing every name to a quorum of {names(view.next)}")
        self._catch_up(view)
        return self._settle(document, view.next, document.change, tell)

    def _settle(self, document: Document, members: tuple[Member, ...], words: str, tell: Progress) -> View:
        """From joint to either group."""
        view = document.view
        stable = replace(view, number=view.number + 1, members=members, next=())
        stay = {member.id for member in members}
        left = {member.id for member in view if member.id not in stay}
        leaving = {id: replica for id, replica in self._crowd.replicas.items() if id in left}
        settled, _ = self._decide(stable, words, {}, tell, leaving)
        self._tell_all(settled, self._groups(settled.view), tell)
        if settled.view.members != members:
            raise self._overtaken(settled, words)
        tell(f"the members are {names(members)} (membership {settled.view.number})")
        return self._membership.view

    def _decide(
        self,
        view: View,
        words: str,
        opened: dict[str, Replica],
        tell: Progress,
        leaving: Mapping[str, Replica] | None = None,
    ) -> tuple[Document, bool]:
        """The document that has this number, taken over, and whether it is ours. Those `leaving` are told before they
        are closed."""
        before = self._membership.document
        if before.view.number == view.number:  # another thread learned it meanwhile
            return before, False
        if before.view.number != view.number - 1:
            raise self._overtaken(before, words)
        by = self._by or here(self._signer)
        data = encode(view, self._signer, self._trust, by=by, change=words, parent=before.root)
        tell(f"deciding on membership {view.number}: {words}")
        chosen = self._vote(before, data, words, tell, opened, leaving)
        return chosen, chosen.data == data

    def _vote(
        self,
        before: Document,
        data: bytes,
        words: str,
        tell: Progress,
        opened: dict[str, Replica] | None = None,
        leaving: Mapping[str, Replica] | None = None,
    ) -> Document:
        """What comes after `before`, taken over: this document, unless another one is chosen."""
        groups = [[member.id for member in group] for group in before.view.groups]
        where = {member.id: member.where for member in before.view}
        number = before.view.number + 1
        try:
            chosen = decide(self._crowd, groups, number, data, timeout=self._timeout, where=where)
        except MembershipStale as error:
            raise self._overtaken(self._refresh(tell), words) from error
        document = Document.read(chosen, self._trust)
        if leaving:
            self._crowd.ask(
                leaving,
                lambda id, replica: replica.learn(chosen),
                lambda answers: False,
                min(GRACE, self._timeout),
            )
        self._take(document, opened or {})
        return document

    def _take(self, document: Document, opened: dict[str, Replica]) -> None:
        self._membership.take(document)
        self._follow(self._membership.view, opened)

    def _tell_all(self, document: Document, need: Callable[[Ids], bool], tell: Progress) -> None:
        """Let the members learn a membership: all that answer soon, and so many as are needed. Raises QuorumLost."""
        view = document.view
        tell(f"telling membership {view.number} to {names(view.everybody)}")
        deadline = time.monotonic() + self._timeout

        def confirm() -> Document:
            left = max(0.0, deadline - time.monotonic())
            return newest(self._crowd.replicas, self._open, document, self._trust, left)

        def call(id: str, replica: Replica) -> Stamp:
            share_vouchers(replica, self._trust)
            return enrol(replica, id, document, confirm)

        ids = [member.id for member in view]
        answers = self._crowd.ask(ids, call, lambda answers: False, min(GRACE, self._timeout))
        while not need(answers.got):
            left = deadline - time.monotonic()
            if left <= 0 or not answers.silent:
                raise self._untold(document, answers)
            had = set(answers.got)

            def enough(later: Answers[Stamp], had: set[str] = had) -> bool:
                return need(had | set(later.got))

            later = self._crowd.ask(answers.silent, call, enough, left)
            answers.got |= later.got
            answers.failed |= later.failed
            answers.silent = later.silent

    def _untold(self, document: Document, answers: Answers[Stamp]) -> QuorumLost:
        view = document.view
        reasons = answers.reasons({member.id: member.where for member in view})
        why = "; ".join(said_of(where, reason) for where, reason in reasons.items())
        advice = "the store goes on under it; call resume() when they answer" if view.next else "try again"
        return QuorumLost(
            f"membership {view.number} ({document.change}) holds, and too few members have learned it: {why}; {advice}",
            needed=max(len(group) // 2 + 1 for group in view.groups),
            reasons=reasons,
        )

    @staticmethod
    def _groups(view: View) -> Callable[[Ids], bool]:
        groups = [[member.id for member in group] for group in view.groups]
        return lambda ids: majority(groups, ids)

    def _barrier(self, view: View, lost: frozenset[str]) -> Callable[[Ids], bool]:
        """Whether no quorum of the old members is left that has not learned of the joint view."""
        of_each = self._groups(view)
        count = len(view.members)
        smallest = min(view.quorums.of(READ, count), view.quorums.of(WRITE, count))
        least = 0 if view.quorums.stale else count - smallest + 1

        def need(ids: Ids) -> bool:
            told = sum(member.id in ids or member.id in lost for member in view.members)
            return of_each(ids) and told >= least

        return need

    def _overtaken(self, document: Document, words: str) -> MembershipBusy:
        going = "is under way: resume() finishes it if whoever began it is gone"
        state = going if document.view.next else "holds now"
        return MembershipBusy(
            f"cannot {words}: another change came first: {document.change} (membership {document.view.number}, by "
            f"{document.by}), which {state}. The members are {names(document.view.everybody)}; look at them, and try "
            "again if it is still to be done"
        )


def _admit(view: View, replica: Replica) -> str:
    """Give a replica a vote and a stamp, if it has none, and return the id under which it can become a member.

    It has lost nothing, for nothing was asked of it under this id. So it is marked before it is a member: whoever meets
    it later need not wonder why it is blank. Raises MixedReplicas, BadConfig.
    """
    stamp = replica.stamp()
    if stamp.store and stamp.store != view.store:
        raise MixedReplicas(
            f"{replica.where} belongs to another store ({stamp.store[:8]}…; this one is {view.store[:8]}…): give an "
            "empty one, or remove its files if nobody needs them"
        )
    if any(member.id == stamp.replica for member in view):
        raise BadConfig(
            f"{replica.where} is replica {stamp.replica[:8]}…, which is a member already: another name of its place, "
            "or a copy; a copy must be emptied before it can be a replica of its own"
        )
    raw, state = read_vote(replica)
    if not stamp.store and state is not None and not state.replica:
        raise MixedReplicas(
            f"{replica.where} is being made part of another store just now, or was left over when that failed; empty "
            "it first"
        )
    id = stamp.replica or uuid.uuid4().hex
    if state is None or state.replica != id:
        reset(replica, raw, Acceptor(0, id))
    if not stamp.store:
        replica.mark(Stamp(view.store, id))
    return id


def _may_not(state: Acceptor | None, id: str, number: int) -> bool:
    return state is None or state.replica != id or (state.silent and state.number >= number)


def _find(view: View, which: str) -> Member:
    """The member in a place, or with an id, of which eight digits are enough. Raises BadValue."""
    found = _at(view, which)
    if found is not None:
        return found
    fitting = [member for member in view if len(which) >= _SHORTEST and member.id.startswith(which)]
    if len(fitting) != 1:
        raise BadValue(f"{which!r} is no member; the members are {names(view.everybody)}")
    return fitting[0]


def _at(view: View, where: str) -> Member | None:
    return next((member for member in view if place(member.where) == place(where)), None)


def _where(place: str | Replica) -> str:
    return place if isinstance(place, str) else place.where
