"""docs/deploy/compose.md as a new user would follow it: first start, back up, restore, with the commands as written.

Runs when LAILA_TEST_WALK is set: half a minute on an idle machine is several on a busy one. Upgrade and rotation are
nine more restarts, walked through by hand; tests/test_deploy_docs.py looks at the text of all of it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import uuid
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/deploy/compose.md").read_text()
IMAGE = f"laila-node:{os.environ.get('LAILA_IMAGE_TAG', 'dev')}"
pytestmark = [
    pytest.mark.container,
    pytest.mark.usefixtures("engine"),
    pytest.mark.skipif(
        "LAILA_TEST_WALK" not in os.environ, reason="set LAILA_TEST_WALK to walk through docs/deploy"
    ),
]


def commands(stage: str) -> str:
    """Of one stage; what makes the environment and the image has been done. There is no terminal here, hence -T."""
    (text,) = re.findall(rf"^## {stage}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    shell = re.sub(r"^tools/.*$", "", shell, flags=re.MULTILINE)
    return shell.replace("compose exec node", "compose exec -T node")


def test_from_nothing_to_a_cluster_and_back_from_a_backup(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "compose", tmp_path / "compose", ignore=shutil.ignore_patterns("*.txt", ".env"))
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    environ = os.environ | {
        "COMPOSE_PROJECT_NAME": f"laila-test-{uuid.uuid4().hex[:8]}",
        "LAILA_IMAGE": IMAGE,
        "COMPOSE_PROGRESS": "quiet",
    }
    walk = "set -eu\n" + "\n".join(map(commands, ("First start", "Back up", "Restore")))
    try:
        done = subprocess.run(
            ["bash", "-c", walk],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            timeout=400,
            stdin=subprocess.DEVNULL,
        )
    finally:
        down = ["docker", "compose", "-f", "compose/replicated.yaml", "down", "--volumes", "--timeout", "5"]
        subprocess.run(
            down, cwd=tmp_path, env=environ, capture_output=True, timeout=120, stdin=subprocess.DEVNULL
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('{"hello": "world"}') == 2, "before the backup, and after it was restored"
    assert {path.name for path in (tmp_path / "backup").iterdir()} == {
        "node1.tar.gz",
        "node2.tar.gz",
        "node3.tar.gz",
        "secret.txt",
    }
