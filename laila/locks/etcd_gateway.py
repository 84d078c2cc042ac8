"""etcd's HTTP gateway, by etcd3gw: members in turn, logging in, transactions and waiting for a key to go.

Every method raises LockUnavailable, naming the server, when no member did as asked within `timeout` seconds. Keys and
values are text; etcd's JSON has them in base64, and numbers as text.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from laila.errors import BadConfig

from .lease import now
from .server import Server

if TYPE_CHECKING:
    from etcd3gw.client import Etcd3Client

T = TypeVar("T")
PORT = 2379
EXAMPLE = "etcd://user:password@host:2379"
_LOGIN_AGAIN = ("invalid auth token", "user name is empty", "revision of auth store is old")


def text64(text: str) -> str:
    """Text as etcd's JSON has it."""
    return base64.b64encode(text.encode()).decode()


def plain64(value: str) -> str:
    """Text out of etcd's JSON."""
    return base64.b64decode(value).decode()


@dataclass(frozen=True, slots=True)
class Address:
    """`etcd://[user:password@]host[:port][,host[:port]...]`; `etcds://` for TLS, with files `?ca=`, `cert=`, `key=`."""

    hosts: tuple[tuple[str, int], ...]
    secure: bool
    user: str
    password: str = field(repr=False)
    ca: str
    cert: str
    key: str

    @classmethod
    def of(cls, url: str) -> Address:
        """Raises BadConfig, which shows no password."""
        try:
            parts = urlsplit(url)
        except ValueError:
            raise BadConfig(f"this is no address of etcd; write it as {EXAMPLE}") from None
        login, _, hosts = parts.netloc.rpartition("@")
        user, _, password = login.partition(":")
        files = dict(parse_qsl(parts.query, keep_blank_values=True))
        secure = parts.scheme == "etcds"
        unknown = files.keys() - ({"ca", "cert", "key"} if secure else set())
        if unknown or parts.path.strip("/"):
            what = f"option {min(unknown)!r}" if unknown else "path"
            raise BadConfig(f"an address of etcd has no {what}; write it as {EXAMPLE}")
        return cls(
            tuple(_host(each) for each in hosts.split(",")), secure, unquote(user), unquote(password),
            files.get("ca", ""), files.get("cert", ""), files.get("key", ""),
        )  # fmt: skip

    def server(self) -> Server:
        where = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return Server("etcd", where, self.password)


def _host(text: str) -> tuple[str, int]:
    name, colon, port = text.rpartition(":")
    if not colon or name.count("[") != name.count("]"):
        name, port = text, str(PORT)
    name = name.removeprefix("[").removesuffix("]")
    if not name or not port.isdecimal() or not 0 < int(port) < 65536:
        raise BadConfig(f"{text!r} is no host of etcd; write it as {EXAMPLE}")
    return name, int(port)


