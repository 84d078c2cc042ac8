"""The version of this package, from its metadata."""

from __future__ import annotations

VERSION = "0.1.0"
