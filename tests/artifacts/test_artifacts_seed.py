"""The seed's programs run as they were given, with `maif_api` as `laila.maif`, under their own paths."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from laila.maif import load_maif

SEEDS = Path(__file__).resolve().parents[1] / "seeds"
DOCUMENT = (SEEDS / "distributed-processing.txt").read_text()


@pytest.mark.parametrize("name", ["shared_store", "multi_node"])
def test_the_program_is_the_document_s(name: str) -> None:
    """Line by line; only the name of the module is ours."""
    program = (SEEDS / f"{name}.py").read_text().replace("laila.maif", "maif_api")
    assert program.strip() in DOCUMENT


def run_in_private_mnt(name: str, shared: Path) -> str:
    """The program, with `shared` as /mnt, seen by it alone."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare (util-linux)")
    flags = ["--mount"] if os.geteuid() == 0 else ["--mount", "--map-root-user"]
    script = 'mount --bind "$1" /mnt && exec "$2" "$3"'
    argv = [
        "unshare",
        *flags,
        "sh",
        "-c",
        script,
        "sh",
        str(shared),
        sys.executable,
        str(SEEDS / f"{name}.py"),
    ]
    environ = os.environ | {
        "HOME": str(shared),
        "XDG_STATE_HOME": str(shared / "state"),
        "PYTHONPATH": str(SEEDS.parents[1]),
    }
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=environ)
    if done.returncode and "unshare" in done.stderr and not os.environ.get("CI"):
        pytest.skip(f"no private mounts here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_shared_artifact_store_runs(tmp_path: Path) -> None:
    cache = Path("/tmp/maif_cache/shared-document.maif")  # noqa: S108  where the seed puts it
    cache.unlink(missing_ok=True)
    assert run_in_private_mnt("shared_store", tmp_path) == ""
    artifact = load_maif(tmp_path / "shared/maif/shared-document.maif")
    assert artifact.verify()
    assert artifact.verify_integrity()
    assert artifact.get_content_list()[0]["text"] == "Content visible to all nodes"
    assert cache.read_bytes() == (tmp_path / "shared/maif/shared-document.maif").read_bytes()
    cache.unlink()


def test_multi_node_coordination_runs(tmp_path: Path) -> None:
    out = run_in_private_mnt("multi_node", tmp_path)
    assert out == "Result from worker-1: {'output': 'completed', 'data': [1, 2, 3]}\n"
    state = load_maif(tmp_path / "shared/coordination/agent_states.maif")
    assert [item["title"] for item in state.get_content_list()] == [
        "Agent Registration: worker-1",
        "Agent Registration: worker-2",
    ]
    assert state.verify()
