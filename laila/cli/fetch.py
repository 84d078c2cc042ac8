"""One HTTP GET of a node's status port, on a bare socket: `http.client` would import ssl and email."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from typing import Any

from laila.errors import DeadlineExceeded, ProtocolError, Unreachable
from laila.node.addresses import Address

MAX_ANSWER = 16 << 20
"""Bytes of an answer; more is refused."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status code and body."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body as JSON. Raises ProtocolError if it is none."""
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise ProtocolError(
                "the status port answered something that is no JSON; is it a laila node?"
            ) from error


def get(address: Address, path: str, *, timeout: float) -> Answer:
    """GET `path` within `timeout` seconds in all. Raises Unreachable, DeadlineExceeded or ProtocolError."""
    target = address.reachable()
    deadline = time.monotonic() + timeout
    try:
        with socket.create_connection((target.host, target.port), timeout) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n".encode())
            return _parse(_receive(sock, deadline))
    except TimeoutError as error:
        raise DeadlineExceeded(f"{target} did not answer {path} within {timeout:g} s") from error
    except OSError as error:
        raise Unreachable(
            f"no node answers on status port {target} ({error.strerror or error}); "
            "is it running, and is --status right?"
        ) from error


def _receive(sock: socket.socket, deadline: float) -> bytes:
    received = bytearray()
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        data = sock.recv(65_536)
        if not data:
            return bytes(received)
        received += data
        if len(received) > MAX_ANSWER:
            raise ProtocolError(f"the status port sent more than {MAX_ANSWER} bytes; is it a laila node?")


def _parse(received: bytes) -> Answer:
    head, _, body = received.partition(b"\r\n\r\n")
    words = head.split(b"\r\n")[0].split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ProtocolError("the status port does not speak HTTP; is it a laila node?")
    return Answer(int(words[1]), body)
