"""What is said about an unsafe volume: the likely culprit and what to use instead."""

from __future__ import annotations

import pytest

from laila.mounts import Mount
from laila.volumes.advice import culprit, instead

LOCAL = Mount("ext4", "/dev/vda", (), "254:0")
LOCKS = [
    ("nfs", ("nolock", "vers=3"), "mounted with nolock, which keeps locks on each machine"),
    ("nfs4", ("local_lock=flock", "vers=4.2"), "mounted with local_lock=flock, which"),
    ("cifs", ("cache=strict", "nobrl"), "mounted with nobrl, which"),
    ("lustre", ("localflock",), "mounted with localflock, which"),
    ("fuse.s3fs", (), "s3fs keeps files in an object store, which has no locks"),
    ("fuse.sshfs", (), "sshfs keeps locks on each machine"),
    ("gpfs", (), "GPFS keeps flock on each machine"),
    ("nfs4", ("local_lock=none", "vers=4.2"), ""),
    ("ext4", (), ""),
]
CACHES = [
    ("nfs4", (), "noac,lookupcache=none"),
    ("nfs", ("nocto",), "mounted with nocto, which serves stale bytes"),
    ("9p", ("cache=loose",), "mounted with cache=loose, which"),
    ("cifs", ("cache=strict",), "cache=none,actimeo=0"),
    ("fuse.glusterfs", (), "attribute-timeout=0"),
    ("fuse.sshfs", (), "dir_cache=no"),
    ("overlay", (), "nothing is mounted there"),
    ("ext4", (), ""),
]


@pytest.mark.parametrize(("fstype", "options", "words"), LOCKS)
def test_what_may_keep_locks_from_others(fstype: str, options: tuple[str, ...], words: str) -> None:
    """Of several mounts the one with a known fault is named."""
    found = culprit([LOCAL, Mount(fstype, "x", options, "0:1")], locks=True)
    assert words in found
    assert bool(found) == bool(words)


@pytest.mark.parametrize(("fstype", "options", "words"), CACHES)
def test_what_may_serve_stale_bytes(fstype: str, options: tuple[str, ...], words: str) -> None:
    found = culprit([LOCAL, Mount(fstype, "x", options, "0:1")], locks=False)
    assert words in found
    assert bool(found) == bool(words)


def test_a_lock_service_is_no_help_against_stale_reads() -> None:
    """It is named where it helps, and where it does not, that is said."""
    assert "use locks of redis, etcd or postgresql" in instead(locks=True, stale=False)
    assert "what this one shows is stale as well" in instead(locks=True, stale=True)
    assert "no lock service helps" in instead(locks=False, stale=True)
