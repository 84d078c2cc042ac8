"""Whose clock it is, and how sure a moment is when it is not the controller's."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from laila.errors import LabError
from laila.lab.checkers.fault import Fault, lines
from laila.lab.clocks import DRIFT, Moment, NodeClock, boot_id


def test_a_process_of_this_machine_shares_the_clock() -> None:
    clock = NodeClock("node1", boot_id())
    sent = time.monotonic()
    told = subprocess.run(
        [sys.executable, "-c", "import time; print(time.monotonic())"], capture_output=True, check=True
    )
    clock.add(sent, [float(told.stdout)], time.monotonic())
    assert clock.shared
    assert clock.moment(sent) == Moment(sent, sent)
    assert "same boot id" in clock.words


@pytest.mark.parametrize(("boot", "told"), [("another", 5.0), (boot_id(), 105.0), ("", 5.0)])
def test_another_kernel_or_another_time_namespace_does_not(boot: str, told: float) -> None:
    clock = NodeClock("node1", boot)
    clock.add(4.9, [told], 5.1)
    assert not clock.shared
    found = clock.moment(told)
    assert (found.earliest, found.latest) == pytest.approx((4.9, 5.1))


def test_more_readings_make_it_surer_and_distance_less_sure() -> None:
    clock = NodeClock("far", "another")
    clock.add(10.0, [100.0], 10.4)
    clock.add(11.3, [101.0], 11.5)
    found = clock.moment(101.0)
    assert (found.earliest, found.latest) == pytest.approx((11.3, 11.4 + DRIFT))
    later = clock.moment(201.0)
    assert later.latest - later.earliest == pytest.approx(0.1 + DRIFT * (1 + 200), abs=1e-6)
    assert "a clock of its own" in clock.words


def test_a_clock_that_jumps_says_nothing() -> None:
    clock = NodeClock("far", "another")
    clock.add(10.0, [100.0], 10.1)
    clock.add(11.0, [150.0], 11.1)
    with pytest.raises(LabError, match="far jumped"):
        clock.moment(120.0)


def test_a_clock_that_was_never_read_says_nothing() -> None:
    with pytest.raises(LabError, match="never read"):
        NodeClock("far", "another").moment(1.0)


def test_faults_are_told_by_kind_the_most_frequent_first() -> None:
    faults = [Fault("stale", f"case {n}", 10.0 - n) for n in range(4)] + [Fault("torn", "one", 1.0)]
    assert lines(faults, shown=2) == [
        "4 times stale",
        "  case 3",
        "  case 2",
        "  and 2 more",
        "once torn",
        "  one",
    ]
