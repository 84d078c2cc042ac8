"""The pages of docs/deploy can be followed: their shell is shell, their files are there, their settings accepted."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import laila

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "docs/deploy"
PAGES = ("compose.md", "kubernetes.md", "ssh.md")


def blocks(page: str) -> str:
    return "\n".join(re.findall(r"```sh\n(.*?)```", (DEPLOY / page).read_text(), re.DOTALL))


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_are_shell(page: str) -> None:
    assert shutil.which("bash")
    done = subprocess.run(["bash", "-n"], input=blocks(page), capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("page", PAGES)
def test_what_is_named_is_there(page: str) -> None:
    text = (DEPLOY / page).read_text()
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (DEPLOY / target).exists(), target
    made = {
        "compose/secret.txt",
        "compose/other-secret.txt",
        "compose/old",
        "compose/.env",
        "k8s/overlays/mine",
        "k8s/overlays/mine/kustomization.yaml",
    }
    for path in re.findall(r"(?<![\w/.-])((?:tools|compose|docs|k8s)/[\w./-]*\w)", blocks(page)):
        assert path in made or (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES)
def test_each_stage_of_a_clusters_life_has_commands(page: str) -> None:
    stages = re.split(r"^## ", (DEPLOY / page).read_text(), flags=re.MULTILINE)[1:]
    with_commands = {stage.splitlines()[0] for stage in stages if "```sh" in stage}
    assert with_commands >= {"First start", "Upgrade", "Rotate the secret", "Back up", "Restore"}


def test_the_configuration_for_machines_is_accepted(tmp_path: Path) -> None:
    found = re.search(r"<<TOML\n(.*?)TOML\n", blocks("ssh.md"), re.DOTALL)
    assert found is not None
    secret = tmp_path / "secret"
    secret.write_text(laila.new_secret())
    secret.chmod(0o600)
    text = found[1].replace("$host", "node1").replace("${peers%, }", '"node2:7400"')
    text = text.replace("/etc/laila/secret", str(secret)).replace("/var/lib/laila", str(tmp_path))
    (tmp_path / "node.toml").write_text(text)
    argv = [
        sys.executable,
        "-m",
        "laila.cli.main",
        "node",
        "--config",
        str(tmp_path / "node.toml"),
        "--check",
    ]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LAILA_")}
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=60, env=environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["advertise"] == "node1:7400"


def test_the_unit_runs_what_the_page_installs() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "laila.service")
    service = unit["Service"]
    assert service["ExecStart"] == "/opt/laila/bin/laila node --config /etc/laila/node.toml"
    assert "/opt/laila/bin/pip" in blocks("ssh.md")
    assert "/etc/laila/node.toml" in blocks("ssh.md")
    assert (service["User"], service["StateDirectory"]) == ("laila", "laila")
    assert int(service["TimeoutStopSec"]) > 10, "longer than the node's own grace"


@pytest.mark.skipif(shutil.which("docker") is None, reason="needs the docker command")
def test_both_secrets_are_accepted_while_the_secret_changes(tmp_path: Path) -> None:
    """compose/rotate.yaml, laid over either topology, gives all nodes a second secret and takes nothing away."""
    for name in ("secret.txt", "other.txt"):
        (tmp_path / name).write_text(laila.new_secret())
    environ = os.environ | {
        "LAILA_SECRET_FILE": str(tmp_path / "secret.txt"),
        "LAILA_OTHER_SECRET_FILE": str(tmp_path / "other.txt"),
    }
    for topology in ("replicated", "shared-volume"):
        files = [f"-f{ROOT}/compose/{file}.yaml" for file in (topology, "rotate")]
        done = subprocess.run(
            ["docker", "compose", *files, "config", "--format", "json"],
            capture_output=True, text=True, timeout=60, env=environ, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if "unknown shorthand" in done.stderr or "is not a docker command" in done.stderr:
            pytest.skip("needs docker compose")
        services = json.loads(done.stdout)["services"]
        assert set(services) == {"node1", "node2", "node3"}
        for service in services.values():
            sources = [one["source"] for one in service["secrets"]]
            assert sorted(set(sources)) == ["laila_other_secret", "laila_secret"]
            environment = service["environment"]
            assert environment["LAILA_ALSO_ACCEPT"] == "/run/secrets/laila_other_secret"
            assert environment["LAILA_SECRET_FILE"] == "/run/secrets/laila_secret"  # noqa: S105  a path
            assert service["read_only"] is True
