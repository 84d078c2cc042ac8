"""The smallest protocol that does the works: what a careful programmer writes on a bare socket in a day.

Request: op (1 byte), length (u32), body. Reply: length (u32), body. Header and body leave in one send,
replies to requests that arrived together leave together, receives are large, and a large body is received
straight into its final buffer. Ops: g = key; p = key + value; m = keys; d = key. The server keeps bytes; the client
packs and unpacks with msgpack.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from .contender import Address, Contender, Record

REQUEST = struct.Struct("<cI")
LENGTH = struct.Struct("<I")
KEY = 36
RECEIVE = 256 * 1024
LARGE = 64 * 1024

Store = dict[bytes, Any]
Part = bytes | memoryview


def listen() -> tuple[socket.socket, int]:
    """A listening socket on loopback and its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    return listener, int(listener.getsockname()[1])


def answer(buffer: bytes, store: Store) -> tuple[list[Part], int]:
    """Replies to every whole request in `buffer`, and how many bytes they took."""
    replies: list[Part] = []
    at = 0
    while len(buffer) - at >= REQUEST.size:
        op, length = REQUEST.unpack_from(buffer, at)
        end = at + REQUEST.size + length
        if end > len(buffer):
            break
        reply(op, buffer[at + REQUEST.size : end], store, replies)
        at = end
    return replies, at


def reply(op: bytes, body: Any, store: Store, replies: list[Part]) -> None:
    """Do one request; its reply is appended in parts."""
    if op == b"g":
        value = store[bytes(body)]
        replies += (LENGTH.pack(len(value)), value)
    elif op == b"p":
        store[bytes(body[:KEY])] = body[KEY:]
        replies.append(LENGTH.pack(0))
    elif op == b"d":
        del store[bytes(body)]
        replies.append(LENGTH.pack(0))
    else:
        values = [store[body[i : i + KEY]] for i in range(0, len(body), KEY)]
        joined = b"".join(part for value in values for part in (LENGTH.pack(len(value)), value))
        replies += (LENGTH.pack(len(joined)), joined)


def send(sock: socket.socket, parts: list[Part]) -> None:
    """All parts: joined and sent at once when small, otherwise without a copy."""
    if sum(map(len, parts)) <= LARGE * 4:
        sock.sendall(b"".join(parts))
    elif hasattr(sock, "context"):  # an SSLSocket, which has no sendmsg
        for part in parts:
            sock.sendall(part)
    else:
        sent = sock.sendmsg(parts)
        for part in parts:
            if sent < len(part):
                sock.sendall(memoryview(part)[sent:])
            sent = max(0, sent - len(part))


def receive_large(sock: socket.socket, head: bytes, length: int) -> memoryview:
    """A body of `length` bytes of which `head` came already, in a fresh buffer."""
    import numpy as np  # only here: an idle server needs no numpy

    view = np.empty(length, np.uint8).data
    view[: len(head)] = head
    got = len(head)
    while got < length:
        count = sock.recv_into(view[got:])
        if not count:
            raise EOFError("the other side closed inside a body")
        got += count
    return view


def serve_socket(sock: socket.socket, store: Store) -> None:
    """One client, until it closes."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = b""
    while chunk := sock.recv(RECEIVE):
        buffer = buffer + chunk if buffer else chunk
        replies, used = answer(buffer, store)
        buffer = buffer[used:]
        if len(buffer) >= REQUEST.size:
            op, length = REQUEST.unpack_from(buffer)
            if length > LARGE:
                body = receive_large(sock, buffer[REQUEST.size :], length)
                buffer = b""
                reply(op, body, store, replies)
        if replies:
            send(sock, replies)


def serve_threads(listener: socket.socket, wrap: Callable[[socket.socket], socket.socket]) -> None:
    """A thread per client, all on one store, until the process is killed."""
    store: Store = {}

    def client(sock: socket.socket) -> None:
        try:
            serve_socket(wrap(sock), store)
        except (OSError, EOFError):
            sock.close()  # the client went away

    while True:
        accepted, _ = listener.accept()
        threading.Thread(target=client, args=(accepted,), daemon=True).start()


class RawClient(Contender):
    """The client's half, over whatever socket `open_socket` gives."""

    def open_socket(self, address: Address) -> socket.socket:
        raise NotImplementedError

    def connect(self, address: Address) -> None:
        self.sock = self.open_socket(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def take(self, count: int) -> bytes | memoryview:
        """The next `count` bytes from the server."""
        buffer = self.buffer
        while len(buffer) < count:
            if count > LARGE:
                self.buffer = b""
                return receive_large(self.sock, buffer, count)
            chunk = self.sock.recv(RECEIVE)
            if not chunk:
                raise EOFError("the server closed")
            buffer = buffer + chunk if buffer else chunk
        self.buffer = buffer[count:]
        return buffer[:count]

    def take_reply(self) -> bytes | memoryview:
        return self.take(LENGTH.unpack(self.take(LENGTH.size))[0])

    def put(self, value: Record) -> str:
        key = next(self.keys)
        body = msgpack.packb(value)
        self.sock.sendall(REQUEST.pack(b"p", KEY + len(body)) + key.encode() + body)
        self.take_reply()
        return key

    def get(self, key: str) -> Record:
        self.sock.sendall(REQUEST.pack(b"g", KEY) + key.encode())
        return msgpack.unpackb(self.take_reply())  # type: ignore[no-any-return]

    def get_window(self, keys: Sequence[str]) -> list[Record]:
        head = REQUEST.pack(b"g", KEY)
        self.sock.sendall(b"".join([head + key.encode() for key in keys]))
        return [msgpack.unpackb(self.take_reply()) for _ in keys]

    def get_many(self, keys: Sequence[str]) -> list[Record]:
        self.sock.sendall(REQUEST.pack(b"m", KEY * len(keys)) + "".join(keys).encode())
        body = memoryview(self.take_reply())
        values, at = [], 0
        while at < len(body):
            end = at + LENGTH.size + LENGTH.unpack_from(body, at)[0]
            values.append(msgpack.unpackb(body[at + LENGTH.size : end]))
            at = end
        return values

    def forget(self, key: str) -> None:
        self.sock.sendall(REQUEST.pack(b"d", KEY) + key.encode())
        self.take_reply()

    def put_array(self, prepared: Any) -> str:
        key = next(self.keys)
        data = memoryview(prepared).cast("B")
        send(self.sock, [REQUEST.pack(b"p", KEY + len(data)) + key.encode(), data])
        self.take_reply()
        return key

    def get_array(self, key: str) -> Any:
        import numpy as np

        self.sock.sendall(REQUEST.pack(b"g", KEY) + key.encode())
        return np.frombuffer(self.take_reply(), np.float64)
