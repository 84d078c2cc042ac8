"""How all names compare over all replicas, by their digests: no content is read, and what agrees costs one exchange."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .calls import Crowd
from .tags import Stand, Unsure
from .views import Member, View
from .walk import Walk


@dataclass(frozen=True, slots=True)
class Comparison:
    """`names` that the fullest replica has; of each that differs, `differing` says what each replica has, by label:
    version, digest, gone, error. `unreachable` says who could not be asked, and why.
    """

    names: int
    differing: Mapping[str, Mapping[str, Mapping[str, Any]]]
    unreachable: Mapping[str, str]
    exchanges: int
    """Questions to the replica that was asked most often."""

    @property
    def ok(self) -> bool:
        """Whether all replicas answered and agree."""
        return not self.differing and not self.unreachable

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        differing = {
            name: {label: dict(row) for label, row in rows.items()} for name, rows in self.differing.items()
        }
        return {
            "ok": self.ok,
            "names": self.names,
            "differing": differing,
            "unreachable": dict(self.unreachable),
            "exchanges": self.exchanges,
        }


def compare_all(crowd: Crowd, view: View, label: Callable[[Member], str], timeout: float) -> Comparison:
    """Compare all names of all members."""
    labels = {member.id: label(member) for member in view}
    walk = Walk(crowd, labels, timeout=timeout)
    differing = {one.name: {labels[id]: _row(found) for id, found in one.found.items()} for one in walk}
    unreachable = {labels[id]: str(error) for id, error in walk.unreachable.items()}
    return Comparison(walk.names, differing, unreachable, max(walk.exchanges.values(), default=0))


def _row(found: Any) -> dict[str, Any]:
    if isinstance(found, Stand):
        return {"version": found.sequence, "digest": found.tag.digest, "gone": found.gone, "error": ""}
    error = found.reason if isinstance(found, Unsure) else "it has never had it"
    return {"version": 0, "digest": "", "gone": False, "error": error}
