"""The names that programs written for MAIF import: `from laila.maif import create_maif, load_maif`."""

from __future__ import annotations

from .artifacts import Artifact, TrustSet, UnsignedWarning, create_maif, load_maif

__all__ = ["Artifact", "TrustSet", "UnsignedWarning", "create_maif", "load_maif"]
