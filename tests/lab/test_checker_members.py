"""The judge of a set that everybody adds to."""

from __future__ import annotations

import pytest

from laila.lab.checkers import members
from laila.lab.checkers.members import Addition, Listing
from laila.lab.clocks import Moment


def added(member: str, ended: float | None) -> Addition:
    return Addition("a/0", "a", member, Moment.at(1.0), None if ended is None else Moment.at(ended))


def listed(*found: str, at: float = 3.0) -> Listing:
    return Listing("b/0", "b", found, Moment.at(at), Moment.at(at + 0.1))


ADDED = [added("one", 2.0), added("two", 2.5), added("killed", None)]


@pytest.mark.parametrize(
    ("listing", "kinds"),
    [
        (listed("one", "two"), []),
        (listed("two", "killed", "one"), []),
        (listed("one", at=2.2), []),
        (listed("one"), [members.MISSING]),
        (listed("one", "two", "three"), [members.UNKNOWN]),
        (listed("one", "two", "two"), [members.TWICE]),
        (listed(), [members.MISSING, members.MISSING]),
    ],
)
def test_what_a_listing_may_hold(listing: Listing, kinds: list[str]) -> None:
    assert [fault.kind for fault in members.judge(ADDED, [listing])] == kinds


def test_records_survive_the_file() -> None:
    additions = [Addition.from_record(item.to_record(0.0)) for item in ADDED]
    listing = Listing.from_record(listed("one").to_record(0.0))
    assert (additions, listing) == (ADDED, listed("one"))
