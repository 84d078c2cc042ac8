"""Results: written once per task and agent, signed, and served only from whoever may speak for the agent.

Each is a file of its own, which gets its name by a hard link: of two that publish at once one wins, and the other
learns what is there. The first one of a task gets the seed's name too, by a second link to the same file, so
nothing is written twice. No lock is taken, but where a file system has no hard links, and to move a damaged file
out of the way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artifacts import Signer, create_maif
from ..errors import (
    AlreadyPublished,
    ArtifactCorrupt,
    ArtifactError,
    BadName,
    Denied,
    StorageError,
    UntrustedSigner,
)
from ..shared.trouble import told
from .enrolment import author
from .layout import SUFFIX, Layout, names_in
from .records import RESULT, Result
from .register import Register, Status, status_of
from .scratch import NoHardLinks, Scratch, place_new, sync
from .scratch import replace as replace_file
from .setaside import set_aside
from .trouble import writing
from .turn import Turns
from .vetting import Vetted, Vetting

_BROKEN = (Status.DAMAGED, Status.UNSIGNED)


@dataclass(frozen=True, slots=True)
class Found:
    """A result that is believed."""

    result: Result
    signed: Vetted
    registered: bool
    """Whether the agent's registration names the key; else nobody has registered the agent."""

    def describe(self) -> dict[str, Any]:
        """As a map: the seed's keys and ours."""
        result, signed = self.result, self.signed
        return {
            "task_id": result.task_id,
            "agent_id": result.agent_id,
            "result": result.result,
            "timestamp": result.timestamp,
            "status": str(Status.OK),
            "registered": self.registered,
            "signed_by": signed.signed_by,
            "signer": signed.signer,
            "problem": None,
        }


@dataclass(frozen=True, slots=True)
class Bad:
    """A file that is no result to be believed."""

    task_id: str
    agent_id: str
    error: ArtifactError

    @property
    def status(self) -> Status:
        return status_of(self.error)

    def describe(self) -> dict[str, Any]:
        return {
            "task_id": self.task_id,
            "agent_id": self.agent_id,
            "result": None,
            "timestamp": None,
            "status": str(self.status),
            "registered": False,
            "signed_by": None,
            "signer": getattr(self.error, "signer", "") or None,
            "problem": str(self.error),
        }


class Results:
    """The results in one directory, for one reader. Safe under threads."""

    def __init__(self, layout: Layout, vetting: Vetting, register: Register) -> None:
        self._layout = layout
        self._vetting = vetting
        self._register = register

    def get(self, task_id: str) -> Found | None:
        """The first result of a task that is believed; None when there is no result at all.

        Raises what is wrong with it when there is one and none can be believed: UntrustedSigner, ArtifactCorrupt,
        Unsigned; StorageError.
        """
        self._layout.require()
        path = self._layout.first_result(task_id)
        first = self.look(path, task_id, "", full=True)
        if isinstance(first, Found):
            return self._not_replaced(first, path)
        others = self.each(task_id, full=True)
        believed = [one for one in others if isinstance(one, Found)]
        if believed:
            return min(believed, key=lambda one: (one.signed.created, one.result.agent_id))
        for bad in (first, *others):
            if isinstance(bad, Bad):
                raise bad.error
        return None

    def _not_replaced(self, first: Found, path: Path) -> Found:
        """What the agent published, where the seed's program has replaced it under the seed's name."""
        try:
            own = self._layout.result(first.result.task_id, first.result.agent_id)
            with told(f"read {own}"):
                if os.path.samestat(os.lstat(own), os.lstat(path)):
                    return first
        except (BadName, FileNotFoundError):  # it was never published by a program of ours
            return first
        found = self.look(own, first.result.task_id, first.result.agent_id, full=True)
        return found if isinstance(found, Found) else first

    def of_task(self, task_id: str, *, full: bool = True) -> list[Found | Bad]:
        """The results of all agents for a task, the first one first. Raises StorageError."""
        self._layout.require()
        each = self.each(task_id, full=full)
        path = self._layout.first_result(task_id)
        if (agent_id := self._same_as(path, task_id)) is not None:
            return sorted(each, key=lambda one: agent_of(one) != agent_id)
        first = self.look(path, task_id, "", full=full)
        if first is None:
            return each
        same = first.result if isinstance(first, Found) else None
        return [first, *(one for one in each if not isinstance(one, Found) or one.result != same)]

    def each(self, task_id: str, *, full: bool) -> list[Found | Bad]:
        """Those in the task's own directory, by agent."""
        found = []
        for agent_id in names_in(self._layout.task(task_id), SUFFIX):
            one = self.look(self._layout.result(task_id, agent_id), task_id, agent_id, full=full)
            if one is not None:
                found.append(one)
        return found

    def tasks(self) -> list[str]:
        """Every task that has a result, sorted. Raises StorageError."""
        self._layout.require()
        found = set(names_in(self._layout.results, SUFFIX))
        for shard in names_in(self._layout.by_agent):
            found.update(names_in(self._layout.by_agent / shard))
        return sorted(found)

    def all(self) -> Iterator[Found | Bad]:
        """Every result of every task. Raises StorageError."""
        for task_id in self.tasks():
            yield from self.of_task(task_id, full=False)

    def look(self, path: Path, task_id: str, agent_id: str, *, full: bool) -> Found | Bad | None:
        """One file; `agent_id` empty: whichever agent it says. None when there is none. Raises StorageError."""
        try:
            signed = self._vetting.read(path, full=full)
            return None if signed is None else self._believe(signed, path, task_id, agent_id)
        except ArtifactError as error:
            return Bad(task_id, agent_id, error)

    def may_speak(self, signer: str, agent_id: str) -> bool:
        """Whether this key (hex) may publish for the agent: it registered it, or nobody believed did."""
        keys = self._keys(agent_id)
        return not keys or signer in keys

    def _believe(self, signed: Vetted, path: Path, task_id: str, agent_id: str) -> Found:
        try:
            result = Result.parse(signed.texts[0].text if signed.texts else "")
        except ValueError as error:
            raise ArtifactCorrupt(f"{path} is signed but holds no result: {error}", path=str(path)) from error
        if result.task_id != task_id or result.agent_id != (agent_id or result.agent_id):
            raise ArtifactCorrupt(
                f"{path} holds the result of agent {result.agent_id!r} for task {result.task_id!r}; it was put there",
                path=str(path),
            )
        keys = self._keys(result.agent_id)
        if keys and signed.signer not in keys:
            raise UntrustedSigner(
                f"{path}: it says that agent {result.agent_id!r} published it, but was signed by node "
                f"{signed.node_id}, and that agent is registered under another key; ask both what happened",
                path=str(path),
                signer=signed.signer,
            )
        return Found(result, signed, bool(keys))

    def _keys(self, agent_id: str) -> frozenset[str]:
        try:
            return self._register.keys(agent_id)
        except BadName:  # the seed's programs check no names; nobody can register this one here
            return frozenset()

    def _same_as(self, path: Path, task_id: str) -> str | None:
        """The agent whose file has this name too."""
        try:
            with told(f"read {path}"):
                status = os.lstat(path)
                for agent_id in names_in(self._layout.task(task_id), SUFFIX):
                    if os.path.samestat(status, os.lstat(self._layout.result(task_id, agent_id))):
                        return agent_id
        except FileNotFoundError:
            return None
        return None


