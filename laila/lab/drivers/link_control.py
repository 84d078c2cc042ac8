"""What can be done to the links between nodes that are processes, and how that is measured.

The program that carries the links (`links`) does it; this is the other end of its control socket. Rules that are made
here end when this object is closed or its process dies, unless they are given a time. What is measured goes through
the same doors and the same relay as what the nodes say, and both of its ends are here: no word of the program counts.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laila.errors import BadConfig, LabError

CONTROL, LOG = "control", "log"
"""Files of the program's directory."""
_HOST = "127.0.0.1"
_ANSWER = 10.0
_SOON = 1.0
"""Seconds in which connections are there where nothing holds them up."""
_LONGEST_PATH = 100
"""Bytes of a path that the address of a unix socket can hold everywhere."""
Pair = tuple[str, str]


@dataclass(slots=True)
class Pipe:
    """Both ends of one connection that goes through the door of `target` for `source`."""

    source: str
    target: str
    near: socket.socket
    far: socket.socket

    def end(self, node: str) -> socket.socket:
        return self.near if node == self.source else self.far

    def close(self) -> None:
        self.near.close()
        self.far.close()


class LinkControl:
    """The links of one run. `doors` are port numbers by node and by who dials. Safe under threads."""

    def __init__(self, place: Path, doors: Mapping[str, Mapping[str, int]]) -> None:
        self._place = place
        self._doors = doors
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._dialing = threading.Lock()
        self._control: socket.socket | None = None
        self._text = b""
        self._pipes: dict[frozenset[str], Pipe] = {}

    def rule(
        self,
        id: str,
        pairs: Sequence[Pair],
        *,
        drop: bool = False,
        delay_ms: float = 0.0,
        jitter_ms: float = 0.0,
        kbit: int = 0,
        reset: bool = False,
        refuse: bool = False,
        until: float = 0.0,
    ) -> None:
        """From now on, for bytes that travel from the one to the other of each pair, whichever of them has dialed.

        `drop`: they are held back, and come when the rule is over. `delay_ms`, `jitter_ms`: each comes so much later,
        more or less, in order. `kbit`: so many thousand bits go in a second, of all connections together. `reset`:
        connections between the two are reset, also new ones. `refuse`: what the first one dials is refused. Several
        rules add up; of bandwidths the smallest counts. A rule of the same id is replaced. `until`: seconds since the
        epoch at which it ends; 0 is with this object. Raises BadConfig for nodes that there are not, LabError.
        """
        self._check(pairs)
        seconds = max(0.001, until - time.time()) if until else 0.0
        if drop:
            self._renew(pairs)
        self._ask(
            "rule",
            rule=id,
            pairs=list(pairs),
            drop=drop,
            delay_ms=delay_ms,
            jitter_ms=jitter_ms,
            kbit=kbit,
            reset=reset,
            refuse=refuse,
            seconds=seconds,
        )

    def clear(self, id: str) -> None:
        """End a rule, whoever made it. Not an error when it is over already."""
        self._ask("clear", rule=id)

    def counters(self, id: str) -> dict[str, int]:
        """Since the rule was made: `held_bytes` that wait now, `connections` that it concerned, `reset` ones, and
        `refused`: doors that refuse now, because attempts are answered by the kernel and nobody counts them. Raises
        LabError when the rule is over.
        """
        found = self._ask("counters", rule=id)
        if found is None:
            raise LabError(f"there is no rule {id!r} for the links any more")
        return dict(found)

    def probe(self, src: str, dst: str, *, nbytes: int = 0, timeout: float = 2.0) -> dict[str, Any]:
        """Dial from `src` to `dst`, send `nbytes` (at least one), and get one back.

        `connected`: all of it went through within the timeout. `seconds`: from the first byte sent to the answer,
        without the dialing. `error`: `refused`, `reset`, `silent` or empty. No new connection is made while one
        direction is dropped, because it needs both.
        """
        self._check([(src, dst)])
        deadline = time.monotonic() + timeout
        try:
            pipe = self._dial(src, dst, deadline)
        except OSError as error:
            return {"connected": False, "seconds": 0.0, "error": _word(error)}
        began = time.monotonic()
        try:
            _carry(pipe.near, pipe.far, bytes(max(1, nbytes)), deadline)
            _carry(pipe.far, pipe.near, b"!", deadline)
        except OSError as error:
            return {"connected": False, "seconds": time.monotonic() - began, "error": _word(error)}
        finally:
            pipe.close()
        return {"connected": True, "seconds": time.monotonic() - began, "error": ""}

    def flow(self, src: str, dst: str, *, timeout: float = 2.0) -> dict[str, Any]:
        """Whether bytes from `src` arrive at `dst`, whatever becomes of those from `dst` to `src`.

        On a connection that stood before the rule, if this object has made the rule; else on a new one. `arrived`,
        `seconds`, `error` as of `probe`.
        """
        self._check([(src, dst)])
        began = time.monotonic()
        deadline = began + timeout
        try:
            pipe, stood = self._standing(src, dst, deadline)
            try:
                _find(pipe.end(src), pipe.end(dst), deadline)
            except (ConnectionError, BrokenPipeError):
                self._keep(src, dst, None)
                if not stood:
                    raise
                pipe, _ = self._standing(src, dst, deadline)  # the old one was reset some time ago
                _find(pipe.end(src), pipe.end(dst), deadline)
        except OSError as error:
            return {"arrived": False, "seconds": time.monotonic() - began, "error": _word(error)}
        return {"arrived": True, "seconds": time.monotonic() - began, "error": ""}

    def pipe(self, src: str, dst: str, *, timeout: float = 2.0) -> Pipe:
        """A new connection that stays until it is closed or something resets it; both of its ends. Raises OSError as
        dialing a node would.
        """
        self._check([(src, dst)])
        return self._dial(src, dst, time.monotonic() + timeout)

    def hello(self) -> dict[str, Any]:
        """The program's own word: its `pid`, each node's own `ports` (for peers, for its status page), the `doors`."""
        return dict(self._ask("hello"))

    def close(self) -> None:
        """Ends the rules that were made here, but those with a time of their own."""
        with self._lock:
            pipes, self._pipes = list(self._pipes.values()), {}
            control, self._control = self._control, None
        for pipe in pipes:
            pipe.close()
        if control is not None:
            control.close()

    # -- pipes

    def _check(self, pairs: Sequence[Pair]) -> None:
        for one in pairs:
            if unknown := [name for name in one if name not in self._doors]:
                raise BadConfig(f"there is no node {', '.join(unknown)}; there are {', '.join(self._doors)}")
            if one[0] == one[1]:
                raise BadConfig(f"{one[0]} has no link to itself")

    def _dial(self, source: str, target: str, deadline: float) -> Pipe:
        """A new connection; both of its ends. Raises OSError as dialing a node would."""
        with socket.socket() as end:
            end.bind((_HOST, 0))
            end.listen(1)
            near = socket.socket()
            try:
                near.bind((_HOST, 0))
                port = near.getsockname()[1]
                self._ask("measure", port=port, to=end.getsockname()[1])
                try:
                    near.settimeout(_left(deadline))
                    near.connect((_HOST, self._doors[target][source]))
                    if end not in _wait([end, near], [], deadline):
                        raise ConnectionResetError("ended as soon as it was there")
                    far, _ = end.accept()
                finally:
                    self._ask("measure", port=port, to=0)
            except BaseException:
                near.close()
                raise
        for sock in (near, far):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return Pipe(source, target, near, far)

    def _standing(self, source: str, target: str, deadline: float) -> tuple[Pipe, bool]:
        """A connection between the two, and whether it stood already."""
        with self._dialing:
            pipe = self._pipes.get(frozenset((source, target)))
            if pipe is not None:
                return pipe, True
            pipe = self._dial(source, target, deadline)
            self._keep(source, target, pipe)
            return pipe, False

    def _renew(self, pairs: Sequence[Pair]) -> None:
        """Have a connection for each pair that stands before a rule does; where none can be made the old one stays."""
        deadline = time.monotonic() + _SOON
        for source, target in {(min(one), max(one)) for one in pairs}:
            with contextlib.suppress(OSError), self._dialing:
                self._keep(source, target, self._dial(source, target, deadline))

    def _keep(self, source: str, target: str, pipe: Pipe | None) -> None:
        both = frozenset((source, target))
        with self._lock:
            before = self._pipes.pop(both, None)
            if pipe is not None:
                self._pipes[both] = pipe
        if before is not None:
            before.close()

    # -- the control socket

    def _ask(self, op: str, **words: Any) -> Any:
        """The result. Raises LabError with the last words of the program when it does not answer."""
        number = next(self._numbers)
        line = json.dumps({"id": number, "op": op, **words}, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            try:
                if self._control is None:
                    self._control, self._text = _connected(self._place), b""
                self._control.sendall(line)
                answer = json.loads(self._line(self._control))
            except (OSError, ValueError) as error:
                if self._control is not None:
                    self._control.close()
                    self._control = None
                raise LabError(
                    f"the program that carries the links does not answer: {error}{self.last_words()}"
                ) from error
        if not answer.get("ok"):
            raise LabError(f"the program that carries the links: {answer['error']['message']}")
        return answer["result"]

    def _line(self, control: socket.socket) -> bytes:
        while b"\n" not in self._text:
            data = control.recv(65536)
            if not data:
                raise ConnectionResetError("it has ended")
            self._text += data
        line, _, self._text = self._text.partition(b"\n")
        return line

    def last_words(self) -> str:
        """The last line that the program complained with, in parentheses."""
        try:
            said = self._place.with_name(LOG).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""
        return f" ({said.splitlines()[-1]})" if said else ""


def _connected(place: Path) -> socket.socket:
    """Raises OSError. Long paths are shortened: the address of a unix socket has room for some hundred bytes."""
    control = socket.socket(socket.AF_UNIX)
    try:
        control.settimeout(_ANSWER)
        if len(os.fsencode(place)) < _LONGEST_PATH:
            control.connect(str(place))
            return control
        directory = os.open(place.parent, os.O_RDONLY)
        try:
            control.connect(f"/proc/self/fd/{directory}/{place.name}")
        finally:
            os.close(directory)
        return control
    except BaseException:
        control.close()
        raise


def _carry(near: socket.socket, far: socket.socket, data: bytes, deadline: float) -> None:
    """Send it at one end and take it at the other. Raises OSError; TimeoutError at the deadline."""
    rest, missing = memoryview(data), len(data)
    while missing:
        ready = _wait([far], [near] if rest else [], deadline)
        if near in ready:
            rest = rest[near.send(rest) :]
        if far in ready:
            missing -= len(_taken(far))


def _find(near: socket.socket, far: socket.socket, deadline: float) -> None:
    """The same with some bytes of which an earlier try may have left others on the way."""
    token, seen = secrets.token_bytes(16), b""
    near.send(token)
    while token not in seen:
        _wait([far], [], deadline)
        seen += _taken(far)


def _taken(sock: socket.socket) -> bytes:
    data = sock.recv(1 << 18)
    if not data:
        raise ConnectionResetError("the connection has ended")
    return data


def _wait(
    readers: Sequence[socket.socket], writers: Sequence[socket.socket], deadline: float
) -> set[socket.socket]:
    """Those that are ready. Raises TimeoutError."""
    with selectors.DefaultSelector() as selector:
        for socks, mask in ((readers, selectors.EVENT_READ), (writers, selectors.EVENT_WRITE)):
            for sock in socks:
                selector.register(sock, mask)
        ready = {key.fileobj for key, _ in selector.select(_left(deadline))}
    if not ready:
        raise TimeoutError("nothing came")
    return ready  # type: ignore[return-value]  # what was registered


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


def _word(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    return "silent" if isinstance(error, TimeoutError) else "reset"
