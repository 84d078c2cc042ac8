"""A policy: one node's memory and communication. Verbs on it work on its own memory.

Communication is made when it is first asked for, so that a policy without peers never loads TLS.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from . import active, operations
from .errors import Closed
from .limits import Limits
from .router import ALPHA, Router
from .verbs import CallFuture, Verbs, fresh
from .wire.messages import Op

if TYPE_CHECKING:
    from .endpoint import Communication
    from .lanes import Lanes
    from .pools.base import Pool
    from .proxies import Peer
    from .services import Services
    from .transport.identity import Identity


class DefaultPolicy(Verbs):
    """A node in this process. The first one becomes the active policy.

    `name`: what peers call it in messages. `identity_dir`: where its identity key is kept, made there at the first
    start; without it the node is a new one each time. `limits`: see `Limits`.
    """

    def __init__(
        self,
        *,
        name: str = "",
        identity_dir: str | os.PathLike[str] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.name = name
        self.limits = limits or Limits()
        self.memory = Router()
        self._identity_dir = identity_dir
        self._identity: Identity | None = None
        self._communication: Communication | None = None
        self._lanes: Lanes | None = None
        self._making = threading.RLock()
        self._closed = False
        if identity_dir is not None:
            self.identity  # noqa: B018  # a state directory that cannot be used shows now, not at the first peer
        active.register(self)

    @property
    def identity(self) -> Identity:
        """The key that this node proves to its peers."""
        with self._making:
            if self._identity is None:
                from .transport.identity import Identity

                directory = self._identity_dir
                self._identity = (
                    Identity.ephemeral() if directory is None else Identity.load_or_create(directory)
                )
            return self._identity

    @property
    def global_id(self) -> str:
        """The node's id, which follows from its identity key."""
        return self.identity.node_id

    @property
    def communication(self) -> Communication:
        """Listeners, dialers, links."""
        with self._making:
            if self._communication is None:
                if self._closed:
                    raise Closed("this policy was closed; make another")
                from .endpoint import Communication

                self._communication = Communication(
                    self.identity, self.name, self.memory, self.limits, self.lanes
                )
                _stop_at_exit(self._communication)
            return self._communication

    @property
    def peers(self) -> Mapping[str, Peer]:
        """Other nodes by id, those whose link is being restored included."""
        return self.communication.peers

    @property
    def services(self) -> Services:
        """What this node offers its peers beside its memory."""
        return self.communication.services

    @property
    def alpha_pool(self) -> Pool:
        """The default pool."""
        return self.memory.alpha_pool

    def lanes(self) -> Lanes:
        """Worker threads for pools that wait; started by the first who needs them."""
        with self._making:
            if self._lanes is None:
                from .lanes import Lanes

                self._lanes = Lanes(self.limits.workers, self.name)
            return self._lanes

    def close(self, grace: float = 0.0) -> None:
        """Say goodbye to peers, after at most `grace` seconds for calls under way; close pools, end threads."""
        with self._making:
            if self._closed:
                return
            self._closed = True
        active.unregister(self)
        if self._communication is not None:
            self._communication.stop(grace)
        if self._lanes is not None:
            self._lanes.close()
        self.memory.close()

    terminate = close

    def abandon(self) -> None:
        """What a forked child does with its parent's policy: its links are the parent's and are not touched."""
        self._closed = True
        if self._communication is not None:
            self._communication.abandon()

    def owns(self, communication: object) -> bool:
        """Whether this is the policy that a peer's communication belongs to."""
        return communication is not None and communication is self._communication

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<DefaultPolicy {self.name or '?'} {'closed' if self._closed else self.memory!r}>"

    # ---- verbs ----

    def _call(self, future: CallFuture, pool: str | None, arguments: Any, persist: bool) -> None:
        if self._closed:
            raise Closed("this policy was closed; make another")
        store = self.memory.pool(pool)
        nickname = pool if pool is not None else ALPHA
        if operations.may_block(store) or persist:
            keys = [("", store.global_id, key) for key in future.ids]
            self.lanes().submit(lambda: self._run(future, store, nickname, arguments, persist), keys)
        else:
            self._run(future, store, nickname, arguments, persist)

    def _run(self, future: CallFuture, store: Pool, nickname: str, arguments: Any, persist: bool) -> None:
        try:
            value = _OPERATIONS[future.op](store, nickname, arguments)
            if persist and store is not self.memory.alpha_pool:
                self.memory.alpha_pool.put_many(list(zip(future.ids, value, strict=True)))
            if future.op is Op.REMEMBER:
                value = [fresh(record) for record in value]
        except Exception as error:  # whoever waits must hear of it
            future.reject(error)
        else:
            future.resolve(value)


def _memorize(pool: Pool, nickname: str, arguments: Any) -> int:
    operations.memorize(pool, arguments)
    return len(arguments)


_OPERATIONS: dict[Op, Callable[[Any, str, Any], Any]] = {
    Op.MEMORIZE: _memorize,
    Op.REMEMBER: lambda pool, nickname, ids: operations.remember(pool, ids, nickname),
    Op.FORGET: lambda pool, nickname, both: operations.forget(pool, both[0], nickname, missing_ok=both[1]),
    Op.EXISTS: lambda pool, nickname, ids: pool.exists_many(ids),
    Op.KEYS: lambda pool, nickname, _: sorted(pool.keys()),
}


def _stop_at_exit(communication: Communication) -> None:
    # Peers are told that this node leaves, instead of finding out.
    reference = weakref.ref(communication)

    def stop() -> None:
        alive = reference()
        if alive is not None:
            alive.stop()

    atexit.register(stop)
