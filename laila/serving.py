"""Serving: what a node does when a peer asks. It works on encoded records only and never decodes a payload.

Requests on pools that may wait go to the worker lanes, the others are answered at once in the thread that read them.
Serving uses this node's own memory, whatever the process has made its active policy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from . import operations
from .access import AccessRules
from .codec import Buffer
from .errors import LailaError, LimitExceeded, ProtocolError
from .lanes import Lanes
from .limits import Limits
from .pools.base import Pool
from .router import ALPHA, Router
from .services import Services
from .stats import Stats
from .wire.messages import (
    WRITES,
    Answer,
    Call,
    Op,
    forget_of,
    ids_of,
    items_of,
    pack,
    question_of,
    split_records,
)

Out = tuple[bytes, Sequence[Buffer]]


_NAMES = {op: op.name.lower() for op in Op}


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks; for a relayed request the one behind the relay counts as well."""

    node_id: str
    name: str
    origin: tuple[str, str] | None = None


class Ticket(Protocol):
    """Where an answer goes."""

    def answered(self, envelope: bytes, buffers: Sequence[Buffer]) -> None: ...
    def failed(self, error: BaseException) -> None: ...


class Server:
    """Answers calls from one node's memory."""

    def __init__(
        self,
        memory: Router,
        access: AccessRules,
        limits: Limits,
        stats: Stats,
        lanes: Callable[[], Lanes],
        services: Services,
    ) -> None:
        self._memory = memory
        self._access = access
        self._limits = limits
        self._stats = stats
        self._lanes = lanes
        self._services = services
        self._handlers: dict[Op, Callable[[Pool, Call, Sequence[Buffer]], Out]] = {
            Op.MEMORIZE: self._memorize,
            Op.REMEMBER: self._remember,
            Op.FORGET: self._forget,
            Op.EXISTS: self._exists,
            Op.KEYS: self._keys,
        }

    def serve(self, call: Call, buffers: Sequence[Buffer], asker: Asker, ticket: Ticket) -> None:
        """Answer now or later. Raises ProtocolError for a call that cannot be read."""
        started = time.perf_counter()
        try:
            if call.op is Op.POOLS:
                ticket.answered(pack(self._pools(asker)), ())
                self._stats.served("pools", time.perf_counter() - started, None)
                return
            if call.op is Op.INVOKE:
                self._invoke(call, buffers, asker, started, ticket)
                return
            nickname = call.pool or ALPHA
            pool = self._memory.pool(nickname)
            if self._access.lines:
                self._check(asker, nickname, call.op in WRITES)
            if operations.may_block(pool):
                keys = [(asker.node_id, pool.global_id, key) for key in _keys_of(call)]
                self._lanes().submit(lambda: self._run(call, pool, buffers, started, ticket), keys)
                return
        except ProtocolError:
            raise
        except LailaError as error:
            self._stats.served(_NAMES[call.op], time.perf_counter() - started, error)
            ticket.failed(error)
            return
        self._run(call, pool, buffers, started, ticket)

    def _check(self, asker: Asker, nickname: str, write: bool) -> None:
        self._access.check(asker.node_id, asker.name, nickname, write)
        if asker.origin is not None:
            self._access.check(asker.origin[0], asker.origin[1], nickname, write)

    def _run(self, call: Call, pool: Pool, buffers: Sequence[Buffer], started: float, ticket: Ticket) -> None:
        try:
            envelope, out = self._handlers[call.op](pool, call, buffers)
        except Exception as error:  # it travels to whoever asked
            self._stats.served(_NAMES[call.op], time.perf_counter() - started, error)
            ticket.failed(error)
            return
        ticket.answered(envelope, out)
        self._stats.served(_NAMES[call.op], time.perf_counter() - started, None)

    def _invoke(
        self, call: Call, buffers: Sequence[Buffer], asker: Asker, started: float, ticket: Ticket
    ) -> None:
        question = question_of(call.arguments)
        if self._access.lines:
            self._check(asker, f"service:{call.pool}", True)
        handler = self._services.find(call.pool)

        def work() -> None:
            try:
                answer = handler(asker, question, buffers)
                words, out = (answer.words, answer.buffers) if isinstance(answer, Answer) else (answer, ())
                envelope = pack(dict(words))
            except BaseException as error:  # it travels to whoever asked, who would wait for ever
                self._stats.served(_NAMES[call.op], time.perf_counter() - started, error)
                ticket.failed(error)
                return
            ticket.answered(envelope, out)
            self._stats.served(_NAMES[call.op], time.perf_counter() - started, None)

        self._services.lanes.submit(work)

    # ---- operations ----

    def _memorize(self, pool: Pool, call: Call, buffers: Sequence[Buffer]) -> Out:
        items = items_of(call.arguments, buffers)
        self._check_batch(len(items))
        operations.memorize(pool, items)
        return pack(len(items)), ()

    def _remember(self, pool: Pool, call: Call, buffers: Sequence[Buffer]) -> Out:
        ids = ids_of(call.arguments)
        self._check_batch(len(ids))
        heads, counts, out = split_records(operations.remember(pool, ids, call.pool or ALPHA))
        return pack((heads, counts)), out

    def _forget(self, pool: Pool, call: Call, buffers: Sequence[Buffer]) -> Out:
        ids, missing_ok = forget_of(call.arguments)
        self._check_batch(len(ids))
        return pack(operations.forget(pool, ids, call.pool or ALPHA, missing_ok=missing_ok)), ()

    def _exists(self, pool: Pool, call: Call, buffers: Sequence[Buffer]) -> Out:
        ids = ids_of(call.arguments)
        self._check_batch(len(ids))
        return pack(pool.exists_many(ids)), ()

    def _keys(self, pool: Pool, call: Call, buffers: Sequence[Buffer]) -> Out:
        return pack(sorted(pool.keys())), ()

    def _pools(self, asker: Asker) -> list[dict[str, Any]]:
        return [
            {
                "name": nickname,
                "kind": pool.kind,
                "durable": pool.capabilities.durable,
                "read": self._access.allowed(asker.node_id, asker.name, nickname, False),
                "write": self._access.allowed(asker.node_id, asker.name, nickname, True),
            }
            for nickname, pool in self._memory.pools.items()
        ]

    def _check_batch(self, count: int) -> None:
        if count > self._limits.max_batch:
            raise LimitExceeded(
                f"{count} entries in one call; this node allows max_batch={self._limits.max_batch}: use several calls",
                limit="max_batch",
                allowed=self._limits.max_batch,
                got=count,
            )


def _keys_of(call: Call) -> Sequence[str]:
    arguments = call.arguments
    if call.op is Op.MEMORIZE or call.op is Op.FORGET:
        arguments = arguments[0] if type(arguments) is list and arguments else []
    return arguments if type(arguments) is list and all(type(key) is str for key in arguments) else ()
