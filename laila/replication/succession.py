"""Which version an artifact becomes when it is saved: the one after what a quorum has, or none at all.

A version's file holds its history, so an artifact that was loaded can only be continued where it is still the newest.
One that was made from nothing follows whatever is there. Two programs that save at the same moment may still make two
versions with one number: the greater tag is the newest then, as in any register that is written by several.
"""

from __future__ import annotations

from ..artifacts import Artifact, Signer, create_maif
from ..errors import AlreadyPublished, BadValue
from ..shared.publishing import agent_id_of
from .tags import Stand


def follow(name: str, artifact: Artifact, newest: Stand | None, signer: Signer) -> None:
    """Name the artifact as the version after `newest`; one that is the newest, or could not be stored before, stays
    the version that it is.

    Raises: AlreadyPublished when there are newer versions than the one it was loaded at, BadValue when it is a version
    of another name, ArtifactCorrupt.
    """
    version = artifact.version
    sequence, root = (0, "") if newest is None else (newest.sequence, newest.root)
    if version is None:
        artifact.name_as(name, sequence=sequence + 1, parent=root)
        return
    if version.name != name:
        raise BadValue(
            f"this artifact is version {version.sequence} of {version.name!r}, and cannot be one of {name!r}: "
            "save a copy() of it"
        )
    if version.gone:
        raise BadValue(f"this is the note that {name!r} was forgotten; make a new artifact, or use forget()")
    if newest is not None and not _comes_from(artifact, newest):
        what = "it was forgotten" if newest.gone else f"version {newest.sequence} was saved"
        raise AlreadyPublished(
            f"this artifact is version {version.sequence} of {name!r}, and {what} since: load it again and add to "
            "that, or save a copy() of this one in its place"
        )
    if not artifact.changed and artifact.signer != signer.public_key.hex():
        artifact.name_as(name, sequence=version.sequence + 1, parent=version.root, fence=version.fence)


def tombstone(name: str, newest: Stand) -> Artifact:
    """The version that says that a name was forgotten."""
    artifact = create_maif(agent_id_of(name))
    artifact.name_as(name, sequence=newest.sequence + 1, parent=newest.root, gone=True)
    return artifact


def _comes_from(artifact: Artifact, newest: Stand) -> bool:
    """Whether the newest version is this artifact's own, one in its history, or the one that it was made to follow."""
    if (artifact.sequence, artifact.root) == (newest.sequence, newest.root):
        return artifact.digest == newest.tag.digest
    if newest.gone or newest.sequence >= artifact.sequence:
        return False
    return any(newest.root in (one.root, one.parent) for one in artifact.history)
