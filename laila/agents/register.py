"""Who is registered, under which key, and who of them is alive.

The truth is one signed file per agent, so reading needs neither a lock nor the right to write, and a thousandth
agent costs what the first did. Who is alive is told by the volume's clock and the beats, with the expiry that
each agent signed for itself. What cannot be believed is listed as what it is and never served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..errors import ArtifactCorrupt, ArtifactError, RolledBack, Unsigned, UntrustedSigner
from .beats import Beat
from .layout import BEAT_SUFFIX, SUFFIX, Layout, names_in
from .records import GONE, Registration, iso
from .summary import Summary
from .vetting import Vetted, Vetting
from .volumeclock import VolumeClock


class Status(StrEnum):
    """What is to be thought of an agent or a result."""

    ACTIVE = "active"
    EXPIRED = "expired"
    GONE = "gone"
    OK = "ok"
    UNTRUSTED = "untrusted"
    UNSIGNED = "unsigned"
    ROLLED_BACK = "rolled back"
    DAMAGED = "damaged"


def status_of(error: ArtifactError) -> Status:
    """How a listing calls what an error keeps from being served."""
    kinds = {UntrustedSigner: Status.UNTRUSTED, Unsigned: Status.UNSIGNED, RolledBack: Status.ROLLED_BACK}
    return next((status for kind, status in kinds.items() if isinstance(error, kind)), Status.DAMAGED)


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A registration that is believed, and who signed it."""

    registration: Registration
    signed: Vetted

    @property
    def keys(self) -> frozenset[str]:
        """The keys (hex) that may speak for this agent."""
        return frozenset({self.signed.signer, *self.registration.former_keys})


@dataclass(frozen=True, slots=True)
class Known:
    """An agent as it was found. `age`: seconds since its last beat by the volume's clock; None when it never beats."""

    agent_id: str
    status: Status
    enrolled: Enrolled | None = None
    age: float | None = None
    problem: str = ""

    def describe(self, wall: float) -> dict[str, Any]:
        """As a map: the seed's keys and ours. `wall`: this node's time, for `last_seen`."""
        found: dict[str, Any] = {
            "agent_id": self.agent_id,
            "registered_at": None,
            "status": str(self.status),
            "capabilities": [],
            "metadata": {},
            "last_seen": None if self.age is None else iso(wall - self.age),
            "age": None if self.age is None else round(self.age, 3),
        }
        found |= dict.fromkeys(("expiry", "node", "host", "pid", "signed_by", "signer"))
        if self.enrolled is not None:
            registration, signed = self.enrolled.registration, self.enrolled.signed
            found |= {
                "registered_at": registration.registered_at,
                "capabilities": list(registration.capabilities),
                "metadata": dict(registration.metadata),
                "expiry": registration.expiry or None,
                "node": registration.node or None,
                "host": registration.host or None,
                "pid": registration.pid or None,
                "signed_by": signed.signed_by,
                "signer": signed.signer,
            }
        return found | {"problem": self.problem or None}


