"""laila: Python processes as peers, each of which works on the other's memory over an authenticated link.

    >>> import laila
    >>> entry = laila.constant({"message": "hello"}, nickname="greeting")
    >>> with laila.guarantee:
    ...     done = laila.memorize(entry)
    >>> laila.remember(nickname="greeting").data
    {'message': 'hello'}

Where to read on: README.md, docs/design.md, and `laila --help`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import active as _active
from .active import exists, forget, keys, local_policies, memorize, remember, terminate, universe, using
from .codec import register
from .entries import Entry, constant, variable
from .errors import LailaError
from .futures import Future, FutureGroup, guarantee, guarantee_async
from .verbs import Verbs
from .version import VERSION as __version__

if TYPE_CHECKING:
    from .agents import DistributedAgent
    from .endpoint import Communication
    from .limits import Limits
    from .pools.base import Pool
    from .replication.store import ReplicatedStore
    from .router import Router
    from .secret import new_secret
    from .shared import SharedArtifactStore

    active_policy: Verbs
    memory: Router
    communication: Communication
    peers: Mapping[str, Any]
    alpha_pool: Pool

__all__ = [
    "DistributedAgent",
    "Entry",
    "Future",
    "FutureGroup",
    "LailaError",
    "Limits",
    "ReplicatedStore",
    "SharedArtifactStore",
    "__version__",
    "constant",
    "exists",
    "forget",
    "guarantee",
    "guarantee_async",
    "keys",
    "local_policies",
    "memorize",
    "new_secret",
    "register",
    "remember",
    "terminate",
    "universe",
    "using",
    "variable",
]


_LATER = {
    "DistributedAgent": "agents",
    "Limits": "limits",
    "ReplicatedStore": "replication.store",
    "SharedArtifactStore": "shared",
    "new_secret": "secret",
}


def __getattr__(name: str) -> Any:
    # What few programs need is imported when they ask for it.
    if name in _LATER:
        from importlib import import_module

        return getattr(import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Laila(ModuleType):
    """Assigning `laila.active_policy` must work, and a plain module has no properties: so this one has a class."""

    @property
    def active_policy(self) -> Verbs:
        """The policy or peer that the verbs work on."""
        return _active.get()

    @active_policy.setter
    def active_policy(self, policy: Verbs) -> None:
        _active.assign(policy)

    @property
    def memory(self) -> Router:
        """Pools by nickname, of this process' policy."""
        return _active.memory()

    @property
    def alpha_pool(self) -> Pool:
        """The default pool."""
        return _active.memory().alpha_pool

    @property
    def communication(self) -> Communication:
        """Listeners and links, of this process' policy."""
        return _active.communication()

    @property
    def peers(self) -> Mapping[str, Any]:
        """Other nodes by id."""
        return _active.peers()


sys.modules[__name__].__class__ = _Laila
