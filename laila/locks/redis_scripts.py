"""What the lock does inside Redis, as Lua: each script is atomic, and sending it twice does no harm.

Keys of one name, in one slot of a cluster:
  X   hash      the exclusive holder: who, token, record; lives as long as its lease
  R   sorted    shared holders -> when each lease ends
  Q   sorted    those who wait -> their place in the queue
  W   sorted    those who wait -> until when they are believed to be alive
  T   string    the last exclusive token; never expires
  T:<who>       list, the bell of one who waits: it blocks on it
Who: `x` or `r` (exclusive, shared) and a random id, new for each acquisition. All times are the server's milliseconds.

Waiting is in order of arrival. Readers go in together, never past a writer that came first. Whoever makes room rings
the bell of those whose turn it is; where nobody is left to ring (a dead holder), the next attempt of those who wait
finds out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from .server import Server

if TYPE_CHECKING:
    import redis

T = TypeVar("T")
_HEAD = """
local X, R, Q, W, T = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local who, ttl = ARGV[1], tonumber(ARGV[2])
local writer = string.sub(who, 1, 1) == 'x'
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local function keep(key)
  if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, ttl) end
end

local function tidy()
  redis.call('ZREMRANGEBYSCORE', R, '-inf', now)
  for _, dead in ipairs(redis.call('ZRANGEBYSCORE', W, '-inf', now)) do
    redis.call('ZREM', Q, dead)
    redis.call('ZREM', W, dead)
  end
end

local function wake()
  if redis.call('EXISTS', X) == 1 then return end
  local readers = redis.call('ZCARD', R)
  for place, next in ipairs(redis.call('ZRANGE', Q, 0, 31)) do
    local exclusive = string.sub(next, 1, 1) == 'x'
    if exclusive and (readers > 0 or place > 1) then return end
    local bell = T .. ':' .. next
    if redis.call('EXISTS', bell) == 0 then
      redis.call('RPUSH', bell, 1)
      redis.call('PEXPIRE', bell, ttl)
    end
    if exclusive then return end
  end
end
"""

TAKE = (
    _HEAD
    + """
local record, queue = ARGV[3], ARGV[4] == '1'
tidy()
if writer and redis.call('HGET', X, 'who') == who then return {1, redis.call('HGET', X, 'token')} end
if not writer and redis.call('ZSCORE', R, who) then return {1, redis.call('GET', T) or '0'} end

local place = redis.call('ZRANK', Q, who)
local free = redis.call('EXISTS', X) == 0 and not (writer and redis.call('ZCARD', R) > 0)
if free and place ~= 0 then
  for _, before in ipairs(redis.call('ZRANGE', Q, 0, place and place - 1 or -1)) do
    if writer or string.sub(before, 1, 1) == 'x' then free = false; break end
  end
end

if free then
  redis.call('ZREM', Q, who)
  redis.call('ZREM', W, who)
  redis.call('DEL', T .. ':' .. who)
  local token = redis.call('GET', T) or '0'
  if writer then
    token = string.format('%.0f', math.max(tonumber(token) + 1, clock[1] * 1000000 + clock[2]))
    redis.call('SET', T, token)
    redis.call('HSET', X, 'who', who, 'token', token, 'record', record)
    redis.call('PEXPIRE', X, ttl)
  else
    redis.call('ZADD', R, now + ttl, who)
    keep(R)
    wake()
  end
  return {1, token}
end

if queue then
  if not place then
    local last = redis.call('ZREVRANGE', Q, 0, 0, 'WITHSCORES')
    redis.call('ZADD', Q, (tonumber(last[2]) or 0) + 1, who)
  end
  redis.call('ZADD', W, now + ttl, who)
  keep(Q)
  keep(W)
  wake()
end
local rest = redis.call('PTTL', X)
if rest < 0 and writer then
  local reader = redis.call('ZREVRANGE', R, 0, 0, 'WITHSCORES')
  if reader[2] then rest = tonumber(reader[2]) - now end
