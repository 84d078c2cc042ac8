"""Values as the shell shows them: JSON where JSON can say it, a tagged form where it cannot."""

from __future__ import annotations

import datetime
import math
import uuid
from decimal import Decimal
from typing import Any

import pytest

from laila.cli.values import plain, readable

ID = uuid.UUID(int=5)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (2**80, 2**80),
        (1.5, 1.5),
        ("é", "é"),
        ([1, [2]], [1, [2]]),
        ({"a": {"b": 1}}, {"a": {"b": 1}}),
        (math.inf, {"$type": "float", "value": "inf"}),
        (b"\x00\xff", {"$type": "bytes", "base64": "AP8="}),
        ((1, 2), {"$type": "tuple", "value": [1, 2]}),
        ({3}, {"$type": "set", "value": [3]}),
        ({1: "a"}, {"$type": "dict", "items": [[1, "a"]]}),
        ({"$type": "x"}, {"$type": "dict", "items": [["$type", "x"]]}),
        (Decimal("1.10"), {"$type": "Decimal", "value": "1.10"}),
        (ID, {"$type": "UUID", "value": str(ID)}),
        (datetime.date(2020, 1, 2), {"$type": "date", "value": "2020-01-02"}),
    ],
)
def test_plain_keeps_what_json_can_say(value: Any, shown: Any) -> None:
    """Everything else is tagged with its type."""
    assert plain(value) == shown
    assert type(plain(value)) is type(shown)


def test_array_shows_its_shape_and_small_ones_their_items() -> None:
    """A big array is described, not printed."""
    numpy = pytest.importorskip("numpy")
    small = numpy.arange(4, dtype="int16").reshape(2, 2)
    assert plain(small) == {"$type": "ndarray", "dtype": "int16", "shape": [2, 2], "value": [[0, 1], [2, 3]]}
    assert plain(numpy.zeros(100_000)) == {"$type": "ndarray", "dtype": "float64", "shape": [100_000]}
    assert plain(numpy.float32(0.5)) == {"$type": "float32", "dtype": "float32", "shape": [], "value": 0.5}


def test_people_see_text_bare_and_the_rest_as_python_writes_it() -> None:
    """JSON where possible, so that it can be pasted back."""
    assert readable("a\nb") == "a\nb"
    assert readable({"a": [1, None]}) == '{"a": [1, null]}'
    assert readable((1, b"x")) == "(1, b'x')"
    assert readable({"k": "x" * 200}).count("\n") == 2
