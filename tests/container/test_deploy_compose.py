"""docs/deploy/compose.md as a new user would follow it, with the commands as written: first start, back up, restore,
another secret.

Runs when LAILA_TEST_WALK is set: a minute on an idle machine is several on a busy one. An upgrade is walked through by
hand; tests/test_deploy_docs.py looks at the text of all of it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import walking

ROOT = Path(__file__).parents[2]
IMAGE = f"laila-node:{os.environ.get('LAILA_IMAGE_TAG', 'dev')}"
Walk = Callable[..., str]
pytestmark = [
    pytest.mark.container,
    pytest.mark.usefixtures("engine"),
    pytest.mark.skipif(
        "LAILA_TEST_WALK" not in os.environ, reason="set LAILA_TEST_WALK to walk through docs/deploy"
    ),
]


def commands(stage: str) -> str:
    """Of one stage; what makes the environment and the image has been done. There is no terminal here, hence -T."""
    shell = re.sub(r"^tools/.*$", "", walking.commands("compose.md", stage), flags=re.MULTILINE)
    return shell.replace("compose exec node", "compose exec -T node")


SAVE = """
from laila import ReplicatedStore
from laila.maif import create_maif
import os
with ReplicatedStore(os.environ["LAILA_REPLICATED"].split(","), background=False) as store:
    artifact = create_maif("walk")
    artifact.add_text("kept")
    store.save("kept", artifact)
"""
LOAD = """
from laila import ReplicatedStore
import os
with ReplicatedStore(os.environ["LAILA_REPLICATED"].split(","), background=False) as store:
    print("content:", store.load("kept").get_content_list()[0]["text"])
"""


@pytest.fixture
def walked(tmp_path: Path) -> Iterator[Walk]:
    """Walks through a script in a checkout of its own; what it starts is gone afterwards."""
    shutil.copytree(ROOT / "compose", tmp_path / "compose", ignore=shutil.ignore_patterns("*.txt", ".env"))
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    environ = os.environ | {
        "COMPOSE_PROJECT_NAME": f"laila-test-{uuid.uuid4().hex[:8]}",
        "LAILA_IMAGE": IMAGE,
        "COMPOSE_PROGRESS": "quiet",
        "SAVE": SAVE,
        "LOAD": LOAD,
    }

    def run(*argv: str, timeout: float) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=timeout,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def walk(*steps: str) -> str:
        done = run("bash", "-c", "set -eu\n" + "\n".join(steps), timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    yield walk
    run(
        "docker",
        "compose",
        "-f",
        "compose/replicated.yaml",
        "down",
        "--volumes",
        "--timeout",
        "5",
        timeout=120,
    )


def test_from_nothing_to_a_cluster_and_back_from_a_backup(walked: Walk, tmp_path: Path) -> None:
    said = walked(*map(commands, ("First start", "Back up", "Restore")))
    assert said.count('{"hello": "world"}') == 2, "before the backup, and after it was restored"
    assert {path.name for path in (tmp_path / "backup").iterdir()} == {
        "node1.tar.gz",
        "node2.tar.gz",
        "node3.tar.gz",
        "secret.txt",
    }


def test_another_secret_and_what_was_signed_under_the_old_one(walked: Walk, tmp_path: Path) -> None:
    python = 'docker compose exec -T -e LAILA_SECRET_FILE=/run/secrets/laila_secret node2 python3 -c "${}"'
    before = "cp compose/secret.txt before"
    steps = [commands("First start"), before, python.format("{SAVE}"), commands("Rotate the secret")]
    assert "content: kept" in walked(*steps, python.format("{LOAD}"))
    assert (tmp_path / "before").read_text() != (tmp_path / "compose/secret.txt").read_text()
    assert not (tmp_path / "compose/other-secret.txt").exists()
