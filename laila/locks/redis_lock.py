"""Locks in a Redis server (or Valkey), by redis-py: leases that one thread renews, and a fair queue.

Strategy: everything that decides happens in the scripts of redis_scripts. A hold is a lease of `ttl` seconds; it is
lost by our own clock before the server gives it to others (lease.py). Who waits blocks on a list of its own (BLPOP) and
is woken when it is its turn; every third of a lease it asks anyway, since nobody rings for a holder that died.

Rules
- What may have been taken on the server without our knowing (an answer that was lost) is owed back: the keeper's
  thread gives it back as soon as it can, and the lease ends it in any case.
- Nothing waits longer than its caller allows and one request takes.

What it does not promise: the lock is as durable as the server's data. A server that restarts without persistence,
fails over to a replica that lags, evicts keys or is flushed, forgets who holds what: then two can hold it at once,
until the first one asks (`lost`, `check`) or renews, which happens three times in a lease. Fencing tokens rise all the
same, as long as the server's wall clock does. One server; no quorum of several is attempted.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from typing import TYPE_CHECKING

from laila.errors import BadConfig, LockUnavailable

from .base import Capabilities, Hold, Holder, Lock, LockService, Wait
from .lease import AGAIN, BEATS, Keeper, Term, now
from .redis_scripts import Scripts
from .server import Server, Settings, client

if TYPE_CHECKING:
    import redis

SLICE = 0.5
"""Seconds of one blocking read: so soon a waiter sees that its caller went away or the service was closed."""


class RedisService(LockService):
    """Locks at `redis://[user:password@]host[:port][/db]`, `rediss://` (TLS) or `unix:///path`; Redis 6 or later.

    Options, also in the address as `?ttl=5`: `ttl` seconds of a lease, `timeout` of one request, `prefix` of the keys.
    The address may carry what redis-py takes, such as `ssl_ca_certs`. Raises BadConfig; connects when first used.
    """

    kind = "redis"
    capabilities = Capabilities(shared=True, leased=True, survives_holder_pause=False)

    def __init__(
        self,
        url: str,
        *,
        node: str = "",
        ttl: float | None = None,
        timeout: float | None = None,
        prefix: str | None = None,
    ) -> None:
        super().__init__(node)
        client("redis", "redis", "redis")
        self.settings, self._url = Settings.of(url, ttl, timeout, prefix)
        self._open()

    def _open(self) -> None:
        ttl, timeout = self.settings.ttl, self.settings.timeout
        self._mutex = threading.Condition()
        self._kept: set[RedisHold] = set()
        self._owed: dict[tuple[str, str], float] = {}
        self._waiting = 0
        main = self._connect(max(timeout, SLICE * 2))
        self.server = _server(main)
        self._main = Scripts(main, self.server, ttl)
        self._renewer = Scripts(self._connect(min(timeout, ttl / BEATS)), self.server, ttl)
        self._asker = Scripts(self._connect(min(timeout, ttl / 10, 1.0)), self.server, ttl)
        self._keeper = Keeper(self._beat, self._idle, ttl / BEATS)

    def _connect(self, timeout: float) -> redis.Redis:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        try:
            found: redis.Redis = redis.Redis.from_url(
                self._url,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                **({} if self._url.startswith("unix:") else {"socket_keepalive": True}),
                decode_responses=True,
                protocol=2,
                # For a connection that the server closed while it was idle. What timed out is not repeated.
                retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
            )
            pool = found.connection_pool
            pool.connection_class(**pool.connection_kwargs)  # opens nothing; raises for what it does not take
        except (ValueError, TypeError, AttributeError):
            raise BadConfig(
                "the Redis address cannot be used; write it as redis://user:password@host:6379/0"
            ) from None
        return found

    def _make(self, name: str, timeout: float | None) -> RedisLock:
        return RedisLock(self, name, timeout)

    def keep(self, hold: RedisHold) -> None:
        with self._mutex:
            self._kept.add(hold)
        self._keeper.wake()

    def owe(self, name: str, who: str) -> None:
        """Give back later what may be ours on the server; after a lease it is gone by itself."""
        with self._mutex:
            self._owed[name, who] = now() + self.settings.ttl + self.settings.timeout
        self._keeper.wake(AGAIN)

    def _idle(self) -> bool:
        with self._mutex:
            return not self._kept and not self._owed

    def _beat(self) -> float:
        """Renew every hold and pay what is owed; the seconds until this should be done again."""
        with self._mutex:
            holds = list(self._kept)
        try:
            self._renew(holds)
            self._pay()
        except LockUnavailable:
            return min(self.settings.ttl / (BEATS * 4), self.settings.timeout)
        return self.settings.ttl / BEATS

    def _renew(self, holds: list[RedisHold]) -> None:
        sent = now()
        answers = self._renewer.renew([(hold.keys, hold.who) for hold in holds]) if holds else []
        for hold, held in zip(holds, answers, strict=True):
            hold.heard(sent, held)

    def _pay(self) -> None:
        with self._mutex:
            owed = dict(self._owed)
        for (name, who), until in owed.items():
            if now() < until:
                self._renewer.leave(self.keys(name), who)
            with self._mutex:
                self._owed.pop((name, who), None)

    def leave(self, name: str, who: str) -> None:
        """Give back now, or else later. Does not raise."""
        if not (self.closed and self._owed):  # else it did not answer a moment ago
            with contextlib.suppress(LockUnavailable):
                self._main.leave(self.keys(name), who)
                return
        self.owe(name, who)

    def keys(self, name: str) -> list[str]:
        """The keys of a lock, as the scripts want them; the braces keep them in one slot of a cluster."""
        return [f"{self.settings.prefix}{{{name}}}:{part}" for part in "xrqwt"]

    def _shut(self) -> None:
        patience = self.settings.timeout + SLICE
        with self._mutex:  # those who wait see within a slice that it was closed, and leave their queues
            self._mutex.wait_for(lambda: self._waiting == 0, patience)
        self._keeper.close(patience)
        with contextlib.suppress(LockUnavailable):  # then the leases end by themselves
            self._pay()
        for scripts in (self._main, self._renewer, self._asker):
            scripts.close()

    def _after_fork(self) -> None:
        self._open()

    def __repr__(self) -> str:
        return f"<RedisService {self.server.where}{' closed' if self.closed else ''}>"


def _server(connected: redis.Redis) -> Server:
    kept = connected.connection_pool.connection_kwargs
    where = kept.get("path") or f"{kept.get('host', 'localhost')}:{kept.get('port', 6379)}"
    return Server("Redis", where, kept.get("password") or "")


class RedisLock(Lock):
    """One name in Redis. Waiting is in order of arrival, readers together; who waits dies with its lease."""

    service: RedisService

    def _take(self, wait: Wait, shared: bool, purpose: str) -> RedisHold | None:
        service = self.service
        who = ("r" if shared else "x") + secrets.token_hex(12)
        with service._mutex:
            service._waiting += 1
        try:
            return self._queued(who, wait, purpose)
        except BaseException:
            service.owe(self.name, who)
            raise
        finally:
            with service._mutex:
                service._waiting -= 1
                service._mutex.notify_all()

    def _queued(self, who: str, wait: Wait, purpose: str) -> RedisHold | None:
        service, keys = self.service, self.service.keys(self.name)
        while True:
            sent, since = now(), time.time()
            record = _record(service.node, since, purpose)
            granted, number = service._main.take(keys, who, record, queue=wait.timeout != 0)
            if granted:
                hold = RedisHold(self, who, number, Term(sent, service.settings.ttl), since, purpose)
                service.keep(hold)
                return hold
            if wait.over or service.closed:
                if wait.timeout != 0:
                    service.leave(self.name, who)
                service._require_open()
                return None
            self._doze(keys, who, wait, min(number / 1000 + 0.01, service.settings.ttl / BEATS))

    def _doze(self, keys: list[str], who: str, wait: Wait, seconds: float) -> None:
        """Until the bell rings, `seconds` have gone, the wait is over or the service is closed."""
        until = now() + seconds
        while not wait.over and not self.service.closed and (rest := until - now()) > 0:
            if self.service._main.doze(keys, who, max(0.01, wait.left(min(rest, SLICE)))):
                return

    def holder(self) -> Holder | None:
        token, record, _ = self.service._main.look(self.service.keys(self.name))
        return _holder(token, record)

    def in_the_way(self) -> str:
        token, record, readers = self.service._main.look(self.service.keys(self.name))
        holder = _holder(token, record)
        return str(holder) if holder else f"{readers} shared holders" if readers else ""


def _record(node: str, since: float, purpose: str) -> str:
    own = Holder.here(node, 0, since, purpose)
    return json.dumps([own.node, own.host, own.pid, own.since, own.purpose])


def _holder(token: str, record: str) -> Holder | None:
    if not record:
        return None
    node, host, pid, since, purpose = json.loads(record)
    return Holder(node, host, pid, since, purpose, int(token))


class RedisHold(Hold):
    """A lease in Redis. `lost` asks the server, for at most a second; without an answer its own clock decides."""

    __slots__ = ("_term", "keys", "who")
    _lock: RedisLock

    def __init__(self, lock: RedisLock, who: str, token: int, term: Term, since: float, purpose: str) -> None:
        super().__init__(lock, token, shared=who[0] == "r", since=since, purpose=purpose)
        self.who = who
        self.keys = lock.service.keys(lock.name)
        self._term = term

    def heard(self, sent: float, held: bool) -> None:
        """What the server said to a request to renew this, sent then."""
        if held:
            self._term.renewed(sent)
        else:
            self._term.broken("its lease ended at the server, or the server lost its data")

    def _find_loss(self) -> str:
        if not self._term.loss:
            sent = now()
            try:
                self.heard(sent, self._lock.service._asker.renew([(self.keys, self.who)])[0])
            except LockUnavailable:
                return self._term.loss
        return self._term.loss

    def _give_back(self) -> None:
        service = self._lock.service
        with service._mutex:
            service._kept.discard(self)
        service.leave(self.name, self.who)
