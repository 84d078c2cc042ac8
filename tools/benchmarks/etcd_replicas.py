"""etcd with three members, by grpcio: its own KV service, asked at the leader, which spares a hop.

The few messages are encoded here by hand, which is less work than a client library does; the gateway that laila.locks
uses speaks JSON and base64 and takes about twice as long. A put is on the disks of a majority; a get is linearizable,
as is etcd's default: the leader asks a majority whether it still leads.
"""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

from .replica_contender import SERVERS, Place, ReplicaContender

PATIENCE = 60.0
# https://protobuf.dev/programming-guides/encoding: a field is its number and kind, then for bytes their count
FIRST, SECOND = b"\x0a", b"\x12"  # fields 1 and 2, of bytes
KVS, VALUE = 2, 5  # RangeResponse.kvs and mvccpb.KeyValue.value, of etcd's api/etcdserverpb/rpc.proto


class Etcd(ReplicaContender):
    """One channel for all threads, as grpcio advises."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.call_put: Any = None
        self.call_range: Any = None

    def serve(self, number: int) -> Sequence[str]:
        place = self.place
        members = [f"m{each}=http://127.0.0.1:{place.other(each)}" for each in range(SERVERS)]
        clients = f"http://127.0.0.1:{place.port(number)}"
        peers = f"http://127.0.0.1:{place.other(number)}"
        return [
            os.environ["BENCH_ETCD"], "--name", f"m{number}", "--data-dir", str(place.own(number) / "data"),
            "--listen-client-urls", clients, "--advertise-client-urls", clients,
            "--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers,
            "--initial-cluster", ",".join(members), "--logger", "zap", "--log-level", "error",
        ]  # fmt: skip

    def connect(self) -> None:
        import grpc

        channel = grpc.insecure_channel(f"127.0.0.1:{self._leader()}")
        grpc.channel_ready_future(channel).result(timeout=PATIENCE)
        self.call_put = channel.unary_unary("/etcdserverpb.KV/Put")
        self.call_range = channel.unary_unary("/etcdserverpb.KV/Range")

    def put(self, name: str, value: bytes) -> None:
        self.call_put(field(FIRST, name.encode()) + field(SECOND, value))

    def get(self, name: str) -> bytes:
        return find(find(self.call_range(field(FIRST, name.encode())), KVS), VALUE)

    def _leader(self) -> int:
        """The port of the member that leads."""
        deadline = time.monotonic() + PATIENCE
        while True:
            for number in range(SERVERS):
                port = self.place.port(number)
                ask = urllib.request.Request(f"http://127.0.0.1:{port}/v3/maintenance/status", b"{}")
                try:
                    with urllib.request.urlopen(ask, timeout=5) as answer:  # noqa: S310  # our own server
                        status = json.load(answer)
                except OSError:
                    continue
                if status.get("leader") == status["header"]["member_id"]:
                    return port
            if time.monotonic() > deadline:
                raise TimeoutError(f"the members of etcd had no leader within {PATIENCE:.0f} s")
            time.sleep(0.1)


def field(head: bytes, data: bytes) -> bytes:
    """A field of bytes."""
    return head + number(len(data)) + data


def number(value: int) -> bytes:
    """A varint: seven bits a byte, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def find(message: bytes, wanted: int) -> bytes:
    """The first field of bytes with that number. Raises KeyError."""
    at = 0
    while at < len(message):
        head, at = read_number(message, at)
        value, at = read_number(message, at)
        if head & 7 == 2:  # bytes, and the number was their count
            if head >> 3 == wanted:
                return message[at : at + value]
            at += value
    raise KeyError(wanted)


def read_number(message: bytes, at: int) -> tuple[int, int]:
    """A varint, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
