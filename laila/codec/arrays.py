"""Arrays: numpy arrays and scalars as a dtype in words, a shape, an order and bytes. See docs/codec.md.

Strategy: the bytes are not copied when the array is one block of memory, and decoding lays the array over
the bytes that came. A dtype is described in a closed form, a short text for plain types and a packed list
for structured ones; both are checked by hand before numpy sees them, and what was described is rebuilt and
compared before it is written, so that a dtype this module does not know is refused and never becomes a
similar one. `object` has no description.

numpy is only touched when the user has imported it already, or when an array has to be decoded.
"""

from __future__ import annotations

import math
import re
import sys
from typing import Any

import msgpack

from laila.codec import heads
from laila.errors import Corrupt, UnsupportedType

_MAX_NESTING = 16  # structured dtypes within structured dtypes
_MAX_DIMENSIONS = 64  # of numpy 2; numpy 1 has 32

# Byte order, kind, item size in bytes (characters for U); time unit, or mantissa bits of a long double.
_PLAIN = re.compile(
    r"[<>|](?:[biufcSUV][0-9]{1,10}|[mM]8(?:\[[0-9]{0,9}(?:Y|M|W|D|h|m|s|ms|us|ns|ps|fs|as)\])?"
    r"|[qQ]8|[gG][0-9]{1,2}:[0-9]{1,3})"
)
# Types that numpy tells apart from int64 and double by their C name only.
_C_NAMES = {"q": "longlong", "Q": "ulonglong", "g": "longdouble", "G": "clongdouble"}


def numpy() -> Any:
    """The numpy module. Raises UnsupportedType naming the extra when it is not installed."""
    try:
        import numpy as module
    except ImportError as error:
        raise UnsupportedType(
            "holds a numpy array or scalar, and numpy is not installed: pip install 'laila-kit[numpy]'",
            type_name="numpy.ndarray",
        ) from error
    return module


def is_array(kind: type) -> bool:
    """Exactly numpy.ndarray; a subclass (matrix, masked array, memmap) means more than its bytes say."""
    return kind is getattr(sys.modules.get("numpy"), "ndarray", None)


def advice_for(kind: type) -> str:
    """What to do about a type that is nearly an array, or nothing."""
    array = getattr(sys.modules.get("numpy"), "ndarray", None)
    if array is None or not issubclass(kind, array):
        return ""
    return "convert it with numpy.asarray(), or "


def is_scalar(kind: type) -> bool:
    """One of numpy's own scalar types, not a subclass by somebody else."""
    np = sys.modules.get("numpy")
    if np is None or not issubclass(kind, getattr(np, "generic", ())) or kind is np.object_:
        return False
    return kind in (np.void, np.record) or np.dtype(kind).type is kind


def describe_dtype(dtype: Any) -> str | bytes:
    """Words for a dtype: a text such as `<f8`, or the packed list of a structured one.

    Raises UnsupportedType for object, for dtypes of other libraries, and for what would not come back.
    """
    description = _describe(dtype, 0)
    again = _build(numpy(), description, 0)
    if again != dtype or again.type is not dtype.type:
        raise _refuse(dtype, "has no codec")
    return description if isinstance(description, str) else heads.pack(description)


def _describe(dtype: Any, nesting: int) -> str | list[Any]:
    if nesting > _MAX_NESTING:
        raise _refuse(dtype, f"is nested deeper than {_MAX_NESTING}")
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return ["array", _describe(base, nesting + 1), list(shape)]
    if dtype.names is None:
        return _describe_plain(dtype)
    fields = []
    for name in dtype.names:
        field, offset, *title = dtype.fields[name]
        if title and type(title[0]) is not str:
            raise _refuse(dtype, "has a title that is not a str")
        fields.append([name, _describe(field, nesting + 1), offset, *title])
    return ["struct", dtype.itemsize, dtype.isalignedstruct, dtype.type.__name__ == "record", fields]


def _describe_plain(dtype: Any) -> str:
    text = str(dtype.str)
    if dtype.char in "gG":
        text = f"{text[0]}{dtype.char}{dtype.itemsize}:{numpy().finfo(dtype).nmant}"
    elif dtype.char in "qQ" and numpy().dtype(text).char != dtype.char:
        text = f"{text[0]}{dtype.char}8"
    if not _PLAIN.fullmatch(text):
        raise _refuse(dtype, "has no codec")
    return text


def _refuse(dtype: Any, why: str) -> UnsupportedType:
    advice = (
        "convert it with .tolist(), or to a dtype of fixed size" if dtype.hasobject else "convert it first"
    )
    return UnsupportedType(
        f"has the numpy dtype {dtype}, which {why}: {advice}", path="", type_name=f"dtype {dtype}"
    )


def _no_extension(code: int, data: bytes) -> Any:
    raise ValueError("an extension where a dtype is described")


