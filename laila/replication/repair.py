"""Repair: every replica is given the newest version of each name that it lacks.

Names that differ are found by digest trees (walk.py), or given. Of each, the newest version is what a quorum read says,
or a newer one that some replica has already: a write that was never acknowledged is completed, as a read would do.
It is fetched once and put to all that lack it, side by side. Tombstones are versions, so nothing comes back.

Rules
- All that is done is "only if newer", so it does no harm to writers that write meanwhile; and what a replica has that
  is newer than what it was given is no failure.
- A replica that was Unsure of a name counts again (`settle`) only after a read of a quorum that began when it was
  Unsure already. So the quorum is one of the others. Where that cannot be had, as with two replicas, it will do that
  the others are so many that no write was acknowledged without one of them (`_covered`).
- A replica that is being rebuilt is marked as whole only after a pass over all names of so many others, who all
  answered from beginning to end, and in which nothing failed for it. Who it is and who the others are is asked again
  at the end: one whose disk was exchanged meanwhile told nothing, and is not whole.
- One name or replica that fails stops nothing. A replica that fails several times in a row, or hangs, is left out of
  the rest of the pass and reported; without a read quorum the pass ends.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

from ..artifacts import TrustSet
from ..errors import MembershipStale, QuorumLost
from .calls import Crowd
from .copies import Copy
from .errands import Errands, in_words
from .pace import Pace
from .replica import Stamp
from .reports import COMPARE, LISTED, REPAIR, Failure, Mended, Progress, RepairReport
from .tags import Found, Stand, Tag, Unsure
from .views import READ, WRITE, View
from .walk import Difference, Walk

__all__ = ["Failure", "Mended", "Progress", "Repair", "RepairReport"]

T = TypeVar("T")

PARALLEL = 4
"""Names that are repaired at the same time."""
_ATTEMPTS = 3
_PAGE = 256


class Repair:
    """Repairs of one store. Safe under threads; each call is a pass of its own.

    `view()` is the membership, `read(name)` a quorum read that gives the newest version, verified, or None (it need not
    write back). `stale(error)` takes over a newer membership, `rebuilt(id)` is told who counts again. `timeout`: how
    many seconds one call to a replica may take, besides the time that its bytes may take.
    """

    def __init__(
        self,
        crowd: Crowd,
        view: Callable[[], View],
        trust: TrustSet,
        read: Callable[[str], Copy | None],
        *,
        stale: Callable[[MembershipStale], None] = lambda error: None,
        rebuilt: Callable[[str], None] = lambda id: None,
        timeout: float = 30.0,
        parallel: int = PARALLEL,
    ) -> None:
        self.crowd = crowd
        self.view = view
        self.trust = trust
        self.read = read
        self.stale = stale
        self.rebuilt = rebuilt
        self.timeout = timeout
        self.parallel = parallel

    def everything(
        self,
        targets: Collection[str] | None = None,
        *,
        rate: Pace | None = None,
        names_rate: Pace | None = None,
        progress: Callable[[Progress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> RepairReport:
        """Compare all names on all replicas, and repair what differs; with `targets` only on these, by member id.

        `rate` in bytes a second, `names_rate` in names a second. Raises nothing for what fails: the report tells.
        """
        run = _Pass(self, targets, rate, names_rate, progress, cancel)
        return run.everything()

    def names(
        self,
        names: Iterable[str],
        targets: Collection[str] | None = None,
        *,
        rate: Pace | None = None,
        names_rate: Pace | None = None,
        progress: Callable[[Progress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> RepairReport:
        """The same for these names."""
        run = _Pass(self, targets, rate, names_rate, progress, cancel)
        return run.names(list(dict.fromkeys(names)))


class _Newest:
    """The newest version of a name that there is. `tag` is the newest that a quorum has; after it those of `counts` may
    count again; `doubt` is why others may not.
    """

    def __init__(self, copy: Copy | None, tag: Tag | None, counts: frozenset[str], doubt: str = "") -> None:
        self.copy = copy
        self.tag = tag
        self.counts = counts
        self.doubt = doubt

    def close(self) -> None:
        copy, self.copy = self.copy, None
        if copy is not None:
            copy.close()


class _Pass:
    """One pass of a repair."""

    def __init__(
        self,
        repair: Repair,
        targets: Collection[str] | None,
        rate: Pace | None,
        names_rate: Pace | None,
        progress: Callable[[Progress], None] | None,
        cancel: threading.Event | None,
    ) -> None:
        self._repair = repair
        self._targets = targets
        self._rate = rate or Pace()
        self._names_rate = names_rate or Pace()
        self._progress = progress or (lambda progress: None)
        self._cancel = cancel or threading.Event()
        self._errands = Errands(repair.crowd, repair.trust, repair.timeout, self._cancel)
        self._started = time.monotonic()
        self._mutex = threading.Lock()
        self._turn = threading.Lock()  # whose turn it is to take the next name
        self._telling = threading.Lock()
        self._done = self._total = 0
        self._looked = self._transferred = self._bytes = self._repairs = self._failures = 0
        self._repaired: list[Mended] = []
        self._failed: list[Failure] = []
        self._behind: Counter[str] = Counter()
        self._left: Counter[str] = Counter()
        self._answered: set[str] = set()
        self._rebuilding: dict[str, Stamp] = {}
        self._hopeless = False
        self._ended = False
        self._unknown = 0
        self._quorums_lost = 0
        self._errors: list[BaseException] = []
        self._whole: list[str] = []
        view = repair.view()
        self._number = view.number
        self._members = {member.id: member.where for member in view}

    # -- passes ------------------------------------------------------------------------------------------

    def everything(self) -> RepairReport:
        view = self._repair.view()
        first = self._stamps(view)
        self._rebuilding = {id: stamp for id, stamp in first.items() if stamp.rebuilding}
        walk = Walk(
            self._repair.crowd, self._errands.reachable(view), timeout=self._repair.timeout, stop=self._over
        )
        self._work(self._differences(walk))
        self._errands.leave_out({id: str(error) for id, error in walk.unreachable.items()})
        self._looked = round(walk.names * walk.share)
        asked: set[str] = set()
        if not self._over():
            asked = self._same(first, walk.asked & first.keys())
            self._ended = walk.ended and self._repair.view().number == self._number == view.number
            self._mark(view, asked)
            self._tell("", REPAIR, walk.names)
        return self._report(walk.asked, asked)

    def names(self, names: list[str]) -> RepairReport:
        self._total = len(names)
        stamps = self._stamps(self._repair.view())
        self._rebuilding = {id: stamp for id, stamp in stamps.items() if stamp.rebuilding}
        self._work(self._looked_at(names))
        self._looked = self._done
        return self._report(self._answered, ())

    def _differences(self, walk: Walk) -> Iterator[Difference]:
        for difference in walk:
            with self._mutex:
                self._total = walk.names
                self._done = min(round(walk.names * walk.share), walk.names)
            yield difference

    def _looked_at(self, names: list[str]) -> Iterator[Difference]:
        for at in range(0, len(names), _PAGE):
            page = names[at : at + _PAGE]
            found = self._under_the_view(partial(self._look_at_all, page))
            for place, name in enumerate(page):
                with self._mutex:
                    self._done += 1
                yield Difference(name, {id: stands[place] for id, stands in found.items()})

    def _look_at_all(self, names: list[str], view: View) -> dict[str, list[Found]]:
        failed: dict[str, str] = {}
        found = self._errands.look(view, names, self._errands.reachable(view), failed)
        self._errands.leave_out(failed)
        self._answered |= set(found)
        return found

    def _work(self, differences: Iterator[Difference]) -> None:
        """Repair what comes, some names at the same time."""

        def work() -> None:
            try:
                while True:
                    with self._turn:
                        difference = None if self._over() else next(differences, None)
                    if difference is None:
                        return
                    self._mend(difference)
            except BaseException as error:  # Ctrl-C, or who is told of the progress: nobody goes on
                self._errors.append(error)
                self._cancel.set()

        threads = [
            threading.Thread(target=work, name="laila-repair") for _ in range(self._repair.parallel - 1)
        ]
        try:
            for thread in threads:
                thread.start()
            work()
            for thread in threads:
                thread.join()
        except BaseException:
            self._cancel.set()
            raise
        if self._errors:
            raise self._errors[0]

    def _report(self, answered: Iterable[str], asked: Iterable[str]) -> RepairReport:
        where = self._where
        return RepairReport(
            looked=self._looked,
            transferred=self._transferred,
            bytes=self._bytes,
            repaired=tuple(self._repaired),
            failed=tuple(self._failed),
            unreachable={where(id): reason for id, reason in sorted(self._errands.unreachable.items())},
            seconds=time.monotonic() - self._started,
            rebuilt=tuple(where(id) for id in self._whole),
            cancelled=self._cancel.is_set(),
            repairs=self._repairs,
            failures=self._failures,
            quorum_failures=self._quorums_lost,
            behind={where(id): self._behind[id] for id in answered},
            left={where(id): self._left[id] for id in answered},
            number=self._number,
            complete=self._ended and not self._over(),
            asked=frozenset(asked),
            incomplete=frozenset(self._rebuilding),
            unknown=self._unknown,
        )

    # -- one name ----------------------------------------------------------------------------------------

    def _mend(self, difference: Difference) -> None:
        name, found = difference.name, dict(difference.found)
        lacking = _lacking(found)
        with self._mutex:
            self._behind.update(lacking)
        self._tell(name, COMPARE)
        mine = {id for id in lacking if self._targets is None or id in self._targets}
        failed = dict.fromkeys(lacking - mine, "")
        if mine and self._names_rate.take(1, self._cancel):
            try:
                failed |= self._under_the_view(lambda view: self._mend_once(view, name, found, mine))
            except Exception as error:  # whatever it is, the other names go on
                failed |= dict.fromkeys(mine, in_words(error))
                with self._mutex:
                    self._unknown += 1
        elif mine:
            failed |= dict.fromkeys(mine, "")
        with self._mutex:
            self._left.update(list(failed))
            for id, reason in failed.items():
                if reason and id not in self._errands.unreachable and not self._cancel.is_set():
                    self._failures += 1
                    if len(self._failed) < LISTED:
                        self._failed.append(Failure(name, self._where(id), reason))
        self._tell(name, REPAIR)

    def _under_the_view(self, work: Callable[[View], T]) -> T:
        """Again under a newer membership, when a replica knows one. Raises MembershipStale when it does not help."""
        for _ in range(_ATTEMPTS):
            view = self._repair.view()
            try:
                return work(view)
            except MembershipStale as error:
                self._repair.stale(error)
                last = error
                if self._repair.view().number <= view.number:
                    break
        raise last

    def _mend_once(self, view: View, name: str, found: dict[str, Found], ids: set[str]) -> dict[str, str]:
        """Bring these replicas up to date; for whom it failed, and why."""
        failed: dict[str, str] = {}
        for _ in range(_ATTEMPTS):
            newest = self._newest(view, name, found, ids)
            try:
                trouble, unsettled = self._bring(view, name, newest, found, ids)
            finally:
                newest.close()
            failed |= trouble
            if not unsettled:
                return failed
            # These became unsure only now, so they may have been among those who were read.
            found, ids = found | unsettled, set(unsettled)
        return failed | dict.fromkeys(ids, "it became unsure again while it was repaired")

    def _newest(self, view: View, name: str, found: Mapping[str, Found], ids: set[str]) -> _Newest:
        """The newest version that there is. Raises QuorumLost when nobody can be helped by what can be had."""
        newest = self._read(view, name, ids)
        try:
            stands = [(one.tag, id, one) for id, one in found.items() if isinstance(one, Stand)]
            for claim, id, stand in sorted(stands, reverse=True):
                if newest.tag is not None and claim <= newest.tag:
                    break
                ahead = self._errands.fetch(view, id, stand, name, newest.tag)
                if ahead is not None:
                    newest.close()
                    newest.copy = ahead
                    break
        except BaseException:
            newest.close()
            raise
        return newest

    def _read(self, view: View, name: str, ids: set[str]) -> _Newest:
        """What a quorum has; without one, what those have who can be asked, if that suffices for somebody."""
        lost = QuorumLost("those that answer and count are no read quorum")
        if view.enough(READ, set(self._errands.reachable(view)) - self._rebuilding.keys()):
            try:
                copy = self._repair.read(name)
                return _Newest(copy, None if copy is None else copy.stand.tag, frozenset(ids))
            except QuorumLost as error:
                lost = error
        asked = [id for id in self._errands.reachable(view) if id not in self._rebuilding]
        looks = self._errands.look(view, [name], asked, {})
        sure = {id: stands[0] for id, stands in looks.items() if not isinstance(stands[0], Unsure)}
        helped = frozenset(id for id in ids - sure.keys() if self._covered(view, sure, id))
        if not helped:
            with self._mutex:
                self._quorums_lost += 1
            self._despair(view)
            raise lost
        stands = [(one.tag, id, one) for id, one in sure.items() if isinstance(one, Stand)]
        for tag, id, stand in sorted(stands, reverse=True):
            copy = self._errands.fetch(view, id, stand, name, None)
            if copy is None:
                raise lost  # it says to have what it does not show: so it is none of those that suffice
            return _Newest(copy, tag, helped, str(lost))
        return _Newest(None, None, helped, str(lost))

    def _covered(self, view: View, sure: Collection[str], id: str) -> bool:
        """Whether no write can have been acknowledged by this replica that none of `sure` has.

        A new one, which is not among the members yet, cannot have acknowledged anything that they do not know.
        """
        new = id in self._rebuilding and all(member.id != id for member in view.members)
        return view.enough(READ, sure) or all(
            sum(member.id not in sure for member in group) < view.quorums.of(WRITE, len(group))
            for group in ((view.members,) if new else view.groups)
        )

    def _bring(
        self, view: View, name: str, newest: _Newest, found: Mapping[str, Found], ids: set[str]
    ) -> tuple[dict[str, str], dict[str, Found]]:
        """Put it to those of `ids` that lack it now. For whom that failed, and who became unsure only now."""
        copy = newest.copy
        failed = {id: self._errands.unreachable[id] for id in ids if id in self._errands.unreachable}
        # One that is being rebuilt says that it is unsure, whatever it has by now.
        there = {id: found[id] for id in ids & self._rebuilding.keys() if id not in failed}
        asked = ids - self._rebuilding.keys()
        there |= {id: stands[0] for id, stands in self._errands.look(view, [name], asked, failed).items()}
        unsure = {id for id, one in there.items() if isinstance(one, Unsure)}
        marks = {id: one.mark for id, one in found.items() if isinstance(one, Unsure)}
        # With another mark it lost something again, perhaps after it was read.
        before = {id for id, one in there.items() if isinstance(one, Unsure) and marks.get(id) == one.mark}
        lacking = [] if copy is None else [id for id, one in there.items() if _less(one, copy.stand.tag)]
        put: set[str] = set()
        if copy is not None and lacking:
            failed |= self._put(view, copy, lacking)
            put = set(lacking) - set(failed)
        doubted = (before | (there.keys() & self._rebuilding.keys())) - newest.counts - set(failed)
        failed |= dict.fromkeys(doubted, newest.doubt)
        settled = before - set(failed)
        if settled:
            self._errands.settle({id: marks[id] for id in settled}, name, newest.tag, failed)
        for id in sorted((put | settled) - set(failed) - (unsure - before)):
            sequence = copy.stand.sequence if copy is not None and id in put else 0
            self._note(Mended(name, self._where(id), sequence, _was(found.get(id))))
        return failed, {id: there[id] for id in unsure - before - set(failed)}

    # -- calls -------------------------------------------------------------------------------------------

    def _stamps(self, view: View) -> dict[str, Stamp]:
        """Who the members that answer are. Whatever is no replica of this store is left alone."""
        wrong: dict[str, str] = {}
        stamps = self._errands.stamps(self._errands.reachable(view), wrong)
        for id, stamp in stamps.items():
            if not stamp.replica:
                wrong[id] = (
                    "it is blank: new, or its disk was exchanged or is not mounted; let it be rebuilt, or replace it"
                )
            elif (stamp.store, stamp.replica) != (view.store, id):
                wrong[id] = f"it is replica {stamp.replica} of store {stamp.store}, not this member"
        self._errands.leave_out(wrong)
        return {id: stamp for id, stamp in stamps.items() if id not in wrong}

    def _same(self, first: Mapping[str, Stamp], asked: set[str]) -> set[str]:
        """Of those that answered everything, who did not lose it meanwhile, and can be asked still."""
        failed: dict[str, str] = {}
        last = self._errands.stamps(asked - self._errands.unreachable.keys(), failed)
        changed = {id for id, stamp in last.items() if stamp != first[id]}
        self._errands.leave_out(failed | dict.fromkeys(changed, "its disk was exchanged meanwhile"))
        return last.keys() - changed

    def _mark(self, view: View, asked: set[str]) -> None:
        """What was rebuilt counts again, if this pass was one over everything that the others have."""
        others = asked - self._rebuilding.keys()
        for id, stamp in self._rebuilding.items():
            wanted = self._targets is None or id in self._targets
            whole = id in asked and id not in self._errands.unreachable and not self._left[id]
            known = self._covered(view, others, id) and self._ended and not self._unknown
            if wanted and whole and known and self._errands.mark(id, stamp, replace(stamp, rebuilding=False)):
                self._whole.append(id)
                self._repair.rebuilt(id)

    def _put(self, view: View, copy: Copy, ids: list[str]) -> dict[str, str]:
        """For whom it failed, and why."""
        tag = copy.stand.tag
        failed: dict[str, str] = {}
        if not self._rate.take(copy.size * len(ids), self._cancel):
            return dict.fromkeys(ids, "it was given up")
        stands = self._errands.put(view, copy, ids, failed)
        for id, stand in stands.items():
            if stand.tag < tag:
                failed[id] = f"it acknowledged version {tag} and says that it has {stand.tag}"
        with self._mutex:
            self._transferred += len(stands)
            self._bytes += len(stands) * copy.size
        return failed

    # -- parts -------------------------------------------------------------------------------------------

    def _despair(self, view: View) -> None:
        """A quorum was lost. Who is away is found out; when they are too many, the rest is not tried."""
        failed: dict[str, str] = {}
        answered = self._errands.stamps(self._errands.reachable(view), failed)
        if not view.enough(READ, answered) and not self._cancel.is_set():
            self._hopeless = True
            self._errands.leave_out(failed)

    def _over(self) -> bool:
        return self._hopeless or self._cancel.is_set()

    def _note(self, mended: Mended) -> None:
        with self._mutex:
            self._repairs += 1
            if len(self._repaired) < LISTED:
                self._repaired.append(mended)

    def _tell(self, name: str, phase: str, done: int | None = None) -> None:
        with self._telling:  # one at a time, and in order
            with self._mutex:
                if done is not None:
                    self._done = self._total = done
                progress = Progress(self._done, max(self._total, self._done), self._bytes, name, phase)
            self._progress(progress)

    def _where(self, id: str) -> str:
        return self._members.get(id, id)


def _lacking(found: Mapping[str, Found]) -> set[str]:
    """Who has less than the newest that was seen, or is unsure."""
    tags = [one.tag for one in found.values() if isinstance(one, Stand)]
    newest = max(tags, default=None)
    return {
        id
        for id, one in found.items()
        if isinstance(one, Unsure) or (newest is not None and _less(one, newest))
    }


def _less(found: Found, tag: Tag) -> bool:
    return not isinstance(found, Stand) or found.tag < tag


def _was(found: Found) -> str:
    if found is None:
        return "missing"
    return "unsure" if isinstance(found, Unsure) else "stale"