class Register:
    """The registrations in one directory, for one reader. Safe under threads."""

    def __init__(self, layout: Layout, vetting: Vetting, clock: VolumeClock, summary: Summary) -> None:
        self._layout = layout
        self._vetting = vetting
        self._clock = clock
        self._summary = summary
        self._seen: dict[str, int] = {}
        self.put_forward: Callable[[], object] = lambda: None
        """Called when the clock was found to have stood still: whoever beats here must beat at the new time."""

    def find(self, agent_id: str, *, expected: bool = False) -> Enrolled | None:
        """The registration of an agent; None when there is none.

        Raises: UntrustedSigner, Unsigned, ArtifactCorrupt, RolledBack (a newer one was seen before),
        StorageError.
        """
        path = self._layout.registration(agent_id)
        signed = self._vetting.read(path, full=False, expected=expected)
        if signed is None:
            return None
        registration = _registration(signed, agent_id, path)
        if registration.sequence < self._seen.get(agent_id, 0):
            raise RolledBack(
                f"{path} is an older registration of {agent_id!r} than one seen before; have the agent register again",
                path=str(path),
            )
        self._seen[agent_id] = registration.sequence
        return Enrolled(registration, signed)

    def keys(self, agent_id: str) -> frozenset[str]:
        """The keys (hex) that may speak for an agent; none when nobody believed has registered it."""
        try:
            found = self.find(agent_id)
        except ArtifactError:
            return frozenset()
        return frozenset() if found is None else found.keys

    def alive(self, enrolled: Enrolled) -> bool:
        """Whether the agent has not deregistered and its last beat is younger than its expiry. Raises StorageError."""
        return self.judged(enrolled).status is Status.ACTIVE

    def judged(self, enrolled: Enrolled) -> Known:
        """Whether it is alive, and since when it was not seen. Raises StorageError."""
        return self._judge([enrolled])[0]

    def all(self) -> list[Known]:
        """Every agent, by its id: of our own files, and of what the seed's programs wrote. Raises StorageError."""
        self._layout.require()
        found: list[Known] = []
        enrolled: list[Enrolled] = []
        names = names_in(self._layout.agents, SUFFIX)
        for agent_id in names:
            try:
                one = self.find(agent_id, expected=True)
            except ArtifactError as error:
                found.append(Known(agent_id, status_of(error), problem=str(error)))
            else:
                enrolled += [one] if one is not None else []
        found += self._judge(enrolled)
        found += self._of_seed(set(names))
        return sorted(found, key=lambda known: known.agent_id)

    def _judge(self, agents: list[Enrolled]) -> list[Known]:
        ages = self._ages(agents)
        lively = [one.registration for one in agents if one.registration.status != GONE]
        doubtful = [one.expiry for one in lively if ages[one.agent_id] < one.expiry]
        if doubtful and self._clock.settle(max(doubtful)):
            if self._clock.stood:
                self.put_forward()
            ages = self._ages(agents)
        return [_known(one, ages[one.registration.agent_id]) for one in agents]

    def _ages(self, agents: list[Enrolled]) -> dict[str, float]:
        """Seconds since each agent's last beat."""
        last = {one.registration.agent_id: self._last(one.registration) for one in agents}
        self._clock.look()
        self._clock.at_least(max(last.values(), default=0))
        now = self._clock.now()
        return {agent_id: max(0, now - at) / 1000 for agent_id, at in last.items()}

    def catch_up(self) -> None:
        """Tell the clock what the beats say, for whoever finds no clock to go on from. Raises StorageError."""
        for agent_id in names_in(self._layout.agents, BEAT_SUFFIX):
            beat = Beat.read(self._layout.beat(agent_id))
            self._clock.at_least(0 if beat is None else beat.at)

    def _last(self, registration: Registration) -> int:
        """Until when, by the volume's clock, the agent was certainly alive."""
        if registration.status == GONE:
            return registration.at
        beat = Beat.read(self._layout.beat(registration.agent_id))
        return registration.at if beat is None else max(beat.at, registration.at)

    def _of_seed(self, ours: set[str]) -> Iterator[Known]:
        """Agents that the seed's programs registered: they never beat, so they are what they say."""
        try:
            contents = self._summary.read(strangers=True)
        except ArtifactError as error:
            yield Known("", status_of(error), problem=str(error))
            return
        for registration in contents.of_seed():
            if registration.agent_id in ours:
                continue
            assert contents.signed is not None  # there is content, so somebody signed it
            status = Status.GONE if registration.status == GONE else Status.ACTIVE
            problem = ""
            if not contents.signed.why:
                status = Status.UNTRUSTED
                problem = f"{self._layout.summary} was signed by {contents.signed.signed_by}"
            yield Known(registration.agent_id, status, Enrolled(registration, contents.signed), None, problem)


def _known(enrolled: Enrolled, age: float) -> Known:
    registration = enrolled.registration
    status = Status.ACTIVE if age < registration.expiry else Status.EXPIRED
    if registration.status == GONE:
        status = Status.GONE
    return Known(registration.agent_id, status, enrolled, age)


def _registration(signed: Vetted, agent_id: str, path: Path) -> Registration:
    try:
        registration = Registration.parse(signed.texts[0].text if signed.texts else "")
    except ValueError as error:
        raise ArtifactCorrupt(
            f"{path} is signed but holds no registration: {error}", path=str(path)
        ) from error
    version = signed.version
    if version is None or (version.name, version.sequence) != (agent_id, registration.sequence):
        raise ArtifactCorrupt(
            f"{path} holds another file than the registration of {agent_id!r}", path=str(path)
        )
    if registration.agent_id != agent_id:
        raise ArtifactCorrupt(f"{path} is the registration of {registration.agent_id!r}", path=str(path))
    return registration
