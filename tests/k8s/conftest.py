"""Tests on a real cluster: LAILA_TEST_KUBECONFIG names its kubeconfig, and the images laila-node:dev and
laila-faults:dev are where its machines find them (LAILA_TEST_IMAGE names another node image).

Without it they are skipped, in CI too: inside a container of CI no cluster of machines can be had, and what can be
known of manifests and objects without one is tested in tests/k8s_manifests and tests/lab/test_kubernetes_objects.py.
Where a cluster has no default storage class, LAILA_TEST_HOSTPATH names a directory that its machines and these tests
see.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

for beside in ("lab", "k8s_manifests"):
    sys.path.append(str(Path(__file__).parents[1] / beside))

from deployment import Deployment  # noqa: E402  which needs the path

from laila.lab.drivers.kubernetes.cluster import Cluster  # noqa: E402

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("LAILA_TEST_KUBECONFIG"):
        return
    why = "LAILA_TEST_KUBECONFIG names no cluster, and none can be started inside a container of CI"
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture(autouse=True)
def lab_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path_factory.mktemp("lab-home")
    monkeypatch.setenv("LAILA_LAB_HOME", str(home))
    return home


@pytest.fixture(scope="session", autouse=True)
def kubeconfig() -> Iterator[str]:
    path = os.environ.get("LAILA_TEST_KUBECONFIG", "")
    with pytest.MonkeyPatch.context() as patch:
        if path:
            patch.setenv("KUBECONFIG", path)
        yield path


@pytest.fixture(scope="session")
def cluster(kubeconfig: str) -> Iterator[Cluster]:
    found = Cluster(kubeconfig=kubeconfig)
    yield found
    found.close()


@pytest.fixture
def deployment(cluster: Cluster, tmp_path: Path) -> Iterator[Deployment]:
    """The overlay `kind` in a namespace of its own, nothing applied yet."""
    with Deployment(cluster, tmp_path / "k8s", "overlays/kind") as made:
        yield made
