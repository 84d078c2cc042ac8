"""A store of signed artifacts on replicas that agree.

The interface of the first store of this kind (`save`, `load`, `verify_replicas`), and what people ask for beside it.
How a name is written and read is in register.py, which replicas there are in membership.py, how those that fell behind
catch up in repair.py and keeper.py, and what one replica promises in replica.py.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..active import present
from ..artifacts import Artifact, Signer, TrustSet, Version, default_identity
from ..artifacts.trust import known_secret
from ..errors import (
    AlreadyPublished,
    ArtifactNotFound,
    BadConfig,
    BadName,
    BadValue,
    Closed,
    LailaError,
    MembershipStale,
    QuorumLost,
)
from ..names import check_name
from ..shared.private import cache_home, private_directory
from .acceptance import accept
from .asynchronous import Asynchronous
from .calls import Crowd
from .comparison import Comparison, compare_all
from .copies import Copy
from .hints import Hints
from .keeper import Keeper
from .locations import Locations, Place, close_quietly, where_of
from .members import Members
from .membership import NAME
from .opening import open_membership
from .pace import Pace
from .register import Register
from .repair import Progress, Repair, RepairReport
from .replica import Health, Replica
from .scrub import ScrubReport, scrub
from .state import describe
from .succession import follow, tombstone
from .tags import Unsure
from .verification import compare
from .views import Member, Quorums, View

if TYPE_CHECKING:
    from ..policy import DefaultPolicy
    from ..transport.identity import Identity
    from .changes import Changes


log = logging.getLogger("laila.replication")
SETTLED = 2.0
"""Seconds that verifying waits for puts of the name that this store has under way itself."""


class ReplicatedStore(Asynchronous):
    """Artifacts by name on `replicas`: each a directory, `laila://NODE/STORE`, a Pool or `pool:NICKNAME`, mixed.

    As long as a majority of them answers, every name behaves like one register in one place: what `save` acknowledged
    is what `load` gives, or something newer, through whichever program; a replica that was away, lost its disk or was
    damaged is healed. Without a majority nothing is claimed: `QuorumLost`.

    `write_quorum`, `read_quorum`: other numbers than majorities; they must meet (their sum above the number of
    replicas) unless `allow_stale_reads`, which gives up the promise above. `identity` signs (default: this node's or
    user's); `secret`, the cluster's, lets others trust that, and this store trust theirs; `trust` says otherwise whom
    to trust. `policy`: whose links and pools to use (default: the active one, where there is one). `timeout`: seconds
    that a save or a load may take. `state`: a private directory for what is owed to replicas that were away. With
    `background`, they are healed by a thread of this store; else by `repair`, by later reads and by their nodes.
    `caring_for`: ids of the members that this thread is to look after first, as those of a node's own; none: all.
    `found`: whether a store may begin here, where all that is listed is new; without it that is QuorumLost.

    The replicas that are listed when the store is used for the first time are its members from then on; see
    `add_replica`. Raises: QuorumLost, MixedReplicas, BadConfig, StorageError.
    """

    def __init__(
        self,
        replicas: Sequence[Place],
        *,
        write_quorum: int | None = None,
        read_quorum: int | None = None,
        allow_stale_reads: bool = False,
        identity: Identity | None = None,
        trust: TrustSet | None = None,
        secret: str | None = None,
        policy: DefaultPolicy | None = None,
        timeout: float = 30.0,
        state: str | os.PathLike[str] | None = None,
        background: bool = True,
        caring_for: Collection[str] = (),
        found: bool = True,
    ) -> None:
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < 1e9:
            raise BadConfig(f"timeout is a number of seconds above 0, not {timeout!r}")
        self._given = _labels(replicas)
        quorums = Quorums(write_quorum, read_quorum, allow_stale_reads)
        quorums.check(len(self._given))
        who = identity or default_identity()
        self._signer = Signer.of(who, secret or known_secret())
        self._trust = trust or TrustSet.default(who, secret)
        self._timeout = float(timeout)
        self._state = None if state is None else Path(state)
        self._background = background
        self._caring_for = frozenset(caring_for)
        self._lock = threading.Lock()
        self._keeper: Keeper | None = None
        self._own_state: Path | None = None
        self._closed = False
        self._locations = Locations(
            self._trust, policy=policy or present(), secret=secret, timeout=self._timeout
        )
        opened: list[Replica] = []
        try:
            opened += [self._locations.open(place) for place in replicas]
            opening = open_membership(
                opened,
                self._locations.open,
                signer=self._signer,
                trust=self._trust,
                quorums=quorums,
                timeout=self._timeout,
                found=found,
            )
        except BaseException:
            close_quietly(opened)
            self._locations.close()
            raise
        close_quietly(opening.spare)
        self._membership = opening.membership
        self._crowd = Crowd({})
        self._members = Members(
            self._crowd, self._membership, self._locations.open, self._trust, self._timeout
        )
        self._members.follow(opening.known)
        self._register = Register(
            self._crowd,
            lambda: self.view,
            self._trust,
            timeout=self._timeout,
            stale=self._stale,
            vet=self._members.vet,
            rebuilding=self._members.rebuilding,
            owe=self._owe,
        )
        self._repair = Repair(
            self._crowd,
            lambda: self.view,
            self._trust,
            partial(self._register.read, spread=False),
            stale=self._stale,
            rebuilt=lambda id: self._members.vet_again(),
            timeout=self._timeout,
        )
        self._members.on_rebuilding = self._rebuild
        if background and self._hints().owed():
            self.keeper.wake()

    # -- the seed's three --------------------------------------------------------------------------------

    def save(self, name: str, artifact: Artifact) -> Version:
        """Save the artifact as the next version of `name`, on a write quorum at least, durably; the version.

        One that was loaded from here must have been loaded at the version that is still the newest: else
        AlreadyPublished. Two saves that overlap in time both succeed, and one of them is the newest. When it raises
        QuorumLost nobody knows whether it will be seen; save the same artifact again when replicas answer.
        Raises: BadName, BadValue, AlreadyPublished, QuorumLost, UntrustedSigner, ArtifactCorrupt, StorageError.
        """
        self._name(name)
        if not isinstance(artifact, Artifact):
            raise BadValue(
                f"save takes an artifact, such as create_maif() makes, not {type(artifact).__name__}"
            )
        with self._watching():
            deadline = time.monotonic() + self._timeout
            newest = self._register.newest(name, deadline)
            try:
                follow(name, artifact, newest, self._signer)
            except AlreadyPublished:  # unless only somebody says so
                follow(name, artifact, self._register.agreed(name, deadline), self._signer)
            with Copy.encode(name, artifact, self._signer, self._trust) as copy:
                self._register.write(copy, deadline)
        version = artifact.version
        assert version is not None  # follow() named it
        return version

    def load(self, name: str) -> Artifact:
        """The newest version, verified, which a write quorum has by now.

        Raises: ArtifactNotFound (a FileNotFoundError) when there never was one or it was forgotten, QuorumLost,
        RolledBack when this program has seen a newer one, BadName.
        """
        self._name(name)
        with self._watching():
            copy = self._register.read(name)
        if copy is None:
            raise ArtifactNotFound(f"Artifact {name} not found in any replica")
        with copy:
            if copy.stand.gone:
                raise ArtifactNotFound(
                    f"Artifact {name} not found: it was forgotten (version {copy.stand.sequence})"
                )
            return copy.artifact(self._trust)

    def verify_replicas(self, name: str) -> dict[str, dict[str, Any]]:
        """What each replica has under a name, every byte read and verified there; by the replica as it was given.

        `exists`, `valid` (whole, and signed by somebody trusted), `version`, `digest` (SHA-256, hex), `lag` (versions
        behind the newest, None when that cannot be told), `error` (words; empty when it has the newest). Changes
        nothing. Never raises for what replicas do, or do not.
        """
        self._name(name)
        view = self.view

        def call(id: str, replica: Replica) -> Health:
            self._members.vet(view, id, replica)
            return replica.check(name, view.number)

        self._register.settle_down(name, SETTLED)
        ids = [member.id for member in view]
        answers = self._crowd.ask(ids, call, lambda answers: False, self._timeout)
        return compare(answers, {member.id: self._label(member) for member in view})

    # -- and more ----------------------------------------------------------------------------------------

    def forget(self, name: str, *, missing_ok: bool = False) -> None:
        """Forget an artifact. Versions that lie on replicas that are away now do not come back.

        Raises: ArtifactNotFound, unless `missing_ok`; QuorumLost, as `save`.
        """
        self._name(name)
        with self._watching():
            deadline = time.monotonic() + self._timeout
            newest = self._register.agreed(name, deadline)
            if newest is None or newest.gone:
                if missing_ok:
                    return
                raise ArtifactNotFound(f"Artifact {name} not found in any replica, so it cannot be forgotten")
            with Copy.encode(name, tombstone(name, newest), self._signer, self._trust) as copy:
                self._register.write(copy, deadline)

    def names(self, *, settled: bool = True) -> list[str]:
        """Of the artifacts that there are, sorted. Without `settled`: whatever any replica of a read quorum lists, also
        what was forgotten meanwhile; then nothing is put anywhere, as a load might. Raises QuorumLost.
        """
        self._require_open()
        with self._watching():
            return self._register.names(settled=settled)

    def exists(self, name: str) -> bool:
        """Whether `load` would find one. Raises QuorumLost, BadName."""
        self._name(name)
        with self._watching():
            newest = self._register.agreed(name)
        return newest is not None and not newest.gone

    def version(self, name: str) -> Version | None:
        """The newest version's number, root and time; None for a file without a lineage. Raises as `load`."""
        return self.load(name).version

    def history(self, name: str) -> tuple[Version, ...]:
        """The versions in the newest one's lineage, oldest first. Raises as `load`."""
        return self.load(name).history

    def watch(self, name: str, *, timeout: float | None = None, interval: float = 0.5) -> Iterator[Artifact]:
        """Each new version as it comes, beginning with the one that is there; ends after `timeout` seconds without one.

        Looks every `interval` seconds; of versions that come faster, the newest. While there is none, or no quorum
        answers, it waits.
        """
        self._name(name)
        if not interval > 0:
            raise BadValue(f"interval is a number of seconds above 0, not {interval!r}")
        return self._watch(name, timeout, interval)

    def _watch(self, name: str, timeout: float | None, interval: float) -> Iterator[Artifact]:
        last = None
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            self._require_open()
            try:
                newest = self._register.newest(name)
                if newest is not None and not newest.gone and (last is None or newest.tag > last):
                    copy = self._register.read(name)
                    if copy is not None:
                        with copy:
                            last = copy.stand.tag
                            artifact = None if copy.stand.gone else copy.artifact(self._trust)
                        if artifact is not None:
                            yield artifact
                            end = None if timeout is None else time.monotonic() + timeout
                            continue
            except QuorumLost:
                pass  # it comes back, or the time is over
            left = interval if end is None else min(interval, end - time.monotonic())
            if left <= 0:
                return
            time.sleep(left)

    def forget_seen(self, name: str) -> None:
        """Take what the replicas have for the newest: for who restored older states on purpose."""
        self._name(name)
        self._register.forget_seen(name)

    # -- care --------------------------------------------------------------------------------------------

    def repair(
        self,
        *names: str,
        rate: float | None = None,
        progress: Callable[[Progress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> RepairReport:
        """Bring every replica to the newest version of these names, or of all. `rate`: bytes a second at most.

        Of all names, those that agree cost nothing but one comparison of digests: `scrub` finds damage that nobody has
        read. Names that are given are read byte for byte on each replica first. Damaged files are kept in quarantine.
        What could not be done is in the report.
        """
        self._require_open()
        self._vet()
        pace = None if rate is None else Pace(rate)
        if names:
            self._distrust_damaged([self._name(name) for name in names])
            return self._repair.names(
                [self._name(name) for name in names], rate=pace, progress=progress, cancel=cancel
            )
        report = self._repair.everything(rate=pace, progress=progress, cancel=cancel)
        if report.rebuilt:
            self._renew()
        return report

    def compare(self) -> Comparison:
        """How all names compare over all replicas, by digests: no content is read."""
        self._require_open()
        self._vet()
        return compare_all(self._crowd, self.view, self._label, self._timeout)

    def accept(self, name: str) -> Version | None:
        """Take what is left of a name for the truth, when a majority lost it: see acceptance.py. None: nothing is left.

        Never needed while a majority has it. Raises QuorumLost when a majority does not answer.
        """
        self._name(name)
        self._vet()
        stand = accept(self._crowd, self.view, name, self._timeout)
        self._register.forget_seen(name)
        return None if stand is None or stand.gone else self.version(name)

    def scrub(
        self,
        *,
        rate: float | None = None,
        progress: Callable[[Progress], None] | None = None,
        cancel: threading.Event | None = None,
    ) -> ScrubReport:
        """Let every replica read and verify all its bytes at rest, and repair what is damaged."""
        self._require_open()
        self._vet()
        pace = None if rate is None else Pace(rate)
        return scrub(self._repair, rate=pace, progress=progress or _untold, cancel=cancel)

    def status(self, *, timeout: float | None = None) -> dict[str, Any]:
        """Whether a quorum is there, and how each replica is; see state.py. JSON-ready. Reads no content.

        Replicas that do not answer within `timeout` seconds (the store's, unless it is given) are called unreachable.
        """
        self._require_open()
        patience = self._timeout if timeout is None else timeout
        return describe(self._crowd, self.view, self._members, self._label, self._trust, patience)

    @property
    def keeper(self) -> Keeper:
        """What heals replicas in the background; started by whoever asks for it first."""
        with self._lock:
            if self._closed:
                raise Closed("this store was closed; open it again")
            if self._keeper is None:
                self._keeper = Keeper(
                    self._repair,
                    self._hints(),
                    mine=self._caring_for,
                    state=self._private(),
                    rebuilt=self._renew,
                )
            return self._keeper

    # -- members -----------------------------------------------------------------------------------------

    @property
    def view(self) -> View:
        """The membership: its number, members, and the next ones while it changes."""
        return self._membership.view

    @property
    def members(self) -> tuple[Member, ...]:
        """The replicas: id and where."""
        return self.view.everybody

    def add_replica(self, place: Place, *, progress: Callable[[str], None] | None = None) -> View:
        """Take in another replica. It counts once it has everything that was acknowledged. The new membership.

        `progress` is told in words how far it is. Raises: MembershipBusy when another change came first or is under
        way, QuorumLost (what was begun is finished by `resume_change`), MixedReplicas, BadConfig.
        """
        return self._changes().add(self._placed(place), progress)

    def remove_replica(
        self, where: str, *, lost: bool = False, progress: Callable[[str], None] | None = None
    ) -> View:
        """Let a replica go, by where it is or its id. `lost`: it is gone for ever, so it need not be told.

        Raises as `add_replica`.
        """
        return self._changes().remove(where, lost=lost, progress=progress)

    def replace_replica(
        self,
        where: str,
        place: Place,
        *,
        lost: bool = False,
        progress: Callable[[str], None] | None = None,
    ) -> View:
        """Let a replica go and take in another one for it, in one change. Raises as `add_replica`."""
        return self._changes().replace(where, self._placed(place), lost=lost, progress=progress)

    def renew_members(self, *, lost: bool = False, progress: Callable[[str], None] | None = None) -> View:
        """Let members that lost everything and were rebuilt vote on the next change of the members again.

        That is done by itself after each rebuild. Where a majority lost its vote before it could be done, no change is
        possible any more; `lost` is the operator's word that no program is changing the members now, nor one that was
        when the votes were lost: then all members, which must answer, get a vote. Raises as `add_replica`.
        """
        return self._changes().renew(lost=lost, progress=progress)

    def cancel_change(self, *, progress: Callable[[str], None] | None = None) -> View:
        """Undo a change whose program died half-way: the members before it stay. Raises as `add_replica`."""
        return self._changes().cancel(progress=progress)

    def resume_change(self, *, lost: bool = False, progress: Callable[[str], None] | None = None) -> View:
        """Finish a change whose program died half-way. Raises as `add_replica`."""
        return self._changes().resume(lost=lost, progress=progress)

    # -- closing -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let calls under way end, then let go of everything. Idempotent; loaded artifacts stay usable."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            keeper = self._keeper
        if keeper is not None:
            keeper.close()
        self._crowd.close()
        self._members.close()
        self._locations.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        view = self.view
        closed = " closed" if self._closed else ""
        return f"<ReplicatedStore {view.store[:8]}… of {len(view.everybody)} replicas{closed}>"

    # -- parts -------------------------------------------------------------------------------------------

    def _name(self, name: str) -> str:
        self._require_open()
        check_name("artifact", name)
        if name == NAME:
            raise BadName(f"{NAME!r} is the name of the store's own membership document; choose another")
        return name

    def _require_open(self) -> None:
        if self._closed:
            raise Closed("this replicated store was closed; open it again")

    def _distrust_damaged(self, names: Sequence[str]) -> None:
        """Let replicas find out what is damaged of these."""
        number = self.view.number

        def call(id: str, replica: Replica) -> None:
            for name in names:
                health = replica.check(name, number)
                found = health.found
                marked = isinstance(found, Unsure) and found.mark
                if found is not None and not health.valid and not marked:
                    replica.distrust(name, health.error or "it is damaged")

        ids = [member.id for member in self.view]
        self._crowd.ask(ids, call, lambda answers: False, self._timeout)

    def _vet(self) -> None:
        """Let blank members be enrolled before they are looked after."""
        view = self.view
        ids = [member.id for member in view]
        self._crowd.ask(
            ids,
            lambda id, replica: self._members.vet(view, id, replica),
            lambda answers: False,
            self._timeout,
        )

    def _label(self, member: Member) -> str:
        return self._given.get(member.where, member.where)

    @contextlib.contextmanager
    def _watching(self) -> Iterator[None]:
        """Count what had no quorum."""
        try:
            yield
        except QuorumLost:
            keeper = self._keeper
            if keeper is not None:
                keeper.note_quorum_lost()
            raise

    def _stale(self, error: MembershipStale) -> None:
        if self._membership.adopt(error.document):
            self._members.follow()

    def _owe(self, id: str, name: str) -> None:
        """Note what a replica missed; without a thread of one's own the next repair finds it."""
        if self._background and not self._closed:
            with contextlib.suppress(Closed):
                self.keeper.owe(id, name)

    def _rebuild(self, id: str) -> None:
        if self._background and not self._closed:
            with contextlib.suppress(Closed):
                self.keeper.wake(id)

    def _private(self) -> Path:
        """Where this program notes what it owes."""
        if self._own_state is None:
            base = self._state if self._state is not None else cache_home()
            self._own_state = private_directory(base, f"replicas-{self.view.store}")
        return self._own_state

    def _hints(self) -> Hints:
        return Hints(self._private() / "owed")

    def _changes(self) -> Changes:
        self._require_open()
        from .changes import Changes  # few programs change a membership

        return Changes(
            self._crowd,
            self._membership,
            signer=self._signer,
            trust=self._trust,
            open=self._locations.open,
            follow=lambda view, known: self._members.follow(known),
            catch_up=self._catch_up,
            timeout=self._timeout,
        )

    def _renew(self) -> None:
        """A replica that lost everything and was rebuilt is to have a vote on the next membership again."""
        try:
            self._changes().renew()
        except (
            LailaError
        ) as error:  # it is tried again after the next rebuild, and by whoever changes the members
            log.info("a rebuilt replica has no vote yet", extra={"reason": str(error)})

    def _placed(self, place: Place) -> str | Replica:
        where = where_of(place)
        return where if isinstance(place, str | os.PathLike) else self._locations.open(place)

    def _catch_up(self, view: View) -> None:
        """Bring every name to a write quorum of the next members before they count."""
        report = self._repair.everything()
        if lacking := report.caught_up(view):
            raise QuorumLost(
                f"the next replicas could not be brought up to date: {lacking}", reasons=report.unreachable
            )


def _labels(replicas: Sequence[Place]) -> dict[str, str]:
    """What each was called by its caller, by where it is. Raises BadConfig."""
    if isinstance(replicas, str | bytes | os.PathLike) or not isinstance(replicas, Sequence) or not replicas:
        raise BadConfig(
            "give a list of replicas, such as ['/data/primary', '/data/backup1', '/data/backup2'], not "
            f"{replicas!r}"
        )
    labels: dict[str, str] = {}
    for place in replicas:
        where = where_of(place)
        if where in labels:
            raise BadConfig(f"{where} is listed twice; a replica that is lost would be lost twice")
        labels[where] = os.fspath(place) if isinstance(place, str | os.PathLike) else where
    return labels


def _untold(progress: Progress) -> None:
    """Nobody wants to know."""
