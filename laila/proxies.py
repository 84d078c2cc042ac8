"""Peers: other nodes, as proxies with the same verbs as one's own memory."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .codec import Buffer, Encoded
from .errors import BadValue, PeerLost
from .transport.link import Link, State
from .verbs import CallFuture, Verbs
from .wire.messages import Answer, Hello, Op, pack_call, split_records

if TYPE_CHECKING:
    from .endpoint import Communication


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """How things stand between this node and one peer. Times are seconds of the epoch, `rtt` seconds."""

    peer_id: str
    peer_name: str
    address: str
    direction: str
    """"dialed" when this side opened the connection, else "accepted"."""
    state: str
    """"up" or "lost"."""
    since: float
    last_contact: float
    rtt: float | None
    bytes_in: int
    bytes_out: int
    requests_in: int
    requests_out: int
    errors: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Remote(Verbs):
    """Verbs that run on another node: over a link to it, or through a peer that has one."""

    def __init__(self, communication: Communication) -> None:
        self.communication = communication

    @abstractmethod
    def _route(self) -> tuple[Link, list[str] | None]:
        """The link and the route in the envelope. Raises PeerLost."""

    def _call(
        self,
        future: CallFuture,
        pool: str | None,
        arguments: Any,
        persist: bool,
        buffers: Sequence[Buffer] = (),
    ) -> None:
        if future.op is Op.MEMORIZE:
            records: list[Encoded] = [record for _, record in arguments]
            heads, counts, buffers = split_records(records)
            arguments = (future.ids, heads, counts)
        answer = self.communication.persisting(future) if persist else future
        timeout = self.communication.limits.request_timeout
        link, route = self._route()
        while True:
            future.driver = link
            try:
                envelope = pack_call(future.op, pool, arguments, route)
                link.submit(envelope, buffers, answer, future, timeout)
            except PeerLost as error:
                # One of two links may have been retired since we looked: then the other one is it.
                before, (link, route) = link, self._route()
                if link is before or error.executed != "no":
                    raise
            else:
                return

    @property
    def pools(self) -> list[dict[str, Any]]:
        """The pools of that node: name, kind, durable, and whether this node may read and write them."""
        return self._ask(Op.POOLS)  # type: ignore[no-any-return]  # what POOLS answers, docs/wire.md

    @property
    def peers(self) -> list[dict[str, Any]]:
        """That node's own peers, as LinkInfo fields."""
        return self._ask(Op.PEERS)  # type: ignore[no-any-return]  # what PEERS answers, docs/wire.md

    def ask(self, service: str, question: dict[str, Any], *, timeout: float | None = None) -> dict[str, Any]:
        """What a service of that node answers: one map of plain values for another.

        Raises: UnknownService, AccessDenied, PeerLost, DeadlineExceeded after `timeout` seconds, and whatever the
        service raises.
        """
        answer: Answer = self.invoke(service, question).wait(timeout)
        return dict(answer.words)

    def invoke(self, service: str, question: dict[str, Any], buffers: Sequence[Buffer] = ()) -> CallFuture:
        """The same as a future of an `Answer`; `buffers` go along uncopied, and must stay as they are meanwhile.

        Raises PeerLost, also from the future, with what `ask` raises.
        """
        future = CallFuture(Op.INVOKE, (), True)
        self._call(future, service, question, False, buffers)
        return future

    def _ask(self, op: Op) -> Any:
        future = CallFuture(op, (), True)
        self._call(future, None, None, False)
        return future.wait()


class Peer(Remote):
    """Another node. Stays the same object while the node is known, also when its link is lost and comes back."""

    def __init__(self, communication: Communication, global_id: str) -> None:
        super().__init__(communication)
        self.global_id = global_id
        self.name = ""
        self.instance = ""
        self.address = ""
        self.listen = ""
        self.software = ""
        self.link: Link | None = None
        self.lost_at: float | None = None
        self.last_link: Link | None = None

    def learn(self, hello: Hello) -> None:
        """What the peer says of itself."""
        self.name, self.instance = hello.name, hello.instance
        self.listen, self.software = hello.listen, hello.software

    @property
    def connected(self) -> bool:
        """Whether a link is up."""
        return self.link is not None and self.link.state is State.OPEN

    @property
    def last_contact(self) -> float | None:
        """When something was last heard from it, seconds of the epoch."""
        link = self.link or self.last_link
        return None if link is None else time.time() - (time.monotonic() - link.last_contact)

    def at(self, peer: str) -> RelayedPeer:
        """A peer of this peer, by id or name, worked on through it. Its own access rules count for both of us."""
        if not isinstance(peer, str) or not peer:
            raise BadValue(f"a peer is named by its id or its name, not by {peer!r}")
        return RelayedPeer(self.communication, self, peer)

    def ping(self, timeout: float = 5.0) -> float:
        """Seconds that a question and its answer take. Raises PeerLost, DeadlineExceeded."""
        started = time.perf_counter()
        future = CallFuture(Op.POOLS, (), True)
        self._call(future, None, None, False)
        future.wait(timeout)
        return time.perf_counter() - started

    def info(self) -> LinkInfo:
        """How things stand now."""
        link = self.link or self.last_link
        offset = time.time() - time.monotonic()
        return LinkInfo(
            peer_id=self.global_id,
            peer_name=self.name,
            address=self.address,
            direction="dialed" if link is not None and link.dialed else "accepted",
            state="up" if self.connected else "lost",
            since=offset + (link.since if link is not None else time.monotonic()),
            last_contact=offset + (link.last_contact if link is not None else 0.0),
            rtt=link.rtt if link is not None else None,
            bytes_in=link.bytes_in if link is not None else 0,
            bytes_out=link.bytes_out if link is not None else 0,
            requests_in=link.requests_in if link is not None else 0,
            requests_out=link.requests_out if link is not None else 0,
            errors=link.errors if link is not None else 0,
        )

    def _route(self) -> tuple[Link, list[str] | None]:
        link = self.link
        if link is None:
            raise PeerLost(
                f"{self.name or self.global_id} is not connected; the call was not sent", executed="no"
            )
        return link, None

    def __repr__(self) -> str:
        state = "up" if self.connected else "lost"
        return f"<Peer {self.name or '?'} {self.global_id} at {self.address or '?'} {state}>"


class RelayedPeer(Remote):
    """A node that is reached through a peer, which passes encoded bytes on and never decodes them."""

    def __init__(self, communication: Communication, via: Peer, target: str) -> None:
        super().__init__(communication)
        self.via = via
        self.target = target

    def _route(self) -> tuple[Link, list[str] | None]:
        return self.via._route()[0], ["to", self.target]

    def __repr__(self) -> str:
        return f"<RelayedPeer {self.target} through {self.via!r}>"
