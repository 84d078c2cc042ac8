"""Agents that find each other, and each other's results, through a directory that they share.

    >>> import tempfile
    >>> from laila.agents import DistributedAgent
    >>> shared = tempfile.mkdtemp()
    >>> with DistributedAgent("worker-1", shared, capabilities=["resize"]) as agent:
    ...     known = agent.register()
    ...     published = agent.publish_result("task-001", {"output": "done"})
    ...     [one["agent_id"] for one in agent.get_active_agents(capability="resize")]
    ['worker-1']

How things are kept is written in layout.py; why nothing is lost, in enrolment.py, refresh.py and results.py; what
makes an agent alive, in volumeclock.py.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..artifacts import Signer, TrustSet, default_identity, vouch
from ..artifacts.trust import further_secrets, known_secret
from ..clock import SYSTEM, Clock
from ..errors import ArtifactNotFound, BadValue, Closed, Denied
from ..names import check_name
from ..transport.identity import Identity
from .beats import Beat
from .directory import Directory
from .enrolment import Enrolment, author
from .heart import Heart
from .locking import Locking
from .records import Registration, Result, check_capabilities, check_metadata, check_result, iso
from .refresh import Refresh
from .results import Publishing
from .scratch import Scratch
from .trouble import writing

if TYPE_CHECKING:
    from ..locks import LockService

EXPIRY = 30.0
_LEAST_EXPIRY, _MOST_EXPIRY = 0.1, 30 * 86_400.0
BEATS = 3
"""Beats per expiry: two may be late or lost."""


class DistributedAgent:
    """One agent in the directory `shared_path`, which it shares with others. Safe under threads.

    `identity` signs what this agent writes (default: this node's or user's); `secret`, the cluster's, lets others
    trust that, and this agent trust theirs; `trust` says otherwise whom to trust. `locks`: a lock service or the
    address of one (`laila.locks.connect`); None is flock on the volume. `expiry`: seconds without a heartbeat
    after which others count this agent as dead. `timeout`: seconds to wait for a lock, and for results by
    default. `node`: this node's name.

    `register` once, then `heartbeat` more often than `expiry`, or `start_heartbeat`. A registration is no
    heartbeat for ever: an agent that stops beating is expired and can beat itself back; its name may meanwhile go
    to another key.

    Raises: BadName, BadValue, UnsafeVolume where locks on the volume are known not to exclude and no service is
    given, StorageError. Warns (UnprobedVolume) where nobody has checked the volume.
    """

    def __init__(
        self,
        agent_id: str,
        shared_path: str | os.PathLike[str],
        *,
        identity: Identity | Ed25519PrivateKey | Signer | None = None,
        trust: TrustSet | None = None,
        secret: str | None = None,
        locks: LockService | str | None = None,
        capabilities: Iterable[str] = (),
        expiry: float = EXPIRY,
        timeout: float = 30.0,
        node: str = "",
        clock: Clock = SYSTEM,
    ) -> None:
        self.agent_id = check_name("agent", agent_id)
        self.expiry = _seconds("expiry", expiry, _LEAST_EXPIRY, _MOST_EXPIRY)
        self.timeout = _seconds("timeout", timeout, 0.0, _MOST_EXPIRY)
        self.capabilities = check_capabilities(capabilities)
        secret = secret or known_secret()
        self._signer = signer = _signer(identity, secret, author(agent_id))
        self.trust = (trust or TrustSet(secret=secret, also_accept=further_secrets())).with_keys(signer)
        self._directory = directory = Directory(shared_path, self.trust, clock=clock, make=True)
        self._layout = layout = directory.layout
        self._register, self._clock = directory.register, directory.clock
        self._register.put_forward = _weakly(self._beat_if_registered)
        self._wall = clock.wall
        self.shared_path = str(layout.root)
        self._locking = Locking(layout, locks, self.timeout, node)
        scratch, turns = Scratch(layout.new, self._clock.now), self._locking.turns
        self._refresh = Refresh(
            layout, self._register, directory.summary, self._clock, scratch, turns, signer
        )
        self._enrolment = Enrolment(layout, self._register, self._refresh, scratch, turns, signer)
        self._publishing = Publishing(layout, directory.recorded, scratch, turns, signer)
        self._entering, self._mutex = threading.Lock(), threading.RLock()
        self._beat = Beat(uuid.uuid4().hex, 0, 0)
        self._registered: Registration | None = None
        self._heart: Heart | None = None
        self._closed = False

    # -- being there -------------------------------------------------------------------------------------

    def register(
        self, capabilities: Iterable[str] | None = None, metadata: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Register, or register anew; durable when it returns. This agent, as `get_active_agents` lists it.

        `capabilities` None are those of the constructor; `metadata` is what JSON can say, at most 64 KiB.
        Raises: Denied when another key has registered this id and is alive; LockTimeout, LockLost or
        LockUnavailable (the registration may stand; registering again is safe), StorageError, BadValue,
        LimitExceeded.
        """
        self._require_open()
        wanted = Registration(
            agent_id=self.agent_id,
            registered_at=iso(self._wall()),
            capabilities=self.capabilities if capabilities is None else check_capabilities(capabilities),
            metadata=check_metadata(metadata or {}),
            expiry=self.expiry,
            at=self._advance(),
            instance=self._beat.instance,
            node=self._locking.node,
            host=socket.gethostname(),
            pid=os.getpid(),
        )
        with self._entering:
            written, marker = self._enrolment.enter(wanted)
            with self._mutex:
                self._registered = written
                self._write_beat(self._advance())
        self._refresh.bring_in(marker)
        return self._me()

    def heartbeat(self) -> None:
        """Say that this agent is alive, for another `expiry` seconds.

        Raises: ArtifactNotFound when it is not registered (any more), Denied when another key has taken the id
        over, StorageError.
        """
        self._require_open()
        with self._mutex:
            if self._registered is None:
                raise ArtifactNotFound(
                    f"agent {self.agent_id!r} has not registered here; call register() first"
                )
            self._require_mine()
            self._write_beat(self._advance())
        self._refresh.bring_in_old()

    def start_heartbeat(self, interval: float | None = None) -> Self:
        """Beat in the background every `interval` seconds (a third of the expiry) until `stop_heartbeat` or
        `close`.

        Registers first where that was not done. `trouble` says whether the last beat went wrong.
        """
        every = self.expiry / BEATS if interval is None else _seconds("interval", interval, 0.01, self.expiry)
        self._require_open()
        if self._registered is None:
            self.register()
        with self._mutex:
            if self._heart is None or not self._heart.beating:
                self._heart = Heart(self.heartbeat, every, self.agent_id)
        return self

    def stop_heartbeat(self) -> None:
        """Beat no more in the background. Idempotent."""
        with self._mutex:
            heart, self._heart = self._heart, None
        if heart is not None:
            heart.stop(self.timeout)

    @property
    def trouble(self) -> Exception | None:
        """What went wrong with the last beat in the background; None when nothing did."""
        heart = self._heart
        return None if heart is None else heart.trouble

    def deregister(self) -> None:
        """Leave for good: the id is free for anybody. Results stay. Idempotent.

        Raises: ArtifactNotFound when nobody registered this id, Denied when another key has, StorageError, and
        what locks raise.
        """
        self._require_open()
        self.stop_heartbeat()
        with self._entering:
            marker = self._enrolment.leave(self.agent_id, self._advance())
            with self._mutex:
                self._registered = None
                with writing("remove the beat"):
                    self._layout.beat(self.agent_id).unlink(missing_ok=True)
        if marker is not None:
            self._refresh.bring_in(marker)

    # -- who is there ------------------------------------------------------------------------------------

    def get_active_agents(self, capability: str | None = None) -> list[dict[str, Any]]:
        """Agents that are registered by somebody trusted and beat within their expiry; those with a capability.

        Maps with the seed's keys (`agent_id`, `registered_at`, `status`) and `capabilities`, `metadata`,
        `last_seen`, `age` (seconds, by the volume's clock), `expiry`, `node`, `host`, `pid`, `signed_by`,
        `signer`. Agents that the seed's program registered never beat; they are listed with `last_seen` None.
        Raises StorageError.
        """
        self._require_open()
        return self._directory.active_agents(capability)

    def agents(self) -> list[dict[str, Any]]:
        """Every agent: `status` is active, expired, gone, or untrusted, unsigned, damaged, rolled back with a
        `problem`.
        """
        self._require_open()
        return self._directory.agents()

    # -- results -----------------------------------------------------------------------------------------

    def publish_result(self, task_id: str, result: Mapping[str, Any]) -> dict[str, Any]:
        """Publish this agent's result for a task, once and for all; durable when it returns. As `get_result`
        gives it.

        `result` is what JSON can say, at most 16 MiB; publishing the same again is no error.
        Raises: AlreadyPublished when it published another, Denied when another key has registered this id,
        BadName, UnsupportedType, BadValue, LimitExceeded, StorageError.
        """
        self._require_open()
        check_name("task", task_id)
        kept = check_result(result)
        self._clock.look()
        found = self._publishing.publish(Result(task_id, self.agent_id, kept, iso(self._wall())))
        return found.describe()

    def get_result(self, task_id: str) -> dict[str, Any] | None:
        """The first result of a task by somebody trusted; None when there is no result.

        A map with the seed's keys (`task_id`, `agent_id`, `result`, `timestamp`) and `signed_by` (which node, and
        why it is trusted), `signer` (its key, hex), `registered` (whether the agent is, with this key).
        Raises: UntrustedSigner when there are results but none by somebody trusted, or by another key than the
        agent's; ArtifactCorrupt, Unsigned; StorageError; BadName.
        """
        self._require_open()
        return self._directory.get_result(task_id)

    def get_results(self, task_id: str) -> list[dict[str, Any]]:
        """The results of all agents for a task, the first one first.

        What is not to be believed is among them with `result` None, a `status` other than "ok", and a `problem`.
        """
        self._require_open()
        return self._directory.get_results(task_id)

    def wait_result(self, task_id: str, timeout: float | None = None) -> dict[str, Any]:
        """`get_result` as soon as there is one; looks at most every quarter of a second.

        Raises: DeadlineExceeded after `timeout` seconds (the agent's by default), and what `get_result` raises.
        """
        self._require_open()
        return self._directory.wait_result(task_id, self.timeout if timeout is None else timeout)

    async def wait_result_async(self, task_id: str, timeout: float | None = None) -> dict[str, Any]:
        """`wait_result` for coroutines: looks in a thread, so a slow volume does not hold up the event loop."""
        self._require_open()
        return await self._directory.wait_result_async(task_id, self.timeout if timeout is None else timeout)

    def results(self) -> list[dict[str, Any]]:
        """Every result of every agent, without its content: `task_id`, `agent_id`, `timestamp`, `status`,
        `signed_by`, …
        """
        self._require_open()
        return self._directory.results()

    # -- the rest ----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop beating and close what is open. Does not deregister: the agent expires, or comes back. Idempotent."""
        self.stop_heartbeat()
        self._closed = True
        self._locking.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        heart = self._heart
        state = "closed" if self._closed else "registered" if self._registered else "not registered"
        beating = ", beating" if heart is not None and heart.beating else ""
        return f"<DistributedAgent {self.agent_id!r} in {self.shared_path}, {state}{beating}>"

    def __del__(self) -> None:
        heart = getattr(self, "_heart", None)
        if heart is not None and heart.beating:
            warnings.warn(f"{self!r} was not closed", ResourceWarning, source=self, stacklevel=2)
            heart.stop(0)
        if (locking := getattr(self, "_locking", None)) is not None:
            locking.close()

    def _require_open(self) -> None:
        if self._closed:
            raise Closed(f"agent {self.agent_id!r} was closed; make another DistributedAgent")

    def _require_mine(self) -> None:
        found = self._register.find(self.agent_id, expected=True)
        if found is None or found.registration.status != "active":
            self._registered = None
            raise ArtifactNotFound(
                f"agent {self.agent_id!r} is not registered any more; call register() again"
            )
        if found.signed.signer != self._signer.public_key.hex():
            self._registered = None
            raise Denied(
                f"agent {self.agent_id!r} did not beat for {self.expiry:g} s, and node {found.signed.node_id} took "
                "the id over; register under another id"
            )

    def _advance(self) -> int:
        self._layout.make(self._layout.agents)
        self._clock.look()
        if self._clock.lost:
            self._register.catch_up()
        return self._clock.advance()

    def _write_beat(self, at: int) -> None:
        self._beat = Beat(self._beat.instance, self._beat.count + 1, at)
        self._beat.write(self._layout.beat(self.agent_id))

    def _beat_if_registered(self) -> None:
        with self._mutex:
            if self._registered is not None:
                self._write_beat(self._advance())

    def _me(self) -> dict[str, Any]:
        enrolled = self._register.find(self.agent_id, expected=True)
        if enrolled is None:
            raise ArtifactNotFound(
                f"the registration of {self.agent_id!r} was removed as soon as it was made"
            )
        return self._register.judged(enrolled).describe(self._wall())


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    """The same call, which does not keep the method's object alive."""
    found = weakref.WeakMethod(method)

    def call() -> None:
        alive = found()
        if alive is not None:
            alive()

    return call


def _signer(
    identity: Identity | Ed25519PrivateKey | Signer | None, secret: str | None, agent_id: str
) -> Signer:
    if isinstance(identity, Signer):
        return identity
    key = default_identity() if identity is None else identity
    signer = Signer(key, agent_id=agent_id)
    if secret is not None:
        signer.voucher = vouch(secret, signer.public_key)
    return signer


def _seconds(name: str, value: float, least: float, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise BadValue(f"{name} is a number of seconds from {least:g} to {most:g}, not {value!r}")
    return float(value)
