"""Counting pools: always fresh where it is quick, seldom where it is slow."""

from __future__ import annotations

from laila.clock import ManualClock
from laila.entries import constant
from laila.node.meter import PoolMeter, Reading, complaints
from laila.pools import MemoryPool


class Counted(MemoryPool):
    """A pool that takes `seconds` to count, and says how often it was."""

    def __init__(self, clock: ManualClock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds, self.times = clock, seconds, 0

    def count(self) -> int:
        self.times += 1
        self.clock.advance(self.seconds)
        return super().count()


def test_quick_pool_is_counted_each_time() -> None:
    """What changes shows at once."""
    clock = ManualClock()
    pool, meter = Counted(clock, 0.001), PoolMeter(clock)
    assert meter.read({"p": pool})[0].count == 0
    pool["a"] = 1
    entry = constant(1).record
    assert meter.read({"p": pool}) == [Reading("p", "memory", False, 1, len(entry.head), None)]


def test_slow_pool_rests_twenty_times_as_long_as_it_took() -> None:
    """A store that must be walked is walked for a twentieth of the time at most."""
    clock = ManualClock()
    pool, meter = Counted(clock, 2.0), PoolMeter(clock)
    meter.read({"p": pool})
    pool["a"] = 1
    clock.advance(39.0)
    assert (meter.read({"p": pool})[0].count, pool.times) == (0, 1)
    clock.advance(2.0)
    assert (meter.read({"p": pool})[0].count, pool.times) == (1, 2)


def test_closed_pool_is_unusable_even_while_its_count_is_known() -> None:
    """Usability is asked each time, and each broken pool is named."""
    clock = ManualClock()
    pool, good, meter = Counted(clock, 2.0), MemoryPool(), PoolMeter(clock)
    pools = {"p": pool, "good": good}
    assert complaints(pools) == []
    meter.read(pools)
    pool.close()
    assert complaints(pools) == [f"pool p: {pool!r} was closed"]
    assert [reading.error for reading in meter.read(pools)] == [f"{pool!r} was closed", None]
