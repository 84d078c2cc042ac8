"""Leases by one's own clock, and the thread that renews them."""

from __future__ import annotations

import threading
import time

import pytest

from laila.locks import lease
from laila.locks.lease import SAFE, Keeper, Term

SOON = 20.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Its one item is the time."""
    time_is = [1000.0]
    monkeypatch.setattr(lease, "now", lambda: time_is[0])
    return time_is


class TestTerm:
    def test_it_ends_before_the_server_ends_the_lease(self, clock):
        """Counted from before the request was sent, and with a part of it left to the server."""
        term = Term(sent=999.0, ttl=10.0)
        clock[0] = 999.0 + 10.0 * SAFE - 0.001
        assert term.loss == ""
        assert 0 < term.left < 0.01
        clock[0] = 999.0 + 10.0 * SAFE
        assert "10 s was not renewed in time" in term.loss
        assert term.left <= 0

    def test_a_renewal_counts_from_when_it_was_sent(self, clock):
        """An answer that took long does not make the lease longer; an older answer does not make it shorter."""
        term = Term(sent=1000.0, ttl=10.0)
        clock[0] = 1008.0
        term.renewed(sent=1003.0)
        term.renewed(sent=1001.0)
        clock[0] = 1011.9
        assert term.loss == ""
        clock[0] = 1012.0
        assert term.loss != ""

    def test_the_end_is_final(self, clock):
        """What the server ended is not renewed, and the first reason stays."""
        term = Term(sent=1000.0, ttl=10.0)
        term.broken("one")
        term.broken("two")
        term.renewed(sent=1001.0)
        assert term.loss == "one"
        assert term.left == 0

    def test_the_clock_goes_on_in_suspension(self):
        """It is the kernel's clock since boot, which a laptop's lid does not stop."""
        assert abs(lease.now() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 1


class TestKeeper:
    def test_it_beats_while_there_is_something_to_keep(self):
        """And ends by itself; it starts anew when it is woken."""
        beats, enough = [0], threading.Event()

        def beat() -> float:
            beats[0] += 1
            if beats[0] % 3 == 0:
                enough.set()
            return 0.005

        keeper = Keeper(beat, enough.is_set, first=0.005)
        for turn in (1, 2):
            enough.clear()
            keeper.wake()
            assert enough.wait(SOON)
            _until(lambda: keeper._thread is None)
            assert beats[0] == 3 * turn

    def test_it_can_be_called_sooner(self):
        """`wake(within=...)` brings the next beat forward, and not back."""
        beaten = threading.Event()

        def beat() -> float:
            beaten.set()
            return 3600.0

        keeper = Keeper(beat, lambda: False, first=3600.0)
        keeper.wake()
        keeper.wake(within=0.01)
        keeper.wake(within=1800.0)
        assert beaten.wait(SOON)
        keeper.close(SOON)

    def test_closing_ends_it(self):
        """Also before its first beat; afterwards it does not start any more."""
        keeper = Keeper(lambda: 3600.0, lambda: False, first=3600.0)
        before = threading.active_count()
        keeper.wake()
        assert threading.active_count() == before + 1
        keeper.close(SOON)
        assert threading.active_count() == before
        keeper.wake()
        assert threading.active_count() == before


def _until(true) -> None:
    until = time.monotonic() + SOON
    while not true():
        assert time.monotonic() < until
        time.sleep(0.005)
