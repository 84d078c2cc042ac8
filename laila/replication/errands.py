"""What a pass of a repair asks of replicas, each call with its time; and who does not answer any more.

A replica that fails several times in a row with one kind of call, or hangs, is left out from there on: `unreachable`
says why. An error about one name is none about the replica. Giving up ends every wait.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, TypeVar

from ..artifacts import TrustSet
from ..errors import ArtifactError, DeadlineExceeded, LailaError, MembershipStale
from .calls import Answers, Crowd
from .copies import Copy
from .replica import Replica, Stamp
from .tags import Found, Stand, Tag
from .views import View

T = TypeVar("T")

SLOWEST = 1 << 20
"""Bytes in a second that a replica takes at least; who takes them slower counts as one that does not answer."""
STRIKES = 8
_GIVEN_UP = "it was given up"


class Errands:
    """Calls to the replicas of a crowd. Safe under threads. Where it says so, who failed is noted in `failed`, and why;
    every call raises MembershipStale when a replica did.
    """

    def __init__(self, crowd: Crowd, trust: TrustSet, timeout: float, cancel: threading.Event) -> None:
        self.crowd = crowd
        self.timeout = timeout
        self.unreachable: dict[str, str] = {}
        self._trust = trust
        self._cancel = cancel
        self._mutex = threading.Lock()
        self._strikes: Counter[tuple[str, str]] = Counter()

    def reachable(self, view: View) -> list[str]:
        return [member.id for member in view if member.id not in self.unreachable]

    def leave_out(self, reasons: dict[str, str]) -> None:
        """Ask these no more."""
        with self._mutex:
            for id, reason in reasons.items():
                self.unreachable.setdefault(id, reason)

    def stamps(self, ids: Iterable[str], failed: dict[str, str]) -> dict[str, Stamp]:
        return self.ask(ids, lambda id, replica: replica.stamp(), failed=failed)

    def look(
        self, view: View, names: list[str], ids: Iterable[str], failed: dict[str, str]
    ) -> dict[str, list[Found]]:
        asked = [id for id in ids if id not in self.unreachable]
        return self.ask(asked, lambda id, replica: replica.look(names, view.number), failed=failed)

    def fetch(self, view: View, id: str, stand: Stand, name: str, above: Tag | None) -> Copy | None:
        """What one replica, which says to have `stand`, has above a version, verified; None when it shows nothing."""
        came: list[Copy] = []
        over = threading.Event()

        def call(id: str, replica: Replica) -> None:
            copy = replica.fetch(name, view.number)
            if copy is None:
                return
            try:
                copy.require(self._trust)
                with self._mutex:
                    if not over.is_set() and (above is None or copy.stand.tag > above):
                        came.append(copy)
                        return
            except BaseException:
                copy.close()
                raise
            copy.close()

        self.crowd.ask([id], call, self._gave_up, self.timeout + stand.size / SLOWEST)
        with self._mutex:
            over.set()  # what comes later is nobody's
        return came[0] if came else None

    def put(self, view: View, copy: Copy, ids: Collection[str], failed: dict[str, str]) -> dict[str, Stand]:
        """To all of them, side by side."""
        shared = copy.share()  # a put that comes late still has its bytes
        return self.ask(
            ids,
            lambda id, replica: replica.put(shared, view.number),
            timeout=self.timeout + copy.size / SLOWEST,
            after=shared.close,
            failed=failed,
            kind="put",
        )

    def settle(self, marks: Mapping[str, str], name: str, tag: Tag | None, failed: dict[str, str]) -> None:
        """`marks`: by id, the mark that was seen before anybody was asked for the newest version."""
        self.ask(marks, lambda id, replica: replica.settle(name, tag, marks[id]), failed=failed, kind="put")

    def mark(self, id: str, before: Stamp, after: Stamp) -> bool:
        """Whether it was `before` until now."""
        return self.ask([id], lambda id, replica: replica.mark(after, before)).get(id, False)

    def ask(
        self,
        ids: Iterable[str],
        call: Callable[[str, Replica], T],
        *,
        timeout: float | None = None,
        after: Callable[[], None] | None = None,
        failed: dict[str, str] | None = None,
        kind: str = "",
    ) -> dict[str, T]:
        """What was answered. Strikes are counted for each `kind` of call: a full disk can be read."""
        seconds = self.timeout if timeout is None else timeout
        answers = self.crowd.ask(ids, call, self._gave_up, seconds, after)
        errors = dict(answers.failed)
        if not self._cancel.is_set():
            errors |= dict.fromkeys(answers.silent, DeadlineExceeded(f"no answer within {seconds:g} s"))
        for error in errors.values():
            if isinstance(error, MembershipStale):
                raise error
        with self._mutex:
            for id in answers.got:
                self._strikes[id, kind] = 0
            for id, error in errors.items():
                if not isinstance(error, ArtifactError):
                    self._strikes[id, kind] += STRIKES if id in answers.silent else 1
                if self._strikes[id, kind] >= STRIKES:
                    self.unreachable.setdefault(id, in_words(error))
        if failed is not None:
            failed |= {id: in_words(error) for id, error in errors.items()}
            failed |= {id: _GIVEN_UP for id in answers.silent if id not in failed}
        return answers.got

    def _gave_up(self, answers: Answers[Any]) -> bool:
        return self._cancel.is_set()


def in_words(error: Exception) -> str:
    return str(error) if isinstance(error, LailaError) else f"{type(error).__name__}: {error}"
