"""Locks in a real etcd: the suites, and what members, users and leases do."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from served import LeasedLock
from servers import PASSWORD, EtcdServer, free_port, running, started

from laila.errors import BadConfig, LockUnavailable
from laila.locks import connect
from laila.locks.etcd_gateway import Address, plain64, text64
from laila.locks.etcd_lock import EtcdService


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    yield from running(EtcdServer)


class TestEtcdLock(LeasedLock):
    server_class = EtcdServer
    client = "etcd3gw"
    extra = "etcd"

    def protected(self) -> tuple[Any, str, str]:
        server = started(EtcdServer)
        server.require_password()
        url = server.url.replace("://", f"://root:{PASSWORD}@")
        return server, url, url.replace(PASSWORD, PASSWORD[::-1])

    @staticmethod
    def keys(server: EtcdServer, prefix: str) -> list[str]:
        found = server.post("kv/range", {"key": text64(prefix), "range_end": text64(prefix + "\x7f")})
        return [plain64(each["key"]) for each in found.get("kvs", [])]

    def test_a_login_that_expired_is_renewed(self, own):
        """etcd forgets who logged in after some minutes: the service logs in again by itself."""
        own.require_password()
        with connect(own.at().replace("://", f"://root:{PASSWORD}@")) as service:
            with service.lock("a").acquire(0) as hold:
                own.forget_logins()
                assert not hold.lost
                service.lock("b").acquire(0).release()

    def test_another_member_is_asked(self, server):
        """A member that is not there is passed over."""
        url = server.at(ttl=5, prefix="members/").replace("://", f"://127.0.0.1:{free_port()},")
        with connect(url) as service, service.lock("a").acquire(0) as hold:
            assert not hold.lost
            assert service.lock("a").holder() is not None

    def test_a_frozen_member_is_passed_over(self, own, server):
        """So is one that does not answer, within the time of one request."""
        own.signal(signal.SIGSTOP)
        url = f"etcd://127.0.0.1:{own.port},127.0.0.1:{server.port}?timeout=2&prefix=frozen/"
        with connect(url) as service, service.lock("a").acquire(0) as hold:
            assert not hold.lost

    def test_a_lease_that_was_revoked_is_lost(self, server, service, another):
        """Another one gets it with a greater token; the service goes on with a new lease."""
        hold = service.lock("a").acquire(0)
        server.post("lease/revoke", {"ID": service.session().lease})
        with another.lock("a").acquire(10) as later:
            assert later.token > hold.token
            assert hold.lost
            assert "gone" in hold.loss
        hold.release()

        def works() -> bool:
            try:
                service.lock("b").acquire(1).release()
            except LockUnavailable:
                return False  # the next renewal will notice
            return True

        _until(works)

    def test_a_place_that_was_deleted_is_taken_anew(self, server, url, service, another):
        """Who waits, and whose key an administrator deletes, goes to the end of the queue and gets nothing before."""
        prefix = f"{service.settings.prefix}a/queue/"
        with connect(url) as last, ThreadPoolExecutor(2) as pool:
            hold = service.lock("a").acquire(0)
            first = pool.submit(another.lock("a").acquire, 20)
            _until(lambda: len(self.keys(server, prefix)) == 2)
            [key] = [key for key in self.keys(server, prefix) if key != hold._place.key]
            second = pool.submit(last.lock("a").acquire, 20)
            _until(lambda: len(self.keys(server, prefix)) == 3)
            server.post("kv/deleterange", {"key": text64(key)})
            hold.release()
            got = second.result(20)
            _until(lambda: len(self.keys(server, prefix)) == 2)
            time.sleep(0.3)
            assert not first.done()
            got.release()
            assert first.result(20).token > got.token
            first.result().release()

    def test_only_the_record_stays_behind(self, server, service, another):
        """Holds, waits and readers leave nothing but the last record; closing ends the lease."""
        with service.lock("a").acquire(0), ThreadPoolExecutor(2) as pool:
            waits = [pool.submit(another.lock("a").acquire, 0.2, shared=each) for each in (True, False)]
            for each in waits:
                assert each.exception(20) is not None
        with service.lock("a").shared():
            pass
        assert self.keys(server, service.settings.prefix) == [f"{service.settings.prefix}a/last"]
        lease = service.session().lease
        service.close()
        assert str(lease) not in [each["ID"] for each in server.post("lease/leases", {}).get("leases", [])]

    def test_over_tls(self):
        """`etcds://` with the certificate to trust in the address; without it nothing is sent."""
        for server in running(EtcdServer, tls=True):
            with connect(server.url) as service, service.lock("a").acquire(0) as hold:
                assert not hold.lost
            with (
                connect(server.url.partition("?")[0]) as service,
                pytest.raises(LockUnavailable, match="verify"),
            ):
                service.lock("a").acquire(0)

    def test_addresses(self):
        """Hosts with and without port, several, IPv6, and a login with escapes."""
        found = Address.of("etcd://me:p%40ss@one,two:99,[::1],[::2]:7")
        assert found.hosts == (("one", 2379), ("two", 99), ("::1", 2379), ("::2", 7))
        assert (found.user, found.password) == ("me", "p@ss")
        assert "p@ss" not in f"{found!r} {found.server()!r}"
        assert str(found.server()) == "the etcd server at one:2379,two:99,[::1]:2379,[::2]:7"

    @pytest.mark.parametrize(
        "url",
        [
            "etcd://",
            "etcd://host:no",
            "etcd://a,,b",
            "etcd://host:0",
            "etcd://h/path",
            "etcd://h?ca=/x",
            "etcd://[",
        ],
    )
    def test_addresses_that_cannot_be_used(self, url):
        """BadConfig at once."""
        with pytest.raises(BadConfig):
            EtcdService(url)


def _until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)
