"""What every lock service with a server behind it does, beyond the conformance suite: servers and processes that fail.

Subclasses give the class of the server; each is a real one. Nothing is timed, all waiting is bounded.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, ClassVar

import pytest
from lock_conformance import SOON, LockConformance
from servers import PASSWORD, Server, free_port, running

from laila.errors import BadConfig, LockTimeout, LockUnavailable
from laila.locks import LockService, connect

TTL = 2.0


class ServedLock(LockConformance):
    """The module of a subclass has the fixture `server`, for all tests; `server_class` is started anew to be broken."""

    server_class: ClassVar[type[Server]]
    client: ClassVar[str]
    """The module of the client library."""
    extra: ClassVar[str]
    freed_within = TTL * 3

    @pytest.fixture
    def url(self, server: Server, request: pytest.FixtureRequest) -> str:
        prefix = f"{abs(hash(request.node.name))}/"
        return server.at(ttl=TTL, timeout=SOON, prefix=prefix)

    @pytest.fixture
    def own(self) -> Iterator[Any]:
        """A server for one test, to be broken."""
        yield from running(self.server_class)

    def brief(self, server: Server) -> LockService:
        """A service that does not wait long for its server."""
        return connect(server.at(ttl=TTL, timeout=1))

    # --- holders and waiters

    def test_a_hold_outlives_many_leases(self, service, another):
        """What is held stays held, for longer than a dead holder would block others."""
        with service.lock("a").acquire(0) as hold, another.lock("r").acquire(0, shared=True) as reader:
            time.sleep(TTL * 2.5)
            assert not hold.lost
            assert not reader.lost
            assert another.lock("a").try_acquire() is None
            assert service.lock("r").try_acquire() is None

    def test_a_dead_waiter_blocks_nobody(self, service, another, other):
        """Who is killed while it waits loses its place in the queue."""
        hold = service.lock("a").acquire(0)
        other.send("acquire", "a", SOON)
        time.sleep(0.5)
        other.kill()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(another.lock("a").acquire, self.freed_within)
            time.sleep(0.1)
            hold.release()
            waiting.result(SOON).release()

    def test_who_waits_comes_in_order(self, service):
        """First come, first served."""
        order: list[int] = []

        def work(place: int) -> None:
            with service.lock("a").acquire(SOON):
                order.append(place)

        threads = [threading.Thread(target=work, args=(place,)) for place in range(5)]
        with service.lock("a").acquire(0):
            for thread in threads:
                thread.start()
                time.sleep(0.2)
        for thread in threads:
            thread.join(SOON)
        assert order == [0, 1, 2, 3, 4]

    def test_readers_do_not_starve_a_writer(self, service, another):
        """While a writer waits, no new reader passes it; the readers behind it go in together."""
        reader = service.lock("a").acquire(0, shared=True)
        with ThreadPoolExecutor(3) as pool:
            writing = pool.submit(another.lock("a").acquire, SOON)
            time.sleep(0.3)
            assert service.lock("b").try_acquire(shared=True) is not None
            reading = [pool.submit(service.lock("a").acquire, SOON, shared=True) for _ in range(2)]
            time.sleep(0.3)
            assert not any(each.done() for each in [writing, *reading])
            reader.release()
            writer = writing.result(SOON)
            time.sleep(0.2)
            assert not any(each.done() for each in reading)
            writer.release()
            holds = [each.result(SOON) for each in reading]
            assert [hold.token for hold in holds] == [writer.token] * 2
            assert not any(hold.lost for hold in holds)
            for hold in holds:
                hold.release()

    def test_who_gives_up_frees_its_place(self, server):
        """After a timeout, a cancelled wait and a closed service those behind go on; here no lease ends in time."""
        url = server.at(ttl=600, timeout=SOON, prefix="giving-up/")
        with connect(url) as service, connect(url) as another, ThreadPoolExecutor(2) as pool:
            for give_up in (self.timed_out, self.cancelled, self.closed):
                hold = service.lock("a").acquire(0)
                with connect(url) as theirs:
                    gone = pool.submit(give_up, theirs)
                    time.sleep(0.2)
                    behind = pool.submit(another.lock("a").acquire, SOON * 2)
                    gone.result(SOON)
                    hold.release()
                    behind.result(SOON).release()

    @staticmethod
    def timed_out(service: LockService) -> None:
        with pytest.raises(LockTimeout):
            service.lock("a").acquire(0.5)

    @staticmethod
    def cancelled(service: LockService) -> None:
        async def main() -> None:
            waiting = asyncio.create_task(service.lock("a").acquire_async())
            await asyncio.sleep(0.5)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

        asyncio.run(main())

    @staticmethod
    def closed(service: LockService) -> None:
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(service.lock("a").acquire)
            time.sleep(0.5)
            service.close()
            with pytest.raises(LockUnavailable, match="closed"):
                waiting.result(SOON)

    # --- servers that fail

    def test_a_server_that_is_not_there_is_named(self, server):
        """LockUnavailable with host and port, from everything that needs the server."""
        port = free_port()
        with connect(server.at(timeout=1).replace(f":{server.port}", f":{port}")) as service:
            lock = service.lock("a")
            asks: list[Callable[[], Any]] = [
                lambda: lock.acquire(0), lambda: lock.acquire(SOON, shared=True), lock.try_acquire, lock.holder
            ]  # fmt: skip
            for ask in asks:
                with pytest.raises(LockUnavailable, match=f"127.0.0.1:{port} cannot lock now: "):
                    ask()

    def test_a_server_that_ends_takes_the_hold_with_it(self, own):
        """`lost` becomes true, waiters and newcomers get LockUnavailable, release is quiet; afterwards it goes on."""
        with self.brief(own) as service, self.brief(own) as another, ThreadPoolExecutor(1) as pool:
            hold = service.lock("a").acquire(0)
            waiting = pool.submit(another.lock("a").acquire)
            time.sleep(0.3)
            own.stop()
            _until(lambda: hold.lost)
            with pytest.raises(LockUnavailable, match=f"127.0.0.1:{own.port}"):
                waiting.result(SOON)
            with pytest.raises(LockUnavailable, match=f"127.0.0.1:{own.port}"):
                another.lock("a").acquire(SOON)
            hold.release()
            own.start()
            with another.lock("a").acquire(SOON) as later:
                assert later.token > hold.token
                assert not later.lost

    def test_a_server_that_does_not_answer_takes_the_hold_with_it(self, own):
        """The same where connections stay open and nothing comes back; it is bounded by the service's timeout."""
        with self.brief(own) as service, self.brief(own) as another:
            hold = service.lock("a").acquire(0)
            own.signal(signal.SIGSTOP)
            _until(lambda: hold.lost)
            before = time.monotonic()
            with pytest.raises(LockUnavailable, match=f"127.0.0.1:{own.port}"):
                another.lock("a").acquire(SOON * 3)
            assert time.monotonic() - before < SOON
            own.signal(signal.SIGCONT)
            with another.lock("a").acquire(SOON) as later:
                assert later.token > hold.token
            hold.release()

    def test_what_was_taken_unknowingly_is_given_back(self, own):
        """A request that was carried out, and whose answer came too late, blocks nobody; here no lease ends in time."""
        with (
            connect(own.at(ttl=600, timeout=1)) as service,
            connect(own.at(ttl=600, timeout=SOON)) as another,
        ):
            service.lock("b").acquire(0).release()
            own.signal(signal.SIGSTOP)
            with pytest.raises(LockUnavailable):
                service.lock("a").acquire(0)
            own.signal(signal.SIGCONT)
            another.lock("a").acquire(SOON).release()

    def test_a_release_that_failed_is_made_up_for(self, own):
        """The server was away when it was released; here no lease ends in time."""
        with (
            connect(own.at(ttl=600, timeout=1)) as service,
            connect(own.at(ttl=600, timeout=SOON)) as another,
        ):
            hold = service.lock("a").acquire(0)
            own.signal(signal.SIGSTOP)
            hold.release()
            own.signal(signal.SIGCONT)
            another.lock("a").acquire(SOON).release()

    # --- secrets and settings

    def protected(self) -> tuple[Any, str, str]:
        """A server that asks for PASSWORD; an address with it, and one with a wrong password in its place."""
        raise NotImplementedError

    def test_passwords_are_never_shown(self, caplog):
        """Neither in messages, causes, representations nor logs; and a wrong one is refused with LockUnavailable."""
        server, right, wrong = self.protected()
        with closing(server), caplog.at_level(logging.DEBUG):
            assert PASSWORD in right
            seen: list[Any] = []
            with connect(right, node="n") as service, service.lock("a").acquire(SOON) as hold:
                seen += [
                    service,
                    service.lock("a"),
                    hold,
                    service.lock("a").holder(),
                    vars(service)["server"],
                ]
                server.stop()
                with pytest.raises(LockUnavailable) as caught:
                    service.lock("b").acquire(SOON)
            seen += traceback.format_exception(caught.value)
            server.start()
            with connect(wrong) as service, pytest.raises(LockUnavailable) as caught:
                service.lock("b").acquire(SOON)
            seen += traceback.format_exception(caught.value)
            with pytest.raises(BadConfig) as refused:
                connect(right.replace("127.0.0.1", "[").replace("://", "://%zz"))
            seen += traceback.format_exception(refused.value)
        text = "\n".join(f"{each} {each!r}" for each in seen) + caplog.text
        assert "127.0.0.1" in text
        assert PASSWORD not in text
        assert PASSWORD[::-1] not in text

    @pytest.mark.parametrize(
        "option",
        ["ttl=0", "ttl=soon", "ttl=nan", "timeout=-1", "timeout=inf", "prefix=%00", "prefix=" + "x" * 201],
    )
    def test_settings_are_checked(self, server, option):
        """What cannot be used is BadConfig, before anything is opened."""
        with pytest.raises(BadConfig, match=option.partition("=")[0]):
            connect(f"{server.url}{'&' if '?' in server.url else '?'}{option}")

    def test_prefixes_separate(self, server):
        """Services with different prefixes do not see each other's locks; those with the same do."""
        with connect(server.url, prefix="one/") as one, connect(server.at(prefix="two/")) as two:
            with connect(server.at(prefix="one/")) as again, one.lock("a").acquire(0):
                two.lock("a").acquire(0).release()
                assert again.lock("a").try_acquire() is None

    def test_a_missing_client_is_named_with_its_extra(self, server, monkeypatch):
        """BadConfig says what to install."""
        monkeypatch.setitem(sys.modules, self.client, None)
        with pytest.raises(BadConfig, match=rf"needs {self.client}.*pip install 'laila-kit\[{self.extra}\]'"):
            connect(server.url)


class LeasedLock(ServedLock):
    """Those whose holds end by themselves."""

    def test_a_paused_holder_is_overtaken_and_learns_it(self, service, other):
        """SIGSTOP for longer than its lease: the next one has a greater token, and the first one sees its loss."""
        token = other("acquire", "a", SOON)
        other.stop()
        with service.lock("a").acquire(self.freed_within) as hold:
            assert hold.token > token
            other.go_on()
            assert "lease" in other("loss", "a")
            assert other("release", "a") == "released"
            assert not hold.lost
            assert service.lock("b").try_acquire() is not None

    def test_a_paused_reader_is_overtaken_and_learns_it(self, service, other):
        """The same for a shared hold."""
        other("acquire", "a", SOON, True)
        other.stop()
        with service.lock("a").acquire(self.freed_within) as hold:
            other.go_on()
            assert "lease" in other("loss", "a")
            other("release", "a")
            assert not hold.lost


def _until(true: Callable[[], bool]) -> None:
    until = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)
