"""The judge of a crash, on outcomes with known verdicts: no cluster is needed to be wrong in every way."""

from __future__ import annotations

import pytest

from laila.lab.checks.crash import Moments, find_fault
from laila.lab.checks.load import Done
from laila.lab.remote import Outcome

MOMENTS = Moments(killing=100.0, dead=100.2, starting=103.0, healed=105.0)


def done(
    started: float, ended: float, error: str = "", *, at: str = "victim", op: str = "memorize", got: str = "x"
) -> Done:
    return Done("node1", at, op, 1, Outcome(started, ended, error=error), "id", "x", got)


@pytest.mark.parametrize(
    ("case", "fault"),
    [
        (done(99, 99.1), ""),
        (done(99, 99.1, "PeerLost"), "a failure before the kill"),
        (done(99.9, 100.1), ""),
        (done(99.9, 100.3, "PeerLost"), ""),
        (done(100.1, 100.3, "PeerLost"), ""),
        (done(99.9, 100.3, "Unreachable"), "a call in flight that ended with something else than PeerLost"),
        (
            done(99.9, 110.0, "DeadlineExceeded"),
            "a call in flight that ended with something else than PeerLost",
        ),
        (done(99.9, 113.0, "NoAnswer"), "a hang"),
        (done(101, 101.1, "PeerLost"), ""),
        (done(101, 101.1, "UnknownPeer"), ""),
        (done(101, 111, "DeadlineExceeded"), "a call to a node that is down and no link error"),
        (done(101, 101.1, "RemoteError"), "a call to a node that is down and no link error"),
        (done(101, 101.1), "an answer for a dead node"),
        (done(101, 104.0), ""),
        (done(105.5, 105.6, "PeerLost"), ""),
        (done(106.5, 106.6, "PeerLost"), "a failure after healing"),
        (done(106.5, 106.6), ""),
        (done(104, 104.1, "EntryNotFound", op="remember"), "an acknowledged entry was not there"),
        (done(99, 99.1, op="remember", got="y"), "a wrong value"),
        (done(106, 106.1, op="remember", got="y", at="other"), "a wrong value"),
        (done(101, 101.1, at="other"), ""),
        (done(101, 101.1, "PeerLost", at="other"), "work between survivors was disturbed"),
    ],
)
def test_each_outcome_is_judged(case: Done, fault: str) -> None:
    assert find_fault(case, "victim", MOMENTS) == fault