class Gateway:
    """The members of one cluster. Safe under threads."""

    def __init__(self, address: Address) -> None:
        import requests
        from etcd3gw.exceptions import Etcd3Exception

        self.server = address.server()
        self._address = address
        self._first = 0
        self._login = threading.Lock()
        self._failures = (Etcd3Exception, requests.RequestException, OSError, ValueError, KeyError, TypeError)
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy and no .netrc of the environment gets into this
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=32))
        if address.ca:
            self._session.verify = address.ca
        if address.cert:
            self._session.cert = (address.cert, address.key) if address.key else address.cert

    def transact(
        self, timeout: float, compare: list[Any], success: list[Any], failure: list[Any] | None = None
    ) -> dict[str, Any]:
        """One transaction; its answer has `succeeded`, `header` and `responses`. It may run twice."""
        request = {"compare": compare, "success": success, "failure": failure or []}
        return self._call(timeout, lambda client: dict(client.transaction(request)))

    def delete(self, timeout: float, key: str) -> None:
        """Delete a key; one that is gone is no error."""
        self.transact(timeout, [], [{"request_delete_range": {"key": text64(key)}}])

    def grant(self, timeout: float, seconds: int) -> tuple[int, float]:
        """A new lease: its id, and the seconds that the server gave it."""

        def work(client: Etcd3Client) -> tuple[int, float]:
            answer = client.post(client.get_url("/lease/grant"), json={"TTL": seconds, "ID": 0})
            return int(answer["ID"]), float(answer["TTL"])

        return self._call(timeout, work)

    def renew(self, timeout: float, lease: int) -> bool:
        """Whether the lease stands; it begins anew."""
        from etcd3gw.lease import Lease

        return self._call(timeout, lambda client: Lease(lease, client).refresh()) > 0

    def revoke(self, timeout: float, lease: int) -> None:
        """End a lease and delete all keys that hang on it; one that has ended is no error."""
        from etcd3gw.lease import Lease

        def work(client: Etcd3Client) -> None:
            try:
                Lease(lease, client).revoke()
            except self._failures as error:
                if "lease not found" not in _detail(error):
                    raise

        self._call(timeout, work)

    def wait(self, timeout: float, key: str, revision: int, seconds: float) -> None:
        """Until the key is deleted, at or after that revision; for that long at most. May return early."""
        watch: dict[str, Any] = {"key": text64(key), "start_revision": revision, "filters": ["NOPUT"]}
        url = self._client(self._first, timeout).get_url("/watch")
        pending = b""
        try:
            with self._session.post(
                url, json={"create_request": watch}, stream=True, timeout=(timeout, seconds)
            ) as answer:
                for chunk in answer.iter_content(chunk_size=None):
                    pending += chunk
                    if pending.count(b"\n") > 1:  # the first line says that it watches
                        return
        except self._failures:
            return  # the time is up, or the member went away: the next question tells

    def close(self) -> None:
        self._session.close()

    def _client(self, member: int, timeout: float) -> Etcd3Client:
        from etcd3gw.client import Etcd3Client

        host, port = self._address.hosts[member]
        protocol = "https" if self._address.secure else "http"
        return Etcd3Client(host, port, protocol, timeout=timeout, api_path="/v3/", session=self._session)

    def _call(self, timeout: float, work: Callable[[Etcd3Client], T]) -> T:
        """What `work` returns for the first member that does it; the one that answered last is asked first."""
        until = now() + timeout
        members = len(self._address.hosts)
        first = self._first
        # The first one is asked once more at the end: its idle connection may have been closed meanwhile.
        for turn in range(members + 1):
            member = (first + turn) % members
            share = (until - now()) / max(1, members - turn)
            client = self._client(member, max(share, 0.01))
            try:
                found = self._logged_in(client, work)
            except self._failures as error:
                failure = self.server.failed(error, _reason(error))
                if _refused(error) or turn == members or now() >= until:
                    break
            else:
                self._first = member
                return found
        raise failure

    def _logged_in(self, client: Etcd3Client, work: Callable[[Etcd3Client], T]) -> T:
        if not self._address.user:
            return work(client)
        known = self._session.headers.get("Authorization")
        if known is not None:
            try:
                return work(client)
            except self._failures as error:
                if not any(hint in _detail(error) for hint in _LOGIN_AGAIN):
                    raise
        with self._login:
            if self._session.headers.get("Authorization") == known:  # else another thread has done it
                self._session.headers["Authorization"] = self._token(client)
        return work(client)

    def _token(self, client: Etcd3Client) -> str:
        login = {"name": self._address.user, "password": self._address.password}
        # Without the header of the last login: etcd refuses even this request when that is out of date.
        answer = client.post(
            client.get_url("/auth/authenticate"), json=login, headers={"Authorization": None}
        )
        return str(answer["token"])


def _detail(error: BaseException) -> str:
    return str(getattr(error, "detail_text", None) or "")


def _refused(error: BaseException) -> bool:
    """Whether a member answered, and another one would say the same."""
    from etcd3gw import exceptions

    gone = (exceptions.ConnectionFailedError, exceptions.ConnectionTimeoutError)
    return isinstance(error, exceptions.Etcd3Exception) and not isinstance(error, gone)


def _reason(error: BaseException) -> str:
    """What the server said, else what the system said to begin with."""
    try:
        return str(json.loads(_detail(error))["message"])
    except (ValueError, KeyError, TypeError):
        deepest: BaseException = error
        while deepest.__cause__ or deepest.__context__:
            deepest = deepest.__cause__ or deepest.__context__ or deepest
        return str(deepest) or type(deepest).__name__
