"""The multi-writer register of Attiya, Bar-Noy and Dolev (1995; Lynch and Shvartsman 1997), one per name.

- write: ask a read quorum for the newest version; make one that is newer; put it to all; done at a write quorum.
- read: ask all what they have, and one for its bytes; the newest of a read quorum, verified, is put to those that lack
  it until a write quorum has it; then it is returned. So no later read returns an older one.

A quorum of reads and one of writes always meet, and a replica takes only what is newer; so each name behaves as one
register in one place, as long as quorums answer (linearizability). Nobody leads, and no clock has a part in it.

Whom an answer is believed
- Bytes are verified here, whoever sent them. What a replica merely says to have is believed while all say the same;
  when they differ, the bytes of the newest decide, and one that cannot show what it says to have does not count.
- Unsure does not count in a read. A replica that is being rebuilt does not count in a read, but takes versions.
- One that acknowledged a version to this process and has an older one now has lost it: it is told so, and says Unsure.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Self, TypeVar

from ..artifacts import TrustSet
from ..errors import (
    ArtifactError,
    Busy,
    Closed,
    DeadlineExceeded,
    Denied,
    LailaError,
    MembershipStale,
    PeerLost,
    QuorumLost,
    ReplicaError,
    RolledBack,
    Unreachable,
)
from .calls import Answers, Crowd, said_of
from .copies import Copy
from .replica import Listing, Replica
from .tags import Found, Stand, Tag, Unsure
from .views import READ, WRITE, View

T = TypeVar("T")
log = logging.getLogger("laila.replication")

HEDGE = 0.25
"""Seconds that a quorum of answers waits for the bytes before another replica is asked for them, too."""
LAST_WORDS = 1.0
"""Seconds that the others have to answer once it is clear that there will be no quorum."""
FAR = 16
"""Versions that one replica may be ahead of the others by writes that were not finished."""
PAUSES = (0.05, 0.2)
"""Seconds between attempts to get a quorum."""
_REMEMBERED = 100_000


class Register:
    """The registers of one store. `view` says who the members are; `vet` raises when a replica is not the member that
    it should be; `rebuilding(id)`: whether it does not count in reads; `stale(error)` takes over a newer membership;
    `owe(id, name)` and `paid(id, name)` note who missed what.
    """

    def __init__(
        self,
        crowd: Crowd,
        view: Callable[[], View],
        trust: TrustSet,
        *,
        timeout: float,
        stale: Callable[[MembershipStale], None],
        vet: Callable[[View, str, Replica], None] = lambda view, id, replica: None,
        rebuilding: Callable[[str], bool] = lambda id: False,
        owe: Callable[[str, str], None] = lambda id, name: None,
        paid: Callable[[str, str], None] = lambda id, name: None,
    ) -> None:
        self._crowd = crowd
        self._view = view
        self._trust = trust
        self._timeout = timeout
        self._stale = stale
        self._vet = vet
        self._rebuilding = rebuilding
        self._owe = owe
        self._paid = paid
        self._mutex = threading.Lock()
        self._put_somewhere = threading.Condition()
        self._under_way: Counter[str] = Counter()
        self._acknowledged: OrderedDict[tuple[str, str], Tag] = OrderedDict()
        self._seen: OrderedDict[str, Tag] = OrderedDict()
        self._speed: dict[str, float] = {}

    # -- the register ------------------------------------------------------------------------------------

    def newest(self, name: str, deadline: float | None = None) -> Stand | None:
        """What a read quorum has as the newest, live or tombstone: for who is going to write after it.

        `deadline` is monotonic; None is `timeout` from now. Raises QuorumLost.
        """
        return self._all([name], self._until(deadline), agreed=False)[name]

    def agreed(self, name: str, deadline: float | None = None) -> Stand | None:
        """What a read gives, without its bytes where all agree: a write quorum has it by now. Raises as `read`."""
        return self._all([name], self._until(deadline), agreed=True)[name]

    def read(self, name: str, *, spread: bool = True) -> Copy | None:
        """The newest version, verified, which a write quorum has by now; None when there never was one. Close it.

        Without `spread` it is not put to anybody: for a repair, which does that itself. Such a read is none of the
        register's. A forgotten name gives its tombstone. Raises QuorumLost; RolledBack when this process saw a newer
        one before.
        """
        deadline = self._until(None)
        return self._under_the_view(lambda view: self._read(view, name, deadline, spread), deadline)

    def write(self, copy: Copy, deadline: float | None = None) -> None:
        """Put a copy, which is the caller's to close, until a write quorum has it, or something newer.

        Raises QuorumLost: then nobody knows whether it will be seen.
        """
        until = self._until(deadline)
        self._under_the_view(lambda view: self._write(view, copy, set(), until), until)
        self._note(copy.name, copy.stand.tag)

    def names(self, *, settled: bool = True) -> list[str]:
        """Of live artifacts, sorted; without `settled` of all that anybody lists. Raises QuorumLost."""
        deadline = self._until(None)
        everything, doubtful = self._under_the_view(lambda view: self._names(view, deadline), deadline)
        if not settled:
            return sorted({*everything, *doubtful})
        if doubtful:  # some have it, others not, or one is unsure: forgotten, or not everywhere yet
            newest = self._all(doubtful, deadline, agreed=True)
            everything |= {name for name, stand in newest.items() if stand is not None and not stand.gone}
        return sorted(everything)

    def settle_down(self, name: str, timeout: float) -> None:
        """Wait until the puts of a name that are under way here have ended, also those that nobody waits for."""
        with self._put_somewhere:
            self._put_somewhere.wait_for(lambda: name not in self._under_way, timeout)

    def forget_seen(self, name: str) -> None:
        """Take what the replicas have for the newest: for who restored an older one on purpose."""
        with self._mutex:
            self._seen.pop(name, None)
            for key in [key for key in self._acknowledged if key[1] == name]:
                del self._acknowledged[key]

    # -- reading -----------------------------------------------------------------------------------------

    def _names(self, view: View, deadline: float) -> tuple[set[str], list[str]]:
        """Those that every one of a read quorum has, and those that only some of them have, or are unsure of."""
        hopeless = _Hopeless()

        def call(id: str, replica: Replica) -> Listing:
            return replica.names(view.number)

        def counting(answers: Answers[Listing]) -> set[str]:
            return {id for id in answers.got if not self._rebuilding(id)}

        def enough(answers: Answers[Listing]) -> bool:
            have = counting(answers)
            failed = set(answers.failed) | (set(answers.got) - have)
            return view.enough(READ, have) or hopeless(not view.possible(READ, failed))

        answers = self._ask(view, call, enough, deadline)
        have = counting(answers)
        self._require(view, READ, have, answers, {id: None for id in answers.got}, "list names")
        lists = [set(answers.got[id].live) for id in have]
        unsure = {name for id in have for name in answers.got[id].unsure}
        everywhere = set.intersection(*lists) - unsure
        return everywhere, sorted((set.union(*lists) | unsure) - everywhere)

    def _all(self, names: list[str], deadline: float, *, agreed: bool) -> dict[str, Stand | None]:
        return self._under_the_view(lambda view: self._newest_of(view, names, deadline, agreed), deadline)

    def _newest_of(
        self, view: View, names: list[str], deadline: float, agreed: bool
    ) -> dict[str, Stand | None]:
        """Of each name; with `agreed` as a read would give it."""
        floors = self._floors(names)

        def call(id: str, replica: Replica) -> list[Found]:
            had = self._had(id, names)
            return self._checked(id, replica, names, had, replica.look(names, view.number))

        hopeless = _Hopeless()

        def sure(answers: Answers[list[Found]], place: int) -> set[str]:
            return {id for id, found in answers.got.items() if self._counts(id, found[place])}

        def enough(answers: Answers[list[Found]]) -> bool:
            return all(
                view.enough(READ, have := sure(answers, place))
                or hopeless(not view.possible(READ, set(answers.failed) | (set(answers.got) - have)))
                for place in range(len(names))
            )

        answers = self._ask(view, call, enough, deadline)
        newest: dict[str, Stand | None] = {}
        for place, name in enumerate(names):
            found = {id: answers.got[id][place] for id in answers.got}
            self._require(view, READ, sure(answers, place), answers, found, f"read {name!r}")
            counting = {id: one for id, one in found.items() if self._counts(id, one)}
            newest[name] = self._highest(view, name, counting, deadline, agreed)
            _refuse_older(name, floors[place], newest[name])
        return newest

    def _highest(
        self, view: View, name: str, counting: Mapping[str, Found], deadline: float, agreed: bool
    ) -> Stand | None:
        """The newest of what was said. Where they differ, bytes are looked at: for `agreed` always, and put back."""
        stands = {id: one for id, one in counting.items() if isinstance(one, Stand)}
        newest = max(stands.values(), key=lambda stand: stand.tag, default=None)
        if agreed:
            same = newest is None or all(
                isinstance(one, Stand) and one.tag == newest.tag for one in counting.values()
            )
            believed = same and (newest is None or view.enough(WRITE, stands))
        else:
            believed = not _far_above([stand.sequence for stand in stands.values()])
        if believed:
            return newest
        copy = self._read(view, name, deadline)
        if copy is None:
            return None
        with copy:
            return copy.stand

    def _read(self, view: View, name: str, deadline: float, spread: bool = True) -> Copy | None:
        floor = self._floors([name])[0]
        liars: dict[str, str] = {}
        while True:
            with _Round(self._mutex) as round:
                answers = self._ask_for(view, name, round, liars, deadline)
                found: dict[str, Found] = {**answers.got, **{id: Unsure(text) for id, text in liars.items()}}
                counting = {id for id, one in found.items() if self._counts(id, one)}
                self._require(view, READ, counting, answers, found, f"read {name!r}")
                claims = {id: one for id, one in found.items() if id in counting and isinstance(one, Stand)}
                newest = max(claims.values(), key=lambda stand: stand.tag, default=None)
                _refuse_older(name, floor, newest)
                copy = None
                if newest is not None:
                    copy = self._show(view, name, newest.tag, claims, round, liars, deadline)
                    if copy is None:
                        continue  # some of them lied: perhaps others still make a quorum
                    found.update({id: Unsure(text) for id, text in liars.items()})
                    if claims.keys() & liars.keys():
                        copy.close()
                        continue
                if spread:
                    try:
                        self._spread(view, name, copy, found, deadline)
                    except BaseException:
                        if copy is not None:
                            copy.close()
                        raise
                return copy

    def _ask_for(
        self, view: View, name: str, round: _Round, liars: Mapping[str, str], deadline: float
    ) -> Answers[Found]:
        """What each has, and from one of them the bytes."""
        ids = [member.id for member in view if member.id not in liars]
        first = self._quickest(ids)
        patience = time.monotonic() + HEDGE
        hopeless = _Hopeless()

        def call(id: str, replica: Replica) -> Found:
            had = self._had(id, [name])
            if id != first:
                return self._checked(id, replica, [name], had, replica.look([name], view.number))[0]
            started = time.monotonic()
            try:
                copy = replica.fetch(name, view.number)
            except ArtifactError as error:
                found = replica.look([name], view.number)[0]  # with the mark that it made, if it made one
                return found if isinstance(found, Unsure) else Unsure(str(error))
            self._timed(id, time.monotonic() - started)
            found = None if copy is None else copy.stand
            round.keep(id, copy)
            return self._checked(id, replica, [name], had, [found])[0]

        def enough(answers: Answers[Found]) -> bool:
            have = {id for id, found in answers.got.items() if self._counts(id, found)}
            if not view.enough(READ, have):
                failed = set(answers.failed) | set(liars) | (set(answers.got) - have)
                return hopeless(not view.possible(READ, failed))
            return first not in answers.silent or time.monotonic() >= patience

        return self._ask(view, call, enough, deadline, ids)

    def _show(
        self,
        view: View,
        name: str,
        tag: Tag,
        claims: Mapping[str, Stand],
        round: _Round,
        liars: dict[str, str],
        deadline: float,
    ) -> Copy | None:
        """The bytes of the newest version, verified, or of a newer one; None when nobody shows what it says to have."""
        holders = [id for id, one in claims.items() if one.tag == tag]
        while holders:
            id = self._quickest(holders, round)
            holders.remove(id)
            copy = round.take(id)
            try:
                if copy is None:
                    copy = self._fetch(view, id, name, deadline)
                if copy is not None and copy.stand.tag >= tag:
                    copy.require(self._trust)
                    return copy
                liars[id] = f"it says to have version {tag} and does not show it"
            except MembershipStale:
                raise
            except LailaError as error:
                liars[id] = str(error)
            if copy is not None:
                copy.close()
        return None

    def _fetch(self, view: View, id: str, name: str, deadline: float) -> Copy | None:
        with _Round(self._mutex) as round:

            def call(id: str, replica: Replica) -> None:
                round.keep(id, replica.fetch(name, view.number))

            left = max(0.0, deadline - time.monotonic())
            answers = self._crowd.ask([id], call, lambda answers: False, left)
            if id in answers.got:
                return round.take(id)
            if id in answers.failed:
                raise answers.failed[id]
            raise DeadlineExceeded(f"its bytes did not come within {left:.1f} s")

    def _spread(
        self, view: View, name: str, copy: Copy | None, found: Mapping[str, Found], deadline: float
    ) -> None:
        """Let a write quorum have what is returned; heal those that were seen to lack it."""
        have: set[str] = set()
        if copy is not None:
            tag = copy.stand.tag
            have = {id for id, one in found.items() if isinstance(one, Stand) and one.tag >= tag}
            if not view.enough(WRITE, have):
                try:
                    self._write(view, copy, have, deadline)
                except QuorumLost as error:
                    raise _not_shown(name, copy, error) from error
            self._note(name, tag)
            if lacking := [id for id, one in found.items() if id not in have and not isinstance(one, Unsure)]:
                self._heal(view, copy, lacking)
        self._settle(view, name, _marks(found))

    # -- writing -----------------------------------------------------------------------------------------

    def _write(self, view: View, copy: Copy, have: set[str], deadline: float) -> None:
        """Put it to all but those that `have` it; return when a write quorum has it."""
        name, tag = copy.name, copy.stand.tag
        shared = copy.share()
        hopeless = _Hopeless()
        with self._put_somewhere:
            self._under_way[name] += 1

        def ended() -> None:
            shared.close()
            with self._put_somewhere:
                self._under_way[name] -= 1
                if not self._under_way[name]:
                    del self._under_way[name]
                    self._put_somewhere.notify_all()

        def call(id: str, replica: Replica) -> Tag:
            return self._put(view, id, replica, shared)

        def stored(answers: Answers[Tag]) -> set[str]:
            return have | set(answers.got)

        def enough(answers: Answers[Tag]) -> bool:
            return view.enough(WRITE, stored(answers)) or hopeless(not view.possible(WRITE, answers.failed))

        ids = [member.id for member in view if member.id not in have]

        def missed(id: str) -> None:
            self._owe(id, name)

        answers = self._ask(view, call, enough, deadline, ids, after=ended, weight=copy.size, missed=missed)
        for id, error in answers.failed.items():
            if isinstance(error, Busy | Closed):  # it was not even asked
                self._owe(id, name)
        if view.enough(WRITE, stored(answers)):
            return
        where = {member.id: member.where for member in view}
        maybe = {id for id, error in answers.failed.items() if not _surely_not(error)} | answers.silent
        kept = sorted(where[id] for id in stored(answers))
        needed = view.needed(WRITE)
        reasons = answers.reasons(where)
        raise QuorumLost(
            f"version {tag.sequence} of {name!r} was stored on {len(kept)} of {len(where)} replicas, and {needed} are "
            f"needed: {_listed(reasons)}. Nobody knows yet whether it will be seen: it may be on "
            f"{', '.join(kept + sorted(where[id] for id in maybe)) or 'none of them'}. Save it again when they answer",
            needed=needed,
            stored=kept,
            maybe=sorted(where[id] for id in maybe),
            reasons=reasons,
        )

    def _put(self, view: View, id: str, replica: Replica, copy: Copy) -> Tag:
        name, tag = copy.name, copy.stand.tag
        try:
            there = replica.put(copy, view.number).tag
        except MembershipStale:
            raise
        except Exception:
            self._owe(id, name)
            raise
        if there < tag:
            self._owe(id, name)
            raise ArtifactError(f"it acknowledged version {tag} of {name!r} and says that it has {there}")
        with self._mutex:
            self._acknowledged[id, name] = max(there, self._acknowledged.pop((id, name), there))
            if len(self._acknowledged) > _REMEMBERED:
                self._acknowledged.popitem(last=False)
        self._paid(id, name)
        return there

    def _heal(self, view: View, copy: Copy, ids: list[str]) -> None:
        """Put it to replicas that lack it, without waiting for them."""
        shared = copy.share()

        def call(id: str, replica: Replica) -> None:
            with _quietly(id):
                self._put(view, id, replica, shared)

        self._crowd.ask(ids, call, lambda answers: True, 0.0, after=shared.close, weight=copy.size)

    def _settle(self, view: View, name: str, marks: Mapping[str, str]) -> None:
        """Give replicas that were unsure what a quorum of the others has, asked after they said so; without waiting."""

        def call(id: str, replica: Replica) -> None:
            with _quietly(id):
                deadline = self._until(None)
                copy = self._read(view, name, deadline, spread=False)
                if copy is None:
                    replica.settle(name, None, marks[id])
                    return
                with copy:
                    self._put(view, id, replica, copy)
                    replica.settle(name, copy.stand.tag, marks[id])

        if marks:
            self._crowd.ask(marks, call, lambda answers: True, 0.0)

    # -- parts -------------------------------------------------------------------------------------------

    def _under_the_view(self, work: Callable[[View], T], deadline: float) -> T:
        """Again under a newer membership, when a replica knows one; and again, soon, when there was no quorum: a link
        that was reset is dialed anew, and reading or putting the same twice changes nothing.
        """
        pauses = list(PAUSES)
        while True:
            view = self._view()
            try:
                return work(view)
            except QuorumLost:
                if not pauses or time.monotonic() + pauses[0] >= deadline:
                    raise
                time.sleep(pauses.pop(0))
            except MembershipStale as error:
                self._stale(error)
                if self._view().number <= view.number or time.monotonic() >= deadline:
                    raise

    def _ask(
        self,
        view: View,
        call: Callable[[str, Replica], T],
        enough: Callable[[Answers[T]], bool],
        deadline: float,
        ids: Iterable[str] | None = None,
        after: Callable[[], None] | None = None,
        weight: int = 0,
        missed: Callable[[str], None] = lambda id: None,
    ) -> Answers[T]:
        """Raises MembershipStale as soon as one replica does. `missed` is told who was not even called."""

        def vetted(id: str, replica: Replica) -> T:
            try:
                self._vet(view, id, replica)
            except Exception:
                missed(id)
                raise
            return call(id, replica)

        answers = self._crowd.ask(
            [member.id for member in view] if ids is None else ids,
            vetted,
            lambda answers: _outdated(answers) is not None or enough(answers),
            max(0.0, deadline - time.monotonic()),
            after,
            weight,
        )
        if outdated := _outdated(answers):
            raise outdated
        return answers

    def _counts(self, id: str, found: Found) -> bool:
        return not isinstance(found, Unsure) and not self._rebuilding(id)

    def _require(
        self,
        view: View,
        kind: str,
        have: set[str],
        answers: Answers[T],
        found: Mapping[str, Found],
        doing: str,
    ) -> None:
        if view.enough(kind, have):
            return
        where = {member.id: member.where for member in view}
        reasons = answers.reasons(where)
        for id, one in found.items():
            if isinstance(one, Unsure):
                reasons[where[id]] = one.reason
            elif self._rebuilding(id):
                reasons[where[id]] = "it is being rebuilt, and what it says does not count yet"
        needed = view.needed(kind)
        raise QuorumLost(
            f"cannot {doing}: {len(have)} of {len(where)} replicas answered, and {needed} are needed: "
            f"{_listed(reasons)}",
            needed=needed,
            reasons=reasons,
        )

    def _until(self, deadline: float | None) -> float:
        return time.monotonic() + self._timeout if deadline is None else deadline

    def _had(self, id: str, names: list[str]) -> list[Tag | None]:
        """What a replica acknowledged to this process, before it is asked: it may have newer, never older."""
        with self._mutex:
            return [self._acknowledged.get((id, name)) for name in names]

    def _checked(
        self, id: str, replica: Replica, names: list[str], had: list[Tag | None], found: list[Found]
    ) -> list[Found]:
        """What a replica says, unless it acknowledged more than that: then it lost it, and is told so, once."""
        believed = list(found)
        for place, (name, tag, one) in enumerate(zip(names, had, found, strict=True)):
            if tag is None or (isinstance(one, Stand) and one.tag >= tag):
                continue
            if not isinstance(one, Unsure):
                now = "nothing" if one is None else f"version {one.tag}"
                reason = f"it acknowledged version {tag} of {name!r} and has {now} now: an older state was put back"
                replica.distrust(name, reason)
                believed[place] = Unsure(reason)
                continue
            with self._mutex:  # its mark stands for it from here on
                if self._acknowledged.get((id, name)) == tag:
                    del self._acknowledged[id, name]
        return believed

    def _floors(self, names: list[str]) -> list[Tag | None]:
        with self._mutex:
            return [self._seen.get(name) for name in names]

    def _note(self, name: str, tag: Tag) -> None:
        with self._mutex:
            self._seen[name] = max(tag, self._seen.pop(name, tag))
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)

    def _timed(self, id: str, seconds: float) -> None:
        with self._mutex:
            self._speed[id] = 0.8 * self._speed.get(id, seconds) + 0.2 * seconds

    def _quickest(self, ids: Iterable[str], round: _Round | None = None) -> str:
        """Whom to ask for bytes: who gave them, one on this machine, else the one that was quickest lately."""
        replicas = self._crowd.replicas

        def distance(id: str) -> tuple[bool, bool, float]:
            away = id not in replicas or replicas[id].remote
            return round is None or not round.has(id), away, self._speed.get(id, 0.0)

        return min(ids, key=distance)


class _Round:
    """The copies that came in one round of a read: one of them is taken, the others are closed, also late ones."""

    def __init__(self, mutex: threading.Lock) -> None:
        self._mutex = mutex
        self._copies: dict[str, Copy] = {}
        self._over = False

    def keep(self, id: str, copy: Copy | None) -> None:
        if copy is None:
            return
        with self._mutex:
            if not self._over:
                self._copies[id] = copy
                return
        copy.close()

    def has(self, id: str) -> bool:
        return id in self._copies

    def take(self, id: str) -> Copy | None:
        with self._mutex:
            return self._copies.pop(id, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self._mutex:
            self._over = True
            copies = list(self._copies.values())
        for copy in copies:
            copy.close()


class _Hopeless:
    """Whether to give up: when there can be no quorum any more, and those still silent have had a moment to say what
    became of it on their side.
    """

    def __init__(self) -> None:
        self._since = 0.0

    def __call__(self, impossible: bool) -> bool:
        if not impossible:
            return False
        now = time.monotonic()
        self._since = self._since or now
        return now - self._since >= LAST_WORDS


def _not_shown(name: str, copy: Copy, error: QuorumLost) -> QuorumLost:
    """For a reader: a write was not finished, and cannot be finished now. To show it might show something that goes."""
    return QuorumLost(
        f"cannot read {name!r}: its version {copy.stand.sequence} is on too few replicas, as of a save that was not "
        f"finished, and more do not take it now: {_listed(error.reasons)}. Nothing acknowledged is lost; load "
        "again when they do",
        needed=error.needed,
        stored=error.stored,
        maybe=error.maybe,
        reasons=error.reasons,
    )


def _refuse_older(name: str, floor: Tag | None, newest: Stand | None) -> None:
    if floor is not None and (newest is None or newest.tag < floor):
        found = "nothing" if newest is None else f"version {newest.tag}"
        raise RolledBack(
            f"a quorum of replicas has {found} of {name!r}, but this program saw version {floor} before: older states "
            "were put back on several replicas; restore the newest one, or call forget_seen() if that was meant",
            path=name,
        )


@contextlib.contextmanager
def _quietly(id: str) -> Iterator[None]:
    """What is done for others beside a call: it may fail, and is done again."""
    try:
        yield
    except LailaError as error:
        log.info("a replica could not be healed", extra={"replica": id, "reason": str(error)})


def _marks(found: Mapping[str, Found]) -> dict[str, str]:
    """Which replicas had marked the name when they were asked, and how: only these marks may be cleared."""
    return {id: one.mark for id, one in found.items() if isinstance(one, Unsure) and one.mark}


def _far_above(sequences: list[int]) -> bool:
    """Whether the highest claim is no version that could be the next ones after the others': its bytes must show it."""
    highest, second = [*sorted(sequences, reverse=True), 0, 0][:2]
    return highest > second + FAR


def _outdated(answers: Answers[T]) -> MembershipStale | None:
    return next((error for error in answers.failed.values() if isinstance(error, MembershipStale)), None)


def _surely_not(error: Exception) -> bool:
    """Whether a put that failed so cannot have taken place."""
    if isinstance(error, PeerLost):
        return error.executed == "no"
    return isinstance(error, ArtifactError | Busy | Denied | ReplicaError | Unreachable)


def _listed(reasons: Mapping[str, str]) -> str:
    return "; ".join(said_of(where, reason) for where, reason in reasons.items()) or "they did not answer"
