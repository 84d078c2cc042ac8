"""The conformance suite's asserts explain themselves as a test module's do; file systems as for pools."""

from __future__ import annotations

import pytest

from tests.pools.conftest import mounts, read_only_view, small_disk

__all__ = ["mounts", "read_only_view", "small_disk"]

pytest.register_assert_rewrite("lock_conformance", "served")
