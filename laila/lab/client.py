"""`laila lab client`: works beside one node, takes operations as JSON lines, answers as JSON lines.

It connects to its own node over loopback, as a peer, with the node's secret file; `at` names another node,
whose memory it then works on *through its own node*. It speaks only when spoken to. Requests run side by
side, so answers may change order; `id` says which is which. Every operation is bounded by its `timeout`.
The protocol is described in docs/lab.md.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

from laila.errors import BadValue, DeadlineExceeded, LailaError, Unreachable
from laila.lab import lines, values

CLIENT_NAME = "lab-client"
"""What these programs call themselves as peers, for access rules; they are no nodes, so lists leave them out."""


class NodeLink:
    """This program's policy and its link to the node that it works beside."""

    def __init__(self, connect: str, secret_file: str, status: str, wait: float = 0.0) -> None:
        import laila.codec
        from laila.macros.defaults import DefaultPolicy

        laila.codec.register(values.Colour)
        laila.codec.register(values.Point)
        self.status = status
        self.policy = DefaultPolicy(name=CLIENT_NAME)
        try:
            host, _, port = connect.rpartition(":")
            secret = Path(secret_file).read_text(encoding="ascii").strip()
            self.own = self._dial(host.strip("[]"), int(port), secret, time.monotonic() + wait)
        except BaseException:
            self.policy.close()
            raise

    def _dial(self, host: str, port: int, secret: str, until: float) -> str:
        """A node that was started just now may not listen yet."""
        while True:
            try:
                return str(self.policy.communication.add_tcpip_peer(host, port, secret))
            except Unreachable:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def node(self, at: str | None) -> Any:
        """The proxy of the own node, or of another one through it."""
        own = self.policy.peers[self.own]
        return own if at is None else own.at(at)


def _ids(request: Mapping[str, Any]) -> list[str]:
    ids = request.get("ids")
    if not isinstance(ids, list) or not all(isinstance(item, str) for item in ids):
        raise BadValue("`ids` must be a list of texts")
    return ids


def memorize(link: NodeLink, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Entries `{"nickname", "value"}` in one call; answers their ids and fingerprints."""
    import laila

    made = [(item["nickname"], values.make(item["value"])) for item in request["entries"]]
    prints = [values.fingerprint(value) for _, value in made]
    entries = [laila.constant(value, nickname=nickname) for nickname, value in made]
    node = link.node(request.get("at"))
    started = time.monotonic()
    node.memorize(entries=entries, pool_nickname=request.get("pool")).wait(timeout)
    seconds = time.monotonic() - started
    return {"ids": [entry.global_id for entry in entries], "prints": prints, "seconds": seconds}


def remember(link: NodeLink, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Answers the fingerprints of what was got, in the order of `ids`."""
    node = link.node(request.get("at"))
    started = time.monotonic()
    future = node.remember(entry_ids=_ids(request), pool_nickname=request.get("pool"))
    future.wait(timeout)
    got = future.data
    seconds = time.monotonic() - started
    return {"prints": [values.fingerprint(value) for value in got], "seconds": seconds}


def forget(link: NodeLink, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    node = link.node(request.get("at"))
    node.forget(entry_ids=_ids(request), pool_nickname=request.get("pool")).wait(timeout)
    return {}


def exists(link: NodeLink, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    future = link.node(request.get("at")).exists(entry_ids=_ids(request), pool_nickname=request.get("pool"))
    future.wait(timeout)
    return {"exists": [bool(there) for there in future.data]}


def peers(link: NodeLink, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """The node's own list of its links; programs like this one are left out."""
    found = link.node(request.get("at")).peers
    return {"peers": [dict(item) for item in found if item.get("peer_name") != CLIENT_NAME]}


def ping(link: NodeLink, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    return {"rtt": link.node(request.get("at")).ping()}


def status(link: NodeLink, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """What the own node says of itself on its status port."""
    found = json.loads(_get(link, "/status.json", timeout))
    found["peers"] = [item for item in found.get("peers", []) if item.get("peer_name") != CLIENT_NAME]
    return {"status": found}


def metrics(link: NodeLink, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Samples of the own node's metrics whose name starts with `prefix`: `name{labels}` to number."""
    prefix = str(request.get("prefix", "laila_"))
    samples = {}
    for line in _get(link, "/metrics", timeout).decode("utf-8").splitlines():
        name, _, number = line.rpartition(" ")
        if name.startswith(prefix) and not line.startswith("#"):
            samples[name] = float(number)
    return {"samples": samples}


def hello(link: NodeLink, request: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    return {"pid": os.getpid(), "python": sys.version.split()[0], "node_id": link.own}


def _get(link: NodeLink, path: str, timeout: float) -> bytes:
    with urllib.request.urlopen(f"http://{link.status}{path}", timeout=timeout) as answer:
        return bytes(answer.read(1 << 20))


Operation = Callable[[NodeLink, Mapping[str, Any], float], dict[str, Any]]
OPERATIONS: Mapping[str, Operation] = {
    operation.__name__: operation
    for operation in (hello, memorize, remember, forget, exists, peers, ping, status, metrics)
}


def answer(link: NodeLink, request: Any) -> dict[str, Any]:
    """The answer to one request; every failure is an answer too."""
    number = request.get("id") if isinstance(request, dict) else None
    try:
        timeout = lines.checked(request, OPERATIONS)
        return {"id": number, "ok": True, "result": OPERATIONS[request["op"]](link, request, timeout)}
    except Exception as error:
        return {"id": number, "ok": False, "error": describe(error)}


def describe(error: BaseException) -> dict[str, Any]:
    """An error as JSON: its class, its sentence, and whether what it failed at may have happened."""
    if isinstance(error, TimeoutError) and not isinstance(error, LailaError):
        error = DeadlineExceeded(str(error) or "it took too long")
    return {
        "code": type(error).__name__,
        "message": str(error) or type(error).__name__,
        "executed": getattr(error, "executed", None),
        "retryable": bool(getattr(error, "retryable", False)),
        "reason": getattr(error, "reason", None) or _system_word(error),
    }


def _system_word(error: BaseException) -> str | None:
    number = error.errno if isinstance(error, OSError) else None
    return None if number is None else errno.errorcode.get(number)


def run(
    connect: str,
    secret_file: str,
    status_address: str,
    *,
    wait: float = 0.0,
    streams: tuple[IO[str], IO[str]] | None = None,
) -> int:
    """The program. Exit code 0 after the end of its input, 2 when it cannot reach its node within `wait`
    seconds.
    """
    requests, out = streams or (sys.stdin, sys.stdout)
    try:
        link = NodeLink(connect, secret_file, status_address, wait)
    except (LailaError, OSError, ValueError) as error:
        print(f"laila lab client: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    try:
        lines.serve(partial(answer, link), requests, out)
    finally:
        link.policy.close()
    return 0
