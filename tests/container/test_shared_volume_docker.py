"""The check of a shared volume across real containers, as a person runs it.

On a plain volume, on strict GlusterFS, and on volumes that must be shown for what they are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lab_support import lab

from laila.lab import registry
from laila.lab.checks import ON_THE_VOLUME

pytestmark = [pytest.mark.container, pytest.mark.usefixtures("engine")]
KEYS = tuple(step.key for step in ON_THE_VOLUME)


def left(engine: Any, run_id: str) -> list[str]:
    """What the engine still has of a run."""
    mine = {"label": f"laila.lab.run={run_id}"}
    every = engine.containers.list(all=True, filters=mine) + engine.networks.list(filters=mine)
    return [thing.name for thing in every + engine.volumes.list(filters=mine)]


def check(out: Path, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code and result of `laila lab check shared-volume …`."""
    done = lab(
        "check", "shared-volume", "--driver", "docker", "--out", str(out), "--json", *words, timeout=580
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def states(result: dict[str, Any]) -> dict[str, str]:
    return {step["key"]: step["state"] for step in result["steps"]}


def said(result: dict[str, Any], key: str) -> str:
    return next(
        "\n".join([step["detail"], *step["evidence"]]) for step in result["steps"] if step["key"] == key
    )


def test_three_containers_on_a_plain_volume(engine: Any, tmp_path: Path) -> None:
    code, result = check(tmp_path)
    assert (code, result["verdict"]) == (0, "ok"), result
    assert set(states(result).values()) == {"ok"}
    assert set(KEYS) < set(states(result))
    facts = result["facts"]
    assert (facts["volume"]["answer"], facts["volume"]["one_kernel"]) == ("SAFE", True)
    assert "one kernel" in said(result, "volume"), "no evidence for a network volume, and it says so"
    assert facts["full"]["refused"] == 3
    assert all("share" in words for words in facts["locks"]["clocks"])
    assert left(engine, result["run_id"]) == []
    assert registry.runs() == []


@pytest.mark.usefixtures("volumes_image")
def test_three_containers_on_strict_glusterfs(engine: Any, tmp_path: Path) -> None:
    """Each container has a client of its own, so this is evidence for a network volume."""
    code, result = check(tmp_path, "--volume", "glusterfs")
    assert (code, result["verdict"]) == (0, "ok"), result
    assert {states(result)[key] for key in KEYS} == {"ok"}
    verdict = result["facts"]["volume"]
    assert (verdict["answer"], verdict["one_kernel"], verdict["mount"]["fstype"]) == (
        "SAFE",
        False,
        "fuse.glusterfs",
    )
    assert left(engine, result["run_id"]) == []


@pytest.mark.parametrize("kind", ["sshfs", "s3fs"])
@pytest.mark.usefixtures("volumes_image")
def test_a_volume_that_does_not_lock_is_named_unsafe(engine: Any, tmp_path: Path, kind: str) -> None:
    code, result = check(tmp_path, "--volume", kind)
    found = states(result)
    assert (code, result["verdict"]) == (1, "failed"), result
    assert found["start"] == found["links"] == "ok", result
    assert found["volume"] == found["exclusion"] == "failed", result
    assert "is UNSAFE" in result["sentence"]
    assert kind in result["sentence"]
    assert "two holders at the same time" in said(result, "exclusion")
    assert {found[key] for key in ("registrations", "fresh", "writers", "read-only", "damage")} == {"skipped"}
    assert "UNSAFE" in (Path(result["folder"]) / "report.html").read_text(encoding="utf-8")
    assert left(engine, result["run_id"]) == []


@pytest.mark.usefixtures("volumes_image")
def test_a_volume_whose_caches_lie_is_named_unsafe(engine: Any, tmp_path: Path) -> None:
    """GlusterFS as it comes: locks exclude, reads are stale."""
    code, result = check(tmp_path, "--volume", "glusterfs-default")
    assert code == 1, result
    assert states(result)["volume"] == "failed"
    assert "is UNSAFE" in result["sentence"]
    assert left(engine, result["run_id"]) == []
