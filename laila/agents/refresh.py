"""Bringing the summary up to date: many registrations with one rewrite.

The format has no appending: to add a text is to write, hash and sign the whole file. So a registration leaves a
marker, an empty file named after agent and sequence, and whoever has the lock next takes all markers that are
there into one new version (a group commit). Whoever finds its own marker gone is in, and need not write.

While the summary is small, `bring_in` returns only when it has the registration. A larger one is rewritten only
when as much is pending as a quarter of it, so that the bytes written grow with the number of agents and not with
its square; what is left over is taken in by the heartbeats (`bring_in_old`), each of which takes in what was
pending at the one before it. So the seed's programs see a new agent at once among a few hundred, and after about
two beats among thousands.

Rules
- A marker is made before its registration and removed after the summary has it. Killed anywhere, it is taken in later.
- Only what somebody trusted signed is taken in; a summary that cannot be believed is set aside and made anew.
- When somebody else than us wrote the summary, everything that is missing in it is put back: the seed's programs lock
  nothing, so what they load, another may have replaced by the time they save.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from ..artifacts import Saved, Signer, read_head
from ..errors import ArtifactError, BadName
from ..shared.trouble import told
from .layout import SUFFIX, SUMMARY, Layout, names_in
from .records import GONE, REGISTRATION
from .register import Register
from .scratch import ABANDONED, Scratch, note
from .setaside import set_aside
from .summary import Contents, Summary
from .trouble import writing
from .turn import Turn, Turns
from .vetting import Text
from .volumeclock import VolumeClock

AT_ONCE = 256
"""Blocks up to which each registration is in the summary when `register` returns."""
SHARE = 4
_NOTE = ".summary"
_ATTEMPTS = 5  # a program that locks nothing saved between our look and our rename


class _Overtaken(Exception):
    """The summary is another one than the one that was read."""


@dataclass(frozen=True, slots=True)
class _Version:
    """A summary: the footer's digest (empty for none), what it says, and its place in the lineage."""

    digest: str = ""
    contents: Contents = field(default_factory=Contents)
    sequence: int = 0
    root: str = ""
    complete: bool = False
    """Whether one of ours wrote it, and so left nobody out."""


