"""Fingerprints tell apart what is not the same, and nothing else."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from laila import codec
from laila.errors import BadValue
from laila.lab import values


def test_every_typed_value_has_a_fingerprint_of_its_own() -> None:
    prints = {name: values.fingerprint(values.make({"kind": "typed", "name": name})) for name in values.TYPED}
    assert len(set(prints.values())) == len(values.TYPED)


def test_the_same_words_make_the_same_value_again() -> None:
    every: list[dict[str, Any]] = [{"kind": "typed", "name": name} for name in values.TYPED]
    every += [{"kind": kind, "seed": 5, "nbytes": 800} for kind in ("small", "array", "bytes")]
    for words in every:
        assert values.fingerprint(values.make(words)) == values.fingerprint(values.make(words)), words


@pytest.mark.parametrize("name", values.TYPED)
def test_the_codec_keeps_every_typed_value(name: str) -> None:
    codec.register(values.Colour)
    codec.register(values.Point)
    value = values.make({"kind": "typed", "name": name})
    assert values.fingerprint(codec.decode(codec.encode(value))) == values.fingerprint(value)


@pytest.mark.parametrize(
    "alike",
    [
        [0, False, 0.0, -0.0, "0", b"0", 0j, np.int64(0), np.array(0), np.array([0])],
        [[1, 2], (1, 2), {1: 2}, {1, 2}, frozenset({1, 2}), "[1, 2]"],
        [[[1], 2], [1, [2]], [1, 2]],
        [{"a": 1, "b": 2}, {"a": 2, "b": 1}, {"a": 1}, {}],
        [np.zeros(4, "f4"), np.zeros(2, "f8"), np.zeros((2, 2), "f4"), np.zeros(4, ">f4"), np.zeros(4, "i4")],
    ],
)
def test_what_looks_alike_is_told_apart(alike: list[Any]) -> None:
    for one, other in itertools.combinations(alike, 2):
        assert values.fingerprint(one) != values.fingerprint(other), (one, other)


def test_layout_in_memory_does_not_matter_for_arrays() -> None:
    array = np.arange(12.0).reshape(3, 4)
    assert values.fingerprint(np.asfortranarray(array)) == values.fingerprint(array)


def test_one_flipped_bit_in_an_array_is_seen() -> None:
    array = values.make({"kind": "array", "seed": 1, "nbytes": 1 << 16})
    before = values.fingerprint(array)
    array.view(np.uint8)[77] ^= 1
    assert values.fingerprint(array) != before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "no kind of value None"),
        ({"kind": "typed", "name": "nope"}, "no typed value 'nope'"),
        ({"kind": "array", "nbytes": -8}, "nbytes"),
        ({"kind": "bytes", "nbytes": 1 << 40}, "nbytes"),
        ({"kind": "bytes", "nbytes": "8"}, "nbytes"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(BadValue, match=message):
        values.make(words)
