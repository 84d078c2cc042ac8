"""The daemon: brings a node up in order, keeps it up until it is asked to stop, takes it down in order.

Up: log, status port (so that /healthz answers from the start), policy, pools, replicas, listener, dialers, ready.
Down: not ready, dialing stops, the listener closes, running requests get the grace period, links say
goodbye, pools close, replicas close, status port last.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from laila.dialer import Dialer
from laila.endpoint import Communication
from laila.errors import BadConfig, LailaError
from laila.node import logs, secretfile
from laila.node.addresses import Address
from laila.node.config import NodeConfig, strangers
from laila.node.discovery import Discovery
from laila.node.http import HttpServer
from laila.node.metrics import Metrics
from laila.node.pools import open_pool
from laila.node.replicas import SERVICE, ReplicaConfig, ServedReplica, open_replica, trust_of
from laila.node.status import NodeState, routes
from laila.node.watch import Watch
from laila.policy import DefaultPolicy
from laila.router import ALPHA
from laila.transport.tcp import DefaultTCPIPProtocol
from laila.version import VERSION

if TYPE_CHECKING:
    from laila.artifacts import TrustSet
    from laila.node.caretaker import Caretaker
    from laila.replication.replica import Replica
    from laila.replication.store import ReplicatedStore
    from laila.volumes.service import VolumeService

log = logging.getLogger("laila.node")

T = TypeVar("T")

WATCH_EVERY = 0.5
"""Seconds between two looks at the links, for the log."""


@dataclass(frozen=True, slots=True, repr=False)
class Secrets:
    """The secret that this node proves, and those that it accepts beside it."""

    own: str
    others: tuple[str, ...]

    @classmethod
    def read(cls, config: NodeConfig) -> Secrets:
        """From the files that the configuration names. Raises BadConfig."""
        own = _blaming(config, "secret_file", secretfile.read_secret, config.secret_file)
        further = (
            _blaming(config, "also_accept", secretfile.read_further, path) for path in config.also_accept
        )
        return cls(own, tuple(secret for secret in further if secret is not None))


def _blaming(config: NodeConfig, key: str, read: Callable[[Path], T], path: Path) -> T:
    try:
        return read(path)
    except BadConfig as error:
        raise config.problem(key, str(error)) from error


class Node:
    """A node from its configuration. Call `start`, then `run` until it is to stop, then `close`."""

    def __init__(self, config: NodeConfig, secrets: Secrets) -> None:
        self.config = config
        self.state = NodeState(config.name, VERSION)
        self._secrets = secrets
        self._server: HttpServer | None = None
        self._policy: DefaultPolicy | None = None
        self._connection: DefaultTCPIPProtocol | None = None
        self._discovery: Discovery[Dialer] | None = None
        self._watch: Watch | None = None
        self._volumes: VolumeService | None = None
        self._trust: TrustSet | None = None
        self._replicas: list[ServedReplica] = []
        self._caretakers: list[Caretaker] = []

    def start(self) -> None:
        """Bring everything up. Raises BadConfig if it cannot be run here; `close` takes the rest down."""
        config = self.config
        with self._blamed("status"):
            pages = routes(self.state, Metrics(self.state))
            self._server = HttpServer(config.status.host, config.status.port, pages)
        self.state.status = str(Address(*self._server.address))
        self._policy = self._open_policy()
        self._watch = Watch(self._policy.communication.events)
        self._open_pools(self._policy)
        self._serve_replicas(self._policy)
        with self._blamed("access"):
            self._policy.communication.access.add(*config.access)
        self._offer_volumes(self._policy)
        self._connection = self._listen(self._policy)
        self.state.policy = self._policy
        self.state.directories = tuple(_written(config))
        self.state.listen = str(Address(config.listen.host, self._connection.port))
        self.state.advertise = (
            self._connection.advertise if config.advertise or not config.listen.wildcard else None
        )
        self._discovery = self._discover(self._policy.communication)
        self._discovery.start()
        self.state.discovery, self.state.await_names = self._discovery, config.await_names == "yes"
        self._care_for_replicas(self._policy)
        self.state.phase = "ready"
        log.info("ready", extra=self._facts())

    def run(self, asked: threading.Event) -> None:
        """Watch and log until `asked` is set."""
        assert self._watch is not None  # start() came before
        while not asked.wait(WATCH_EVERY):
            self._watch.turn()

    def close(self) -> None:
        """Drain and take everything down, in order; what never came up is left out."""
        self.state.phase = "draining"
        with contextlib.ExitStack() as undo:  # each step also when one before it fails
            if self._server is not None:
                undo.callback(self._server.close)
            if self._watch is not None:
                undo.callback(self._watch.turn)
            for served in self._replicas:
                undo.callback(served.close)
            if self._policy is not None:
                undo.callback(self._policy.close, grace=self.config.grace)
            for caretaker in self._caretakers:
                undo.callback(caretaker.close)
            if self._volumes is not None:
                undo.callback(self._volumes.close)
            if self._discovery is not None:
                undo.callback(self._discovery.close)

    def _open_policy(self) -> DefaultPolicy:
        state_dir = self.config.state_dir
        if state_dir is not None:
            with self._blamed("state_dir", f"{state_dir} cannot be written"):
                _check_writable(state_dir)
        with self._blamed("state_dir"):
            return DefaultPolicy(name=self.config.name, identity_dir=state_dir, limits=self.config.limits)

    def _open_pools(self, policy: DefaultPolicy) -> None:
        for pool in self.config.pools:
            with self._blamed("pools", f"pool {pool.name!r} cannot be opened"):
                opened = open_pool(pool)
                if pool.name == ALPHA:
                    policy.memory.alpha_pool = opened
                else:
                    policy.memory.extend(opened, pool_nickname=pool.name)

    def _serve_replicas(self, policy: DefaultPolicy) -> None:
        if not self.config.replicas:
            return
        from laila.replication.service import ReplicaService  # few nodes need it

        self._trust = trust = trust_of(policy.identity, (self._secrets.own, *self._secrets.others))
        for replica in self.config.replicas:
            with self._blamed("replicas", f"replica {replica.name!r} cannot be opened"):
                opened = open_replica(replica, trust, policy)
                service = ReplicaService(opened, trust, alive=policy.communication.is_connected)
                self._replicas.append(ServedReplica(replica, opened, service))
                opened.stamp()  # what cannot be used shows now, not at the first peer
                policy.services.offer(f"{SERVICE}{replica.name}", service)
        self.state.replicas = tuple(self._replicas)

    def _care_for_replicas(self, policy: DefaultPolicy) -> None:
        if not self.config.replicas:
            return
        from laila.node.caretaker import Caretaker  # few nodes need it

        for config, served in zip(self.config.replicas, self._replicas, strict=True):
            opens = partial(self._open_store, policy, config)
            caretaker = Caretaker(served.name, served.replica, opens, self._renewal())
            self._caretakers.append(caretaker)
            served.keeper = caretaker.complete
            served.service.taken = caretaker.took
            caretaker.start()

    def _renewal(self) -> Callable[[Replica, int], int] | None:
        """What vouches anew, while the cluster changes its secret."""
        trust, secrets = self._trust, tuple(dict.fromkeys((self._secrets.own, *self._secrets.others)))
        if trust is None or len(secrets) == 1:
            return None
        from laila.replication.renewal import renew

        return lambda replica, number: renew(replica, trust, secrets, number)

    def _open_store(self, policy: DefaultPolicy, config: ReplicaConfig, own: str) -> ReplicatedStore:
        from laila.replication.store import ReplicatedStore

        trust = self._trust
        assert trust is not None  # what is cared for is served
        # A directory of its own: what lies there is believed, so nobody else may write there.
        state = None if self.config.state_dir is None else self.config.state_dir / "care"
        return ReplicatedStore(
            [open_replica(config, trust, policy)],
            identity=policy.identity,
            trust=trust,
            secret=self._secrets.own,
            policy=policy,
            state=state,
            caring_for=(own,),
            found=False,
        )

    def _offer_volumes(self, policy: DefaultPolicy) -> None:
        volumes = self.config.volumes
        for volume in volumes:
            with self._blamed("volumes", f"{volume} cannot be used"):
                os.scandir(volume).close()
        if volumes:
            from laila.volumes.service import VolumeService  # few nodes need it

            self._volumes = VolumeService(volumes)
            policy.services.offer("volume", self._volumes)

    def _listen(self, policy: DefaultPolicy) -> DefaultTCPIPProtocol:
        listen, advertise = self.config.listen, self.config.advertise
        with self._blamed("listen"):
            connection = DefaultTCPIPProtocol(
                host=listen.host,
                port=listen.port,
                peer_secret_key=self._secrets.own,
                also_accept=self._secrets.others,
                allow=self.config.allow_nodes or None,
                advertise=str(advertise) if advertise is not None else None,
            )
            policy.communication.add_connection(connection)
        return connection

    def _discover(self, communication: Communication) -> Discovery[Dialer]:
        def dial(host: str, port: int) -> Dialer:
            return communication.maintain(host, port, secrets.own, also_accept=secrets.others)

        config, secrets = self.config, self._secrets
        return Discovery(config.peers, dial, communication.forget_dialer, every=config.resolve_every)

    @contextlib.contextmanager
    def _blamed(self, key: str, what: str = "") -> Iterator[None]:
        """Turn what goes wrong inside into a BadConfig that names `key` and where it was written."""
        prefix = f"{what}: " if what else ""
        try:
            yield
        except LailaError as error:
            raise self.config.problem(key, f"{prefix}{error}") from error
        except OSError as error:
            raise self.config.problem(key, f"{prefix}{_advice(error)}") from error

    def _facts(self) -> dict[str, Any]:
        state, config = self.state, self.config
        return {
            "id": None if self._policy is None else self._policy.global_id,
            "version": state.version,
            "listen": state.listen,
            "advertise": state.advertise,
            "status": state.status,
            "state_dir": None if config.state_dir is None else str(config.state_dir),
            "pools": [str(pool) for pool in config.pools],
            "peers": [str(peer) for peer in config.peers],
            "volumes": [str(volume) for volume in config.volumes],
            "replicas": [str(replica) for replica in config.replicas],
        }


def run(config: NodeConfig, asked: threading.Event) -> int:
    """Run a node until `asked` is set; the exit code. Raises BadConfig if it cannot be run."""
    secrets = Secrets.read(config)
    logs.configure(config.log_level, config.log_format, config.name, (secrets.own, *secrets.others))
    for warning in _warnings(config):
        log.warning(warning)
    node = Node(config, secrets)
    try:
        node.start()
        node.run(asked)
        log.info("draining", extra={"grace": config.grace})
    finally:
        node.close()
    log.info("stopped")
    return 0


def _warnings(config: NodeConfig) -> Iterator[str]:
    yield from strangers(os.environ)
    for file in (config.secret_file, *config.also_accept):
        exposed = secretfile.exposure(file)
        if exposed is not None:
            yield exposed
    if config.state_dir is None:
        yield "no state_dir is set: this node has a new identity at every start"


def _written(config: NodeConfig) -> Iterator[Path]:
    """Directories of this machine in which the node keeps what it is given."""
    if config.state_dir is not None:
        yield config.state_dir
    for pool in config.pools:
        if pool.path is not None:
            yield pool.path if pool.path.is_dir() else pool.path.parent
    for replica in config.replicas:
        if replica.path is not None:
            yield replica.path


def _check_writable(directory: Path) -> None:
    """Make the directory if need be, and write in it. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    probe = directory / f".laila-{os.getpid()}"
    try:
        probe.write_bytes(b"laila")
    finally:
        probe.unlink(missing_ok=True)


def _advice(error: OSError) -> str:
    """The system's reason and what to do about it."""
    reason = error.strerror or str(error)
    advice = {
        errno.EACCES: "give this user the right, or choose another",
        errno.EROFS: "choose a place on a file system that can be written",
        errno.ENOSPC: "free some space, or choose another place",
        errno.ENOTDIR: "choose a directory",
        errno.EEXIST: "choose a directory",
    }.get(error.errno or 0, "choose another")
    return f"{reason}; {advice}"
