"""`laila artifact`: what people read, what machines read, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from laila.artifacts import Signer, create_maif
from laila.cli.main import main
from laila.secret import new_secret
from laila.transport.identity import Identity


@pytest.fixture
def identity() -> Identity:
    return Identity.ephemeral()


@pytest.fixture
def path(tmp_path: Path, identity: Identity) -> Path:
    artifact = create_maif("reporter")
    artifact.add_text("All is well.", title="Report")
    artifact.add_json({"n": 1})
    artifact.add_binary(bytes(2000), title="Blob")
    artifact.name_as("weekly", sequence=1, fence=4)
    artifact.save(tmp_path / "weekly.maif", key=identity)
    return tmp_path / "weekly.maif"


def test_show_is_readable(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["artifact", "show", str(path)]) == 0
    out = capsys.readouterr().out
    for words in (
        "artifact of reporter, 'weekly' version 1",
        "signed by reporter",
        "Report",
        "All is well.",
        "2.0 KiB",
    ):
        assert words in out


def test_show_as_json(path: Path, capsys: pytest.CaptureFixture[str], identity: Identity) -> None:
    assert main(["artifact", "show", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["good"], shown["name"], shown["sequence"]) == (True, "weekly", 1)
    assert shown["signer"] == Signer(identity).public_key.hex()
    assert [(item["type"], item["title"], item["bytes"]) for item in shown["items"]] == [
        ("text", "Report", 12),
        ("json", "", 8),
        ("binary", "Blob", 2000),
    ]


def test_verify_says_where(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["artifact", "verify", str(path)]) == 0
    assert capsys.readouterr().out.startswith("GOOD")
    data = bytearray(path.read_bytes())
    data[444 + 372] ^= 1
    path.write_bytes(data)
    assert main(["artifact", "verify", str(path)]) == 1
    out = capsys.readouterr().out
    assert out.startswith("BAD")
    assert "block 0 does not hold what its hash says (offset 816)" in out
    assert main(["artifact", "show", str(path)]) == 1
    assert "All is well" not in capsys.readouterr().out


def test_verify_with_trust(
    path: Path, tmp_path: Path, identity: Identity, capsys: pytest.CaptureFixture[str]
) -> None:
    key = Signer(identity).public_key.hex()
    assert main(["artifact", "verify", str(path), "--trust", key]) == 0
    assert main(["artifact", "verify", str(path), "--trust", "ab" * 32]) == 1
    assert "whom this reader does not trust" in capsys.readouterr().out
    secret = new_secret()
    (tmp_path / "secret").write_text(secret)
    (tmp_path / "secret").chmod(0o600)
    assert main(["artifact", "verify", str(path), "--secret-file", str(tmp_path / "secret")]) == 1
    artifact = create_maif("node")
    artifact.name_as("weekly", sequence=1)
    artifact.save(path, key=Signer.of(identity, secret))
    assert main(["artifact", "verify", str(path), "--secret-file", str(tmp_path / "secret"), "--json"]) == 0
    capsys.readouterr()


def test_log_tells_provenance_and_versions(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["artifact", "log", str(path)]) == 0
    out = capsys.readouterr().out
    for words in (
        "genesis",
        "add_text_block",
        "add_binary_block",
        "add_metadata_block",
        "finalize",
        "weekly",
        "fence",
    ):
        assert words in out
    assert main(["artifact", "log", str(path), "--json"]) == 0
    logged = json.loads(capsys.readouterr().out)
    assert next(entry["action"] for entry in logged["provenance"]) == "genesis"
    assert logged["versions"][0]["fence"] == 4


@pytest.mark.parametrize("content", [b"", b"nonsense", b"MAIF\0\3\0\0" + bytes(1000)])
def test_what_is_no_artifact_is_bad(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.maif").write_bytes(content)
    for command in ("show", "verify", "log"):
        assert main(["artifact", command, str(tmp_path / "x.maif")]) == 1
        assert capsys.readouterr().out.startswith("BAD")
        assert main(["artifact", command, str(tmp_path / "x.maif"), "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["good"] is False


def test_asked_wrongly(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["artifact", "verify", str(tmp_path / "absent")]) == 1
    assert "there is no file" in capsys.readouterr().err
    assert main(["artifact", "verify", str(path), "--trust", "xyz"]) == 2
    assert main(["artifact"]) == 2
    assert main(["artifact", "verify"]) == 2
    capsys.readouterr()
