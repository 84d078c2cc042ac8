"""The S3 pool keeps the suites, on a server that speaks S3, and its own rules about conditions and parts."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from pool_conformance import content, record
from s3_server import BUCKET, S3Server
from served_conformance import ServedPoolConformance

from laila import errors
from laila.pools import S3Pool
from laila.pools import s3 as s3_module
from tests.locks.servers import PASSWORD, running, started


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    yield from running(S3Server)


class TestS3Pool(ServedPoolConformance):
    kind = "s3"
    atomic_batches = False
    server_class = S3Server
    client = "boto3"
    extra = "s3"
    keeps = False
    secret = PASSWORD
    kills = 2
    each_counts = 4
    entries_each = 10

    def protected(self) -> tuple[Any, str, str]:
        server = started(S3Server)
        return server, server.url, server.url.replace(PASSWORD, PASSWORD[::-1])

    def refused(self, wrong: str) -> list[str]:
        return []  # moto's server asks nobody who he is

    def damage(self, pool: Any) -> None:
        name = pool._name(b"k")
        found = pool._client().get_object(Bucket=BUCKET, Key=name)
        with found["Body"] as body:
            data = bytearray(body.read())
        data[-5] ^= 1
        pool._client().put_object(Bucket=BUCKET, Key=name, Body=bytes(data))


def test_large_entries_go_in_parts_on_the_same_condition(
    server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_module, "PART", 5 << 20)
    one, two = record(bytes(range(256)) * 50_000, b"tail"), record(b"x" * (11 << 20))
    with S3Pool(server.at(pool="parts")) as pool:
        pool.put("put", one)
        assert content(pool.get("put")) == content(one)
        assert pool.swap("k", None, one)
        assert not pool.swap("k", None, two)
        assert content(pool.get("k")) == content(one)
        assert pool.swap("k", one, two)
        assert not pool.swap("k", one, one)
        assert content(pool.get("k")) == content(two)
        assert pool._client().list_multipart_uploads(Bucket=BUCKET).get("Uploads", []) == []
        pool.empty()


def test_long_keys_are_named_by_their_hash_and_listed(server: S3Server) -> None:
    with S3Pool(server.at(pool="long")) as pool:
        keys = ["x" * 799, "x" * 801, "y" * 65_536, "\0" * 300]
        pool.put_many([(key, record(key.encode()[:10])) for key in keys])
        assert sorted(pool.keys()) == sorted(keys)
        assert content(pool.get(keys[2])) == content(record(b"y" * 10))
        pool.empty()


def test_other_objects_in_the_bucket_are_left_alone(server: S3Server) -> None:
    with S3Pool(server.at(pool="shared")) as pool:
        place = {"Bucket": BUCKET, "Key": pool._prefix + "notes.txt"}
        pool._client().put_object(**place, Body=b"theirs")
        pool.put("k", record())
        assert (list(pool), pool.count()) == (["k"], 1)
        pool.empty()
        with pool._client().get_object(**place)["Body"] as body:
            assert body.read() == b"theirs"


def test_a_bucket_that_is_not_there_is_enoent(server: S3Server) -> None:
    with S3Pool(server.url.replace(f"@{BUCKET}/", "@no-such-bucket/")) as pool:
        for use in (
            lambda: pool.put("k", record()), lambda: pool.get("k"), lambda: pool.exists("k"), lambda: pool.delete("k"),
            lambda: pool.swap("k", None, record()), pool.probe, pool.count,
        ):  # fmt: skip
            with pytest.raises(errors.StorageError, match="no-such-bucket") as caught:
                use()
            assert caught.value.reason == "ENOENT", caught.value


@contextmanager
def careless_server() -> Iterator[int]:
    """One that stores whatever comes, whatever the condition."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(200)

        def do_DELETE(self) -> None:
            self.answer(204)

        def answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as careless:
        serving = threading.Thread(target=careless.serve_forever)
        serving.start()
        try:
            yield careless.server_port
        finally:
            careless.shutdown()
            serving.join()


def test_a_server_that_ignores_conditions_is_refused_by_the_first_swap() -> None:
    with careless_server() as port:
        with closing(S3Pool(f"s3://a:b@bucket?endpoint=http://127.0.0.1:{port}")) as pool:
            with pytest.raises(errors.StorageError, match="ignores If-Match") as caught:
                pool.swap("k", None, record())
            assert caught.value.reason == "ENOTSUP"


@pytest.mark.parametrize(
    "address",
    [
        "s3://", "s3://a@bucket", "s3://bucket?unknown=1", "s3://bucket?endpoint=ftp://x", "s3://bucket/" + "x" * 129,
        "s3://bucket?endpoint=http://user:password@host",
    ],
)  # fmt: skip
def test_addresses_that_cannot_be_used(address: str) -> None:
    with pytest.raises(errors.BadConfig) as caught:
        S3Pool(address)
    assert "password@" not in str(caught.value)
