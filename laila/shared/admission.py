"""Whether a store may lock on a volume: what a check of it said, or what is known of its kind."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UnsafeVolume

if TYPE_CHECKING:
    from ..volumes.verdict import Verdict

_warned: set[tuple[str, ...]] = set()
_mutex = threading.Lock()


class UnprobedVolume(UserWarning):
    """Nobody has checked whether locks on this volume exclude other nodes."""


def admit(path: Path) -> Verdict:
    """The verdict on the volume under a store that would lock there by flock.

    Raises UnsafeVolume where locks are known not to exclude; warns once in each process where nothing is known.
    """
    from ..volumes.verdict import SAFE, UNSAFE, assess

    verdict = assess(path)
    if verdict.answer == UNSAFE:
        raise UnsafeVolume(
            f"{path} is a volume on which locks do not exclude ({verdict.reason}); keep the artifacts there, but lock "
            'elsewhere: SharedArtifactStore(path, locks="redis://HOST"), or "etcd://HOST:2379", '
            '"postgresql://HOST/DB", "kubernetes://NAMESPACE"',
            reason="UNSAFE",
        )
    if verdict.answer != SAFE and _first(verdict.mount.identity):
        warnings.warn(
            f"nobody has checked whether locks on {path} exclude other nodes ({verdict.mount}): "
            f"run `laila volume check {path} --with NODE`",
            UnprobedVolume,
            stacklevel=3,
        )
    return verdict


def _first(identity: tuple[str, ...]) -> bool:
    with _mutex:
        if identity in _warned:
            return False
        _warned.add(identity)
        return True
