"""The workflows for GitHub: valid by GitHub's own schema, few rights, no kept passwords, and true to this checkout."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
WORKFLOWS: dict[str, dict[Any, Any]] = {file.stem: yaml.safe_load(file.read_text()) for file in FILES}
#: What a job may have beside reading the repository, and why it needs it is said in its file.
GRANTED = {
    ("images", "node"): {"packages": "write", "id-token": "write", "attestations": "write"},
    ("images", "scan"): {"packages": "read"},
    ("release", "publish"): {"id-token": "write", "attestations": "write"},
}


def jobs() -> list[Any]:
    return [
        pytest.param(workflow, job, id=f"{workflow}-{job}")
        for workflow, content in WORKFLOWS.items()
        for job in content["jobs"]
    ]


def steps(workflow: str) -> list[dict[str, Any]]:
    return [step for job in WORKFLOWS[workflow]["jobs"].values() for step in job["steps"]]


def scripts(workflow: str) -> str:
    return "\n".join(step.get("run", "") for step in steps(workflow))


def test_there_is_a_workflow_for_each_purpose() -> None:
    assert set(WORKFLOWS) == {"tests", "kind", "images", "release"}


@pytest.mark.parametrize(
    ("schema", "files"),
    [("github-workflows", FILES), ("dependabot", [ROOT / ".github/dependabot.yml"])],
    ids=["workflows", "dependabot"],
)
def test_the_schema_is_kept(schema: str, files: list[Path]) -> None:
    """By the schema that check-jsonschema carries: nothing is asked of the network."""
    argv = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        f"vendor.{schema}",
        *map(str, files),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_a_workflow_has_no_rights_and_runs_once_for_each_change(workflow: str) -> None:
    content = WORKFLOWS[workflow]
    assert content["permissions"] == {}, "rights are given to jobs"
    assert "${{ github.ref }}" in content["concurrency"]["group"]
    triggers = content[True]  # `on`, as YAML 1.1 reads it
    assert "pull_request_target" not in triggers, "it would run other people's code with our rights"


@pytest.mark.parametrize(("workflow", "job"), jobs())
def test_a_job_has_the_least_rights_and_an_end(workflow: str, job: str) -> None:
    content = WORKFLOWS[workflow]["jobs"][job]
    assert content["permissions"] == {"contents": "read"} | GRANTED.get((workflow, job), {})
    assert content["timeout-minutes"] <= 100


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_actions_are_named_by_major_version(workflow: str) -> None:
    named = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert named
    for action in named:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@(v\d+|release/v\d+)", action), action


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_a_checkout_keeps_no_token(workflow: str) -> None:
    for step in steps(workflow):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_nothing_kept_is_used_and_nothing_foreign_gets_into_a_script(workflow: str) -> None:
    """No secret is stored for any workflow; what a pull request's author chose reaches scripts by variables only."""
    assert "secrets." not in (ROOT / f".github/workflows/{workflow}.yml").read_text()
    assert "${{" not in scripts(workflow).replace("${{ matrix.", "")


def test_pypi_trusts_the_workflow_and_no_password() -> None:
    publish = WORKFLOWS["release"]["jobs"]["publish"]
    (upload,) = [step for step in publish["steps"] if "pypi-publish" in step.get("uses", "")]
    assert upload["with"] == {"attestations": True}, "neither user nor password"
    assert publish["environment"] == "pypi"
    assert publish["needs"] == "build"
    assert not any("run" in step for step in publish["steps"]), (
        "the job that may publish runs no code of ours"
    )
    assert WORKFLOWS["release"][True] == {"push": {"tags": ["v*"]}}
    assert WORKFLOWS["release"]["concurrency"]["cancel-in-progress"] is False


def test_images_are_for_two_processors_with_sbom_provenance_and_labels() -> None:
    (build,) = [step for step in steps("images") if "build-push-action" in step.get("uses", "")]
    chosen = build["with"]
    assert chosen["platforms"].split(",") == ["linux/amd64", "linux/arm64"]
    assert chosen["sbom"] is True
    assert chosen["provenance"] == "mode=max"
    assert "push=${{ github.event_name != 'pull_request' }}" in chosen["outputs"]
    assert "rewrite-timestamp=true" in chosen["outputs"]
    assert "SOURCE_DATE_EPOCH" in build["env"]
    (metadata,) = [step for step in steps("images") if "metadata-action" in step.get("uses", "")]
    labels = {
        line.partition("=")[0].rpartition(".image.")[2] for line in metadata["with"]["labels"].splitlines()
    }
    # The action adds source, revision and url by itself.
    assert labels >= {"title", "description", "licenses", "version", "created", "documentation"}
    assert labels >= {"base.name", "base.digest"}
    dockerfile = (ROOT / "images/node/Dockerfile").read_text()
    for label in ("title", "description"):
        (said,) = re.findall(rf"image\.{label}=(.*)", metadata["with"]["labels"])
        assert f'image.{label}="{said}"' in dockerfile


def test_every_supported_python_is_tested() -> None:
    matrix = WORKFLOWS["tests"]["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert matrix == ["3.11", "3.12", "3.13"]
    assert 'requires-python = ">=3.11"' in (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_what_a_script_calls_is_here(workflow: str) -> None:
    for tool in re.findall(r"(?<![\w/])(?:\./)?(tools/[\w-]+)", scripts(workflow)):
        assert (ROOT / tool).is_file(), tool
    if "k8s/" in scripts(workflow) and (ROOT / "k8s").exists():
        assert (ROOT / "k8s/overlays/kind/kustomization.yaml").is_file()
