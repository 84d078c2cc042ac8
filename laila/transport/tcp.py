"""TCP: the address that a node listens on, and the addresses that it dials."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
import time
from collections.abc import Callable, Collection, Sequence

from ..errors import BadConfig, Unreachable
from ..secret import check_secret, new_secret
from .identity import Identity
from .reactor import READ, Patrol, Reactor
from .tls import make_context

_ACCEPTS = 64
_RENEW = 24 * 3600.0
_PAUSE = 0.1


class ContextCache:
    """A TLS context that is made again every day, because leaves are short-lived."""

    __slots__ = ("_also", "_context", "_identity", "_made", "_secret", "_server")

    def __init__(self, identity: Identity, secret: str, also: Sequence[str], *, server: bool) -> None:
        self._identity = identity
        self._secret = secret
        self._also = also
        self._server = server
        self._made = 0.0
        self._context: ssl.SSLContext | None = None

    def __call__(self) -> ssl.SSLContext:
        now = time.time()  # the leaf's validity is wall time
        if self._context is None or not 0 <= now - self._made < _RENEW:
            self._context = make_context(self._identity, self._secret, self._also, server=self._server)
            self._made = now
        return self._context


class DefaultTCPIPProtocol:
    """Where a node listens, and the secret that it wants proved.

    `host` and `port`: the address to bind, loopback unless you say otherwise; port 0 takes a free one, and after
    `communication.add_connection(protocol)` `port` is the bound one. `peer_secret_key`: shared by both sides, made at
    random when None. `also_accept`: further secrets, while a rotation goes on. `allow`: ids of the only nodes that are
    let in. `advertise`: the address that others should dial, "host:port", where it differs from the bound one.

    Raises: WeakSecret, BadConfig.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        peer_secret_key: str | None = None,
        *,
        also_accept: Sequence[str] = (),
        allow: Collection[str] | None = None,
        advertise: str | None = None,
    ) -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
            raise BadConfig(f"a port is a number from 0 to 65535, not {_shown(port)}")
        check_host(host)
        self.host = host
        self.port = port
        self.peer_secret_key = new_secret() if peer_secret_key is None else check_secret(peer_secret_key)
        self.also_accept = tuple(check_secret(secret) for secret in also_accept)
        self.allow = None if allow is None else frozenset(allow)
        self._advertise = advertise

    @property
    def advertise(self) -> str:
        """The address that others should dial."""
        return self._advertise or format_address(self.host, self.port)

    def __repr__(self) -> str:
        return f"DefaultTCPIPProtocol({format_address(self.host, self.port)})"


class Listener:
    """An open port that hands connections to `accepted`."""

    def __init__(
        self,
        protocol: DefaultTCPIPProtocol,
        identity: Identity,
        reactor: Reactor,
        accepted: Callable[[socket.socket, str, Listener], None],
    ) -> None:
        self.protocol = protocol
        self.context = ContextCache(identity, protocol.peer_secret_key, protocol.also_accept, server=True)
        self.context()  # a secret or clock that cannot work shows here, not at the first guest
        self._reactor = reactor
        self._accepted = accepted
        self._socket = bind(protocol.host, protocol.port)
        protocol.port = self._socket.getsockname()[1]
        self._fd = self._socket.fileno()
        self._open = True
        reactor.add(self._fd, self, READ)

    def ready(self, mask: int) -> None:
        for _ in range(_ACCEPTS):
            try:
                sock, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}:
                    self._pause()
                    return
                continue  # that guest has gone already
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._accepted(sock, format_address(address[0], address[1]), self)

    def patrol(self) -> Patrol:
        return Patrol.DONE  # nobody leaves anything to a listener

    def _pause(self) -> None:
        # Without descriptors accept fails at once and the port stays ready: rest instead of spinning.
        self._reactor.modify(self._fd, 0)
        self._reactor.call_later(_PAUSE, self._resume)

    def _resume(self) -> None:
        if self._open:
            self._reactor.modify(self._fd, READ)

    def abandon(self) -> None:
        """In a forked child: let go of the port, which is the parent's."""
        self._open = False
        self._socket.close()

    def close(self) -> None:
        """Free the port."""
        if self._open:
            self._open = False
            self._reactor.remove(self._fd)
            self._socket.close()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises Unreachable when the name does not resolve, BadConfig when it cannot be bound."""
    where = format_address(host, port)
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise Unreachable(f"cannot listen on {where}: the name does not resolve ({error})") from error
    family, kind, proto, _, address = infos[0]
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and address[0] == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
        sock.listen(512)
    except OSError as error:
        sock.close()
        advice = {
            errno.EADDRINUSE: "another program has this port; stop it or choose another port (0 takes a free one)",
            errno.EACCES: "this user may not bind that port; choose one above 1023",
            errno.EADDRNOTAVAIL: "this machine has no such address; 127.0.0.1, 0.0.0.0 and :: always work",
        }.get(error.errno or 0, os.strerror(error.errno or 0))
        raise BadConfig(f"cannot listen on {where}: {advice}") from error
    sock.setblocking(False)
    return sock


def resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[object, ...]]]:
    """All addresses of a host, in the system's order. May block. Raises Unreachable."""
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise Unreachable(f"{format_address(host, port)}: the name does not resolve ({error})") from error
    return list(dict.fromkeys((info[0], info[4]) for info in infos))


def is_literal(host: str) -> bool:
    """Whether resolving this host needs no name server."""
    try:
        socket.getaddrinfo(host, 0, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return host == "localhost"
    return True


def start_connect(family: socket.AddressFamily, address: tuple[object, ...]) -> socket.socket:
    """A socket that is connecting. Raises OSError."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = sock.connect_ex(address)
        if code not in {0, errno.EINPROGRESS}:
            raise OSError(code, os.strerror(code))
    except BaseException:
        sock.close()
        raise
    return sock


def check_address(host: object, port: object) -> None:
    """Something that can be dialed. Raises BadConfig."""
    check_host(host)
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port <= 65535:
        raise BadConfig(f"a peer's port is a number from 1 to 65535, not {_shown(port)}")


def check_host(host: object) -> None:
    """Raises BadConfig."""
    if not isinstance(host, str) or not host:
        raise BadConfig(f"a host is a name or an address, not {_shown(host)}")


def _shown(value: object) -> str:
    # Arguments in the wrong order must not put a secret into a message.
    return str(value) if isinstance(value, int) else f"a {type(value).__name__}"


def format_address(host: str, port: int) -> str:
    """`host:port`, with brackets around IPv6."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
