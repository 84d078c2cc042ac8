"""Codec: values to bytes and back, type and all. Never pickle, never eval. The bytes: docs/codec.md."""

from laila.codec.core import Encoded, decode, encode, register, unregister
from laila.codec.limits import DEFAULT_LIMITS, Buffer, CodecLimits, nbytes_of

__all__ = [
    "DEFAULT_LIMITS",
    "Buffer",
    "CodecLimits",
    "Encoded",
    "decode",
    "encode",
    "nbytes_of",
    "register",
    "unregister",
]
