"""Agents on a shared directory: who is there, who is alive, and what they published."""

from __future__ import annotations

from .agent import DistributedAgent

__all__ = ["DistributedAgent"]
