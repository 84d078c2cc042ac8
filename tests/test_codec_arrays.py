"""Arrays and numpy scalars come back the same, without copies where they are large."""

from __future__ import annotations

import mmap
import subprocess
import sys

import numpy as np
import pytest

from laila.codec import Encoded, decode, encode
from laila.errors import UnsupportedType
from tests.sameness import essence


def _arrays() -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    grid = rng.random((6, 8, 10))
    record = np.dtype(
        [("id", ">i4"), ("name", "U5"), ("pos", "<f4", (2, 3)), ("in", [("flag", "?"), ("raw", "V3")])]
    )
    aligned = np.dtype([("a", "i1"), ("b", "f8")], align=True)
    overlapping = np.dtype({"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 2], "itemsize": 9})
    titled = np.dtype([(("a title", "a"), "i4")])
    plain = [
        "?",
        "i1",
        "u2",
        "i4",
        "i8",
        "u8",
        "f2",
        "f4",
        "f8",
        "g",
        "F",
        "D",
        "G",
        ">i2",
        ">f8",
        ">c16",
        "q",
        "Q",
    ]
    plain += ["M8[ns]", ">M8[D]", "M8", "m8[25s]", "S3", "U4", ">U4", "V7"]
    made = [
        np.arange(12).astype("i1").astype(name, casting="unsafe")
        for name in plain
        if name not in ("M8", "V7")
    ]
    made += [
        np.array(["NaT"], "M8"),
        np.array([b"abc\0def"], "V7"),
        np.array(["a\0b", ""]),
        np.array([b"\0", b"x"]),
    ]
    made += [np.zeros(3, kind) for kind in (record, aligned, overlapping, titled, np.dtype([]))]
    made += [np.zeros(3, record).view(np.dtype((np.record, record))).view(np.ndarray)]
    made += [
        grid,
        np.asfortranarray(grid),
        grid.T,
        grid[::2, ::-1, 1::3],
        grid[::-1],
        grid.transpose(1, 0, 2),
    ]
    made += [
        np.array(5.5),
        np.array(5, ">i4"),
        np.zeros((0,)),
        np.zeros((3, 0, 2)),
        np.asfortranarray(grid[:2, :2, 0]),
    ]
    made += [
        np.broadcast_to(np.float32(3), (40, 50)),
        np.zeros((1,) * 30),
        np.ndarray((3,), "S0", buffer=b""),
    ]
    made += [np.arange(1024.0)[::1024], np.zeros((1, 2000), "M8[s]")[::10, ::2], np.zeros((40, 40), record)]
    return made


@pytest.mark.parametrize("array", _arrays(), ids=lambda a: f"{str(a.dtype)[:20]!a}-{a.shape}")
def test_an_array_comes_back_the_same(array: np.ndarray) -> None:
    assert essence(decode(encode(array))) == essence(array)
    assert essence(decode(encode({"deep": [(array,)]}))) == essence({"deep": [(array,)]})


@pytest.mark.parametrize(
    "scalar",
    [
        np.bool_(True),
        np.int8(-3),
        np.uint64(2**64 - 1),
        np.longlong(-5),
        np.float16(1.5),
        np.float64("nan"),
        np.longdouble("1.1"),
        np.complex64(1 - 2j),
        np.datetime64("NaT"),
        np.datetime64("2020-01-01T00:00:00.000000001"),
        np.timedelta64(5, "W"),
        np.str_("a\0"),
        np.str_(""),
        np.bytes_(b"b\0\0"),
        np.void(b"ab\0"),
        np.zeros(1, [("a", "i4"), ("b", "U2")])[0],
        np.zeros(1, np.dtype((np.record, [("a", "i4")])))[0],
    ],
    ids=lambda s: f"{type(s).__name__}-{s!r:.20}",
)
def test_a_numpy_scalar_keeps_its_type(scalar: np.generic) -> None:
    assert essence(decode(encode(scalar))) == essence(scalar)
    assert essence(decode(encode({"s": [scalar]}))) == essence({"s": [scalar]})


def test_a_large_array_travels_without_a_copy() -> None:
    array = np.arange(100_000.0).reshape(100, 1000)
    for given in (array, np.asfortranarray(array), array[10:20]):
        encoded = encode({"a": given})
        assert len(encoded.head) < 100
        assert np.shares_memory(np.frombuffer(encoded.buffers[0], "u1"), given)
        back = decode(encoded)["a"]
        assert np.shares_memory(back, given)
        assert back.flags.fnc == given.flags.fnc
    assert encode(array).nbytes == len(encode(array).head) + array.nbytes


def test_what_is_small_stays_in_the_head() -> None:
    assert encode(np.zeros(4095, "u1")).buffers == ()
    assert len(encode(np.zeros(4096, "u1")).buffers) == 1
    assert encode([b"x" * 65535, bytearray(65535)]).buffers == ()
    large, mutable = b"x" * 65536, bytearray(65536)
    first, second = encode([large, mutable]).buffers
    assert first is large
    assert second is mutable


def test_an_array_can_be_written_to_exactly_when_its_buffer_can() -> None:
    head, (buffer,) = encode(np.arange(1000.0))
    with mmap.mmap(-1, 8000) as area:
        area[:] = bytes(buffer)
        for given, writeable in (
            (bytes(buffer), False),
            (bytearray(buffer), True),
            (memoryview(bytes(buffer)), False),
            (memoryview(b"odd" + bytes(buffer))[3:], False),
            (memoryview(bytearray(buffer)), True),
            (area, True),
        ):
            back = decode(Encoded(head, (given,)))
            assert back.flags.writeable is writeable
            assert back.tolist() == list(range(1000))
            assert np.shares_memory(back, np.frombuffer(given, "u1"))
            del back
    assert decode(encode(np.arange(3))).flags.writeable


def test_large_bytes_are_bytes_whatever_the_buffer_is() -> None:
    head, (buffer,) = encode(b"q" * 70000)
    assert decode(Encoded(head, (buffer,))) is buffer
    for given in (bytearray(buffer), memoryview(buffer), memoryview(buffer).cast("i")):
        back = decode(Encoded(head, (given,)))
        assert (type(back), back) == (bytes, buffer)
    assert type(decode(Encoded(encode(bytearray(70000)).head, (bytes(70000),)))) is bytearray


@pytest.mark.parametrize(
    "array",
    [
        np.array([object()]),
        np.zeros(2, [("a", "i4"), ("b", object)]),
        np.array(["a"], np.dtypes.StringDType()),
        np.zeros(1, np.dtype([((1, "a"), "i4")])),
    ],
    ids=["object", "structured with object", "StringDType", "title that is no str"],
)
def test_a_dtype_without_a_codec_is_refused(array: np.ndarray) -> None:
    with pytest.raises(UnsupportedType) as caught:
        encode({"a": [array]})
    assert caught.value.path == "value['a'][0]"


def test_a_dtype_of_another_library_is_not_taken_for_bytes() -> None:
    rational = pytest.importorskip("numpy._core._rational_tests").rational
    with pytest.raises(UnsupportedType, match="rational, which has no codec"):
        encode(np.array([rational(1, 2)]))
    with pytest.raises(UnsupportedType):
        encode([rational(1, 2)])


def test_a_subclass_of_an_array_is_refused() -> None:
    for value in (np.ma.masked_array([1], [True]), np.zeros(2).view(np.recarray)):
        with pytest.raises(UnsupportedType, match=r"numpy\.asarray"):
            encode(value)

    class Mine(np.float64):
        pass

    with pytest.raises(UnsupportedType):
        encode(Mine(1.0))


def test_an_array_where_numpy_is_missing_names_the_extra() -> None:
    head = encode(np.arange(3)).head
    program = (
        "import sys; sys.modules['numpy'] = None\n"
        "from laila import codec, errors\n"
        f"try: codec.decode(codec.Encoded({head!r}))\n"
        "except errors.UnsupportedType as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "laila-kit[numpy]" in done.stdout


def test_the_codec_does_not_import_numpy() -> None:
    program = (
        "import sys; from laila import codec; codec.decode(codec.encode({'a': (1, {2})}))\n"
        "print(sorted({'numpy', 'decimal', 'zoneinfo', 'pickle'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
