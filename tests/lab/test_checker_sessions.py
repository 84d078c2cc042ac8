"""What one client may rely on: it never reads backwards, it reads what it wrote, and never what is damaged."""

from __future__ import annotations

from dataclasses import replace

import pytest
from history_support import kind_of, read, refused, seeded, write

from laila.lab.checkers import integrity, sessions
from laila.lab.checkers.operations import Op
from laila.lab.checkers.verdict import Judgement, Verdict

WRITER, READER = "node1/0", "node2/0"


def judged(*ops: Op) -> Judgement:
    return sessions.judge(ops, "x")


WRITES = (write(1, 0, 1), write(2, 2, 3), write(3, 4, 5))


def test_a_client_that_reads_forwards_is_right() -> None:
    assert kind_of(judged(*WRITES, read(None, 0, 1), read(1, 2, 3), read(1, 5, 6), read(3, 7, 8))) == "ok"
    assert kind_of(judged(*WRITES, read(3, 6, 7, WRITER))) == "ok"


def test_two_clients_need_not_see_the_same() -> None:
    assert (
        kind_of(judged(*WRITES, read(3, 6, 7, READER), read(1, 8, 9, "node3/0"), read(2, 10, 11, "node3/0")))
        == "ok"
    )


def test_a_client_that_reads_backwards_is_named() -> None:
    found = judged(*WRITES, read(3, 6, 7), read(1, 8, 9))
    assert found.why is not None
    assert found.why.kind == sessions.BACKWARDS
    assert found.why.text == (
        "the read by node2/0 that gave 1 (8.0000 to 9.0000 s) began after the read by node2/0 that gave 3 (6.0000 to "
        "7.0000 s) by the same client"
    )
    assert kind_of(judged(*WRITES, read(3, 6, 7), read(None, 8, 9))) == sessions.BACKWARDS


def test_a_client_that_does_not_read_what_it_wrote_is_named() -> None:
    found = judged(*WRITES, read(2, 6, 7, WRITER))
    assert found.why is not None
    assert found.why.kind == sessions.OWN
    assert [op.op for op in found.why.operations] == ["write", "read"]
    assert kind_of(judged(*WRITES, read(None, 6, 7, WRITER))) == sessions.OWN


@pytest.mark.parametrize(
    ("value", "kind"),
    [(9, sessions.PHANTOM), ("3", sessions.NO_NUMBER), (True, sessions.NO_NUMBER), (4, "refused")],
)
def test_values_of_nobody_are_named(value: object, kind: str) -> None:
    ops = (*WRITES, refused("write", 5, 5.5, value=4), read(1, 6, 7), read(value, 8, 9))
    assert kind_of(judged(*ops)) == (sessions.REFUSED if kind == "refused" else kind)


def test_a_value_of_the_future_is_nobodys() -> None:
    assert kind_of(judged(*WRITES, read(3, 1, 2), read(3, 6, 7))) == sessions.PHANTOM


def test_a_write_of_which_nobody_knows_may_cover_later_ones() -> None:
    ops = (write(1, 0, 1), write(2, 2, None), write(1_000_001, 4, 5, "node1/0#1"))
    assert kind_of(judged(*ops, read(1_000_001, 6, 7), read(2, 8, 9))) == "ok"
    assert kind_of(judged(*ops, read(2, 6, 7, "node1/0#1"))) == "ok"
    assert kind_of(judged(*ops, read(1_000_001, 6, 7), read(1, 8, 9))) == sessions.BACKWARDS


def test_what_shows_nothing_is_unknown() -> None:
    for ops in (
        (),
        (*WRITES, read(3, 6, 7)),
        (write(1, 0, 1), write(1, 2, 3), read(1, 4, 5), read(1, 6, 7)),
        (write("a", 0, 1), read("a", 4, 5), read("a", 6, 7)),
        (*WRITES, refused("read", 6, 7), refused("read", 8, 9)),
    ):
        found = judged(*ops)
        assert found.verdict is Verdict.UNKNOWN
        assert found.reason
    assert [one.verdict for one in sessions.judge_all([])] == [Verdict.UNKNOWN]


# -- integrity ----------------------------------------------------------------------------------------------


def test_a_value_that_fits_its_checksum_is_whole_and_every_flipped_bit_is_seen() -> None:
    chance = seeded(1)
    value = integrity.sealed("node1/register/0.0.17:xxxxxxxx")
    assert integrity.whole(value)
    for _ in range(300):
        at, bit = chance.randrange(len(value)), 1 << chance.randrange(7)
        assert not integrity.whole(value[:at] + chr(ord(value[at]) ^ bit) + value[at + 1 :])
    for cut in range(len(value)):
        assert not integrity.whole(value[:cut])
    for rubbish in (None, 3, "", "~", ["a"], b"x".decode(), "\udcff"):
        assert not integrity.whole(rubbish)
    assert integrity.whole(integrity.sealed("")) and integrity.whole(integrity.sealed("a~b\udcff"))  # noqa: PT018


def test_the_first_damaged_value_is_named_and_all_are_counted() -> None:
    good = [write(integrity.sealed("a"), 0, 1), read(integrity.sealed("a"), 2, 3), read(None, 0, 1)]
    assert kind_of(integrity.judge(good)) == "ok"
    bad = [read("a~00000000", 6, 7), read("a~0000", 4, 5)]
    found = integrity.judge([*good, *bad])
    assert found.why is not None
    assert (found.why.kind, found.faults, found.why.offender) == (integrity.DAMAGED, 2, bad[1])
    assert "a~0000" in found.why.text


def test_integrity_of_nothing_is_unknown() -> None:
    assert integrity.judge([]).verdict is Verdict.UNKNOWN
    assert (
        integrity.judge([read(None, 0, 1), replace(read("x", 0, 1), outcome="fail")]).verdict
        is Verdict.UNKNOWN
    )
