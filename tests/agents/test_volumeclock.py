"""The volume's clock: never ahead of time, told by nobody's wall clock, and honest about having stood still."""

from __future__ import annotations

import os
import random
import threading
import time
from pathlib import Path

import pytest

from laila.agents.volumeclock import GRAIN, VolumeClock
from laila.clock import ManualClock
from laila.errors import StorageError


def clock(directory: Path, by: ManualClock, *, one_clock: bool = True) -> VolumeClock:
    return VolumeClock(directory, by, one_clock=lambda: one_clock)


def values(directory: Path) -> list[int]:
    return sorted(int(path.name) for path in directory.iterdir())


def test_runs_while_somebody_beats(tmp_path: Path) -> None:
    """It advances by what the one who beats has measured."""
    mine = ManualClock(5_000)
    volume = clock(tmp_path / "clock", mine)
    begin = volume.advance()
    for _ in range(10):
        mine.advance(1.5)
        volume.advance()
    assert volume.look() - begin == pytest.approx(15_000, abs=5)
    assert clock(tmp_path / "clock", ManualClock(77)).look() - begin in range(14_990, 15_500)


def test_never_ahead_whoever_advances_it(tmp_path: Path) -> None:
    """Many writers with clocks that began at different times, in any order, skipping turns: never too much."""
    for seed in range(20):
        chance = random.Random(seed)  # noqa: S311  # not for secrets
        directory = tmp_path / str(seed)
        clocks = [ManualClock(chance.uniform(0, 1e6)) for _ in range(5)]
        volumes = [clock(directory, one) for one in clocks]
        begin, passed = volumes[0].advance(), 0.0
        started = time.monotonic()
        for _ in range(60):
            step = chance.uniform(0, 0.7)
            passed += step
            for one in clocks:
                one.advance(step)
            chance.choice(volumes).advance()
            top = max(values(directory)) - begin
            # the first look of each may add what file times say, which here is what the test really takes
            assert top <= (passed + time.monotonic() - started) * 1000 + 5
        chance.choice(volumes).advance()
        assert volumes[0].look() - begin >= passed * 1000 * 0.5


def test_behind_by_no_more_than_the_last_beat(tmp_path: Path) -> None:
    """With two that beat in turns nothing is lost in between."""
    mine, theirs = ManualClock(0), ManualClock(10_000)
    first, second = clock(tmp_path / "c", mine), clock(tmp_path / "c", theirs)
    begin = first.advance()
    second.look()
    for turn in range(20):
        mine.advance(1)
        theirs.advance(1)
        (first if turn % 3 else second).advance()
    assert first.look() - begin == pytest.approx(20_000, abs=200)


def test_few_files(tmp_path: Path) -> None:
    """Old values are removed; looking leaves nothing."""
    mine = ManualClock()
    volume = clock(tmp_path / "c", mine)
    for _ in range(50):
        mine.advance(0.3)
        volume.advance()
    assert len(values(tmp_path / "c")) <= 2


def test_not_more_often_than_its_grain(tmp_path: Path) -> None:
    """A thousand agents that beat do not write a thousand files a second."""
    mine = ManualClock()
    volume = clock(tmp_path / "c", mine)
    volume.advance()
    before = values(tmp_path / "c")
    mine.advance(GRAIN / 1000 / 2)
    volume.advance()
    assert values(tmp_path / "c") == before


def test_stood_still_by_file_times(tmp_path: Path) -> None:
    """The first look adds how old the last value's file is, where one kernel makes all file times."""
    volume = clock(tmp_path / "c", ManualClock())
    volume.advance()
    (value,) = values(tmp_path / "c")
    two_hours_ago = time.time() - 7200
    os.utime(tmp_path / "c" / f"{value:015d}", (two_hours_ago, two_hours_ago))
    later = clock(tmp_path / "c", ManualClock())
    assert later.look() - value == pytest.approx(7_200_000, abs=2_000)
    later.advance()
    assert max(values(tmp_path / "c")) - value == pytest.approx(7_200_000, abs=2_000)
    assert volume.look() - value == pytest.approx(7_200_000, abs=2_000)


def test_a_wrong_file_time_is_forgotten(tmp_path: Path) -> None:
    """Somebody set the file's time, or the kernel's clock was set: when the clock moves, its value counts."""
    mine = ManualClock()
    beating = clock(tmp_path / "c", mine)
    value = beating.advance()
    os.utime(tmp_path / "c" / f"{value:015d}", (0, time.time() - 7200))
    reader = clock(tmp_path / "c", ManualClock())
    assert reader.look() - value > 7_000_000
    mine.advance(1)
    beating.advance()
    assert reader.look() - value == pytest.approx(1_000, abs=10)


def test_file_times_of_many_clocks_prove_nothing(tmp_path: Path) -> None:
    """Elsewhere they are only a hint: the clock is watched, and when it moves the hint is dropped."""
    directory, real = tmp_path / "c", ManualClock()
    beating = clock(directory, real, one_clock=False)
    beating.advance()
    hours_ago = time.time() - 7200
    for path in directory.iterdir():
        os.utime(path, (hours_ago, hours_ago))
    reader = clock(directory, ManualClock(), one_clock=False)
    first = reader.look()
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.05):
            real.advance(0.1)
            beating.advance()

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        assert reader.settle(20.0) is True
    finally:
        over.set()
        thread.join()
    assert not reader.stood
    assert reader.look() - first < 20_000


@pytest.mark.parametrize("hours", [2, -2])
def test_watched_in_vain(tmp_path: Path, hours: int) -> None:
    """Nobody beats: after watching, file times count as far as they can be right."""
    directory = tmp_path / "c"
    clock(directory, ManualClock(), one_clock=False).advance()
    when = time.time() - hours * 3600
    for path in directory.iterdir():
        os.utime(path, (when, when))
    reader = clock(directory, ManualClock(), one_clock=False)
    first = reader.look()
    assert reader.settle(0.4) is True
    assert reader.stood
    assert reader.look() - first == pytest.approx(max(hours, 0) * 3_600_000, abs=2_000)
    assert reader.settle(30.0) is False


def test_no_doubt_about_a_clock_that_was_just_set(tmp_path: Path) -> None:
    """Then nobody waits."""
    clock(tmp_path / "c", ManualClock(), one_clock=False).advance()
    reader = clock(tmp_path / "c", ManualClock(), one_clock=False)
    reader.look()
    begin = time.monotonic()
    assert reader.settle(30.0) is False
    assert time.monotonic() - begin < 10


def test_what_others_have_seen(tmp_path: Path) -> None:
    """A beat is evidence of the time it names, also when the clock's files were removed; nonsense is not."""
    volume = clock(tmp_path / "c", ManualClock())
    volume.look()
    volume.at_least(500_000)
    assert volume.look() >= 500_000
    volume.at_least(10**20)
    assert volume.look() < 600_000
    assert volume.advance() >= 500_000


def test_other_files_are_no_values(tmp_path: Path) -> None:
    """Whatever else lies there is ignored."""
    directory = tmp_path / "c"
    directory.mkdir()
    for name in ("x", "12", "٣" * 15, "-00000000000001", "9" * 16, "9" * 15):
        (directory / name).write_text("")
    assert clock(directory, ManualClock()).look() == 0


def test_errors(tmp_path: Path) -> None:
    """A clock that cannot be read or written is a StorageError."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="clock"):
        clock(tmp_path / "file", ManualClock()).look()
