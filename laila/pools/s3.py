"""Entries in a bucket of S3, or of a server that speaks like it, by boto3: one object each.

Strategy: an object holds the bytes of an entry's file (recordfile.py) under the name that a file would have, and its
metadata a digest. S3 replaces objects whole; `swap` looks at the digest and the ETag, and puts on the condition that
the ETag is still the same (`If-Match`), or that there is nothing (`If-None-Match: *`). Large objects go in parts, on
the same condition. Batches are several requests at once.

Rules
- What may be done twice is sent again after a failure; a swap never is, since the answer to a repeated one would not
  say whose change it saw.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar
from urllib.parse import unquote, urlsplit

from laila import buffers
from laila.codec import Encoded
from laila.errors import BadConfig, Corrupt, StorageError
from laila.pools.base import MAX_KEY_BYTES, Capabilities, Pool, check_key
from laila.pools.recordfile import HASHED_SUFFIX, RECORD_SUFFIX, file_name, key_in, pack, spelled_key, unpack
from laila.pools.server import Server, client, settings, split, system_reason

PART = 64 << 20
"""Bytes of a part; objects up to this size go in one piece."""
MAX_NAME = 800
"""Longest spelled-out name, beside the prefix; S3 takes 1024 bytes."""
AT_ONCE = 8
"""Requests of a batch that are under way at the same time."""
EXAMPLE = "s3://bucket/prefix?endpoint=https://s3.example.org&region=us-east-1"

_OPTIONS = ("pool", "timeout", "endpoint", "region", "profile")
_TRIES = 3
_DIGEST = "laila-digest"
_CHANGED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
_ABSENT = ("NoSuchKey", "NotFound", "404")
_REASONS = {
    "AccessDenied": "EACCES", "InvalidAccessKeyId": "EACCES", "SignatureDoesNotMatch": "EACCES", "403": "EACCES",
    "ExpiredToken": "EACCES", "NoSuchBucket": "ENOENT", "SlowDown": "EBUSY", "503": "EBUSY", "QuotaExceeded": "EDQUOT",
    "XMinioStorageFull": "ENOSPC", "EntityTooLarge": "EFBIG", "InternalError": "EIO", "500": "EIO",
}  # fmt: skip

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class S3Pool(Pool):
    """Entries at `s3://[key:secret@]bucket[/prefix]`; the bucket must be there.

    Options in the address: `endpoint`, for servers other than AWS; `region`; `profile`; `pool`, a name that is part of
    what objects are called, and `timeout` of one request (the last two also as arguments). Without a key in the address
    boto3 finds one as it always does: environment, `~/.aws`, the machine's role. Connects when first used.

    The server must honour `If-Match` and `If-None-Match` on PUT, as AWS, MinIO and Ceph do: one that ignores them
    would lose changes made by `swap`, and is refused by the first one.

    Durable: S3 answers when it has stored. Any number of processes and machines may use the pool at once. `put_many` is
    not all or nothing. How many entries `delete` removed is what was there an instant before. `count`, `nbytes` and
    `keys` list the bucket.

    Raises BadConfig for an address that cannot be used, and when boto3 is not installed.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(durable=True, blocking=True, shared=True)
    kind: ClassVar[str] = "s3"

    def __init__(self, url: str, *, pool: str | None = None, timeout: float | None = None) -> None:
        super().__init__()
        client("s3", "boto3", "s3")
        said, url = split(url, _OPTIONS)
        self.settings = settings(said, pool, timeout)
        self._options = said
        self._login, self.bucket, prefix = _parts_of(url)
        self._prefix = f"{prefix}{self.settings.pool}/"
        where = f"{_host(said['endpoint']) if said.get('endpoint') else 'AWS'}, bucket {self.bucket}"
        self.server = Server("S3", where, self._login[1] if self._login else "")
        self._making = threading.Lock()
        self._made: dict[bool, Any] = {}
        self._conditional = False
        _check_endpoint(said.get("endpoint"))
        _everywhere.add(self)

    def put(self, key: str, record: Encoded) -> None:
        self._check_open()
        self._put(check_key(key), record, {})

    def put_many(self, items: Sequence[tuple[str, Encoded]]) -> None:
        self._check_open()
        batch = {check_key(key): record for key, record in items}
        self._each(lambda item: self._put(*item, {}), list(batch.items()))

    def _put_new(self, items: Sequence[tuple[str, Encoded]]) -> None:
        self._check_open()
        batch = {check_key(key): record for key, record in items}
        self._each(lambda item: self._put(*item, {"IfNoneMatch": "*"}), list(batch.items()))

    def swap(self, key: str, before: Encoded | None, after: Encoded) -> bool:
        self._check_open()
        raw = check_key(key)
        self._require_conditions()
        found = self._head(raw)
        if before is None:
            return found is None and self._put(raw, after, {"IfNoneMatch": "*"}, once=True)
        if found is None or found["Metadata"].get(_DIGEST) != _digest(pack(raw, before)):
            return False
        return self._put(raw, after, {"IfMatch": found["ETag"]}, once=True)

    def delete(self, key: str) -> bool:
        return self.delete_many((key,)) == 1

    def delete_many(self, keys: Sequence[str]) -> int:
        self._check_open()
        batch = list(dict.fromkeys(check_key(key) for key in keys))

        def remove(raw: bytes) -> bool:
            there = self._head(raw) is not None
            if there:
                with self._asking("delete"):
                    self._client().delete_object(Bucket=self.bucket, Key=self._name(raw))
            return there

        return sum(self._each(remove, batch))

    def empty(self) -> None:
        self._check_open()
        names = [listed["Key"] for listed in self._list()]
        with self._asking("delete"):
            for start in range(0, len(names), 1000):
                some = [{"Key": name} for name in names[start : start + 1000]]
                self._client().delete_objects(Bucket=self.bucket, Delete={"Objects": some, "Quiet": True})

    def keys(self) -> Iterator[str]:
        self._check_open()
        names = [listed["Key"].removeprefix(self._prefix) for listed in self._list()]
        hashed = [name for name in names if name.endswith(HASHED_SUFFIX)]
        spelled = (spelled_key(name, MAX_NAME) for name in names if not name.endswith(HASHED_SUFFIX))
        found = [*spelled, *self._each(self._key_inside, hashed)]
        return iter([key for key in found if key is not None])

    def count(self) -> int:
        self._check_open()
        return sum(1 for _ in self._list())

    def nbytes(self) -> int:
        self._check_open()
        return sum(listed["Size"] for listed in self._list())

    def probe(self, *, write: bool = False) -> None:
        self._check_open()
        with self._asking("read"):
            self._client().list_objects_v2(Bucket=self.bucket, Prefix=self._prefix, MaxKeys=1)
        if write:
            with self._asking("write"):
                name = f"{self._prefix}{secrets.token_hex(8)}.probe"
                self._client().put_object(Bucket=self.bucket, Key=name, Body=b"")
                self._client().delete_object(Bucket=self.bucket, Key=name)

    # -- reading -----------------------------------------------------------------------------------------

    def _get(self, key: str) -> Encoded | None:
        self._check_open()
        return self._read(check_key(key))

    def _get_many(self, keys: Sequence[str]) -> list[Encoded | None]:
        self._check_open()
        return self._each(self._read, [check_key(key) for key in keys])

    def _exists(self, key: str) -> bool:
        self._check_open()
        return self._head(check_key(key)) is not None

    def _exists_many(self, keys: Sequence[str]) -> list[bool]:
        self._check_open()
        return [found is not None for found in self._each(self._head, [check_key(key) for key in keys])]

    def _read(self, raw: bytes) -> Encoded | None:
        data = self._content(raw, self._name(raw))
        return None if data is None else unpack(data, raw, self._place(raw))

    def _content(self, raw: bytes, name: str) -> memoryview | None:
        """The object's bytes, asked for again when the connection ended in the middle."""
        for again in range(_TRIES - 1, -1, -1):
            with self._asking("read", absent_is_none=True):
                found = self._client().get_object(Bucket=self.bucket, Key=name)
                with contextlib.closing(found["Body"]) as body:
                    whole = buffers.allocate(found["ContentLength"])
                    at = 0
                    with self._broken_is_nothing(again > 0):
                        while at < len(whole) and (count := body.readinto(whole[at : at + (1 << 20)])):
                            at += count
                if at == len(whole):
                    return whole
                if again:
                    continue
                raise Corrupt(f"{self._place(raw)} ended after {at} of {len(whole)} bytes; try again")
            return None
        return None

    @staticmethod
    @contextlib.contextmanager
    def _broken_is_nothing(suppressed: bool) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, HTTPClientError

        try:
            yield
        except (BotoCoreError, HTTPClientError, OSError):
            if not suppressed:
                raise

    def _head(self, raw: bytes) -> Mapping[str, Any] | None:
        """What is known of an object; by its first byte, because to HEAD a missing bucket is a missing object."""
        with self._asking("read", absent_is_none=True):
            found: Mapping[str, Any] = self._client().get_object(
                Bucket=self.bucket, Key=self._name(raw), Range="bytes=0-0"
            )
            with contextlib.closing(found["Body"]) as body:
                body.read()
            return found
        return None

    def _list(self) -> Iterator[Mapping[str, Any]]:
        """Every entry's object, as it is now."""
        with self._asking("list"):
            pages = self._client().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self.bucket, Prefix=self._prefix):
                yield from (
                    listed
                    for listed in page.get("Contents", ())
                    if listed["Key"].endswith((RECORD_SUFFIX, HASHED_SUFFIX))
                )

    def _key_inside(self, name: str) -> str | None:
        """The key of an object that is named by its hash."""
        with self._asking("read", absent_is_none=True):
            front = self._client().get_object(
                Bucket=self.bucket, Key=self._prefix + name, Range=f"bytes=0-{MAX_KEY_BYTES * 4}"
            )
            with contextlib.closing(front["Body"]) as body:
                key = key_in(io.BytesIO(body.read()))
            if file_name(key, MAX_NAME) != name:
                raise Corrupt(
                    f"{name} in {self.server} is damaged: the key in it is not the one it is named for"
                )
            return key.decode()
        return None

    # -- writing -----------------------------------------------------------------------------------------

    def _put(self, raw: bytes, record: Encoded, condition: dict[str, str], *, once: bool = False) -> bool:
        """Whether the condition held."""
        pieces = list(pack(raw, record))
        size = sum(memoryview(piece).nbytes for piece in pieces)
        place = {"Bucket": self.bucket, "Key": self._name(raw)}
        metadata = {"Metadata": {_DIGEST: _digest(pieces)}}
        unless = "; it may have been done all the same: look before trying again" if once else ""
        with self._asking("write", unless, changed_is_none=bool(condition)):
            connected = self._client(once=once)
            if size <= PART:
                connected.put_object(**place, **metadata, **condition, Body=b"".join(pieces))
            else:
                self._put_parts(place, metadata, condition, pieces, connected)
            return True
        return False

    def _put_parts(
        self,
        place: dict[str, str],
        metadata: dict[str, Any],
        condition: dict[str, str],
        pieces: list[bytes | memoryview],
        connected: Any,
    ) -> None:
        again = self._client()
        upload = {**place, "UploadId": again.create_multipart_upload(**place, **metadata)["UploadId"]}
        try:
            parts = [
                {
                    "PartNumber": number,
                    "ETag": again.upload_part(**upload, PartNumber=number, Body=body)["ETag"],
                }
                for number, body in enumerate(_joined(pieces, PART), 1)
            ]
            connected.complete_multipart_upload(**upload, **condition, MultipartUpload={"Parts": parts})
        except BaseException:
            with contextlib.suppress(Exception):  # what it left is removed by the bucket's own rules
                again.abort_multipart_upload(**upload)
            raise

    def _require_conditions(self) -> None:
        """Raise unless the server refuses what must not be replaced; asked once, with an object of our own."""
        if self._conditional:
            return
        name = f"{self._prefix}{secrets.token_hex(8)}.probe"
        place = {"Bucket": self.bucket, "Key": name}
        with self._asking("swap"):
            self._client().put_object(**place, Body=b"first")
        refused = []
        for condition in ({"IfNoneMatch": "*"}, {"IfMatch": '"00000000000000000000000000000000"'}):
            kept = True
            with self._asking("swap", changed_is_none=True):
                self._client().put_object(**place, **condition, Body=b"second")
                kept = False
            refused.append(kept)
        with self._asking("swap"):
            self._client().delete_object(**place)
        if not all(refused):
            raise StorageError(
                f"{self.server} ignores If-Match or If-None-Match, so nothing can be swapped there safely; "
                "use a server that honours them, such as AWS, MinIO or Ceph (ENOTSUP)",
                reason="ENOTSUP",
            )
        self._conditional = True

    # -- the server --------------------------------------------------------------------------------------

    def _each(self, operation: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
        """`operation` of each item, some at once; the first error is raised when all have ended."""
        if len(items) < 2:
            return [operation(item) for item in items]
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(min(AT_ONCE, len(items)), "laila-s3") as threads:
            return list(threads.map(operation, items))

    def _client(self, *, once: bool = False) -> Any:
        """A boto3 client; `once` for one that never repeats a request."""
        with self._making:
            self._check_open()
            if once not in self._made:
                self._made[once] = self._make(1 if once else _TRIES)
            return self._made[once]

    def _make(self, tries: int) -> Any:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        timeout, said = self.settings.timeout, self._options
        login = dict(zip(("aws_access_key_id", "aws_secret_access_key"), self._login or (), strict=False))
        try:
            session = boto3.session.Session(
                **login, region_name=said.get("region"), profile_name=said.get("profile")
            )
            if session.region_name is None and said.get("endpoint"):
                login["region_name"] = "us-east-1"  # what servers other than AWS go by
            return session.client(
                "s3",
                endpoint_url=said.get("endpoint"),
                region_name=login.get("region_name"),
                config=Config(
                    connect_timeout=timeout,
                    read_timeout=timeout,
                    retries={"total_max_attempts": tries, "mode": "standard"},
                    max_pool_connections=AT_ONCE * 4,
                    s3={"addressing_style": "path"} if said.get("endpoint") else {},
                    tcp_keepalive=True,
                ),
            )
        except (BotoCoreError, ValueError) as error:
            raise self.server.failed(
                f"use pool {self.settings.pool!r}", error, "EINVAL", f"write {EXAMPLE}"
            ) from None

    @contextlib.contextmanager
    def _asking(
        self, doing: str, unless: str = "", *, absent_is_none: bool = False, changed_is_none: bool = False
    ) -> Iterator[None]:
        """Map boto's errors. What is absent, or was changed, ends the block quietly where that is an answer."""
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

        what = f"{doing} pool {self.settings.pool!r}"
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if (absent_is_none and code in _ABSENT) or (changed_is_none and code in _CHANGED + _ABSENT):
                return
            reason = _REASONS.get(code) or code or "EIO"
            failure = self.server.failed(
                what, error, reason, f"see that bucket, key and rights are right{unless}"
            )
        except (BotoCoreError, HTTPClientError, OSError) as error:
            if isinstance(error, StorageError):
                raise
            timed_out = "timed out" in str(error).lower() or "Timeout" in type(error).__name__
            reason = "ETIMEDOUT" if timed_out else system_reason(error)
            failure = self.server.failed(what, error, reason, f"see that it runs and can be reached{unless}")
        else:
            return
        raise failure

    def _name(self, raw: bytes) -> str:
        return self._prefix + file_name(raw, MAX_NAME)

    def _place(self, raw: bytes) -> str:
        return f"entry {raw[:80].decode(errors='replace')!r} of pool {self.settings.pool!r} in {self.server}"

    def _close(self) -> None:
        with self._making:
            made, self._made = self._made, {}
        for connected in made.values():
            connected.close()

    def leave_to_parent(self) -> None:
        """In a forked child: the connections are the parent's."""
        _parents.extend(self._made.values())
        self._making = threading.Lock()
        self._made = {}

    def _where(self) -> str:
        return f" {self.server.where} {self.settings.pool}"


_everywhere: weakref.WeakSet[S3Pool] = weakref.WeakSet()
_parents: list[Any] = []


def _after_fork() -> None:
    for pool in list(_everywhere):
        pool.leave_to_parent()


os.register_at_fork(after_in_child=_after_fork)


def _parts_of(url: str) -> tuple[tuple[str, str] | None, str, str]:
    """Key and secret, bucket, prefix with its slash. Raises BadConfig, which shows no secret."""
    try:
        parts = urlsplit(url)
        login = (unquote(parts.username or ""), unquote(parts.password or "")) if parts.username else None
        bucket = parts.netloc.rpartition("@")[2]
    except ValueError:
        raise BadConfig(f"this is no address of S3; write it as {EXAMPLE}") from None
    if parts.scheme != "s3" or not bucket or parts.query or (login and not all(login)):
        raise BadConfig(f"this is no address of S3; write it as {EXAMPLE}")
    prefix = unquote(parts.path).strip("/")
    if len(prefix.encode()) > 128:
        raise BadConfig("the prefix in the address of an S3 pool has at most 128 bytes; make it shorter")
    return login, bucket, prefix + "/" if prefix else ""


def _check_endpoint(endpoint: str | None) -> None:
    if endpoint is not None and not (endpoint.startswith(("http://", "https://")) and "@" not in endpoint):
        raise BadConfig(
            "the endpoint of an S3 pool is like https://s3.example.org:9000; the key goes before the bucket"
        )


def _host(endpoint: str) -> str:
    return endpoint.partition("://")[2].rstrip("/").rpartition("@")[2]


def _digest(pieces: Iterator[bytes | memoryview] | Sequence[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _joined(pieces: Sequence[bytes | memoryview], size: int) -> Iterator[bytes]:
    """The bytes of all pieces, in parts of `size` and a last one."""
    part = bytearray()
    for piece in pieces:
        rest = memoryview(piece).cast("B")
        while len(part) + len(rest) >= size:
            room = size - len(part)
            part += rest[:room]
            yield bytes(part)
            rest, part = rest[room:], bytearray()
        part += rest
    if part:
        yield bytes(part)
