"""Real lock servers for tests: redis-server, etcd and PostgreSQL from Debian's packages.

Each runs on free loopback ports in a directory of its own under the temporary directory, and ends with its test run: by
`close`, or by the kernel when the tests themselves are killed. The services that those packages install are neither
used nor needed. Without a package a test says which one to install; in CI that is a failure.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import json
import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PATIENCE = 60.0
"""Seconds that a server may take to come up or to end; the machine may be busy."""
PASSWORD = "never-to-be-shown-7Qz"  # noqa: S105  # of servers that live for one test


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Server:
    """One server process; `url` is what `laila.locks.connect` takes."""

    package: ClassVar[str]
    user: ClassVar[str | None] = None
    crash: ClassVar[signal.Signals] = signal.SIGKILL
    """Ends it without saving, and leaves no child behind."""

    def __init__(self, *, tls: bool = False) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"laila-{self.package}-"))
        self.certificate, self.key = certify(self.folder) if tls else (None, None)
        self.log = self.folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def program(cls) -> str | None:
        """Where the server's program is."""
        raise NotImplementedError

    @property
    def url(self) -> str:
        raise NotImplementedError

    def at(self, **options: Any) -> str:
        """The address with options of the lock service in it."""
        return f"{self.url}{'&' if '?' in self.url else '?'}{urlencode(options)}"

    def command(self) -> list[str]:
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether the server does its work now."""
        raise NotImplementedError

    def start(self) -> None:
        """Start, or start again on the same port and data; returns when it answers."""
        guard = ["setpriv", "--pdeathsig", self.crash.name] if shutil.which("setpriv") else []
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*guard, *self.command()], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                **self.credentials(),
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while not self.answers():
            assert self.process.poll() is None, f"{self.package} ended: {self.tail()}"
            assert time.monotonic() < deadline, f"{self.package} did not come up: {self.tail()}"
            time.sleep(0.02)

    def credentials(self) -> dict[str, Any]:
        """Whom the process runs as, for subprocess: some servers refuse root."""
        if self.user is None or os.geteuid() != 0:
            return {}
        entry = pwd.getpwnam(self.user)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    def signal(self, number: signal.Signals) -> None:
        """To the server and its children, which may have process groups of their own."""
        assert self.process is not None
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                os.kill(each, number)
                if number == signal.SIGSTOP:
                    _until_stopped(each)

    def stop(self) -> None:
        """End the process as if its machine had lost power; its data stay."""
        if self.process is None or self.process.poll() is not None:
            return
        self.signal(signal.SIGCONT)
        self.process.send_signal(self.crash)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.signal(signal.SIGKILL)
            self.process.wait(PATIENCE)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)


class RedisServer(Server):
    """redis-server without persistence: a restart has lost everything."""

    package = "redis-server"

    def __init__(self, password: str | None = None, *, tls: bool = False) -> None:
        super().__init__(tls=tls)
        self.password = password

    @classmethod
    def program(cls) -> str | None:
        return shutil.which("redis-server")

    @property
    def url(self) -> str:
        login = f":{self.password}@" if self.password else ""
        where = f"{login}127.0.0.1:{self.port}/0"
        return f"rediss://{where}?ssl_ca_certs={self.certificate}" if self.certificate else f"redis://{where}"

    def command(self) -> list[str]:
        secret = ["--requirepass", self.password] if self.password else []
        port = ["--port", str(self.port)]
        if self.certificate:
            port = [
                "--port", "0", "--tls-port", str(self.port), "--tls-auth-clients", "no", "--tls-cert-file",
                str(self.certificate), "--tls-key-file", str(self.key), "--tls-ca-cert-file", str(self.certificate),
            ]  # fmt: skip
        return [
            "redis-server", "--bind", "127.0.0.1", *port, "--dir", str(self.folder),
            "--unixsocket", str(self.folder / "socket"), "--save", "", "--appendonly", "no", *secret,
        ]  # fmt: skip

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as sock:
                if self.certificate:
                    return True
                sock.sendall(b"PING\r\n")
                return sock.recv(64).startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False


class EtcdServer(Server):
    """One etcd member with short election times, so that leases of one second are allowed."""

    package = "etcd-server"

    @classmethod
    def program(cls) -> str | None:
        return shutil.which("etcd")

    @property
    def url(self) -> str:
        if self.certificate:
            return f"etcds://127.0.0.1:{self.port}?ca={self.certificate}"
        return f"etcd://127.0.0.1:{self.port}"

    @property
    def root(self) -> str:
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        here, peers = self.root, f"http://127.0.0.1:{free_port()}"
        tls = ["--cert-file", str(self.certificate), "--key-file", str(self.key)] if self.certificate else []
        return [
            "etcd", "--name", "one", "--data-dir", str(self.folder / "data"), "--logger", "zap",
            "--listen-client-urls", here, "--advertise-client-urls", here,
            "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers, "--initial-cluster", f"one={peers}",
            "--heartbeat-interval", "50", "--election-timeout", "500", *tls,
        ]  # fmt: skip

    def answers(self) -> bool:
        try:
            with self.ask(f"{self.root}/health", 2) as answer:
                return bool(json.load(answer)["health"] == "true")
        except (OSError, ValueError):
            return False

    def post(self, path: str, body: dict[str, Any], token: str = "") -> dict[str, Any]:
        """One call of its HTTP gateway, for what a test changes behind a client's back."""
        request = urllib.request.Request(  # noqa: S310  # our own server
            f"{self.root}/v3/{path}", json.dumps(body).encode(), {"Authorization": token} if token else {}
        )
        with self.ask(request, 10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def ask(self, request: urllib.request.Request | str, timeout: float) -> Any:
        context = ssl.create_default_context(cafile=self.certificate) if self.certificate else None
        return urllib.request.urlopen(request, timeout=timeout, context=context)  # noqa: S310  # our own server

    def require_password(self) -> None:
        """From now on only root with PASSWORD may do anything."""
        self.post("auth/user/add", {"name": "root", "password": PASSWORD})
        self.post("auth/user/grant", {"user": "root", "role": "root"})
        self.post("auth/enable", {})

    def forget_logins(self) -> None:
        """What clients were given when they logged in is worth nothing any more."""
        login = self.post("auth/authenticate", {"name": "root", "password": PASSWORD})
        self.post("auth/disable", {}, login["token"])
        self.post("auth/enable", {})


class PostgresServer(Server):
    """PostgreSQL with passwords asked for, as the user `postgres` when the tests run as root."""

    package = "postgresql"
    user = "postgres"
    crash = signal.SIGQUIT

    @classmethod
    def program(cls) -> str | None:
        found = sorted(
            Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3])
        )
        return str(found[-1]) if found else shutil.which("postgres")

    @property
    def url(self) -> str:
        return f"postgresql://laila:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def command(self) -> list[str]:
        return [
            self.program() or "postgres", "-D", str(self.folder / "data"), "-p", str(self.port),
            "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off",
        ]  # fmt: skip

    def start(self) -> None:
        if not (self.folder / "data").exists():
            self.initialize()
        super().start()

    def initialize(self) -> None:
        secret = self.folder / "secret"
        secret.write_text(PASSWORD)
        if identity := self.credentials():
            for path in (self.folder, secret):
                os.chown(path, identity["user"], identity["group"])
        subprocess.run(
            [
                str(Path(self.program() or "postgres").with_name("initdb")), "-D", str(self.folder / "data"),
                "-U", "laila", "-A", "scram-sha-256", "--pwfile", str(secret), "--no-sync", "-E", "UTF8",
            ],
            check=True, cwd=self.folder, capture_output=True, timeout=PATIENCE, **identity,
        )  # fmt: skip

    def answers(self) -> bool:
        import psycopg

        try:
            with closing(psycopg.connect(self.url, connect_timeout=2)):
                return True
        except psycopg.OperationalError:
            return False


def _until_stopped(pid: int) -> None:
    """A signal is under way for a moment, and each thread of a process stops for itself."""
    until = time.monotonic() + PATIENCE
    tasks = Path(f"/proc/{pid}/task")
    while any(
        task.joinpath("stat").read_text().rpartition(")")[2].split()[0] not in "TtZ"
        for task in tasks.iterdir()
    ):
        assert time.monotonic() < until
        time.sleep(0.005)


def certify(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    today = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return paths


def started(server: type[Server], *arguments: Any, **options: Any) -> Any:
    """A server that answers; its test is skipped, or in CI failed, where the package is not installed."""
    if server.program() is None:
        why_not = f"no {server.package} here; install Debian's package {server.package}"
        if os.environ.get("CI"):
            pytest.fail(f"these tests must run in CI, but there is {why_not}")
        pytest.skip(why_not)
    fresh = server(*arguments, **options)
    try:
        fresh.start()
    except BaseException:
        fresh.close()
        raise
    return fresh


def running(server: type[Server], *arguments: Any, **options: Any) -> Iterator[Any]:
    """For fixtures: a server that is gone afterwards."""
    with closing(started(server, *arguments, **options)) as fresh:
        yield fresh
