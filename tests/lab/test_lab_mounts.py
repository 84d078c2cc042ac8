"""Volumes of plain processes: limited and read-only where this user may mount, else plain with the reason."""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from laila.errors import BadConfig
from laila.lab.drivers import mounts
from laila.lab.topology import VolumeSpec, shared_volume

VOLUMES = (
    VolumeSpec("again", "/again", read_only_of="shared"),
    VolumeSpec("shared", "/shared"),
    VolumeSpec("small", "/small", size_mib=1),
)


@pytest.fixture
def below(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "with a space"
    yield place
    assert mounts.undo(place) == []


def test_a_small_volume_is_full_soon_and_a_read_only_one_takes_nothing(below: Path) -> None:
    hindrances = mounts.make(below, VOLUMES)
    if os.geteuid() != 0 or hindrances:
        assert set(hindrances) == {"again", "small"}
        assert all(hindrances.values())
        pytest.skip(f"this user may not mount: {hindrances['small']}")
    with pytest.raises(OSError, match="No space") as full:
        (below / "small" / "file").write_bytes(b"x" * (2 << 20))
    assert full.value.errno == errno.ENOSPC
    (below / "shared" / "file").write_bytes(b"seen there too")
    assert (below / "again" / "file").read_bytes() == b"seen there too"
    with pytest.raises(OSError, match="[Rr]ead-only") as refused:
        (below / "again" / "other").write_bytes(b"x")
    assert refused.value.errno == errno.EROFS
    assert mounts.undo(below) == []
    assert mounts.undo(below) == [], "twice is once"
    assert list((below / "again").iterdir()) == []
    assert (below / "shared" / "file").exists()


def test_a_directory_becomes_read_only_though_it_is_written_to_all_the_time(below: Path) -> None:
    below.mkdir()
    if why := mounts.hindrance():
        pytest.skip(f"this user may not mount: {why}")
    stop, failed = threading.Event(), Counter[int]()

    def write() -> None:
        while not stop.is_set():
            try:
                (below / "file").write_bytes(b"x")
            except OSError as error:
                failed[error.errno or 0] += 1

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(5):
            assert mounts.read_only(below, below) == ""
            with pytest.raises(OSError, match="[Rr]ead-only"):
                (below / "file").write_bytes(b"x")
            mounts.uncover(below, 0)
            (below / "file").write_bytes(b"y")
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert set(failed) <= {errno.EROFS}
    assert [path.name for path in below.parent.iterdir()] == [below.name]


def test_whoever_may_not_mount_gets_directories_and_the_reason(
    below: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mount").write_text("#!/bin/sh\necho only root may mount >&2\nexit 1\n")
    (tmp_path / "mount").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert mounts.make(below, VOLUMES) == dict.fromkeys(("again", "small"), "only root may mount")
    assert sorted(path.name for path in below.iterdir()) == ["again", "shared", "small"]


def test_a_machine_without_mount_says_so(
    below: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert set(mounts.make(below, VOLUMES).values()) == {"there is no program `mount`"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size_mib": -1}, "1 MiB or more"),
        ({"size_mib": 8, "kind": "glusterfs"}, "only a docker volume has a size"),
        ({"size_mib": 8, "read_only_of": "shared"}, "only a docker volume has a size"),
    ],
)
def test_what_no_volume_can_be_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        VolumeSpec("v", "/v", **fields)  # type: ignore[arg-type]  # fields of VolumeSpec


def test_a_second_mount_is_of_a_volume_that_there_is() -> None:
    import dataclasses

    made = shared_volume(2)
    for of in ("nothing", "again"):
        again = VolumeSpec("again", "/again", read_only_of=of)
        with pytest.raises(BadConfig, match="is of no volume"):
            dataclasses.replace(made, volumes=(*made.volumes, again))
