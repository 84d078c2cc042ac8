"""Files into containers that somebody else made: their roots may be read-only, places in them in memory, and owners
anybody.
"""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Iterable, Mapping
from typing import Any

from laila.errors import LabError
from laila.lab.drivers.exec_stream import ExecChannel

_POUR = 'mkdir -p "$1" && head -c "$3" >"$1/$2"'
"""What a program in the container does with what it is sent; it must end by itself."""


def carry(engine: Any, container: Any, directory: str, files: Mapping[str, bytes]) -> None:
    """Put files into a directory of a running container, for everybody to read. Raises LabError, or what the engine's
    SDK raises.
    """
    if not files:
        return
    if not _hidden(container, directory):
        entries = [(_readable(f"{directory.lstrip('/')}/{name}"), data) for name, data in files.items()]
        container.put_archive("/", archive(entries))
        return
    for name, data in files.items():
        _pour(engine, container, directory, name, data)


def entry(container: Any, path: str) -> tarfile.TarInfo:
    """Owner and mode of a file in a container, with its plain name. Raises what the engine's SDK raises."""
    parts, _ = container.get_archive(path)
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as packed:
        return packed.getmembers()[0]


def archive(entries: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as packed:
        for info, data in entries:
            info.size, info.mtime = len(data), int(time.time())
            packed.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _readable(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.mode = 0o755
    return info


def _hidden(container: Any, directory: str) -> bool:
    """Whether the engine cannot put files there: nobody may write the root, or what lies there is in memory."""
    settings = container.attrs["HostConfig"]
    in_memory = [*(settings.get("Tmpfs") or {})]
    in_memory += [
        one["Destination"] for one in container.attrs.get("Mounts") or [] if one.get("Type") == "tmpfs"
    ]
    above = [f"{place.rstrip('/')}/" for place in in_memory]
    return bool(settings.get("ReadonlyRootfs")) or any(f"{directory}/".startswith(place) for place in above)


def _pour(engine: Any, container: Any, directory: str, name: str, data: bytes) -> None:
    """Have a shell in the container write it."""
    argv = ["sh", "-c", _POUR, "sh", directory, name, str(len(data))]
    channel = ExecChannel(engine.api, container.id, argv)
    said = b""
    try:
        channel.send(data)
        said = b"\n".join(channel.lines())
    finally:
        code = channel.close()
    if code != 0:
        why = (channel.stderr() or said.decode("utf-8", "replace")).strip() or f"exit code {code}"
        raise LabError(
            f"cannot copy {name} to {directory} of {container.name}, which is read-only or in memory there: {why}; "
            "give it a writable tmpfs at /tmp and a shell, or put the client into its image"
        )
