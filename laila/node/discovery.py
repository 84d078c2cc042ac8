"""Which peers a node keeps dialing: static ones always, those behind a `dns:` name while the name says so.

One thread looks names up, in turn. Each address found gets a dialer of the library, which keeps trying by
itself. An address that has vanished from the answer keeps its dialer while the link is up, because DNS
often forgets a node before the node is gone. An address that turns out to be this node itself is left alone
for as long as the name contains it. A name that cannot be looked up changes nothing: what is known stays.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from laila.dialer import DialerState
from laila.errors import AuthenticationFailed, LailaError
from laila.node.addresses import Address, PeerSource

log = logging.getLogger("laila.node.discovery")

MAX_ADDRESSES = 256
"""Addresses of one name that are dialed; more are left out, with a warning."""


class Dialing(Protocol):
    """What discovery uses of `laila.dialer.Dialer`."""

    @property
    def state(self) -> DialerState: ...

    @property
    def last_error(self) -> LailaError | None: ...


D = TypeVar("D", bound=Dialing)
Resolve = Callable[[str, int], Sequence[str]]


def resolve(name: str, port: int) -> list[str]:
    """Every IPv4 and IPv6 address of `name`, sorted. Raises OSError when it cannot be looked up."""
    found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    return sorted({str(place[0]) for *_, place in found})


@dataclass(slots=True)
class Target(Generic[D]):
    """One address that is dialed, and the configured peer that it comes from."""

    source: PeerSource
    address: Address
    dialer: D


class Discovery(Generic[D]):
    """Keeps one dialer per wanted address: `dial` begins one, `forget` gives one up but leaves its link."""

    def __init__(
        self,
        sources: Sequence[PeerSource],
        dial: Callable[[str, int], D],
        forget: Callable[[D], object],
        *,
        every: float,
        resolve: Resolve = resolve,
    ) -> None:
        self._sources = tuple(sources)
        self._dial = dial
        self._forget = forget
        self._every = every
        self._resolve = resolve
        self._targets: dict[tuple[PeerSource, Address], Target[D]] = {}
        self._selves: dict[PeerSource, set[Address]] = {}
        self._unresolved: dict[PeerSource, str] = {}
        self._found: set[PeerSource] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Dial the static peers, and begin to look up the others."""
        for source in self._sources:
            if not source.dns:
                self._add(source, source.address)
        if self._sources:
            self._thread = threading.Thread(target=self._run, name="laila-discovery", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stop looking up and dialing; links that are up are the policy's to close. Idempotent."""
        self._stop.set()
        with self._lock:
            targets, self._targets = list(self._targets.values()), {}
        for target in targets:
            self._forget(target.dialer)
        if self._thread is not None:
            self._thread.join(
                1.0
            )  # the system's resolver cannot be interrupted; the thread ends when it answers

    def targets(self) -> list[Target[D]]:
        """What is dialed now."""
        with self._lock:
            return list(self._targets.values())

    def lacking(self) -> list[str]:
        """Why names were never found since the start, one reason for each."""
        names = [source for source in self._sources if source.dns and source not in self._found]
        with self._lock:
            return [self._unresolved.get(one, f"{one.address.host} was not looked up yet") for one in names]

    def refusals(self) -> list[str]:
        """Why nobody whom this node dials is a peer of it: another secret, a clock that is off. Empty while one is,
        and while nobody answers.
        """
        dialers = [target.dialer for target in self.targets()]
        if any(dialer.state is DialerState.UP for dialer in dialers):
            return []
        errors = [dialer.last_error for dialer in dialers]
        return [f"no peer: {error}" for error in errors if isinstance(error, AuthenticationFailed)]

    def view(self) -> list[dict[str, Any]]:
        """For the status page: one item per dialed address, and one per name without an answer."""
        with self._lock:
            targets, unresolved = list(self._targets.values()), dict(self._unresolved)
        found = [
            {
                "peer": str(target.source),
                "address": str(target.address),
                "state": target.dialer.state.value,
                "last_error": _sentence(target.dialer.last_error),
            }
            for target in targets
        ]
        for source, reason in unresolved.items():
            found.append({"peer": str(source), "address": None, "state": "unresolved", "last_error": reason})
        return found

    # the thread

    def _run(self) -> None:
        while not self._stop.is_set():
            self.turn()
            self._stop.wait(self._every)

    def turn(self) -> None:
        """Look every name up once and adjust the dialers."""
        self._drop_self()
        for source in self._sources:
            if source.dns and not self._stop.is_set():
                self._refresh(source)

    def _refresh(self, source: PeerSource) -> None:
        try:
            hosts = self._resolve(source.address.host, source.address.port)
        except (OSError, UnicodeError) as error:
            self._lost(source, f"{source.address.host} cannot be looked up: {error}")
            return
        self._found.add(source)
        if self._unresolved.pop(source, None):
            log.info("name resolves", extra={"peer": str(source), "addresses": len(hosts)})
        if len(hosts) > MAX_ADDRESSES:
            log.warning(
                "too many addresses", extra={"peer": str(source), "found": len(hosts), "kept": MAX_ADDRESSES}
            )
        wanted = {Address(host, source.address.port) for host in hosts[:MAX_ADDRESSES]}
        own = self._selves.setdefault(source, set())
        own &= wanted
        with self._lock:
            known = {address for at, address in self._targets if at == source}
        for address in sorted(wanted - known - own, key=str):
            self._add(source, address)
        for address in known - wanted:
            self._vanished(source, address)

    def _lost(self, source: PeerSource, reason: str) -> None:
        if self._unresolved.get(source) != reason:
            log.warning("name does not resolve", extra={"peer": str(source), "reason": reason})
        with self._lock:
            if not any(at == source for at, _ in self._targets):
                self._unresolved[source] = reason

    def _add(self, source: PeerSource, address: Address) -> None:
        target = Target(source, address, self._dial(address.host, address.port))
        with self._lock:
            if not self._stop.is_set():
                self._targets[source, address] = target
                return
        self._forget(target.dialer)

    def _vanished(self, source: PeerSource, address: Address) -> None:
        with self._lock:
            target = self._targets[source, address]
            if target.dialer.state is DialerState.UP:
                return
            del self._targets[source, address]
        self._forget(target.dialer)
        log.info("address vanished", extra={"peer": str(source), "address": str(address)})

    def _drop_self(self) -> None:
        for target in self.targets():
            if target.dialer.state is DialerState.SELF:
                with self._lock:
                    self._targets.pop((target.source, target.address), None)
                self._selves.setdefault(target.source, set()).add(target.address)
                self._forget(target.dialer)
                log.debug("that is me", extra={"peer": str(target.source), "address": str(target.address)})


def _sentence(error: LailaError | None) -> str | None:
    return None if error is None else str(error)