class Refresh:
    """Keeps the summary of one directory up to date."""

    def __init__(
        self,
        layout: Layout,
        register: Register,
        summary: Summary,
        clock: VolumeClock,
        scratch: Scratch,
        turns: Callable[[], Turns],
        signer: Signer,
    ) -> None:
        self._layout = layout
        self._register = register
        self._summary = summary
        self._clock = clock
        self._scratch = scratch
        self._turns = turns
        self._signer = signer
        self._written = _Version()
        self._pending_before: frozenset[str] = frozenset()

    def mark(self, agent_id: str, sequence: int) -> str:
        """Note that this registration is to be taken in; its marker. Raises StorageError."""
        marker = self._layout.marker(agent_id, sequence)
        self._layout.make(self._layout.pending)
        note(marker)
        return marker.name

    def bring_in(self, marker: str) -> None:
        """Take in this registration, and all others that are pending, unless that is put off.

        Raises: LockTimeout, LockLost, LockUnavailable, StorageError; the registration stands nevertheless.
        """
        if not self._due():
            return
        with self._turns().take("agent_states.maif") as turn:
            if (self._layout.pending / marker).exists() and self._due():
                self._rewrite(turn)

    def bring_in_old(self) -> None:
        """Take in what was pending before the last call, unless somebody else is at it. Raises as `bring_in`."""
        pending = frozenset(self._markers())
        old, self._pending_before = pending & self._pending_before, pending
        if old:
            with self._turns().take_if_free("agent_states.maif") as turn:
                if turn is not None and any((self._layout.pending / name).exists() for name in old):
                    self._rewrite(turn)

    def _due(self) -> bool:
        count = self._summary.count()
        return count <= AT_ONCE or len(self._markers()) * SHARE >= count

    def _rewrite(self, turn: Turn) -> None:
        for _ in range(_ATTEMPTS - 1):
            with contextlib.suppress(_Overtaken):
                self._attempt(turn, again=True)
                return
        self._attempt(turn, again=False)

    def _attempt(self, turn: Turn, *, again: bool) -> None:
        before = self._before()
        agents = dict(before.contents.agents)
        taken = self._take_pending(agents)
        if not before.complete:
            self._put_back(agents)
        if agents != before.contents.agents:
            contents = Contents(agents, before.contents.others)
            saved = self._save(turn, contents, before, checked=again)
            self._written = _Version(saved.digest, contents, saved.sequence, saved.root, complete=True)
            self._keep_note(saved.digest)
        with writing(f"clean up in {self._layout.pending}"):
            for marker in taken:
                (self._layout.pending / marker).unlink(missing_ok=True)
        self._scratch.sweep()

    def _before(self) -> _Version:
        """The summary that is there now; one that cannot be believed is set aside."""
        digest = self._digest()
        if digest and digest == self._written.digest:
            return self._written
        try:
            contents = self._summary.read()
        except ArtifactError as error:
            set_aside(self._layout, self._layout.summary, error)
            return _Version()
        signed = contents.signed
        if signed is None:
            return _Version()
        complete = signed.digest == self._noted()
        return _Version(signed.digest, contents, signed.sequence, signed.root, complete)

    def _take_pending(self, agents: dict[str, Text]) -> list[str]:
        """Put pending registrations among `agents`; the markers that are done with."""
        done = []
        oldest = self._clock.now() - ABANDONED
        for marker in self._markers():
            agent_id, _, number = marker.rpartition(".")
            sequence = int(number) if number.isascii() and number.isdigit() else -1
            if sequence < 0 or self._take(agents, agent_id, sequence) or sequence < oldest:
                done.append(marker)
        return done

    def _take(self, agents: dict[str, Text], agent_id: str, least: int) -> bool:
        """Whether the registration, or one after it, was there; its writer may be about to publish it."""
        try:
            found = self._register.find(agent_id)
        except (ArtifactError, BadName):
            return True  # nothing to be taken in; listings say what is wrong with it
        if found is None or found.registration.sequence < least:
            return False
        if found.registration.status == GONE:
            agents.pop(agent_id, None)
        else:
            agents[agent_id] = Text(f"{REGISTRATION}: {agent_id}", found.signed.texts[0].text)
        return True

    def _put_back(self, agents: dict[str, Text]) -> None:
        for agent_id in names_in(self._layout.agents, SUFFIX):
            self._take(agents, agent_id, 0)

    def _markers(self) -> list[str]:
        return names_in(self._layout.pending, checked=False)

    def _save(self, turn: Turn, contents: Contents, before: _Version, *, checked: bool) -> Saved:
        artifact = contents.artifact()
        last = (
            before.sequence if before.digest else self._clock.now()
        )  # above those of one that was set aside
        artifact.name_as(SUMMARY, sequence=last + 1, parent=before.root, fence=turn.fence)

        def guard() -> None:
            self._layout.require()
            turn.guard(self._layout.summary)
            if checked and before.digest != self._digest():
                raise _Overtaken

        return artifact.save(self._layout.summary, key=self._signer, before_publish=guard)

    def _digest(self) -> str:
        """Of the summary that is there now; empty when there is none."""
        try:
            with told(f"read {self._layout.summary}"):
                return read_head(self._layout.summary).digest
        except (FileNotFoundError, ArtifactError):
            return ""

    def _keep_note(self, digest: str) -> None:
        """Note which summary was the last of ours. A lost or torn note only costs looking at all registrations."""
        note(self._layout.agents / _NOTE, digest.encode("ascii"))

    def _noted(self) -> str:
        path = self._layout.agents / _NOTE
        try:
            with told(f"read {path}"):
                return path.read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            return ""
