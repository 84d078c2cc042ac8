"""docs/deploy/kubernetes.md as a new user would follow it, with the commands as written, by kubectl."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from shelf import shelf
from walking import commands

from laila import ReplicatedStore
from laila.lab.drivers.kubernetes.cluster import Cluster

ROOT = Path(__file__).parents[2]
NAMESPACE = "laila"
MEMBERS = '["laila://laila-%d.laila-peers.laila.svc:7400/store" % n for n in range(3)]'
SAVE = f"""
from laila import ReplicatedStore
from laila.maif import create_maif
with ReplicatedStore({MEMBERS}, background=False) as store:
    artifact = create_maif("walk")
    artifact.add_text("kept")
    store.save("kept", artifact)
"""
LOAD = f"""
from laila import ReplicatedStore
with ReplicatedStore({MEMBERS}, background=False) as store:
    print("content:", store.load("kept").get_content_list()[0]["text"])
"""
Walk = Callable[..., str]


def run(words: str, place: Path, environ: dict[str, str], timeout: float) -> str:
    done = subprocess.run(
        ["bash", "-c", f"set -eu\n{words}"],
        cwd=place,
        env=environ,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def walk(request: pytest.FixtureRequest, cluster: Cluster, kubeconfig: str, tmp_path: Path) -> Iterator[Walk]:
    """Walks in a checkout of its own, on a cluster with a default storage class; the namespace is gone afterwards."""
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl on PATH")
    if cluster.find("look", cluster.core.read_namespace, NAMESPACE) is not None:
        pytest.skip(f"there is a namespace {NAMESPACE} on this cluster already")
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s", ignore=shutil.ignore_patterns("*.txt", "mine"))
    own = tmp_path / "kubeconfig"
    shutil.copy(kubeconfig, own)
    environ = os.environ | {"KUBECONFIG": str(own), "SAVE": SAVE, "LOAD": LOAD}
    shared = request.node.name == test_a_shared_volume_is_asked_whether_its_locks_exclude.__name__
    with shelf(cluster, 8, default=True, shared=shared):
        try:
            yield lambda *steps: run("\n".join(steps), tmp_path, environ, 900)
        finally:
            remove = f"kubectl delete namespace {NAMESPACE} --ignore-not-found --wait --timeout=180s"
            run(remove, tmp_path, environ, 200)


def page(stage: str) -> str:
    return commands("kubernetes.md", stage)


def test_a_clusters_life(walk: Walk, tmp_path: Path) -> None:
    python = 'kubectl exec laila-1 -- python3 -c "${}"'
    said = walk(page("First start"))
    assert "laila-1" in said
    assert "laila-2" in said
    walk(python.format("{SAVE}"))
    walk(page("Upgrade"))
    mine = yaml.safe_load((tmp_path / "k8s/overlays/mine/kustomization.yaml").read_text())
    assert mine["configMapGenerator"][0]["literals"] == ["LAILA_LOG_LEVEL=debug"]
    said = walk(page("Scale"))
    assert "laila-4.laila-peers" in said
    before = (tmp_path / "k8s/secret/secret.txt").read_text()
    walk(page("Rotate the secret"))
    after = (tmp_path / "k8s/secret/secret.txt").read_text()
    assert before != after
    assert "content: kept" in walk(python.format("{LOAD}"))
    walk(page("Back up"))
    with tarfile.open(tmp_path / "laila-backup.tar") as backup:
        backup.extractall(tmp_path / "restore", filter="data")
    with ReplicatedStore([tmp_path / "restore"], secret=after) as store:
        assert store.load("kept").get_content_list()[0]["text"] == "kept"
    walk(page("Restore"))
    assert "content: kept" in walk(python.format("{LOAD}"))


def test_a_shared_volume_is_asked_whether_its_locks_exclude(walk: Walk) -> None:
    first = page("First start").split("mkdir -p k8s/overlays/mine")[0]
    walk(first.replace("overlays/replicated", "overlays/shared-volume"))
    said = walk(page("Shared volume"))
    assert "SAFE" in said
