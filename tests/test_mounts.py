"""Which mount a path lies on, from samples of mountinfo and from the real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from laila import mounts as mount
from laila.errors import BadValue, StorageError
from laila.mounts import Mount, mount_of, parse

NFS = (
    "97 27 0:52 / /mnt/a\\040b rw,relatime shared:3 - nfs4 srv:/ex\\134port "
    "rw,vers=4.2,rsize=1048576,local_lock=none,hard,lookupcache=none,addr=10.0.0.1"
)
TABLE = f"""\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
28 27 254:0 /srv/data /mnt/bind ro,relatime shared:1 master:2 - ext4 /dev/vda rw,discard
{NFS}
98 97 0:60 / /mnt/a\\040b/inner rw,nolock - nfs srv:/other rw,vers=3,nolock,local_lock=all
99 27 0:61 / /mnt/tab\\011newline\\012hash\\043 rw - tmpfs tmp\\040fs rw,size=4k
100 27 0:62 / /mnt/over rw - tmpfs lower rw
101 27 0:63 / /mnt/over rw - cifs //srv/share rw,vers=3.1.1,cache=strict,nobrl,username=someone
not a line of it
102 27 0:64 broken
103 27 0:65 / /mnt/bare rw - fuse.s3fs s3fs
"""


def test_lines_are_read_with_their_escapes() -> None:
    """Space, tab, newline, backslash and hash are octal there; only options that matter are kept."""
    found = parse(TABLE)
    assert sorted(found) == [27, 28, 97, 98, 99, 100, 101, 103]
    options = ("local_lock=none", "lookupcache=none", "vers=4.2")
    assert found[97] == Mount("nfs4", "srv:/ex\\port", options, "0:52", "/", "/mnt/a b")
    assert found[99].point == "/mnt/tab\tnewline\nhash#"
    assert found[99].source == "tmp fs"
    assert found[98].options == ("local_lock=all", "nolock", "vers=3")
    assert found[101].options == ("cache=strict", "nobrl", "vers=3.1.1"), "and no user's name"
    assert found[103] == Mount("fuse.s3fs", "s3fs", (), "0:65", "/", "/mnt/bare")


def test_a_bind_mount_is_the_same_volume() -> None:
    """What is mounted where does not matter, nor that it is read-only there."""
    found = parse(TABLE)
    assert found[28].root == "/srv/data"
    assert found[28].identity == found[27].identity


def test_the_device_tells_local_file_systems_only() -> None:
    """Device numbers of network volumes are chosen anew by every machine and at every mount."""
    found = parse(TABLE)
    again = parse(
        NFS.replace("0:52", "0:99").replace("/mnt/a", "/srv").replace("addr=10.0.0.1", "addr=10.0.0.2")
    )
    assert again[97].identity == found[97].identity
    assert parse(TABLE.replace("0:62", "0:99"))[100].identity != found[100].identity
    assert parse(NFS.replace("local_lock=none", "local_lock=flock"))[97].identity != found[97].identity


def test_the_longest_prefix_is_the_mount_and_the_last_of_equals() -> None:
    found = parse(TABLE)
    for path, number in {
        "/": 27, "/mnt": 27, "/mnt/bind/x": 28, "/mnt/a b": 97, "/mnt/a b/innermost": 97, "/mnt/a b/inner/x": 98,
        "/mnt/over": 101, "/mnt/overlook": 27,
    }.items():  # fmt: skip
        assert mount._by_prefix(found, path) == found[number], path


def test_kinds_that_one_kernel_has_to_itself() -> None:
    found = parse(TABLE)
    assert {number for number, each in found.items() if each.one_kernel} == {27, 28, 99, 100}


def test_the_real_table_agrees_with_the_kernel() -> None:
    """The mount of a path has the device that the kernel gives its files."""
    for path in (Path("/"), Path("/proc"), Path("/dev/shm"), Path("/proc/self/fd")):  # noqa: S108  a mount of its own
        device = path.stat().st_dev
        assert mount_of(path).device == f"{os.major(device)}:{os.minor(device)}"
        assert path.is_relative_to(mount_of(path).point)


def test_a_path_that_is_not_there_lies_where_its_parent_does(tmp_path: Path) -> None:
    assert mount_of(tmp_path / "a" / "b") == mount_of(tmp_path)


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc")
    assert mount_of(tmp_path / "link").fstype == "proc"


def test_without_proc_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mount, "MOUNTINFO", tmp_path / "none")
    with pytest.raises(StorageError, match="/proc is needed"):
        mount_of(tmp_path)


def test_it_survives_json() -> None:
    for each in parse(TABLE).values():
        assert Mount.from_dict(json.loads(json.dumps(each.to_dict()))) == each


@pytest.mark.parametrize("value", [None, [], {}, {"options": []}, {"options": [1], "fstype": ""}])
def test_what_describes_no_mount_is_refused(value: object) -> None:
    with pytest.raises(BadValue, match="no mount"):
        Mount.from_dict(value)


def test_a_client_that_can_be_seen_tells_its_caches(tmp_path: Path) -> None:
    """GlusterFS and sshfs keep their cache options from the kernel; their command lines have them."""
    pause = "import sys; print(flush=True); sys.stdin.read()"
    words = ["--attribute-timeout=0", "--volfile-server=n1", "-o", "dir_cache=no,allow_other", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-c", pause, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert mount._client_options(str(tmp_path)) == {"attribute-timeout=0", "dir_cache=no"}
    finally:
        process.communicate()
    assert mount._client_options(str(tmp_path)) == set()


MOUNTS = """
import os, shutil, subprocess, sys
from pathlib import Path
from laila.mounts import mount_of
from laila.volumes.verdict import Verdict, assess, keep, stored
place = Path(sys.argv[1])
def sh(*words): subprocess.run(words, check=True)
def said(path): return (lambda v: None if v is None else v.answer)(stored(path))
outer, inner = place / "outer", place / "outer" / "in ner"
outer.mkdir()
sh("mount", "-t", "tmpfs", "first", str(outer))
inner.mkdir()
keep(outer, Verdict("UNSAFE", "as tried", (), mount_of(outer), mounts=(mount_of(outer),)))
print(said(outer), said(inner))
sh("mount", "-t", "tmpfs", "second", str(inner))
print(mount_of(inner).source, said(inner))
shutil.copytree(outer / ".laila", inner / ".laila")
print(said(inner), assess(inner).answer)
bound = place / "bound"
bound.mkdir()
sh("mount", "--bind", str(outer), str(bound))
sh("mount", "-o", "remount,bind,ro", str(bound))
print(said(bound), mount_of(bound).source)
shutil.copytree(outer / ".laila", place / "kept")
sh("mount", "-t", "tmpfs", "third", str(outer))
shutil.copytree(place / "kept", outer / ".laila")
print(mount_of(outer).source, said(outer), said(bound))
"""


def test_a_verdict_holds_for_its_mount_only(tmp_path: Path) -> None:
    """Real mounts: below it on the same one, not on one nested in it or laid over it, again through a bind mount."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode != 0:
        if os.environ.get("CI"):
            pytest.fail("this test must run in CI: it needs root and mount namespaces")
        pytest.skip("needs root and mount namespaces")
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", MOUNTS, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "UNSAFE UNSAFE",
        "second None",
        "None SAFE",
        "UNSAFE first",
        "third None UNSAFE",
    ]
