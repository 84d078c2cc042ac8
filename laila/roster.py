"""The roster: which nodes are peers of this one, and over which link each is reached.

Two live links between the same two nodes (both dialed at once) are settled without talking: the one that the node
with the lower id dialed stays, the other is retired once nothing is under way on it. A peer that dialed us and was lost
stays listed for a while, so that its proxy works again when it returns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping

from .errors import DuplicateNode, ProtocolError, SelfPeer, UnknownPeer, VersionMismatch
from .proxies import Peer
from .transport.link import Link, State
from .wire.messages import VERSION_FIRST, VERSION_LAST, Hello

_DUPLICATE_GRACE = 5.0


class Roster(Mapping[str, Peer]):
    """Peers by id, in the order in which they came. Only the endpoint changes it."""

    def __init__(self, own_id: str, name: str, make: Callable[[str], Peer]) -> None:
        self._own_id = own_id
        self._name = name
        self._make = make
        self._peers: dict[str, Peer] = {}
        self._lock = threading.Lock()

    def __getitem__(self, key: str) -> Peer:
        try:
            return self._peers[key]
        except KeyError:
            known = ", ".join(f"{peer.name or '?'} ({peer.global_id})" for peer in self.values()) or "none"
            raise UnknownPeer(f"no peer has the id {key!r}; peers: {known}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._peers))

    def __len__(self) -> int:
        return len(self._peers)

    def __contains__(self, key: object) -> bool:
        return key in self._peers

    def find(self, peer_id: str) -> Peer | None:
        return self._peers.get(peer_id)

    def named(self, target: str) -> Peer:
        """A peer by id or name. Raises UnknownPeer, also for a name that several peers use."""
        peer = self._peers.get(target)
        if peer is not None:
            return peer
        matches = [peer for peer in list(self._peers.values()) if peer.name == target]
        if len(matches) > 1:
            raise UnknownPeer(f"{len(matches)} peers call themselves {target!r}; say which by its id")
        return matches[0] if matches else self[target]

    # ---- coming ----

    def admit(self, link: Link, hello: Hello, silent_after: float) -> Link | None:
        """List who said hello. Returns a link that its new start made stale. Raises LinkError for who may not come."""
        if hello.first > VERSION_LAST or hello.last < VERSION_FIRST:
            raise VersionMismatch(
                f"{self._name or 'this node'} speaks protocol versions {VERSION_FIRST} to {VERSION_LAST}, "
                f"{hello.name or link.address} speaks {hello.first} to {hello.last}; upgrade the older one"
            )
        if hello.node_id != link.peer_id:
            raise ProtocolError(
                f"{link.address} says it is node {hello.node_id}, but proved to be {link.peer_id}"
            )
        if hello.node_id == self._own_id:
            raise SelfPeer(f"{link.address} is this very node; remove it from the list of peers")
        with self._lock:
            peer = self._listed(hello)
            old, stale = peer.link, None
            if old is not None and old.state is State.OPEN and peer.instance not in ("", hello.instance):
                if time.monotonic() - old.last_contact < silent_after:
                    raise DuplicateNode(
                        f"two nodes use the identity {hello.node_id} ({old.address} and {link.address}): "
                        "give each its own state directory"
                    )
                peer.link, stale = None, old
            peer.learn(hello)
        return stale

    def attach(self, link: Link) -> tuple[Peer, Link | None]:
        """A link is up: the peer, and the link that is one too many, if any."""
        hello = link.peer
        assert hello is not None
        with self._lock:
            peer = self._listed(hello)
            peer.learn(hello)
            old = peer.link if peer.link is not None and peer.link.state is State.OPEN else None
            if old is not None and not self._beats(link, old):
                return peer, link
            peer.link = peer.last_link = link
            peer.address = link.address
            peer.lost_at = None
            return peer, old

    def _listed(self, hello: Hello) -> Peer:
        peer = self._peers.get(hello.node_id)
        if peer is None:
            peer = self._peers[hello.node_id] = self._make(hello.node_id)
        return peer

    def _beats(self, new: Link, old: Link) -> bool:
        if new.dialed == old.dialed:
            return True  # dialed twice by the same side: the newer one
        return new.dialed == (self._own_id < new.peer_id)

    # ---- going ----

    def detach(self, link: Link, *, kept: bool) -> Peer | None:
        """A link was lost: its peer, if that has no other link. It is delisted when it said goodbye, unless kept."""
        with self._lock:
            peer = self._peers.get(link.peer_id)
            if peer is None or peer.link is not link:
                return None
            peer.link = None
            peer.lost_at = time.monotonic()
            if link.reason == "goodbye" and not kept:
                del self._peers[link.peer_id]
            return peer

    def may_part(self, link: Link) -> bool:
        """Whether a retired link may go: one that was told of another link waits until that one is up here too."""
        peer = self._peers.get(link.peer_id)
        if peer is None or peer.link is not link or link.retired_as != "duplicate":
            return True
        return time.monotonic() - link.retired_at > _DUPLICATE_GRACE

    def expire(self, before: float, kept: Callable[[str], bool]) -> None:
        """Delist peers that were lost before that monotonic time."""
        with self._lock:
            for peer in list(self._peers.values()):
                if peer.lost_at is not None and peer.lost_at < before and not kept(peer.global_id):
                    del self._peers[peer.global_id]

    def remove(self, peer_id: str) -> Peer | None:
        with self._lock:
            return self._peers.pop(peer_id, None)

    def clear(self) -> None:
        with self._lock:
            self._peers.clear()

    def __repr__(self) -> str:
        return f"<Roster {list(self._peers.values())}>"
