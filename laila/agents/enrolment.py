"""Writing registrations: the first key that registers an agent owns the name while the agent lives.

A new agent needs no lock: its file gets its name by a hard link, which exactly one of any number of registrants
obtains. To replace a registration takes the lock, because it depends on what is there: the same key may always do
it, another key only when the agent has deregistered or has not beaten for as long as it said that it would. The
keys before stay in the registration, so that what they published is still believed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

from ..artifacts import Signer, create_maif
from ..artifacts.layout import MAX_AGENT_ID
from ..errors import ArtifactError, ArtifactNotFound, Denied, StorageError
from .layout import Layout
from .records import ACTIVE, GONE, MAX_FORMER_KEYS, REGISTRATION, Registration
from .refresh import Refresh
from .register import Enrolled, Register
from .scratch import NoHardLinks, Scratch, place_new, sync
from .scratch import replace as replace_file
from .setaside import set_aside
from .turn import Turn, Turns

_ATTEMPTS = 5  # between moving away what cannot be believed and registering, somebody else may register


def author(agent_id: str) -> str:
    """The agent's id as artifacts can carry it: itself, or a digest where it is too long or not ASCII."""
    if agent_id.isascii() and agent_id.isprintable() and len(agent_id) <= MAX_AGENT_ID:
        return agent_id
    return f"agent-{hashlib.sha256(agent_id.encode()).hexdigest()[:32]}"


class Enrolment:
    """Writes the registrations of whoever signs with `signer`."""

    def __init__(
        self,
        layout: Layout,
        register: Register,
        refresh: Refresh,
        scratch: Scratch,
        turns: Callable[[], Turns],
        signer: Signer,
    ) -> None:
        self._layout = layout
        self._register = register
        self._refresh = refresh
        self._scratch = scratch
        self._turns = turns
        self._signer = signer

    def enter(self, wanted: Registration) -> tuple[Registration, str]:
        """Register; the registration as it was written, and its marker. `wanted.at` is now.

        Raises: Denied when another key owns the name, LockTimeout, LockLost, LockUnavailable, StorageError.
        """
        if not self._layout.registration(wanted.agent_id).exists():
            entered = self._enter_first(None, wanted)
            if entered is not None:
                return entered
        with self._turns().take(f"the registration of {wanted.agent_id}") as turn:
            for _ in range(_ATTEMPTS):
                before = self._standing(wanted.agent_id)
                if before is not None:
                    self._refuse_other(before)
                    return self._follow(turn, wanted, before)
                if (entered := self._enter_first(turn, wanted)) is not None:
                    return entered
        raise StorageError(
            f"somebody keeps putting files at {self._layout.registration(wanted.agent_id)} that cannot be believed; "
            "see who may write there"
        )

    def leave(self, agent_id: str, at: int) -> str | None:
        """Deregister; the marker, None when that was done before.

        Raises: ArtifactNotFound, Denied, and what `enter` raises.
        """
        with self._turns().take(f"the registration of {agent_id}") as turn:
            before = self._standing(agent_id)
            if before is None:
                raise ArtifactNotFound(f"agent {agent_id!r} is not registered in {self._layout.root}")
            if before.signed.signer != self._signer.public_key.hex():
                raise Denied(
                    f"agent {agent_id!r} is registered by {before.signed.signed_by}; only that key can deregister it"
                )
            if before.registration.status == GONE:
                return None
            return self._follow(turn, replace(before.registration, status=GONE, at=at), before)[1]

    def _standing(self, agent_id: str) -> Enrolled | None:
        """The registration that is there; what cannot be believed is moved out of the way."""
        try:
            return self._register.find(agent_id, expected=True)
        except ArtifactError as error:
            set_aside(self._layout, self._layout.registration(agent_id), error)
            return None

    def _refuse_other(self, before: Enrolled) -> None:
        registration, signed = before.registration, before.signed
        if signed.signer == self._signer.public_key.hex() or registration.status != ACTIVE:
            return
        if self._register.alive(before):
            raise Denied(
                f"agent {registration.agent_id!r} is registered by another key, of node {signed.node_id}, and alive; "
                f"choose another id, or wait until it deregisters or has not beaten for {registration.expiry:g} s"
            )

    def _enter_first(self, turn: Turn | None, wanted: Registration) -> tuple[Registration, str] | None:
        """Register where there is no registration; None when there is one by now, or when it takes a turn to do it."""
        path = self._layout.registration(wanted.agent_id)
        wanted = replace(wanted, sequence=wanted.at + 1)
        marker = self._refresh.mark(wanted.agent_id, wanted.sequence)
        with self._scratch.file(self._encode(wanted, "", turn.fence if turn else 0)) as temporary:
            try:
                placed = place_new(temporary, path)
            except NoHardLinks:
                placed = turn is not None and not path.exists()
                if turn is not None and placed:
                    turn.guard(path)
                    replace_file(temporary, path)
        if placed:
            sync(path.parent)
        return (wanted, marker) if placed else None

    def _follow(self, turn: Turn, wanted: Registration, before: Enrolled) -> tuple[Registration, str]:
        """Replace a registration by the next version."""
        path, me = self._layout.registration(wanted.agent_id), self._signer.public_key.hex()
        former = [key for key in (*before.registration.former_keys, before.signed.signer) if key != me]
        wanted = replace(
            wanted,
            sequence=max(before.registration.sequence, wanted.at) + 1,
            former_keys=tuple(dict.fromkeys(former))[-MAX_FORMER_KEYS:],
        )
        marker = self._refresh.mark(wanted.agent_id, wanted.sequence)
        with self._scratch.file(self._encode(wanted, before.signed.root, turn.fence)) as temporary:
            turn.guard(path)
            replace_file(temporary, path)
        return wanted, marker

    def _encode(self, registration: Registration, parent: str, fence: int) -> bytes:
        artifact = create_maif(author(registration.agent_id))
        artifact.add_text(registration.text(), title=f"{REGISTRATION}: {registration.agent_id}")
        artifact.name_as(registration.agent_id, sequence=registration.sequence, parent=parent, fence=fence)
        return artifact.to_bytes(key=self._signer)
