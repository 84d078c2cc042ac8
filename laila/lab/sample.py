"""An even sample of an endless sequence, in bounded memory.

Every item is kept until there are too many; from then on every second one, then every fourth, and so on. What is kept
stands at equal distances in the order of arrival, so each item stands for `every` items, and nothing is favoured.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class Sample(Generic[T]):
    """At most `most` items of those that were added."""

    most: int
    every: int = 1
    """So many items each kept one stands for."""
    seen: int = 0
    kept: list[T] = field(default_factory=list)

    def add(self, item: T) -> None:
        if self.seen % self.every == 0:
            if len(self.kept) == self.most:
                self.kept = self.kept[::2]
                self.every *= 2
            if self.seen % self.every == 0:
                self.kept.append(item)
        self.seen += 1
