"""Entries: immutable snapshots with ids."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import numpy as np
import pytest

import laila
from laila.entries import Entry, Kind
from laila.errors import BadValue, Corrupt, UnsupportedType
from laila.ids import nickname_id


def test_nickname_ids_are_those_of_the_public_library() -> None:
    assert nickname_id("remote-entry") == "f69bf63a-dc0f-5a54-a7bc-92438d0f83df"
    assert laila.constant(1, nickname="remote-entry").global_id == nickname_id("remote-entry")
    assert laila.constant(1).global_id != laila.constant(1).global_id


def test_a_constant_is_one() -> None:
    """Neither the object it was made from, nor what `data` returned, nor an attribute changes it."""
    source = {"a": [1, 2]}
    entry = laila.constant(source)
    source["a"].append(3)
    entry.data["a"].append(4)
    assert entry.data == {"a": [1, 2]}
    with pytest.raises(AttributeError, match="immutable"):
        entry.nickname = "x"
    with pytest.raises(AttributeError, match="immutable"):
        del entry.nickname
    with pytest.raises(BadValue, match="variable"):
        entry.evolve(1)


def test_an_array_in_a_constant_is_a_snapshot() -> None:
    array = np.arange(100_000.0)
    entry = laila.constant(array)
    array[0] = 9
    assert entry.data[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        entry.data[0] = 1


def test_an_array_can_be_handed_over() -> None:
    """Without a copy the array itself becomes read-only; what others may still write to is refused."""
    array = np.arange(100_000.0)
    entry = laila.constant(array, copy=False)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    assert np.shares_memory(entry.data, array)
    for value in (np.arange(10.0)[::2], [1, 2], b"x"):
        with pytest.raises(BadValue, match="owns its memory"):
            laila.constant(value, copy=False)


def test_a_variable_evolves() -> None:
    first = laila.variable({"n": 0}, nickname="v")
    second = first.evolve({"n": 1})
    assert (first.evolution, second.evolution) == (0, 1)
    assert (first.data, second.data) == ({"n": 0}, {"n": 1})
    assert first.global_id == second.global_id
    assert second.kind is Kind.VARIABLE
    assert second.state.value == "ready"


def test_a_record_comes_back_as_the_same_entry() -> None:
    entry = laila.variable([1, (2,), np.arange(5000)], nickname="n").evolve(b"x" * 100_000)
    again = Entry.from_record(entry.global_id, entry.record)
    assert again == entry
    assert (again.nickname, again.evolution, again.data) == ("n", 1, b"x" * 100_000)
    assert hash(again) == hash(entry)


def test_a_value_that_is_no_entry_is_corrupt() -> None:
    from laila.codec import encode

    with pytest.raises(Corrupt, match="not an entry"):
        Entry.from_record("x", encode([1, 2]))


def test_an_unsupported_type_says_where_it_sits() -> None:
    with pytest.raises(UnsupportedType, match=r"laila\.register") as caught:
        laila.constant({"a": [1, object()]})
    assert caught.value.path == "value['a'][1]" or caught.value.path == 'value["a"][1]'
    assert caught.value.path in str(caught.value)


def test_registered_classes_travel() -> None:
    @laila.register(name="tests.Point")
    @dataclass(frozen=True)
    class Point:
        x: int
        y: int

    entry = laila.constant([Point(1, 2)])
    assert Entry.from_record("x", entry.record).data == [Point(1, 2)]


@pytest.mark.parametrize("nickname", ["", 5, b"x"])
def test_a_nickname_is_text(nickname: object) -> None:
    with pytest.raises(BadValue, match="nickname"):
        laila.constant(1, nickname=nickname)


def test_entries_are_not_pickled() -> None:
    with pytest.raises(TypeError, match="memorize"):
        pickle.dumps(laila.constant(1))
    with pytest.raises(TypeError, match="constant"):
        Entry()
