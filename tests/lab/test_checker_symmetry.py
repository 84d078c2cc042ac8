"""What nodes say of each other and of what they hold: links have two ends, and replicas become equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from history_support import done, kind_of, refused

from laila.lab.checkers import convergence, peering
from laila.lab.checkers.operations import Op
from laila.lab.checkers.verdict import Judgement, Verdict

NODES = ("node1", "node2", "node3")
GRACE = 2.0


def says(node: str, at: float, *peers: str, key: str = peering.DURING) -> Op:
    return done("peers", at, at + 0.01, f"{node}/0", key, result=list(peers))


def talk(
    since: float, until: float, silent: Sequence[tuple[str, str]] = (), key: str = peering.DURING
) -> list[Op]:
    """Every node lists every other twice a second, but for the pairs that are left out: (who, whom)."""
    found = []
    for turn in range(int(since * 2), int(until * 2)):
        for node in NODES:
            seen = [other for other in NODES if other != node and (node, other) not in silent]
            found.append(says(node, turn / 2, *seen, key=key))
    return found


def judged(*parts: list[Op]) -> tuple[str, str]:
    """What is said of links over time, and of links in the end."""
    during, end = peering.judge([op for part in parts for op in part], GRACE)
    return kind_of(during), kind_of(end)


END = talk(20, 21, key=peering.CLOSING)


def test_links_that_both_ends_list_are_right() -> None:
    assert judged(talk(0, 20), END) == ("ok", "ok")


def test_a_link_that_both_ends_miss_is_right_until_the_end() -> None:
    both = [("node1", "node2"), ("node2", "node1")]
    assert judged(talk(0, 5), talk(5, 15, both), talk(15, 20), END) == ("ok", "ok")
    assert judged(talk(0, 5), talk(5, 20, both), talk(20, 21, both, key=peering.CLOSING)) == (
        "ok",
        peering.DOWN,
    )


def test_one_end_may_learn_it_later_but_not_much_later() -> None:
    one_way = [("node2", "node1")]
    assert judged(talk(0, 5), talk(5, 7, one_way), talk(7, 20), END) == ("ok", "ok")
    assert judged(talk(0, 5), talk(5, 9, one_way), talk(9, 20), END)[0] == peering.ONE_SIDED


def test_a_one_sided_link_is_told_with_how_long_it_was_seen() -> None:
    found = peering.judge([*talk(0, 5), *talk(5, 9, [("node2", "node1")]), *talk(9, 20), *END], GRACE)[0]
    assert found.why is not None
    assert found.why.text == (
        "node1 listed node2 from 5.01 to 8.50 s, and node2 did not list node1: 3.5 s, of 2 s that are allowed"
    )
    assert found.why.offender.node == "node2"
    assert {op.node for op in found.why.operations} == {"node1", "node2"}
    assert len(found.why.operations) == 4


def test_silence_proves_nothing() -> None:
    """A node that was paused may have changed its mind many times; so may one that gave no answer between two."""
    one_way = [("node2", "node1")]
    first = [op for op in talk(0, 20, one_way) if op.node != "node2" or op.start in (4.0, 12.0)]
    assert judged(first)[0] == "unknown"
    for broken in (refused("peers", 6.2, 6.3, "node2/0"), done("peers", 6.2, None, "node2/0")):
        ops = [*talk(0, 5), *talk(5, 7.5, one_way), broken, *talk(7.5, 20), *END]
        assert judged(ops)[0] == "ok"


def test_flapping_is_no_lasting_asymmetry() -> None:
    parts = [talk(0, 5)]
    for turn in range(10):
        parts.append(talk(5 + turn, 6 + turn, [("node1", "node2")] if turn % 2 else [("node2", "node1")]))
    assert judged(*parts, talk(15, 20), END) == ("ok", "ok")


def test_names_of_others_are_nobodys_business() -> None:
    ops = [
        says(op.node, op.start, *op.result, "lab-client-of-node1", key=op.key) for op in [*talk(0, 20), *END]
    ]
    assert judged(ops) == ("ok", "ok")


def test_links_of_which_too_little_was_seen_are_unknown() -> None:
    assert judged([]) == ("unknown", "unknown")
    assert judged(talk(0, 1), END) == ("unknown", "ok")
    assert judged([op for op in [*talk(0, 20), *END] if op.node == "node1"]) == ("unknown", "unknown")
    without = [op for op in END if op.node != "node3"]
    found = peering.judge([*talk(0, 20), *without], GRACE)[1]
    assert found.verdict is Verdict.UNKNOWN
    assert "node3 did not tell" in found.reason


# -- convergence --------------------------------------------------------------------------------------------

SAME = {"a": "1" * 8, "b": "2" * 8}
OTHER = {"a": "1" * 8, "b": "3" * 8}


def digest(node: str, at: float, digests: dict[str, str] | None) -> Op:
    if digests is None:
        return refused("digest", at, at + 0.1, f"{node}/0", "all")
    return done("digest", at, at + 0.1, f"{node}/0", "all", result=digests)


def converged(*told: Any) -> Judgement:
    return convergence.judge([digest(*one) for one in told], within=5.0)


def test_nodes_that_are_equal_at_once_or_in_time_are_right() -> None:
    assert kind_of(converged(("n1", 0, SAME), ("n2", 0, SAME))) == "ok"
    ops = [
        ("n1", 0, SAME),
        ("n2", 0, OTHER),
        ("n3", 0, {}),
        ("n1", 1, SAME),
        ("n2", 2, SAME),
        ("n3", 4, SAME),
    ]
    assert kind_of(converged(*ops)) == "ok"
    assert convergence.seconds([digest(*one) for one in ops]) == pytest.approx(4.1)


def test_nodes_that_stay_different_are_named_with_what_differs() -> None:
    found = converged(
        *((node, at, SAME if node == "n1" else OTHER) for node in ("n1", "n2") for at in range(6))
    )
    assert found.why is not None
    assert found.why.kind == convergence.DIFFERENT
    assert found.why.text == "5 s after all was healed: b is 22222222 on n1 and 33333333 on n2"
    assert convergence.seconds([digest("n1", 0, SAME), digest("n2", 0, OTHER)]) is None


def test_a_name_that_a_node_does_not_have_is_named() -> None:
    found = converged(
        *((node, at, SAME if node == "n1" else {"a": "1" * 8}) for node in ("n1", "n2") for at in (0, 6))
    )
    assert found.why is not None
    assert "b is 22222222 on n1 and nothing on n2" in found.why.text


def test_nodes_that_are_equal_too_late_are_named() -> None:
    ops = [("n1", 0, SAME), ("n2", 0, OTHER), ("n2", 5.5, OTHER), ("n1", 7, SAME), ("n2", 7, SAME)]
    assert kind_of(converged(*ops)) == convergence.LATE


def test_equality_of_which_too_little_was_seen_is_unknown() -> None:
    for ops, said in (
        ([], "0 nodes"),
        ([("n1", 0, SAME)], "1 nodes"),
        ([("n1", 0, SAME), ("n2", 0, None)], "n2 never told"),
        ([("n1", 0, {}), ("n2", 0, {})], "no node holds anything"),
        ([("n1", 0, SAME), ("n2", 0, SAME), ("n1", 3, SAME), ("n2", 3, OTHER)], "asked for 3.0 s only"),
    ):
        found = converged(*ops)
        assert found.verdict is Verdict.UNKNOWN
        assert said in found.reason
