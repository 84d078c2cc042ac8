"""The digest tree: equal maps have equal digests, differences are found by walking down."""

from __future__ import annotations

import hashlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laila.errors import BadValue
from laila.replication.branches import DIGEST, NOTHING, SMALL_PART, Tree, branches_of, hash_of
from laila.replication.tags import Found, Stand, Tag, Unsure


def stand(number: int, gone: bool = False) -> Stand:
    digest = hashlib.sha256(b"%d %d" % (number, gone)).hexdigest()
    return Stand(Tag(number, "ab" * 32, digest), "cd" * 32, gone, 100, 1.0)


NAMES = st.integers(0, 400).map(lambda number: f"n{number}")
"""Few, so that maps overlap; enough for parts of several levels."""
STANDS = st.builds(stand, st.integers(0, 3), st.booleans())
MAPS = st.dictionaries(NAMES, STANDS, max_size=120)


def differing(one: Tree, other: Tree, prefix: str = "") -> dict[str, tuple[Found, Found]]:
    """The names that differ, found as two replicas find them: by what `branch` tells and nothing else."""
    mine, theirs = one.branch(prefix), other.branch(prefix)
    if mine.digest == theirs.digest:
        return {}
    if not mine.branches and not theirs.branches:
        left, right = dict(mine.entries), dict(theirs.entries)
        return {
            name: (left.get(name), right.get(name))
            for name in {*left, *right}
            if left.get(name) != right.get(name) or isinstance(left.get(name), Unsure)
        }
    found = {}
    for byte in range(256):
        found.update(differing(one, other, f"{prefix}{byte:02x}"))
    return found


def filled(count: int) -> Tree:
    return Tree((f"name-{number}", stand(number)) for number in range(count))


@settings(max_examples=60, deadline=None)
@given(MAPS, MAPS)
def test_digests_are_equal_when_the_maps_are(one: dict[str, Stand], other: dict[str, Stand]) -> None:
    assert (Tree(one.items()).branch("").digest == Tree(other.items()).branch("").digest) == (one == other)


@settings(max_examples=60, deadline=None)
@given(MAPS, st.dictionaries(NAMES, st.none() | STANDS, max_size=60), st.randoms())
def test_a_tree_does_not_show_how_it_came_to_be(
    map: dict[str, Stand], changes: dict[str, Found], chance
) -> None:
    """Set, replaced and removed in any order, with digests asked for in between: as if built at once."""
    tree = Tree(map.items())
    steps = list(changes.items())
    chance.shuffle(steps)
    for name, found in steps:
        tree.set(name, found)
        tree.branch("")
    expected = {name: found for name, found in {**map, **changes}.items() if found is not None}
    prefixes = ["", *(f"{byte:02x}" for byte in range(256))]
    assert [tree.branch(prefix) for prefix in prefixes] == branches_of(expected.items(), prefixes)
    assert dict(tree.entries()) == expected
    assert len(tree) == len(expected)


@settings(max_examples=40, deadline=None)
@given(MAPS, st.dictionaries(NAMES, st.none() | STANDS, max_size=5))
def test_walking_down_finds_exactly_the_differences(map: dict[str, Stand], changes: dict[str, Found]) -> None:
    """Also where one tree has branches and the other has a leaf."""
    changed = {name: found for name, found in {**map, **changes}.items() if found is not None}
    expected = {
        name: (map.get(name), changed.get(name))
        for name in {*map, *changed}
        if map.get(name) != changed.get(name)
    }
    assert differing(Tree(map.items()), Tree(changed.items())) == expected


def test_trees_of_several_levels_agree_on_their_parts() -> None:
    """Each part's count and names follow from its prefix; the parts make up the whole."""
    tree = filled(20_000)
    root = tree.branch("")
    assert root.count == 20_000
    assert not root.entries
    assert len(root.branches) == 256 * DIGEST
    total = 0
    for byte in range(256):
        part = tree.branch(f"{byte:02x}")
        assert part.digest == root.branches[byte * DIGEST : (byte + 1) * DIGEST]
        total += part.count
        assert part.branches, "about 78 names lie in each"
        leaf = tree.branch(f"{byte:02x}00")
        assert leaf.digest == part.branches[:DIGEST]
        assert all(hash_of(name).hex().startswith(f"{byte:02x}00") for name, _ in leaf.entries)
        assert leaf.count == len(leaf.entries)
    assert total == 20_000


def test_small_parts_come_with_their_names() -> None:
    names = [f"n{number}" for number in range(SMALL_PART + 1)]
    small, large = Tree((name, stand(1)) for name in names[:-1]), Tree((name, stand(1)) for name in names)
    assert len(small.branch("").entries) == SMALL_PART
    assert not small.branch("").branches
    assert large.branch("").branches
    assert not large.branch("").entries


def test_a_part_below_a_leaf_is_told_as_if_it_were_one() -> None:
    """Who has more names there asks for smaller parts than this one keeps."""
    name = "doc"
    tree = Tree([(name, stand(1)), ("other", stand(2))])
    prefix = hash_of(name).hex()
    for length in (2, 8, 64):
        assert tree.branch(prefix[:length]).entries == ((name, stand(1)),)
        assert tree.branch(prefix[:length]).digest == tree.branch(prefix).digest


def test_nothing_has_a_digest_of_its_own() -> None:
    empty = Tree().branch("")
    assert (empty.digest, empty.count, empty.entries, empty.branches) == (NOTHING, 0, (), b"")
    assert filled(100).branch("ff" * 32).digest == NOTHING
    emptied = filled(100)
    for number in range(100):
        emptied.set(f"name-{number}", None)
        emptied.set(f"name-{number}", None)
    assert emptied.branch("") == empty


def test_what_is_unsure_differs_from_everything() -> None:
    """From each stand, from nothing, and from what is unsure elsewhere for the same reason."""
    unsure, map = Unsure("it was damaged"), {f"n{number}": stand(number) for number in range(100)}
    trees = [Tree(map.items()) for _ in range(2)]
    for tree in trees:
        tree.set("n7", unsure)
    assert differing(*trees) == {"n7": (unsure, unsure)}
    assert differing(trees[0], Tree(map.items())) == {"n7": (unsure, map["n7"])}
    assert trees[0].branch("").digest == trees[0].branch("").digest


@pytest.mark.parametrize("prefix", ["0", "0x", "AB", "zz", "00" * 33, " 00", "00\n", "\u0660\u0660"])
def test_what_is_no_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(BadValue):
        Tree().branch(prefix)


def test_only_what_changed_is_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After one change of 20,000 names: the parts above it, and no other."""
    from laila.replication.branches import _Part

    tree, computed, compute = filled(20_000), [0], _Part._digest_now

    def counted(self: _Part, salt: bytes) -> bytes:
        computed[0] += 1
        return compute(self, salt)

    monkeypatch.setattr(_Part, "_digest_now", counted)
    tree.branch("")
    assert computed[0] > 256
    computed[0] = 0
    tree.branch("")
    assert computed[0] == 0
    tree.set("name-7", stand(999))
    tree.branch("")
    assert 1 <= computed[0] <= 4


def test_a_hundred_thousand_names_take_no_time_when_nothing_changed() -> None:
    tree = filled(100_000)
    tree.branch("")
    started = time.perf_counter()
    for _ in range(100):
        tree.branch("")
    assert time.perf_counter() - started < 10
