"""The seed's replication program, as it was given, on our `maif`; and its usage on our store. Both under /data."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from laila.maif import load_maif

SEEDS = Path(__file__).resolve().parents[1] / "seeds"
PROGRAM = (SEEDS / "replication.py").read_text()
OURS = "from laila import ReplicatedStore\nfrom laila.maif import create_maif\n\n"
REPLICAS = ("/data/primary", "/data/backup1", "/data/backup2")
FINE = {replica: {"exists": True, "valid": True} for replica in REPLICAS}

# A root of its own, on a memory file system at /mnt, with everything of the real one in it and another /data:
# a mount at /data alone would need that directory to be there already.
IN_PRIVATE_DATA = """
mount -t tmpfs tmpfs /mnt && cd / || exit 125
for entry in *; do
    case $entry in mnt | data) continue ;; esac
    if [ -L "$entry" ]; then cp -P "$entry" "/mnt/$entry"
    elif [ -d "$entry" ]; then mkdir "/mnt/$entry" && mount --rbind "/$entry" "/mnt/$entry"
    fi || exit 125
done
mkdir /mnt/mnt /mnt/data && mount --bind "$1" /mnt/data || exit 125
exec chroot /mnt "$2" "$3"
"""


def test_the_program_is_the_document_s() -> None:
    """Line by line; only the name of the module is ours."""
    document = (SEEDS / "distributed-processing.txt").read_text()
    assert PROGRAM.replace("laila.maif", "maif_api").strip() in document
    assert "\nclass ReplicatedStore:\n" in PROGRAM


def run_in_private_data(program: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """What the program says that it found, with `folder`/data as /data, seen by it alone."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare (util-linux)")
    data = folder / "data"
    data.mkdir(exist_ok=True)
    flags = ["--mount"] if os.geteuid() == 0 else ["--mount", "--map-root-user"]
    argv = ["unshare", *flags, "sh", "-c", IN_PRIVATE_DATA, "sh", str(data), sys.executable, str(program)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LAILA_")}
    environ = kept | {
        "HOME": str(folder),
        "XDG_STATE_HOME": str(folder / "state"),
        "PYTHONPATH": str(SEEDS.parents[1]),
    }
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=environ)
    if done.returncode == 125 and not os.environ.get("CI"):
        pytest.skip(f"no private mounts here: {done.stderr.strip()}")
    assert (done.returncode, done.stderr) == (0, "")
    said, _, found = done.stdout.partition(": ")
    assert said == "Replica status"
    status: dict[str, dict[str, Any]] = ast.literal_eval(found)
    return status


def files(folder: Path) -> list[bytes]:
    return [(folder / replica[1:] / "important-data.maif").read_bytes() for replica in REPLICAS]


def test_the_program_runs(tmp_path: Path) -> None:
    status = run_in_private_data(SEEDS / "replication.py", tmp_path)
    assert status == FINE
    for replica in REPLICAS:
        artifact = load_maif(tmp_path / replica[1:] / "important-data.maif")
        assert artifact.verify()
        assert artifact.get_content_list()[0]["text"] == "Critical information"


def test_its_usage_runs_on_our_store(tmp_path: Path) -> None:
    """The same calls and the same directories: the seed's keys and ours, the same bytes everywhere, and its own
    class reads what ours saved."""
    definition, usage = PROGRAM.split("# Usage\n")
    program = tmp_path / "usage.py"
    program.write_text(OURS + usage)
    status = run_in_private_data(program, tmp_path)
    assert list(status) == list(REPLICAS)
    digests = set()
    for found in status.values():
        assert (found["exists"], found["valid"]) == (True, True)
        assert (found["version"], found["lag"], found["error"]) == (1, 0, "")
        digests.add(found["digest"])
    assert len(digests) == 1
    assert len(set(files(tmp_path))) == 1

    reader = tmp_path / "reader.py"
    looking = usage[: usage.index("artifact = ")] + usage[usage.index("# Check replicas") :]
    reader.write_text(definition + looking + "assert store.load('important-data').verify()\n")
    assert run_in_private_data(reader, tmp_path) == FINE
