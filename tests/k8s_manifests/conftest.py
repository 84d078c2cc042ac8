"""All kustomizations, rendered once."""

from __future__ import annotations

from pathlib import Path

import pytest
from rendering import CLUSTERS, OBSERVABILITY, Manifests, others, render, tree


@pytest.fixture(scope="session")
def k8s(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of k8s/ with a secret of its own."""
    return tree(tmp_path_factory.mktemp("manifests") / "k8s")


@pytest.fixture(scope="session")
def clusters(k8s: Path) -> dict[str, Manifests]:
    return {name: Manifests(render(k8s / where)) for name, where in CLUSTERS.items()}


@pytest.fixture(scope="session")
def everything(clusters: dict[str, Manifests], k8s: Path) -> dict[str, Manifests]:
    """All that can be applied, by its name."""
    return {**clusters, **{place: Manifests(render(k8s / place)) for place in others()}}


@pytest.fixture(scope="session")
def observability(everything: dict[str, Manifests]) -> Manifests:
    return everything[OBSERVABILITY]
