"""An SSH connection to a host whose key is known, which notices when the host goes away. Errors say what to do.

Keys of hosts are checked against one file of OpenSSH (known_hosts) and never added to it: an unknown key is refused, so
is a changed one, and one that a line `@revoked` names. Host certificates and patterns in that file are not understood,
so what only they would allow is refused. Logins are by key: the one that is named, else those of the SSH agent and of
~/.ssh.
"""

from __future__ import annotations

import functools
import importlib
import logging
import socket
from pathlib import Path
from typing import Any

from laila.errors import LabError
from laila.lab.topology import HostSpec

CONNECT_WITHIN = 10.0
"""Seconds for each of: the TCP connection, the greeting, the login, a channel."""
KEEPALIVE = 2.0
SILENCE = 10.0
"""Seconds without an acknowledgement after which a connection is given up."""
DEFAULT_KNOWN_HOSTS = "~/.ssh/known_hosts"


@functools.cache
def library() -> Any:
    """paramiko. Raises LabError that says how to get it."""
    try:
        found = importlib.import_module("paramiko")
    except ImportError as error:
        raise LabError("the ssh driver needs paramiko: pip install 'laila-kit[lab]'") from error
    logging.getLogger("paramiko").addHandler(logging.NullHandler())  # what it complains of is raised too
    return found


def where(spec: HostSpec) -> str:
    """A host in messages: `root@10.0.0.5`, with the port when it is not 22."""
    if spec.port == 22:
        return f"{spec.user}@{spec.address}"
    address = f"[{spec.address}]" if ":" in spec.address else spec.address
    return f"{spec.user}@{address}:{spec.port}"


def name_of(spec: HostSpec) -> str:
    """As known_hosts names a host."""
    return spec.address if spec.port == 22 else f"[{spec.address}]:{spec.port}"


def known_hosts(spec: HostSpec) -> Path:
    return Path(spec.known_hosts or DEFAULT_KNOWN_HOSTS).expanduser()


def connect(spec: HostSpec) -> Any:
    """A connected client of paramiko's. Raises LabError."""
    paramiko = library()
    client = paramiko.SSHClient()
    _load_known(client, spec)
    client.set_missing_host_key_policy(_refusal(spec))
    key = _key(spec)
    try:
        client.connect(
            spec.address,
            port=spec.port,
            username=spec.user,
            pkey=key,
            allow_agent=key is None,
            look_for_keys=key is None,
            timeout=CONNECT_WITHIN,
            banner_timeout=CONNECT_WITHIN,
            auth_timeout=CONNECT_WITHIN,
            channel_timeout=CONNECT_WITHIN,
        )
        transport = client.get_transport()
        transport.set_keepalive(KEEPALIVE)
        _watch(transport.sock)
        return client
    except BaseException as error:
        client.close()
        if isinstance(error, LabError) or not isinstance(error, Exception):
            raise
        raise _translated(spec, error) from error


def _watch(sock: socket.socket) -> None:
    """Make the system give up a connection whose other end is silent, instead of trying for a quarter of an hour."""
    options = (
        ("TCP_USER_TIMEOUT", SILENCE * 1000),
        ("TCP_KEEPIDLE", 5),
        ("TCP_KEEPINTVL", 2),
        ("TCP_KEEPCNT", 3),
    )
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in options:
        if (number := getattr(socket, option, None)) is not None:  # not every system has all of them
            sock.setsockopt(socket.IPPROTO_TCP, number, int(value))


def _load_known(client: Any, spec: HostSpec) -> None:
    """Every key of the file that is not revoked; lines that are damaged make nobody known."""
    path, keys = known_hosts(spec), client.get_host_keys()
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        if not spec.known_hosts and isinstance(error, FileNotFoundError):
            return  # nobody is known
        why = error.strerror or error
        raise LabError(
            f"cannot read the known hosts that {where(spec)} must be one of: {path}: {why}"
        ) from error
    revoked = {word for line in lines if line.startswith("@revoked") for word in line.split()[3:4]}
    for line in lines:
        if not line.strip() or line.startswith(("#", "@")):
            continue
        try:
            entry = library().hostkeys.HostKeyEntry.from_line(line.strip())
        except Exception:  # noqa: S112  whatever its parsers raise
            continue
        if entry is not None and entry.key.get_base64() not in revoked:
            for name in entry.hostnames:
                keys.add(name, entry.key.get_name(), entry.key)


def _refusal(spec: HostSpec) -> Any:
    """paramiko's policy for unknown keys that refuses them, with words."""

    class Refusal(library().RejectPolicy):  # type: ignore[misc]  # paramiko publishes no types
        def missing_host_key(self, client: Any, hostname: str, key: Any) -> None:
            file, port = known_hosts(spec), "" if spec.port == 22 else f"-p {spec.port} "
            raise LabError(
                f"the host key of {name_of(spec)} is not in {file}; it shows {_shown(key)}. Compare that with what "
                f"`ssh-keygen -lf /etc/ssh/ssh_host_…_key.pub` says on the machine itself; when it is the same, add "
                f"it: ssh-keyscan {port}{spec.address} >> {file}"
            )

    return Refusal()


def _key(spec: HostSpec) -> Any:
    if not spec.key:
        return None
    path = Path(spec.key).expanduser()
    try:
        return library().PKey.from_path(path)
    except OSError as error:
        raise LabError(f"cannot read the key {path} for {where(spec)}: {error.strerror or error}") from error
    except TypeError as error:
        raise LabError(
            f"the key {path} for {where(spec)} has a passphrase: load it into your SSH agent, and name no key"
        ) from error
    except Exception as error:  # whatever its parsers raise
        raise LabError(f"{path} is no private key that can be used: {error}") from error


def _translated(spec: HostSpec, error: Exception) -> LabError:
    paramiko = library()
    if isinstance(error, paramiko.BadHostKeyException):
        file = known_hosts(spec)
        return LabError(
            f"the host key of {name_of(spec)} has CHANGED: {file} has {_shown(error.expected_key)}, it shows "
            f"{_shown(error.key)}. Either it was installed anew, or somebody is in between. When you know that it was, "
            f"remove the old key (ssh-keygen -f {file} -R '{name_of(spec)}') and add the new one"
        )
    if isinstance(error, paramiko.AuthenticationException):
        with_what = f"the key {spec.key}" if spec.key else "the keys of your SSH agent and ~/.ssh"
        return LabError(f"{where(spec)} does not let us in with {with_what}: {error}")
    if isinstance(error, paramiko.SSHException) and "authentication methods" in str(error):
        return LabError(f"there is no key for {where(spec)}: name one, or load one into your SSH agent")
    if isinstance(error, TimeoutError):
        return LabError(f"cannot reach {where(spec)}: no answer within {CONNECT_WITHIN:g} s")
    refusals = getattr(error, "errors", None)  # of several addresses, each with its own
    why = "; ".join(sorted({str(one.strerror) for one in refusals.values()})) if refusals else ""
    return LabError(f"cannot reach {where(spec)}: {why or getattr(error, 'strerror', None) or error}")


def _shown(key: Any) -> str:
    return f"{key.get_name()} {key.fingerprint}"