end
return {0, rest < 0 and ttl or rest}
"""
)
"""who, ttl, record, whether to queue -> {1, token} or {0, ms after which the one in the way may be dead}.

The token also rises when the server lost its data: it is at least the server's microseconds since the epoch.
"""

RENEW = (
    _HEAD
    + """
if writer then
  if redis.call('HGET', X, 'who') ~= who then return 0 end
  redis.call('PEXPIRE', X, ttl)
  return 1
end
local ends = redis.call('ZSCORE', R, who)
if not ends or tonumber(ends) <= now then return 0 end
redis.call('ZADD', R, now + ttl, who)
keep(R)
return 1
"""
)
"""who, ttl -> 1, or 0 when it is held no longer."""

LEAVE = (
    _HEAD
    + """
if writer and redis.call('HGET', X, 'who') == who then redis.call('DEL', X) end
redis.call('ZREM', R, who)
redis.call('ZREM', Q, who)
redis.call('ZREM', W, who)
redis.call('DEL', T .. ':' .. who)
tidy()
wake()
return 1
"""
)
"""who, ttl: neither holds nor waits afterwards."""

LOOK = (
    _HEAD
    + """
local held = redis.call('HMGET', X, 'token', 'record')
return {held[1] or '', held[2] or '', redis.call('ZCOUNT', R, now, '+inf')}
"""
)
"""Nothing -> {token, record of the exclusive holder, number of shared holders}."""


class Scripts:
    """The scripts on one pool of connections, which all wait equally long. `keys` are those of a lock, as in `keys_of`.

    Every method raises LockUnavailable, naming the server, when it does not do as asked within the pool's timeout.
    """

    def __init__(self, client: redis.Redis, server: Server, ttl: float) -> None:
        self._client = client
        self._server = server
        self._ttl = int(ttl * 1000)
        self._take, self._renew, self._leave, self._look = (
            client.register_script(text) for text in (TAKE, RENEW, LEAVE, LOOK)
        )

    def take(self, keys: list[str], who: str, record: str, queue: bool) -> tuple[bool, int]:
        """Whether `who` holds it now, and the token; or the milliseconds after which asking again is worth it."""
        granted, number = self._call(
            lambda: self._take(keys=keys, args=[who, self._ttl, record, "1" if queue else "0"])
        )
        return granted == 1, int(number)

    def renew(self, holds: Sequence[tuple[list[str], str]]) -> list[bool]:
        """Whether each is held still; those that are begin a new lease. One round trip."""

        def work() -> list[Any]:
            with self._client.pipeline(transaction=False) as pipe:
                for keys, who in holds:
                    self._renew(keys=keys, args=[who, self._ttl], client=pipe)
                return pipe.execute()

        return [answer == 1 for answer in self._call(work)]

    def leave(self, keys: list[str], who: str) -> None:
        """`who` neither holds it nor waits for it afterwards."""
        self._call(lambda: self._leave(keys=keys, args=[who, self._ttl]))

    def look(self, keys: list[str]) -> tuple[str, str, int]:
        """Token and record of the exclusive holder, both "" for nobody; the number of shared holders."""
        token, record, readers = self._call(lambda: self._look(keys=keys, args=["", self._ttl]))
        return token, record, int(readers)

    def doze(self, keys: list[str], who: str, seconds: float) -> bool:
        """Wait for that long for `who`'s bell; whether it rang."""
        return self._call(lambda: self._client.blpop([f"{keys[-1]}:{who}"], seconds)) is not None

    def close(self) -> None:
        """Close all connections."""
        self._client.close()
        self._client.connection_pool.disconnect()

    def _call(self, work: Callable[[], T]) -> T:
        from redis import RedisError

        try:
            return work()
        except (RedisError, OSError) as error:
            failure = self._server.failed(error)
        raise failure
