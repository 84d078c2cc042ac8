"""How the replicas of one name compare: what each of them has, read and verified byte for byte where it lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .calls import Answers
from .replica import Health
from .tags import Stand, Unsure


def compare(answers: Answers[Health], labels: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """By the replica's label: exists, valid, version, digest, lag (versions behind the newest; None when it cannot be
    told), error.

    A forgotten name does not exist; a replica that has its tombstone is valid.
    """
    stands = [
        health.found for health in answers.got.values() if isinstance(health.found, Stand) and health.valid
    ]
    newest = max(stands, key=lambda stand: stand.tag, default=None)
    reasons = answers.reasons({})
    results: dict[str, dict[str, Any]] = {}
    for id, label in labels.items():
        if id in answers.got:
            results[label] = _row(answers.got[id], newest)
        else:
            results[label] = _words(exists=False, lag=None, error=reasons.get(id, "it is not open here"))
    return results


def _row(health: Health, newest: Stand | None) -> dict[str, Any]:
    found = health.found
    if found is None:
        missed = newest is not None and not newest.gone
        lag = 0 if newest is None else newest.sequence
        return _words(exists=False, valid=newest is not None and newest.gone, lag=lag,
                      error="it has never had it" if missed else "")  # fmt: skip
    if isinstance(found, Unsure):
        return _words(exists=True, lag=None, error=health.error or found.reason)
    error = health.error
    lag = 0 if newest is None else max(0, newest.sequence - found.sequence)
    if not health.valid:
        return _words(exists=True, version=found.sequence, digest=found.tag.digest, lag=None, error=error)
    if not error and newest is not None and found.tag < newest.tag:
        error = (
            f"it is {lag} versions behind"
            if lag
            else f"it has another version {found.sequence}, which came second to that of {newest.tag.writer[:8]}"
        )
    return _words(
        exists=not found.gone,
        valid=health.valid,
        version=found.sequence,
        digest=found.tag.digest,
        lag=lag,
        error=error,
    )


def _words(
    *,
    exists: bool,
    valid: bool = False,
    version: int = 0,
    digest: str = "",
    lag: int | None = 0,
    error: str = "",
) -> dict[str, Any]:
    return {
        "exists": exists,
        "valid": valid,
        "version": version,
        "digest": digest,
        "lag": lag,
        "error": error,
    }
