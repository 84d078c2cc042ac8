"""Locks across threads, processes and nodes: one interface over flock, Redis, etcd, PostgreSQL and Kubernetes.

>>> from laila.locks import connect
>>> with connect("/tmp/laila-locks-example") as service, service.lock("report") as hold:
...     hold.check()  # raises LockLost when it is held no longer

Which service to take: `flock` on one host, or on a shared volume for which `laila volume check` says SAFE; the
others where there is no such volume. None of them stops a holder that was paused between its last check and its
write: whoever stores the result compares `hold.token`, which rises with every exclusive hold, and refuses a smaller
one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from laila.errors import BadConfig

from .base import Capabilities, Hold, Holder, Lock, LockService

if TYPE_CHECKING:
    from .flock import FlockService

__all__ = ["Capabilities", "FlockService", "Hold", "Holder", "Lock", "LockService", "connect"]


def connect(url: str, **options: Any) -> LockService:
    """The lock service at an address. Options are the service's own, such as `node="n1"`.

    - a path, or `flock:/mnt/shared/locks`: lock files in this directory
    - `redis://[user:password@]host[:port][/db]`, `rediss://...` (TLS), `unix:///run/redis.sock`
    - `etcd://host[:port]`, `etcds://...` (TLS)
    - `postgresql://user@host/database`
    - `kubernetes://NAMESPACE[?context=NAME][&kubeconfig=FILE]`, one Lease object per name

    Raises BadConfig for an address or option that no service has; LockUnavailable as the service does.
    """
    scheme, colon, _ = url.partition(":")
    if not colon or "/" in scheme:
        scheme = "flock"
    open_service = _SCHEMES.get(scheme)
    if open_service is None:
        known = ", ".join(f"{s}:" for s in _SCHEMES)
        raise BadConfig(
            f"no lock service is reached by an address that begins with {scheme!r}; "
            f"give a directory, or one that begins with one of {known}"
        )
    try:
        return open_service(url, **options)
    except TypeError as error:
        raise BadConfig(
            f"a lock service of kind {scheme or 'flock'} cannot be opened with {sorted(options)}: {error}"
        ) from error


def _flock(url: str, **options: Any) -> LockService:
    from .flock import FlockService

    return FlockService(url.removeprefix("flock:"), **options)


def _redis(url: str, **options: Any) -> LockService:
    from .redis_lock import RedisService

    return RedisService(url, **options)


def _etcd(url: str, **options: Any) -> LockService:
    from .etcd_lock import EtcdService

    return EtcdService(url, **options)


def _postgres(url: str, **options: Any) -> LockService:
    from .postgres_lock import PostgresService

    return PostgresService(url, **options)


def _kubernetes(url: str, **options: Any) -> LockService:
    from .kubernetes_lock import KubernetesService

    return KubernetesService(url, **options)


_SCHEMES: dict[str, Callable[..., LockService]] = {
    "flock": _flock,
    "redis": _redis,
    "rediss": _redis,
    "unix": _redis,
    "etcd": _etcd,
    "etcds": _etcd,
    "postgresql": _postgres,
    "postgres": _postgres,
    "kubernetes": _kubernetes,
}


def __getattr__(name: str) -> Any:
    if name == "FlockService":
        from .flock import FlockService

        return FlockService
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
