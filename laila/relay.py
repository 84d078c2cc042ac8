"""Answers that go further: back to a peer who asked through this node, or into this node's own pool first."""

from __future__ import annotations

from collections.abc import Sequence
from threading import get_ident

from .buffers import private
from .codec import Buffer
from .errors import LailaError
from .lanes import Lanes
from .router import Router
from .transport.link import Link
from .verbs import CallFuture


class Reply:
    """An answer on its way to the peer who asked, from this node's server or from the node that it was relayed to."""

    __slots__ = ("_link", "_request_id", "_thread")

    def __init__(self, link: Link, request_id: int, *, relayed: bool = False) -> None:
        self._link = link
        self._request_id = request_id
        # The thread that reads the link flushes once for all that it read; others must do it themselves.
        self._thread = 0 if relayed else get_ident()

    ids: tuple[str, ...] = ()
    """Whoever asked keeps the order of its own calls."""

    @property
    def what(self) -> str:
        return "a relayed call"

    def answered(self, envelope: bytes, buffers: Sequence[Buffer]) -> None:
        self._link.reply(self._request_id, envelope, buffers, flush=get_ident() != self._thread)

    def failed(self, error: BaseException) -> None:
        self._link.reply_error(self._request_id, error, flush=get_ident() != self._thread)


class Persisting:
    """Stores what was remembered before the future ends."""

    __slots__ = ("_future", "_lanes", "_memory")

    def __init__(self, future: CallFuture, memory: Router, lanes: Lanes) -> None:
        self._future = future
        self._memory = memory
        self._lanes = lanes

    def answered(self, envelope: bytes, buffers: tuple[Buffer, ...]) -> None:
        future = self._future

        def work() -> None:
            try:
                records = future.read(envelope, buffers)
                self._memory.alpha_pool.put_many(
                    [(key, private(record)) for key, record in zip(future.ids, records, strict=True)]
                )
                future.resolve(records)
            except Exception as error:  # whoever waits must hear of it
                future.reject(error)

        future.driver = None  # a worker ends it now; nobody need watch the link for it
        self._lanes.submit(work)

    def failed(self, error: LailaError) -> None:
        self._future.reject(error)
