"""Files that stand in the way and cannot be believed: moved out of it, never deleted, and told to the log."""

from __future__ import annotations

import logging
import uuid
from pathlib import Path

from ..errors import ArtifactError
from ..pools.disk import make_directory, sync_directory
from .layout import Layout
from .trouble import writing

log = logging.getLogger("laila.agents")


def set_aside(layout: Layout, path: Path, why: ArtifactError) -> None:
    """Move a file away, durably. The caller holds the lock. Raises StorageError."""
    kept = layout.set_aside / f"{path.name}.{uuid.uuid4().hex[:8]}"
    with writing(f"set {path} aside"):
        make_directory(layout.set_aside)
        try:
            path.rename(kept)
        except FileNotFoundError:
            return  # its owner took it away
        sync_directory(path.parent)
    log.warning("%s was in the way and is kept as %s: %s", path, kept, why)
