"""The judge of versions: a register whose versions have one order, and every way in which a reader can be wronged."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from laila.lab.checkers import versions
from laila.lab.checkers.versions import Read, Write
from laila.lab.clocks import Moment


def wrote(
    sequence: int | None, began: float, ended: float | None, *, text: str = "", client: str = "a/0"
) -> Write:
    done = None if ended is None else Moment.at(ended)
    return Write(client, client[0], text or f"content {sequence}", sequence, Moment.at(began), done)


def read(sequence: int, began: float, ended: float, *, text: str = "", client: str = "b/0") -> Read:
    moments = (Moment.at(began), Moment.at(ended))
    return Read(client, client[0], "load", text or f"content {sequence}", sequence, *moments)


WRITES = [wrote(1, 1.0, 1.5), wrote(2, 2.0, 2.5, client="c/0"), wrote(3, 3.0, 3.5)]


@pytest.mark.parametrize(
    ("reads", "kind"),
    [
        ([read(1, 1.6, 1.7)], None),
        ([read(1, 2.1, 2.2)], None),
        ([read(2, 2.1, 2.2)], None),
        ([read(1, 2.4, 2.9)], None),
        ([read(3, 3.6, 3.7), read(3, 3.8, 3.9, client="c/0")], None),
        ([read(1, 2.6, 2.7)], versions.STALE),
        ([read(3, 2.6, 2.7)], versions.EARLY),
        ([read(2, 3.1, 3.2), read(1, 3.3, 3.4)], versions.STALE),
        ([read(3, 3.1, 3.2), read(2, 3.3, 3.4, client="c/0")], versions.BACK),
        ([read(2, 2.6, 2.7, text="half of it")], versions.TORN),
        ([read(2, 3.6, 3.7, text="content 3")], versions.TORN),
    ],
)
def test_what_a_reader_may_see(reads: list[Read], kind: str | None) -> None:
    found = {fault.kind for fault in versions.judge(WRITES, reads)}
    assert (kind in found) if kind else not found, found


def test_a_stale_read_says_how_late_it_is_and_what_it_missed() -> None:
    (fault,) = versions.judge(WRITES, [read(1, 2.6, 2.7)])
    assert str(fault) == (
        "a version older than an acknowledged one: load by b/0 gave version 1, 100.0 ms after version 2 by c/0 "
        "was acknowledged"
    )


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        (wrote(3, 4.0, 4.1, text="other", client="c/0"), versions.TWICE),
        (wrote(0, 4.0, 4.1), versions.DISORDER),
    ],
)
def test_what_writers_may_be_told(more: Write, kind: str) -> None:
    assert {fault.kind for fault in versions.judge([*WRITES, more], [])} == {kind}


def test_a_killed_writers_version_may_appear_and_then_stays() -> None:
    killed = wrote(None, 4.0, None, text="the last one")
    assert versions.judge([*WRITES, killed], [read(3, 5.0, 5.1)]) == []
    seen = read(4, 5.2, 5.3, text="the last one")
    assert versions.judge([*WRITES, killed], [read(3, 5.0, 5.1), seen]) == []
    back = versions.judge([*WRITES, killed], [seen, read(3, 5.4, 5.5)])
    assert [fault.kind for fault in back] == [versions.BACK]


def test_times_that_are_only_known_to_lie_between_bounds_accuse_nobody_wrongly() -> None:
    late = replace(read(1, 2.6, 2.7), began=Moment(2.4, 2.8))
    assert versions.judge(WRITES, [late]) == []
    assert versions.judge(WRITES, [replace(late, began=Moment(2.51, 2.8))])


def right(seed: int, count: int) -> tuple[list[Write], list[Read]]:
    """Writers one after another, readers at any time; each takes effect at one moment between begin and end."""
    chance = random.Random(seed)  # noqa: S311  repeatable on purpose
    writes, effects, now = [], [], 0.0
    for sequence in range(1, count + 1):
        began = now + chance.random()
        effect = began + chance.random()
        now = effect + chance.random()
        writes.append(wrote(sequence, began, now, client=f"{chance.choice('ab')}/0"))
        effects.append(effect)
    reads = []
    for number in range(count * 3):
        at = effects[0] + chance.random() * (now - effects[0])
        sequence = sum(effect <= at for effect in effects)
        client = f"{chance.choice('abc')}/{number}"
        reads.append(read(sequence, at - chance.random(), at + chance.random(), client=client))
    return writes, reads


@given(st.integers(0, 2**32), st.integers(2, 30))
def test_every_linearizable_history_passes_and_survives_the_file(seed: int, count: int) -> None:
    writes, reads = right(seed, count)
    assert versions.judge(writes, reads) == []
    again = (
        [Write.from_record(w.to_record(0.0)) for w in writes],
        [Read.from_record(r.to_record(0.0)) for r in reads],
    )
    assert versions.judge(*again) == []


@given(st.integers(0, 2**32), st.integers(3, 30))
def test_a_cache_that_is_never_refreshed_is_caught(seed: int, count: int) -> None:
    writes, reads = right(seed, count)
    end = max(item.ended.latest for item in [*writes, *reads] if item.ended)
    late = read(1, end + 1, end + 2, client="z/0")
    assert versions.STALE in {fault.kind for fault in versions.judge(writes, [*reads, late])}
