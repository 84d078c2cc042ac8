"""What every pool in a server does, beyond the conformance suites: servers that fail, secrets, settings.

Subclasses give the class of the server; each is a real one (tests/locks/servers.py). All waiting is bounded.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import pytest
import writer
from durable_conformance import SharedPoolConformance
from pool_conformance import content, record

from laila import errors
from laila.pools import Pool
from tests.locks.servers import Server, free_port, started

PATIENCE = 60.0


class ServedPoolConformance(SharedPoolConformance):
    """The module of a subclass has the fixture `server`, for all tests; `server_class` is started anew to be broken."""

    server_class: ClassVar[type[Server]]
    client: ClassVar[str]
    """The module of the client library."""
    extra: ClassVar[str]
    keeps: ClassVar[bool]
    """Whether the test server has its data again after a restart."""
    secret: ClassVar[str]
    kills = 4
    each_counts = 15

    @pytest.fixture(autouse=True)
    def _addressed(self, server: Server) -> None:
        self.server = server

    def address(self, path: Path) -> str:
        return self.server.at(pool=f"{abs(hash(path)):x}")

    @pytest.fixture
    def own(self) -> Iterator[Any]:
        """A server to be broken."""
        with closing(started(self.server_class)) as server:
            yield server

    def make_at(self, address: str) -> Pool:
        return writer.KINDS[self.kind](address)

    def warm(self, pool: Pool) -> None:
        """Let a pool with a short timeout have its connections, however busy the machine is."""
        until = time.monotonic() + PATIENCE
        while True:
            try:
                pool.get("k")
                pool.swap("k", record(b"not this"), record())
                return
            except errors.StorageError:
                assert time.monotonic() < until

    # -- several pools --------------------------------------------------------------------------------------

    def test_pools_of_different_names_do_not_see_each_other(self, server: Server) -> None:
        with self.make_at(server.at(pool="one")) as one, self.make_at(server.at(pool="two")) as two:
            one.put("k", record(b"one"))
            assert two.get("k") is None
            two.put("k", record(b"two"))
            two.empty()
            assert content(one.get("k")) == content(record(b"one"))
            with self.make_at(server.at(pool="one")) as again:
                assert list(again) == ["k"]
            one.empty()

    # -- servers that fail ----------------------------------------------------------------------------------

    def test_a_server_that_is_not_there_is_a_storage_error_that_names_it(self, server: Server) -> None:
        """From every operation; and the pool can be made all the same."""
        port = free_port()
        with self.make_at(server.url.replace(f":{server.port}", f":{port}")) as pool:
            for use in (
                lambda: pool.get("k"), lambda: pool.get_many(["a", "b"]), lambda: pool.put("k", record()),
                lambda: pool.swap("k", None, record()), lambda: pool.delete("k"), lambda: pool.exists("k"),
                lambda: list(pool.keys()), pool.count, pool.nbytes, pool.probe, pool.empty,
            ):  # fmt: skip
                with pytest.raises(errors.StorageError, match=f"127.0.0.1:{port}") as caught:
                    use()
                assert caught.value.reason == "ECONNREFUSED", caught.value

    def test_it_goes_on_when_its_server_is_back(self, own: Any) -> None:
        with self.make_at(own.url) as pool, ThreadPoolExecutor(4) as threads:
            pool.put_many([(f"k{i}", writer.of_round(i)) for i in range(5)])
            list(
                threads.map(pool.get, [f"k{i % 5}" for i in range(40)])
            )  # so that it has several connections
            own.stop()
            for use in (lambda: pool.get("k1"), lambda: pool.swap("k", None, record()), pool.probe):
                with pytest.raises(errors.StorageError) as caught:
                    use()
                assert caught.value.reason in ("ECONNREFUSED", "ECONNRESET", "ENOTCONN", "EPIPE"), (
                    caught.value
                )
            own.start()
            assert pool.swap(
                "new", None, record(b"new")
            )  # the first thing: nothing has noticed the new server yet
            assert pool.count() == (6 if self.keeps else 1)
            if self.keeps:
                assert content(pool.get("k3")) == content(writer.of_round(3))

    def test_connections_that_ended_while_idle_do_not_show(self, own: Any) -> None:
        """A server that came back before anybody asked: no operation fails."""
        with self.make_at(own.url) as pool:
            pool.put("k", record())
            for use in (lambda: pool.swap("other", None, record()), lambda: pool.delete("k")):
                own.stop()
                own.start()
                use()

    def test_a_server_that_does_not_answer_is_etimedout_within_the_timeout(self, own: Any) -> None:
        with self.make_at(own.at(timeout=0.7)) as pool, self.make_at(own.url) as patient:
            patient.put("k", record(b"old"))
            self.warm(pool)
            own.signal(signal.SIGSTOP)
            try:
                for use in (lambda: pool.get("k"), lambda: pool.swap("k", record(b"old"), record(b"new"))):
                    before = time.monotonic()
                    with pytest.raises(errors.StorageError) as caught:
                        use()
                    assert caught.value.reason == "ETIMEDOUT", caught.value
                    assert time.monotonic() - before < PATIENCE
            finally:
                own.signal(signal.SIGCONT)
            assert content(patient.get("k")) in (content(record(b"old")), content(record(b"new")))
            self.warm(pool)

    def test_a_swap_without_an_answer_says_that_it_may_have_been_done(self, own: Any) -> None:
        with self.make_at(own.at(timeout=0.7)) as pool:
            self.warm(pool)
            own.signal(signal.SIGSTOP)
            try:
                with pytest.raises(errors.StorageError) as caught:
                    pool.swap("k", None, record(b"new"))
            finally:
                own.signal(signal.SIGCONT)
            assert "ETIMEDOUT" in str(caught.value)
            if self.kind != "s3":  # there the look before it had no answer
                assert "may have been done" in str(caught.value)

    def test_closing_while_others_work_leaves_nothing_open(self, server: Server) -> None:
        """Those at work end, or say that it was closed; no connection stays (a ResourceWarning would be an error)."""
        pool = self.make_at(server.at(pool="closing"))
        begun = threading.Barrier(5)

        def work() -> None:
            begun.wait(PATIENCE)
            try:
                while True:
                    pool.put("k", record(bytes(1000)))
            except errors.StorageError:
                pass

        with ThreadPoolExecutor(4) as threads:
            working = [threads.submit(work) for _ in range(4)]
            begun.wait(PATIENCE)
            time.sleep(0.2)
            pool.close()
            for each in working:
                each.result(PATIENCE)
        with pytest.raises(errors.PoolClosed):
            pool.get("k")
        with self.make_at(server.at(pool="closing")) as again:
            again.empty()

    # -- damage ---------------------------------------------------------------------------------------------

    def damage(self, pool: Any) -> None:
        """Change a byte of the one entry, behind the pool's back."""
        raise NotImplementedError

    def test_damage_is_corrupt_and_names_the_entry(self, pool: Pool) -> None:
        pool.put("k", record(bytes(1000)))
        self.damage(pool)
        with pytest.raises(errors.Corrupt, match=r"entry 'k' of pool .* in the .* server"):
            pool.get("k")
        pool.put("k", record(b"new"))
        assert content(pool.get("k")) == content(record(b"new"))

    # -- secrets and settings -------------------------------------------------------------------------------

    def protected(self) -> tuple[Any, str, str]:
        """A server; an address with the right secret, and one with a wrong one in its place."""
        raise NotImplementedError

    def test_secrets_are_never_shown(self, caplog: pytest.LogCaptureFixture) -> None:
        server, right, wrong = self.protected()
        seen: list[Any] = []
        with closing(server), caplog.at_level(logging.DEBUG):
            assert self.secret in right
            with self.make_at(right) as pool:
                pool.put("k", record())
                seen += [pool, pool.server, pool.settings]
                server.stop()
                with pytest.raises(errors.StorageError) as caught:
                    pool.get("k")
                seen += traceback.format_exception(caught.value)
            server.start()
            seen += self.refused(wrong)
            with pytest.raises(errors.BadConfig) as bad:
                self.make_at(right.replace("://", "://%zz[").replace("127.0.0.1", "["))
            seen += traceback.format_exception(bad.value)
        text = "\n".join(f"{each} {each!r}" for each in seen) + caplog.text
        assert "127.0.0.1" in text
        assert self.secret not in text
        assert self.secret[::-1] not in text

    def refused(self, wrong: str) -> list[str]:
        with self.make_at(wrong) as pool, pytest.raises(errors.StorageError) as caught:
            pool.get("k")
        assert caught.value.reason == "EACCES", caught.value
        return traceback.format_exception(caught.value)

    @pytest.mark.parametrize(
        "option",
        ["timeout=soon", "timeout=0", "timeout=nan", "timeout=inf", "pool=", "pool=a/b", "pool=" + "x" * 64],
    )
    def test_settings_are_checked(self, server: Server, option: str) -> None:
        with pytest.raises(errors.BadConfig, match=option.partition("=")[0]):
            self.make_at(f"{server.url}{'&' if '?' in server.url else '?'}{option}")

    @pytest.mark.parametrize("address", ["", "http://127.0.0.1/", "nonsense", 7, None])
    def test_other_addresses_are_refused(self, address: Any) -> None:
        with pytest.raises(errors.BadConfig, match="address"):
            self.make_at(address)

    def test_a_missing_client_is_named_with_its_extra(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, self.client, None)
        with pytest.raises(
            errors.BadConfig, match=rf"needs {self.client}.*pip install 'laila-kit\[{self.extra}\]'"
        ):
            self.make_at(server.url)
