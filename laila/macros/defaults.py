"""The defaults: a policy, a pool in memory, a listener over TCP with mutual TLS."""

from __future__ import annotations

from ..policy import DefaultPolicy
from ..pools.memory import MemoryPool as DefaultPool
from ..transport.tcp import DefaultTCPIPProtocol

__all__ = ["DefaultPolicy", "DefaultPool", "DefaultTCPIPProtocol"]
