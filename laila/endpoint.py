"""The endpoint: a node's listeners, dialers and links; `laila.communication` is the active policy's.

Link events come in the thread that reads that link. What they mean for the list of peers is the roster's business;
requests go to the server, or are relayed.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .access import AccessRules
from .dialer import Dialer
from .errors import (
    AuthenticationFailed,
    BadConfig,
    Busy,
    Closed,
    LailaError,
    PeerLost,
    ProtocolError,
    SelfPeer,
    UnknownPeer,
)
from .events import Events
from .futures import Future
from .lanes import Lanes
from .limits import Limits
from .proxies import LinkInfo, Peer
from .relay import Persisting, Reply
from .roster import Roster
from .router import Router
from .secret import check_secret
from .services import Services
from .serving import Asker, Server
from .stats import Stats
from .transport.budget import Budget
from .transport.identity import Identity
from .transport.link import Link, State
from .transport.reactor import Reactor
from .transport.tcp import ContextCache, DefaultTCPIPProtocol, Listener, check_address, resolve
from .verbs import CallFuture
from .version import VERSION
from .wire import events as wire
from .wire.messages import Call, Hello, Op, pack, pack_call, unpack_call


class Communication:
    """One node's side of all its links. `laila.communication` is the one of the active policy."""

    def __init__(
        self, identity: Identity, name: str, memory: Router, limits: Limits, lanes: Callable[[], Lanes]
    ) -> None:
        self.identity = identity
        self.name = name
        self.limits = limits
        self.access = AccessRules()
        self.services = Services(name)
        self.stats = Stats()
        self.events = Events()
        self.peers = Roster(identity.node_id, name, lambda peer_id: Peer(self, peer_id))
        self.instance = secrets.token_hex(8)
        self._memory = memory
        self._lanes = lanes
        self._budget = Budget(limits.body_budget)
        self._reactor: Reactor | None = None
        self._server: Server | None = None
        self._resolver: ThreadPoolExecutor | None = None
        self._starting = threading.Lock()
        self._listeners: dict[DefaultTCPIPProtocol, Listener] = {}
        self._dialers: list[Dialer] = []
        self._links: dict[Link, Dialer | Listener | None] = {}
        self._closed = False

    # ---- for users ----

    @property
    def connections(self) -> list[DefaultTCPIPProtocol]:
        """What this node listens on."""
        return list(self._listeners)

    def add_connection(self, protocol: DefaultTCPIPProtocol) -> DefaultTCPIPProtocol:
        """Listen. Afterwards `protocol.port` is the bound port.

        Raises: BadConfig when the address cannot be bound, Unreachable when its name does not resolve.
        """
        if protocol in self._listeners:
            raise BadConfig(f"{protocol!r} was added already")
        self._listeners[protocol] = Listener(protocol, self.identity, self.reactor, self._accepted)
        return protocol

    def remove_connection(self, protocol: DefaultTCPIPProtocol) -> None:
        """Listen there no more, and part from the peers that came in that way. Raises UnknownPeer."""
        listener = self._listeners.pop(protocol, None)
        if listener is None:
            raise BadConfig(f"{protocol!r} was not added here")
        self._run(listener.close)
        for link, source in list(self._links.items()):
            if source is listener:
                self._part(link)

    def add_tcpip_peer(
        self,
        host: str,
        port: int,
        secret: str,
        *,
        also_accept: Sequence[str] = (),
        timeout: float | None = None,
    ) -> str:
        """Peer with the node that listens there; its id. Both sides list each other when this returns.

        The link is kept: when it is lost it is dialed again until `remove_peer`. `also_accept`: other secrets that the
        listener may prove instead. A rotation goes in three rounds over all nodes: accept the new secret beside the
        old one; show the new one and accept the old one; drop the old one.
        Raises: Unreachable, AuthenticationFailed, VersionMismatch, SelfPeer, DuplicateNode, DeadlineExceeded.
        """
        first = Future(f"peering with {host}:{port}")
        dialer = self._dial(host, port, secret, also_accept, first)
        try:
            first.finish(timeout if timeout is not None else self.limits.connect_timeout + 2)
        except BaseException:
            self.forget_dialer(dialer)
            raise
        peer_id: str = first.data
        return peer_id

    def maintain(self, host: str, port: int, secret: str, *, also_accept: Sequence[str] = ()) -> Dialer:
        """Peer with that node whenever it is there: dials in the background, for as long as it takes."""
        return self._dial(host, port, secret, also_accept, None)

    def remove_peer(self, peer_id: str) -> None:
        """Part from a peer and dial it no more. Raises UnknownPeer."""
        peer = self.peers[peer_id]
        for dialer in [one for one in self._dialers if one.peer_id == peer_id]:
            self.forget_dialer(dialer)
        self.peers.remove(peer_id)
        if peer.link is not None:
            self._part(peer.link)

    def links(self) -> list[LinkInfo]:
        """How things stand with every known peer."""
        return [peer.info() for peer in list(self.peers.values())]

    @property
    def dialers(self) -> list[Dialer]:
        return list(self._dialers)

    @property
    def live_links(self) -> list[Link]:
        """Every connection, also those that have not shaken hands."""
        return list(self._links)

    def stop(self, grace: float = 0.0) -> None:
        """End everything: listeners and dialers at once, links after `grace` seconds for what is under way."""
        self._closed = True
        if self._reactor is None:
            return
        for dialer in self.dialers:
            self.forget_dialer(dialer)
        for listener in self._listeners.values():
            self._run(listener.close)
        self._listeners.clear()
        for link in list(self._links):
            link.retire("closing", "this node is stopping")
        end = time.monotonic() + grace
        while time.monotonic() < end and any(not link.idle for link in list(self._links)):
            time.sleep(0.01)
        for link in list(self._links):
            self._part(link, announced=True)
        if self._resolver is not None:
            self._resolver.shutdown(wait=False, cancel_futures=True)
        self._reactor.close()
        self.services.close()
        self.peers.clear()

    def abandon(self) -> None:
        """In a forked child: the I/O thread did not come along and the links belong to the parent."""
        self._closed = True
        self._reactor = None
        for listener in self._listeners.values():
            listener.abandon()
        for link in list(self._links):
            link.abandon()

    # ---- for dialers and proxies ----

    @property
    def reactor(self) -> Reactor:
        """The I/O thread; started by the first who needs it."""
        with self._starting:
            if self._closed:
                raise Closed("this node was closed; make another policy")
            if self._reactor is None:
                self._reactor = Reactor(
                    f"laila-io-{self.name}", spin=self.limits.spin, failed=self.events.crashed
                )
                self._server = Server(
                    self._memory, self.access, self.limits, self.stats, self._lanes, self.services
                )
                self._reactor.call_later(self.limits.ping_interval / 4, self._tick)
            return self._reactor

    def is_connected(self, peer_id: str) -> bool:
        peer = self.peers.find(peer_id)
        return peer is not None and peer.connected

    def forget_dialer(self, dialer: Dialer) -> None:
        dialer.close()
        if dialer in self._dialers:
            self._dialers.remove(dialer)

    def dial_failed(self, dialer: Dialer, error: LailaError) -> None:
        self.events.dial_failed(dialer.address, error)

    def dialed(self, sock: socket.socket, address: str, context: ContextCache, dialer: Dialer) -> Link:
        return self._add_link(sock, address, context, dialer)

    def resolve(
        self, host: str, port: int, done: Callable[[Any], None], failed: Callable[[LailaError], None]
    ) -> None:
        """Ask the name server in another thread, answer in the I/O thread."""
        if self._resolver is None:
            self._resolver = ThreadPoolExecutor(4, thread_name_prefix=f"laila-dns-{self.name}")

        def work() -> None:
            try:
                addresses = resolve(host, port)
            except LailaError as error:
                problem = error
                self.reactor.call_soon(lambda: failed(problem))
            else:
                self.reactor.call_soon(lambda: done(addresses))

        self._resolver.submit(work)

    def persisting(self, future: CallFuture) -> Persisting:
        """An answer that is kept in this node's default pool before the future ends."""
        return Persisting(future, self._memory, self._lanes())

    # ---- links' owner ----

    def authenticated(self, link: Link) -> None:
        source = self._links.get(link)
        allow = source.protocol.allow if isinstance(source, Listener) else None
        if allow is not None and link.peer_id not in allow:
            raise AuthenticationFailed(
                f"node {link.peer_id} is not on the list of nodes that are let in here"
            )

    def greeted(self, link: Link, hello: Hello) -> None:
        source = self._links.get(link)
        if isinstance(source, Dialer) and source.closed:
            raise Closed(f"{link.address}: dialing was given up")
        stale = self.peers.admit(link, hello, self.limits.ping_interval)
        if stale is not None:
            stale.fail(PeerLost(f"{stale.where()} was started anew"), "replaced")

    def opened(self, link: Link) -> None:
        peer, loser = self.peers.attach(link)
        self.stats.links_opened += 1
        source = self._links.get(link)
        if isinstance(source, Dialer):
            source.opened(link)
            # Dialed again by hand: the newest dialer keeps the link, the others would only dial beside it.
            for other in self.dialers:
                if other is not source and (other.peer_id, other.address) == (source.peer_id, source.address):
                    self.forget_dialer(other)
        if loser is not None:
            loser.retire("duplicate", "the two nodes have another link")
        if loser is not link:
            self.events.link_up(peer.info())

    def may_part(self, link: Link) -> bool:
        return self.peers.may_part(link)

    def lost(self, link: Link, error: LailaError) -> None:
        source = self._links.pop(link, None)
        self.stats.bytes_in += link.bytes_in
        self.stats.bytes_out += link.bytes_out
        shaken = link.peer is not None
        if not shaken:
            if not (link.dialed or isinstance(error, SelfPeer)):
                self.stats.refused[link.reason] += 1
                self.events.refused(link.address, link.reason, error)
        else:
            self.stats.links_lost += 1
            self._peer_lost(link, error)
        if isinstance(source, Dialer) and not self._closed:
            self.reactor.call_soon(lambda: source.lost(error, shaken=shaken))

    def _peer_lost(self, link: Link, error: LailaError) -> None:
        peer = self.peers.detach(link, kept=self._is_kept(link.peer_id))
        if peer is None:
            return
        self.events.link_lost(peer.info(), link.reason, error)
        if not self._closed:
            for dialer in self.dialers:
                if dialer.peer_id == link.peer_id:
                    self.reactor.call_soon(dialer.peer_lost)

    def _is_kept(self, peer_id: str) -> bool:
        return any(dialer.peer_id == peer_id for dialer in self._dialers)

    def cancelled(self, link: Link, request_id: int) -> None:
        """What runs goes on; its answer is dropped by the session."""

    def requested(self, link: Link, request: wire.Request) -> None:
        assert self._server is not None
        assert link.peer is not None
        call = unpack_call(request.envelope)
        asker = Asker(link.peer_id, link.peer.name)
        if call.route is not None:
            if call.route[0] == "to":
                self._relay(link, request, call.route[1], call)
                return
            if call.route[0] != "from" or len(call.route) != 3:
                raise ProtocolError("the other side sent a route that cannot be read")
            asker = Asker(link.peer_id, link.peer.name, (call.route[1], call.route[2]))
        if call.op is Op.PEERS:
            link.reply(request.request_id, pack([info.as_dict() for info in self.links()]))
        else:
            self._server.serve(call, request.buffers, asker, Reply(link, request.request_id))

    # ---- inside ----

    def _relay(self, link: Link, request: wire.Request, target: str, call: Call) -> None:
        """Pass a request on to a peer, its buffers untouched, and the answer back."""
        assert link.peer is not None
        relay = Reply(link, request.request_id, relayed=True)
        try:
            peer = self.peers.named(target)
            onward = peer.link
            if onward is None:
                raise PeerLost(
                    f"{peer.name or target} is not connected to {self.name or 'the relay'}", executed="no"
                )
            if onward is link:
                raise UnknownPeer(f"{target!r} is the one who asks; relaying leads to other nodes")
            envelope = pack_call(call.op, call.pool, call.arguments, ["from", link.peer_id, link.peer.name])
            onward.submit(envelope, request.buffers, relay, relay, self.limits.request_timeout)
        except LailaError as error:
            link.reply_error(request.request_id, error)

    def _dial(self, host: str, port: int, secret: str, also: Sequence[str], first: Future | None) -> Dialer:
        check_address(host, port)
        context = ContextCache(self.identity, check_secret(secret), tuple(also), server=False)
        dialer = Dialer(self, host, port, context, first=first)
        self._dialers.append(dialer)
        return dialer

    def _accepted(self, sock: socket.socket, address: str, listener: Listener) -> None:
        waiting = [link for link in self._links if not link.dialed and link.state is not State.OPEN]
        if len(waiting) >= self.limits.max_unauthenticated:
            error = Busy(
                f"more than {self.limits.max_unauthenticated} connections have not proved the secret"
            )
            waiting[0].fail(error, "crowded")
        if len(self._links) >= self.limits.max_links:
            self.stats.refused["max_links"] += 1
            sock.close()
            return
        self._add_link(sock, address, listener.context, listener)

    def _add_link(
        self, sock: socket.socket, address: str, context: ContextCache, source: Dialer | Listener
    ) -> Link:
        link = Link(
            sock,
            address,
            context=context,
            dialed=isinstance(source, Dialer),
            hello=self._hello(),
            owner=self,
            reactor=self.reactor,
            limits=self.limits,
            budget=self._budget,
        )
        self._links[link] = source
        return link

    def _hello(self) -> Hello:
        listen = next((protocol.advertise for protocol in self._listeners), "")
        return Hello(
            node_id=self.identity.node_id,
            name=self.name,
            instance=self.instance,
            listen=listen,
            software=f"laila {VERSION}",
            max_requests=self.limits.max_requests,
            max_body=self.limits.max_body,
        )

    def _tick(self) -> None:
        now = time.monotonic()
        for link in list(self._links):
            link.tick(now)
        self.peers.expire(now - self.limits.linger, self._is_kept)
        if not self._closed:
            self.reactor.call_later(self.limits.ping_interval / 4, self._tick)

    def _part(self, link: Link, *, announced: bool = False) -> None:
        if not announced:
            link.retire("closing", "this node parts from its peer")
        link.fail(PeerLost(f"the link to {link.where()} was closed here"), "goodbye")

    def _run(self, call: Callable[[], object]) -> None:
        """Run in the I/O thread and wait for it."""
        reactor = self.reactor if not self._closed else self._reactor
        assert reactor is not None
        if reactor.inside:
            call()
            return
        done = threading.Event()

        def work() -> None:
            try:
                call()
            finally:
                done.set()

        reactor.call_soon(work)
        done.wait(5.0)
