"""The active policy: where `laila.memorize` and its like go.

Two ways to choose it. `laila.active_policy = policy_or_peer` is for the process. `with laila.using(policy_or_peer):` is
for this thread or task only, and wins. Serving peers never looks at either: a node serves from its own memory.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from .errors import BadValue, Closed
from .verbs import CallFuture, Entries, Ids, Verbs

if TYPE_CHECKING:
    from .endpoint import Communication
    from .policy import DefaultPolicy
    from .router import Router

_using: ContextVar[Verbs | None] = ContextVar("laila_active", default=None)
_lock = threading.RLock()
_process: Verbs | None = None
_local: list[DefaultPolicy] = []


def register(policy: DefaultPolicy) -> None:
    """A policy was made: the first becomes the active one."""
    global _process
    with _lock:
        _local.append(policy)
        if _process is None:
            _process = policy


def present() -> DefaultPolicy | None:
    """The first policy of this process that is not closed; None when it has none."""
    with _lock:
        return _local[0] if _local else None


def unregister(policy: DefaultPolicy) -> None:
    """A policy was closed."""
    global _process
    with _lock:
        if policy in _local:
            _local.remove(policy)
        if _process is policy or policy.owns(getattr(_process, "communication", None)):
            _process = _local[0] if _local else None


def _forked() -> None:
    """A child must not speak on its parent's links; it starts without a policy."""
    global _process, _lock
    _lock = threading.RLock()
    for policy in _local:
        policy.abandon()
    _local.clear()
    _process = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def get() -> Verbs:
    """The active policy; one is made if there is none."""
    chosen = _using.get() or _process
    if chosen is not None:
        return chosen
    from .policy import DefaultPolicy

    with _lock:
        return _process or DefaultPolicy()


def assign(policy: Verbs) -> None:
    """What `laila.active_policy = policy` does."""
    global _process
    if not isinstance(policy, Verbs):
        raise BadValue(f"the active policy is a policy or a peer, not {type(policy).__name__}")
    _process = policy


@contextmanager
def using(policy: Verbs) -> Iterator[Verbs]:
    """Make `policy` the active one in this thread or task, for the block."""
    if not isinstance(policy, Verbs):
        raise BadValue(f"using takes a policy or a peer, not {type(policy).__name__}")
    token = _using.set(policy)
    try:
        yield policy
    finally:
        _using.reset(token)


def local() -> DefaultPolicy:
    """The policy of this process behind the active one: itself, or the one that the active peer belongs to."""
    from .policy import DefaultPolicy

    chosen = get()
    if isinstance(chosen, DefaultPolicy):
        return chosen
    communication = getattr(chosen, "communication", None)
    with _lock:
        for policy in _local:
            if policy.owns(communication):
                return policy
    raise Closed("the active policy belongs to a policy that was closed; assign laila.active_policy")


def local_policies() -> dict[str, DefaultPolicy]:
    """The policies of this process by id."""
    with _lock:
        return {policy.global_id: policy for policy in _local}


def universe() -> dict[str, Verbs]:
    """Everything that can be made active, by id: the policies of this process and their peers."""
    known: dict[str, Verbs] = {}
    for policy in local_policies().values():
        known.update(policy.peers)
    known.update(local_policies())
    return known


def memory() -> Router:
    """The memory of this process' policy behind the active one."""
    return local().memory


def communication() -> Communication:
    return local().communication


def peers() -> Mapping[str, Any]:
    return local().peers


def terminate(wait: bool = True) -> None:
    """Close every policy of this process; with `wait`, calls under way get up to ten seconds to end."""
    with _lock:
        policies = list(_local)
    for policy in policies:
        policy.close(grace=10.0 if wait else 0.0)


# ---- verbs of the active policy ----


def memorize(*args: Entries, entries: Entries | None = None, pool_nickname: str | None = None) -> CallFuture:
    """`Verbs.memorize` of the active policy."""
    return get().memorize(*args, entries=entries, pool_nickname=pool_nickname)


def remember(
    *args: Ids,
    entry_ids: Ids | None = None,
    nickname: Any = None,
    pool_nickname: str | None = None,
    persist: bool = False,
) -> CallFuture:
    """`Verbs.remember` of the active policy."""
    return get().remember(
        *args, entry_ids=entry_ids, nickname=nickname, pool_nickname=pool_nickname, persist=persist
    )


def forget(
    *args: Ids,
    entry_ids: Ids | None = None,
    nickname: Any = None,
    pool_nickname: str | None = None,
    missing_ok: bool = False,
) -> CallFuture:
    """`Verbs.forget` of the active policy."""
    return get().forget(
        *args, entry_ids=entry_ids, nickname=nickname, pool_nickname=pool_nickname, missing_ok=missing_ok
    )


def exists(
    *args: Ids, entry_ids: Ids | None = None, nickname: Any = None, pool_nickname: str | None = None
) -> CallFuture:
    """`Verbs.exists` of the active policy."""
    return get().exists(*args, entry_ids=entry_ids, nickname=nickname, pool_nickname=pool_nickname)


def keys(pool_nickname: str | None = None) -> CallFuture:
    """`Verbs.keys` of the active policy."""
    return get().keys(pool_nickname)
