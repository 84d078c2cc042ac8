"""Verdicts: kept on the volume, believed only where they were found out."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from laila.errors import BadValue, StorageError
from laila.mounts import Mount, mount_of
from laila.volumes.verdict import Evidence, Verdict, assess, keep, stored

EVIDENCE = (Evidence("flock", "bad", "both held it \N{SNOWMAN}", {"times": 3, "share": 0.5, "who": "n2"}),)


def verdict(path: Path, answer: str = "UNSAFE") -> Verdict:
    mount = mount_of(path)
    return Verdict(answer, "as tried", EVIDENCE, mount, ("n1", "n2"), 1000.5, False, (mount,))


def test_it_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    for answer in ("SAFE", "UNSAFE", "UNKNOWN"):
        made = verdict(tmp_path, answer)
        assert keep(tmp_path, made) == tmp_path / ".laila" / "volume.json"
        assert stored(tmp_path) == made
        assert assess(tmp_path) == made
    assert [place.name for place in (tmp_path / ".laila").iterdir()] == ["volume.json"]


def test_every_user_of_the_volume_can_read_it(tmp_path: Path) -> None:
    """`.laila` has the rights of the volume, the verdict those of a file for all."""
    tmp_path.chmod(0o775)
    keep(tmp_path, verdict(tmp_path))
    assert stat.S_IMODE((tmp_path / ".laila").stat().st_mode) == 0o775
    assert stat.S_IMODE((tmp_path / ".laila" / "volume.json").stat().st_mode) == 0o644


def test_it_speaks_for_what_is_below(tmp_path: Path) -> None:
    """A store in a directory of the volume finds it, also before the directory is made; the nearest one wins."""
    keep(tmp_path, verdict(tmp_path))
    below = tmp_path / "a" / "b"
    assert stored(below) == verdict(tmp_path)
    below.mkdir(parents=True)
    keep(tmp_path / "a", verdict(tmp_path, "SAFE"))
    assert stored(below) == verdict(tmp_path, "SAFE")
    (tmp_path / "link").symlink_to(below)
    assert stored(tmp_path / "link") == verdict(tmp_path, "SAFE")


def test_another_mount_is_not_what_was_checked(tmp_path: Path) -> None:
    """It says so, and falls back to what the kind of file system tells."""
    other = Mount("nfs4", "srv:/x", ("vers=4.2",), "0:52")
    keep(tmp_path, replace(verdict(tmp_path), mount=other, mounts=(other,)))
    assert stored(tmp_path) is None
    assert assess(tmp_path).answer == "SAFE"


def test_any_of_the_nodes_mounts_will_do(tmp_path: Path) -> None:
    """Nodes name the same volume differently: n1 mounts n1:/vol, n2 mounts n2:/vol."""
    other = Mount("fuse.glusterfs", "n1:/vol", (), "0:52")
    made = replace(verdict(tmp_path), mount=other, mounts=(other, mount_of(tmp_path)))
    keep(tmp_path, made)
    assert stored(tmp_path) == made


def test_nothing_kept_is_nothing_known(tmp_path: Path) -> None:
    assert stored(tmp_path) is None
    found = assess(tmp_path)
    assert (found.answer, found.one_kernel, found.nodes) == ("SAFE", True, ())
    assert "one kernel" in found.reason


def test_other_kinds_of_file_system_are_unknown_until_checked() -> None:
    found = assess("/proc/self")
    assert found.answer == "UNKNOWN"
    assert (
        found.reason == "proc may lock or not; run `laila volume check /proc/self --with NODE` from two nodes"
    )


DAMAGED = [
    b"",
    b"{",
    b"[]",
    b"[" * 100_000,
    b"\xff",
    b"null",
    b'{"answer": "SAFE"}',
    b" " * (1 << 20) + b"{}",
]


@pytest.mark.parametrize("content", DAMAGED, ids=[repr(content[:20]) for content in DAMAGED])
def test_a_damaged_file_is_no_verdict(content: bytes, tmp_path: Path) -> None:
    keep(tmp_path, verdict(tmp_path))
    (tmp_path / ".laila" / "volume.json").write_bytes(content)
    assert stored(tmp_path) is None


def test_every_field_is_checked(tmp_path: Path) -> None:
    """A field that is missing or of another kind makes it no verdict."""
    good = verdict(tmp_path).to_dict()
    assert Verdict.from_dict(json.loads(json.dumps(good))) == verdict(tmp_path)
    for name in good:
        for wrong in ({key: value for key, value in good.items() if key != name}, {**good, name: object()}):
            with pytest.raises(BadValue):
                Verdict.from_dict(wrong)
    for name in good["evidence"][0]:
        with pytest.raises(BadValue, match="no evidence"):
            Evidence.from_dict({**good["evidence"][0], name: 1})


def test_links_are_not_followed(tmp_path: Path) -> None:
    """Whoever may write on the volume cannot have us read or write elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    keep(elsewhere, verdict(elsewhere))
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / ".laila").symlink_to(elsewhere / ".laila")
    assert stored(volume) is None
    with pytest.raises(StorageError, match=r"cannot keep the verdict at .*volume"):
        keep(volume, verdict(volume))
    (volume / ".laila").unlink()
    (volume / ".laila").mkdir()
    (volume / ".laila" / "volume.json").symlink_to(elsewhere / ".laila" / "volume.json")
    assert stored(volume) is None
    before = (elsewhere / ".laila" / "volume.json").read_bytes()
    keep(volume, verdict(volume, "SAFE"))
    assert stored(volume) == verdict(volume, "SAFE")
    assert (elsewhere / ".laila" / "volume.json").read_bytes() == before


def test_a_stranger_does_not_speak_for_what_is_below(tmp_path: Path) -> None:
    """In a directory for all users anybody could plant a verdict about the directories of others."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a file of another user")
    mine = tmp_path / "mine"
    mine.mkdir()
    keep(tmp_path, verdict(tmp_path))
    os.chown(tmp_path / ".laila" / "volume.json", 12345, 12345)
    assert stored(mine) is None
    assert stored(tmp_path) == verdict(tmp_path), "but for its own directory it counts"
    os.chown(tmp_path, 12345, 12345)
    assert stored(mine) == verdict(tmp_path), "and its owner may"


def test_what_cannot_be_written_says_why(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file") as caught:
        keep(tmp_path / "none", verdict(tmp_path))
    assert caught.value.reason == "ENOENT"
    (tmp_path / ".laila").write_text("a file")
    with pytest.raises(StorageError, match="cannot keep the verdict"):
        keep(tmp_path, verdict(tmp_path))


def test_there_are_three_answers(tmp_path: Path) -> None:
    with pytest.raises(BadValue, match="SAFE, UNSAFE, UNKNOWN"):
        Verdict("PROBABLY", "", (), mount_of(tmp_path))
