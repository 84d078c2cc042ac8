"""A storage class of a test's own: volumes that every machine of the cluster sees, made by hand."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from laila.lab.drivers.kubernetes.cluster import Cluster

IS_DEFAULT = "storageclass.kubernetes.io/is-default-class"
MODES = ["ReadWriteOnce", "ReadWriteMany"]


@contextmanager
def shelf(cluster: Cluster, count: int, *, default: bool = False, shared: bool = False) -> Iterator[str]:
    """The name of a class with so many volumes, directories under LAILA_TEST_HOSTPATH; each serves one claim. It is the
    cluster's own choice when it is the `default`. Without such a directory: the cluster's default class,
    where that will do, because nobody wants the volumes `shared`.
    """
    root = os.environ.get("LAILA_TEST_HOSTPATH")
    if not root and not shared and (usual := cluster.default_class()):
        yield usual
        return
    if not root:
        pytest.skip("set LAILA_TEST_HOSTPATH to a directory that every machine of the cluster sees")
    name = f"laila-test-{secrets.token_hex(4)}"
    made: list[str] = []
    body: dict[str, Any] = {
        "metadata": {"name": name, "annotations": {IS_DEFAULT: str(default).lower()}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "Immediate",
    }
    cluster.ask("make a storage class", cluster.storage.create_storage_class, body)
    try:
        for number in range(count):
            place = Path(root) / f"{name}-{number}"
            place.mkdir()
            place.chmod(0o777)
            spec = {
                "capacity": {"storage": "100Gi"},
                "accessModes": MODES,
                "hostPath": {"path": str(place)},
                "persistentVolumeReclaimPolicy": "Retain",
                "storageClassName": name,
            }
            volume = {"metadata": {"name": place.name}, "spec": spec}
            cluster.ask("make a volume", cluster.core.create_persistent_volume, volume)
            made.append(place.name)
        yield name
    finally:
        for one in made:
            cluster.find("remove a volume", cluster.core.delete_persistent_volume, one)
            shutil.rmtree(Path(root) / one, ignore_errors=True)
        cluster.find("remove a storage class", cluster.storage.delete_storage_class, name)
