"""Stores of signed artifacts on volumes that nodes share."""

from __future__ import annotations

from .admission import UnprobedVolume
from .store import SharedArtifactStore

__all__ = ["SharedArtifactStore", "UnprobedVolume"]
