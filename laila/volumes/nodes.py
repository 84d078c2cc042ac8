"""Ways to reach a node that takes part in a check: a process on a line, or a laila node over peering.

`parse` reads what is typed after `--with`; `open_node` reaches it. All a conductor knows of a node is NodeLink.
"""

from __future__ import annotations

import abc
import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from ..errors import (
    BadConfig,
    BadValue,
    DeadlineExceeded,
    Denied,
    PeerLost,
    ProtocolError,
    RemoteError,
    StorageError,
)

if TYPE_CHECKING:
    from ..policy import DefaultPolicy
    from ..proxies import Peer

PROBE = ("laila", "volume", "probe")
LOCAL = (sys.executable, "-m", "laila.cli.main", "volume", "probe")
SERVICE = "volume"
EXAMPLE = "docker:CONTAINER, ssh:HOST, exec:COMMAND, local or HOST:PORT"
MAX_LINE = 4 << 20
"""Bytes of an answer."""
PATIENCE = 5.0
"""Seconds that an agent may take to end when its input has ended."""
_KEPT = 4096
_KINDS = {"StorageError": StorageError, "BadValue": BadValue, "Denied": Denied}


class NodeLink(abc.ABC):
    """A node that carries out steps. `path`: where the volume is there, None: where it is everywhere."""

    name: str
    path: str | None = None

    @abc.abstractmethod
    def ask(self, step: dict[str, Any], timeout: float) -> dict[str, Any]:
        """The answer to one step. Raises DeadlineExceeded, LinkError (the node is gone, or speaks another language),
        or what the step failed with: StorageError, BadValue, Denied, RemoteError.
        """

    def close(self) -> None:  # noqa: B027  a link may need no end
        """Let go of the node. It ends its part of a check by itself."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AgentNode(NodeLink):
    """A process that speaks as `laila volume probe` does, here or at the other end of docker, kubectl or ssh.

    It runs in a session of its own, so that Ctrl-C reaches the conductor only, which then ends it in order.
    Raises BadConfig when the program cannot be started.
    """

    def __init__(
        self,
        argv: Sequence[str] = LOCAL,
        *,
        name: str = "",
        path: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.path = name or argv[0], path
        self._number = 0
        self._complaints = b""
        self._answers: queue.Queue[bytes] = queue.Queue(16)
        try:
            self._process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                env=None if env is None else dict(env),
            )
        except OSError as error:
            raise BadConfig(
                f"{self.name}: cannot run {argv[0]!r}: {error.strerror or error}; is it installed?"
            ) from error
        self._readers = [
            threading.Thread(target=target, args=(stream,), name=f"{self.name} {what}", daemon=True)
            for target, stream, what in (
                (self._read, self._process.stdout, "answers"),
                (self._listen, self._process.stderr, "complaints"),
            )
        ]
        for reader in self._readers:
            reader.start()

    def ask(self, step: dict[str, Any], timeout: float) -> dict[str, Any]:
        self._number += 1
        line = json.dumps({"id": self._number, "step": step}, separators=(",", ":")) + "\n"
        deadline = time.monotonic() + timeout
        self._send(line.encode(), step, timeout)
        while True:
            try:
                answer = self._understood(self._answers.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                raise DeadlineExceeded(
                    f"{self.name} did not answer the step {step.get('do')!r} within {timeout:g} s{self.complaints()}"
                ) from None
            if answer.get("id") == self._number:  # not the late answer to a step that was given up
                return self._result(answer)

    def complaints(self) -> str:
        """What it said last on stderr, in parentheses, for messages."""
        lines = self._complaints.decode("utf-8", "replace").strip().splitlines()
        return f" (it says: {' / '.join(lines[-3:])})" if lines else ""

    def close(self) -> None:
        stdin = self._process.stdin
        if stdin is not None:
            with suppress(OSError):  # it ended first
                stdin.close()
        deadline = time.monotonic() + PATIENCE
        while self._process.poll() is None and time.monotonic() < deadline:
            self._drain()
            time.sleep(0.005)
        for reader in self._readers:
            reader.join(0.2)
        if self._process.poll() is None or any(reader.is_alive() for reader in self._readers):
            with suppress(ProcessLookupError):  # its session is its own, see above
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for reader in self._readers:
            while reader.is_alive():
                self._drain()
                reader.join(0.05)
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def _drain(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._answers.get_nowait()

    def _send(self, line: bytes, step: dict[str, Any], timeout: float) -> None:
        stdin = self._process.stdin
        try:
            if stdin is None or stdin.closed:
                raise BrokenPipeError
            stdin.write(line)  # a step is smaller than a pipe's buffer, and only one is under way
            stdin.flush()
        except OSError as error:
            raise self._lost() from error

    def _understood(self, line: bytes) -> dict[str, Any]:
        if not line:
            self._answers.put(b"")  # for whoever asks next
            raise self._lost()
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or "ok" not in answer:
            raise ProtocolError(
                f"{self.name} answered {line[:100].decode('utf-8', 'replace')!r}, which is no answer of "
                f"`laila volume probe`; does it run that?{self.complaints()}"
            )
        return answer

    def _result(self, answer: dict[str, Any]) -> dict[str, Any]:
        if answer["ok"] is True and isinstance(answer.get("answer"), dict):
            return dict(answer["answer"])
        error = answer.get("error")
        if not isinstance(error, dict) or not isinstance(error.get("message"), str):
            raise ProtocolError(
                f"{self.name} answered neither a result nor an error; does it run another laila?"
            )
        kind, message = str(error.get("kind")), error["message"]
        if kind == "StorageError":
            raise StorageError(message, reason=str(error.get("reason", "")))
        if kind in _KINDS:
            raise _KINDS[kind](message)
        raise RemoteError(f"{kind}: {message}", kind=kind)

    def _lost(self) -> PeerLost:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._readers[1].join(1)
        code = self._process.poll()
        ended = "closed its output" if code is None else f"has ended with exit code {code}"
        return PeerLost(f"the program of {self.name} {ended}{self.complaints()}")

    def _read(self, stream: IO[bytes]) -> None:
        while line := stream.readline(MAX_LINE):
            self._answers.put(line)
        self._answers.put(b"")

    def _listen(self, stream: IO[bytes]) -> None:
        while data := stream.read1(_KEPT):  # type: ignore[attr-defined]  # a pipe of Popen is buffered
            self._complaints = (self._complaints + data)[-_KEPT:]


class PeerNode(NodeLink):
    """A laila node that offers the service "volume"; `peer` has `ask`, as the proxies of peers do."""

    def __init__(self, peer: Peer, *, name: str = "", path: str | None = None) -> None:
        self.name, self.path = name or peer.name, path
        self._peer = peer

    def ask(self, step: dict[str, Any], timeout: float) -> dict[str, Any]:
        return self._peer.ask(SERVICE, step, timeout=timeout)


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """A node as typed. `kind`: "docker", "ssh", "exec", "local" or "peer"; `target`: the rest; `path`: the volume's
    there, None: the same as everywhere; `text`: what people see.
    """

    kind: str
    target: str
    path: str | None
    text: str

    @classmethod
    def parse(cls, text: str) -> NodeSpec:
        """From `docker:NAME`, `ssh:HOST`, `exec:COMMAND`, `local`, `HOST:PORT`, each with `=/PATH` behind it where the
        path differs (behind exec:COMMAND as a word of its own). Raises BadConfig.
        """
        kind, colon, target = text.partition(":")
        if kind == "exec" and colon:
            words = _words(target)
            path = words.pop()[1:] if words and words[-1].startswith("=/") else None
            if not words:
                raise BadConfig(
                    f"--with {text!r} names no command; write it like exec:'kubectl exec -i pod -- laila volume probe'"
                )
            return cls("exec", shlex.join(words), path, text)
        node, equals, below = text.partition("=/")
        path = f"/{below}" if equals else None
        kind, colon, target = node.partition(":")
        if node == "local":
            return cls("local", "", path, node)
        if kind in ("docker", "ssh") and target and not target.startswith("-"):
            return cls(kind, target, path, node)
        host, colon, port = node.rpartition(":")
        if colon and host and kind not in ("docker", "ssh") and port.isdigit() and 0 < int(port) < 65536:
            return cls("peer", node, path, node)
        raise BadConfig(
            f"--with {text!r} is no node; write {EXAMPLE}, with =/PATH behind it where its path differs"
        )


def parse(texts: Sequence[str]) -> tuple[NodeSpec, ...]:
    """The nodes of all `--with`; commas separate several in one, except behind exec:. Raises BadConfig."""
    found: list[NodeSpec] = []
    for text in texts:
        items = (
            [text] if text.startswith("exec:") else [item.strip() for item in text.split(",") if item.strip()]
        )
        found.extend(NodeSpec.parse(item) for item in items)
    return tuple(found)


class Nodes:
    """Links to nodes, opened as they were typed and closed together. Those over peering share one policy and
    `secret`, which is asked for when it is needed.
    """

    def __init__(self, secret: Callable[[], str] | None = None) -> None:
        self._secret = secret
        self._links: list[NodeLink] = []
        self._policy: DefaultPolicy | None = None

    def open(self, spec: NodeSpec) -> NodeLink:
        """Reach the node. Raises BadConfig, LinkError, AuthenticationFailed."""
        taken = sum(link.name.partition(" #")[0] == spec.text for link in self._links)
        name = f"{spec.text} #{taken + 1}" if taken else spec.text
        if spec.kind == "peer":
            link: NodeLink = PeerNode(self._dial(spec.target), name=name, path=spec.path)
        else:
            link = AgentNode(command(spec), name=name, path=spec.path)
        self._links.append(link)
        return link

    def close(self) -> None:
        for link in self._links:
            link.close()
        self._links.clear()
        if self._policy is not None:
            self._policy.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _dial(self, address: str) -> Peer:
        from ..policy import DefaultPolicy  # TLS, which only peering needs

        if self._secret is None:
            raise BadConfig(
                f"{address} is reached by peering, which needs the nodes' secret; give --secret-file"
            )
        secret = self._secret()
        if self._policy is None:
            self._policy = DefaultPolicy(name="volume-check")
        host, _, port = address.rpartition(":")
        number = self._policy.communication.add_tcpip_peer(host.strip("[]"), int(port), secret)
        return self._policy.communication.peers[number]


def command(spec: NodeSpec) -> list[str]:
    """The command that starts an agent on the node."""
    if spec.kind == "docker":
        return ["docker", "exec", "-i", spec.target, *PROBE]
    if spec.kind == "ssh":
        return ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", spec.target, *PROBE]
    return _words(spec.target) if spec.kind == "exec" else list(LOCAL)


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise BadConfig(f"--with exec:{text!r} cannot be read as a command: {error}") from error