def agent_of(one: Found | Bad) -> str:
    return one.result.agent_id if isinstance(one, Found) else one.agent_id


class Publishing:
    """Publishes the results of one agent."""

    def __init__(
        self,
        layout: Layout,
        results: Results,
        scratch: Scratch,
        turns: Callable[[], Turns],
        signer: Signer,
    ) -> None:
        self._layout = layout
        self._results = results
        self._scratch = scratch
        self._turns = turns
        self._signer = signer

    def publish(self, result: Result) -> Found:
        """Publish, durably, or find that just this was published before; what is there now.

        Raises: AlreadyPublished, Denied when the agent is registered under another key, LockTimeout and
        LockUnavailable (only where a lock is needed), StorageError.
        """
        path = self._layout.result(result.task_id, result.agent_id)
        self._layout.require()
        if not self._results.may_speak(self._signer.public_key.hex(), result.agent_id):
            raise Denied(
                f"agent {result.agent_id!r} is registered under another key than this one's, so nobody would believe "
                "its result; publish under another id, or with that key"
            )
        self._layout.make(path.parent)
        found: Found | Bad | None = self._before(path, result)
        if found is None:
            with self._scratch.file(self._encode(result)) as temporary:
                try:
                    place_new(temporary, path)
                except NoHardLinks:
                    self._place_under_lock(temporary, path)
            found = self._results.look(path, result.task_id, result.agent_id, full=False)
        if not isinstance(found, Found):
            raise StorageError(
                f"{path} was removed or changed as soon as it was published; see who does that"
            )
        _require_same(found, result)
        self._name_first(path, result.task_id)
        sync(path.parent, self._layout.results)
        return found

    def _before(self, path: Path, result: Result) -> Found | None:
        """This agent's result that is there already; what cannot be believed is moved out of the way.

        Raises AlreadyPublished also for what the seed's program published for this agent, under the seed's name
        alone.
        """
        first = self._results.look(self._layout.first_result(result.task_id), result.task_id, "", full=True)
        if isinstance(first, Found) and first.result.agent_id == result.agent_id:
            _require_same(first, result)
        own = self._results.look(path, result.task_id, result.agent_id, full=True)
        if isinstance(own, Bad):
            self._set_aside(path, result.task_id, result.agent_id)
            return None
        return own

    def _set_aside(self, path: Path, task_id: str, agent_id: str) -> None:
        with self._turns().take("a damaged result") as turn:
            found = self._results.look(path, task_id, agent_id, full=True)
            turn.guard(path)
            if isinstance(found, Bad):
                set_aside(self._layout, path, found.error)

    def _place_under_lock(self, temporary: Path, path: Path) -> None:
        with self._turns().take("a result"):
            if not path.exists():
                replace_file(temporary, path)

    def _name_first(self, path: Path, task_id: str) -> None:
        """Give the seed's name to the result, if none has it or what has it is damaged."""
        first = self._layout.first_result(task_id)
        for _ in range(2):
            try:
                if place_new(path, first):
                    return
            except NoHardLinks:
                with writing(f"copy {path}"):
                    data = b"" if first.exists() else path.read_bytes()
                if data:
                    with self._scratch.file(data) as copy:
                        self._place_under_lock(copy, first)
                return
            found = self._results.look(first, task_id, "", full=False)
            if not isinstance(found, Bad) or found.status not in _BROKEN:
                return
            self._set_aside(first, task_id, "")

    def _encode(self, result: Result) -> bytes:
        artifact = create_maif(author(f"{RESULT.lower()}-{result.task_id}"))
        artifact.add_text(result.text(), title=f"{RESULT}: {result.task_id}")
        artifact.name_as(result.task_id, sequence=1)
        return artifact.to_bytes(key=self._signer)


def _require_same(found: Found, result: Result) -> None:
    if _text(found.result) != _text(result):
        raise AlreadyPublished(
            f"agent {result.agent_id!r} published another result for task {result.task_id!r} at "
            f"{found.result.timestamp}; results are written once: use another task id"
        )


def _text(result: Result) -> str:
    return json.dumps(result.result, sort_keys=True)
