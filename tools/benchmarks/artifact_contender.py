"""What every way to keep signed artifacts is: save, verify and append to a file, in this process.

"Verify" is as strict as the contender can be. What is durable is on the disk under its name when the call
returns, also when the machine stops then; everything else is handed to the kernel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from .facts import Facts

# by the name on the command line; the order is the order of the table
CONTENDERS: dict[str, Facts] = {
    "bare": Facts(
        "bare_artifacts",
        "Bare",
        "bare file and signatures",
        environment="artifacts",
        works=("large", "pieces", "small", "appends", "blocks"),
    ),
    "laila": Facts("laila_artifacts", "Laila", "laila.artifacts", environment="artifacts", checkout=True),
    "maif": Facts(
        "maif_artifacts",
        "PublicMaif",
        "public MAIF",
        environment="artifacts",
        works=("large", "pieces", "small", "appends", "blocks"),
    ),
}


class ArtifactContender(ABC):
    """One key that signs, and whose signatures are trusted."""

    @abstractmethod
    def save(self, path: Path, blocks: Sequence[bytes]) -> None:
        """Create an artifact with these binary blocks, sign it, save it; not durable."""

    @abstractmethod
    def save_durably(self, path: Path, text: str) -> None:
        """Create an artifact with one text, sign it, save it; durable."""

    @abstractmethod
    def append(self, path: Path, text: str) -> None:
        """Load the artifact, add one text, sign it, save it under the same name; durable."""

    @abstractmethod
    def verify(self, path: Path) -> None:
        """Load the artifact and check it. Raises when anything is wrong."""

    @abstractmethod
    def contents(self, path: Path) -> list[bytes]:
        """The data of every block."""


class CachingContender(ArtifactContender):
    """A store on a shared folder with a cache of its own."""

    @abstractmethod
    def publish(self, shared: Path, cache: Path, text: str) -> None:
        """Make a store of the two folders and an artifact in it."""

    @abstractmethod
    def load_cached(self) -> object:
        """That artifact, from the cache where it is there and good."""

    @abstractmethod
    def cached_text(self) -> str:
        """Its text, by way of the cache."""


def load(name: str) -> type[ArtifactContender]:
    """The class of a contender, in a process of that contender's environment."""
    found: type[ArtifactContender] = CONTENDERS[name].load()
    return found
