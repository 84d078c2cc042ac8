"""Whether holds overlapped, and whether counts were lost: the judge of the hammer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from laila.volumes.overlap import Hold, lost, overlaps


def hold(node: str, entered: float, left: float, number: int = 0, slack: float = 0.0) -> Hold:
    return Hold(node, entered, left, number, slack)


def test_one_after_the_other_is_exclusion() -> None:
    assert overlaps([hold("a", 0, 1), hold("b", 1, 2), hold("a", 2, 3), hold("a", 2.5, 3)]) == []


def test_two_at_once_are_seen() -> None:
    one, other = hold("a", 0, 10), hold("b", 4, 6)
    (found,) = overlaps([other, one])
    assert (found.one, found.other, found.seconds) == (one, other, 2)


def test_only_what_no_clock_can_excuse_counts() -> None:
    """Each clock may be off by its slack, in the direction that parts the two."""
    assert overlaps([hold("a", 0, 10, slack=0.5), hold("b", 9, 11, slack=0.5)]) == []
    (found,) = overlaps([hold("a", 0, 10, slack=0.5), hold("b", 8, 11, slack=0.5)])
    assert found.seconds == 1.0


HOLDS = st.lists(
    st.builds(
        lambda node, entered, length, slack: hold(node, entered, entered + length, 0, slack),
        st.sampled_from("abc"),
        st.integers(0, 50),
        st.integers(1, 10),
        st.sampled_from((0.0, 0.25, 2.0)),
    ),
    max_size=30,
)


@given(HOLDS)
def test_as_comparing_every_two_holds_would(holds: list[Hold]) -> None:
    """An overlap is found if and only if two holds of different nodes overlap beyond doubt."""

    def beyond_doubt(one: Hold, other: Hold) -> float:
        shared = min(one.left, other.left) - max(one.entered, other.entered)
        return shared - one.slack - other.slack if one.node != other.node else 0.0

    longest = max((beyond_doubt(one, other) for one in holds for other in holds), default=0.0)
    found = overlaps(holds)
    assert bool(found) == (longest > 0)
    assert max((overlap.seconds for overlap in found), default=0.0) == max(longest, 0.0)
    assert all(beyond_doubt(overlap.one, overlap.other) == overlap.seconds for overlap in found)


def test_every_number_once_and_all_there() -> None:
    assert lost([hold("a", 0, 1, 1), hold("b", 1, 2, 2), hold("a", 2, 3, 3)], 3) == 0


def test_numbers_twice_are_lost_counts() -> None:
    assert lost([hold("a", 0, 1, 1), hold("b", 1, 2, 1), hold("a", 2, 3, 2)], 2) == 1


def test_what_is_missing_at_the_end_is_lost() -> None:
    holds = [hold("a", 0, 1, 1), hold("b", 1, 2, 2)]
    assert lost(holds, 1) == 1
    assert lost(holds, None) == 2
