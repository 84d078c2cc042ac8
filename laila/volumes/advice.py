"""What to do about a volume that is unsafe: the mount option or the file system that is the likely culprit, and what
to use instead. Facts from the manuals of the file systems; what was seen in a check decides, never this table.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..mounts import Mount
from .verdict import INSTEAD

_NO_LOCKS = {
    "fuse.s3fs": "s3fs keeps files in an object store, which has no locks",
    "fuse.goofys": "goofys keeps files in an object store, which has no locks",
    "fuse.mountpoint-s3": "mountpoint-s3 keeps files in an object store, which has no locks",
    "fuse.gcsfuse": "gcsfuse keeps files in an object store, which has no locks",
    "fuse.blobfuse2": "blobfuse keeps files in an object store, which has no locks",
    "fuse.rclone": "rclone mount has no locks between machines",
    "fuse.sshfs": "sshfs keeps locks on each machine",
    "fuse.grpcfuse": "bind mounts of Docker Desktop keep locks on each side",
    "fuse.osxfs": "bind mounts of Docker Desktop keep locks on each side",
    "fakeowner": "bind mounts of Docker Desktop keep locks on each side",
    "virtiofs": "virtiofs keeps locks on each side, unless its daemon passes them on",
    "vboxsf": "shared folders of VirtualBox have no locks",
    "fuse.vmhgfs-fuse": "shared folders of VMware have no locks",
    "gpfs": "GPFS keeps flock on each machine",
    "beegfs": "BeeGFS keeps locks on each machine unless tuneUseGlobalFileLocks is on",
}
_CACHES = {
    "fuse.glusterfs": "GlusterFS caches by default: switch performance.quick-read, io-cache, write-behind, "
    "open-behind, stat-prefetch, read-ahead and flush-behind off, and mount with "
    "direct-io-mode=enable,attribute-timeout=0,entry-timeout=0,negative-timeout=0",
    "fuse.sshfs": "sshfs caches attributes: mount with -o dir_cache=no,attr_timeout=0,entry_timeout=0",
    "fuse.s3fs": "s3fs caches attributes and passes changes on as whole objects",
}


def culprit(mounts: Iterable[Mount], *, locks: bool) -> str:
    """The likely reason, empty when none is known. `locks`: they did not exclude; else what was read was stale."""
    found = [text for mount in mounts if (text := _lock_culprit(mount) if locks else _cache_culprit(mount))]
    return found[0] if found else ""


def instead(*, locks: bool, stale: bool) -> str:
    """What to use instead, as half a sentence. `locks`: they did not exclude; `stale`: what was read was stale."""
    if locks and stale:
        return f"use another volume: {INSTEAD} exclude, but what this one shows is stale as well"
    if locks:
        return f"use {INSTEAD}, or another volume"
    return "no lock service helps against stale reads: switch the caches off, or use another volume"


def _lock_culprit(mount: Mount) -> str:
    for option in mount.options:
        name, _, value = option.partition("=")
        if name in ("nolock", "nobrl", "localflock", "noflock") or (name == "local_lock" and value != "none"):
            return f"mounted with {option}, which keeps locks on each machine"
    return _NO_LOCKS.get(mount.fstype, "")


def _cache_culprit(mount: Mount) -> str:
    if mount.fstype == "overlay":
        return "overlay is a container's own layer: nothing is mounted there"
    for option in mount.options:
        if option in ("nocto", "cache=loose", "cache=mmap", "cache=fscache", "kernel_cache", "fsc"):
            return f"mounted with {option}, which serves stale bytes"
    if mount.fstype in ("nfs", "nfs4"):
        return "NFS caches attributes: mount with noac,lookupcache=none"
    if mount.fstype in ("cifs", "smb3"):
        return "SMB caches attributes: mount with cache=none,actimeo=0"
    return _CACHES.get(mount.fstype, "")