def build_dtype(description: Any) -> Any:
    """The dtype that `describe_dtype` described. Raises Corrupt for anything else."""
    np = numpy()
    try:
        if type(description) is bytes:
            heads.prove(description, len(description))
            description = heads.unpack(description, _no_extension)
        dtype = _build(np, description, 0)
    except (TypeError, ValueError, OverflowError, msgpack.UnpackException) as error:
        raise Corrupt(f"a numpy dtype that this machine cannot build: {error}") from error
    if dtype.hasobject or dtype.subdtype is not None:
        raise Corrupt("a numpy dtype that no array has")
    return dtype


def _build(np: Any, description: Any, nesting: int) -> Any:
    if nesting > _MAX_NESTING:
        raise ValueError(f"nested deeper than {_MAX_NESTING}")
    if type(description) is str:
        return _build_plain(np, description)
    if type(description) is not list or not description:
        raise ValueError("neither a text nor a list")
    if description[0] == "array":
        _, base, shape = description
        return np.dtype((_build(np, base, nesting + 1), _check_shape(shape)))
    return _build_struct(np, description, nesting)


def _build_plain(np: Any, text: str) -> Any:
    if not _PLAIN.fullmatch(text):
        raise ValueError(f"{text[:20]!r} describes no dtype")
    name = _C_NAMES.get(text[1])
    if name is None:
        return np.dtype(text)
    dtype = np.dtype(name)
    if text[0] != ("<" if sys.byteorder == "little" else ">"):
        dtype = dtype.newbyteorder()
    size, _, mantissa = text[2:].partition(":")
    if dtype.itemsize != int(size) or (mantissa and np.finfo(dtype).nmant != int(mantissa)):
        raise ValueError(f"{name} is another type here than where the array comes from")
    return dtype


def _build_struct(np: Any, description: list[Any], nesting: int) -> Any:
    kind, itemsize, aligned, record, fields = description
    if kind != "struct" or type(itemsize) is not int or type(aligned) is not bool or type(record) is not bool:
        raise ValueError("not a structured dtype")
    columns: dict[str, list[Any]] = {"names": [], "formats": [], "offsets": [], "titles": []}
    for name, field, offset, *title in fields:
        if (
            type(name) is not str
            or type(offset) is not int
            or len(title) > 1
            or any(type(t) is not str for t in title)
        ):
            raise ValueError("not a field")
        columns["names"].append(name)
        columns["formats"].append(_build(np, field, nesting + 1))
        columns["offsets"].append(offset)
        columns["titles"].append(title[0] if title else None)
    dtype = np.dtype({**columns, "itemsize": itemsize}, align=aligned)
    return np.dtype((np.record, dtype)) if record else dtype


def _check_shape(shape: Any) -> tuple[int, ...]:
    if type(shape) is not list or len(shape) > _MAX_DIMENSIONS:
        raise Corrupt("an array shape that is none")
    if any(type(length) is not int or length < 0 for length in shape):
        raise Corrupt("an array shape that is not made of lengths")
    return tuple(shape)


def block_of(array: Any) -> tuple[str, memoryview]:
    """Order ("C" or "F") and bytes of an array: a view over it, or over a C-ordered copy if need be."""
    if array.dtype.hasobject:
        raise _refuse(array.dtype, "has no codec")
    if array.nbytes == 0:
        return ("F" if array.flags.fnc else "C"), memoryview(b"")
    order = "C"
    if array.flags.fnc:
        order, array = "F", array.T
    elif not array.flags.c_contiguous:
        array = array.copy(order="C")
    return order, memoryview(array.reshape(-1).view("u1"))


def build_array(description: Any, order: Any, shape: list[Any], data: Any, nbytes: int) -> Any:
    """Lay an array over `data`, no copy; writable when `data` is. Raises Corrupt when it does not fit."""
    dtype = build_dtype(description)
    if order != "C" and order != "F":
        raise Corrupt("an array that is neither in C nor in F order")
    lengths = _check_shape(shape)
    needed = math.prod(lengths) * dtype.itemsize
    if needed != nbytes:
        raise Corrupt(
            f"an array of shape {lengths} and dtype {str(dtype)[:100]} needs {needed} bytes, not {nbytes}"
        )
    try:
        return numpy().ndarray(lengths, dtype, buffer=data, order=order)
    except (TypeError, ValueError, OverflowError) as error:
        raise Corrupt(f"an array that this machine cannot build: {error}") from error


def describe_scalar(value: Any) -> tuple[str | bytes, str | bytes]:
    """Dtype and bytes of a numpy scalar; for str_ and bytes_ "U" or "S" and the text with its zeros."""
    np = numpy()
    kind = type(value)
    if kind is np.str_:
        return "U", str.__str__(value)  # its own __str__ drops trailing zeros
    if kind is np.bytes_:
        return "S", bytes(value)
    if value.dtype.hasobject:
        raise _refuse(value.dtype, "has no codec")
    return describe_dtype(value.dtype), value.tobytes()


def build_scalar(description: Any, data: Any) -> Any:
    """The scalar that `describe_scalar` described. Raises Corrupt when the bytes do not fit."""
    np = numpy()
    if description == "U" and type(data) is str:
        return np.str_(data)
    if type(data) is not bytes:
        raise Corrupt("a numpy scalar without bytes")
    if description == "S":
        return np.bytes_(data)
    return build_array(description, "C", [], bytearray(data), len(data))[()]
