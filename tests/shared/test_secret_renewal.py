"""A shared store and agents on a volume outlive the change of their cluster's secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from laila.agents import DistributedAgent
from laila.artifacts import TrustSet
from laila.errors import UntrustedSigner
from laila.secret import new_secret
from laila.shared.renewal import renew
from laila.shared.store import SharedArtifactStore
from laila.shared.voucher_file import VoucherFile
from laila.transport.identity import Identity

pytestmark = pytest.mark.filterwarnings("ignore::laila.shared.admission.UnprobedVolume")
OLD, NEW = new_secret(), new_secret()


def store(tmp_path: Path, secret: str, who: str) -> SharedArtifactStore:
    """As another program on another node opens it: with a key and a cache of its own."""
    return SharedArtifactStore(
        tmp_path / "shared", tmp_path / who, identity=Identity.ephemeral(), secret=secret
    )


def secret(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return laila("secret", *arguments, **environment)


def laila(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LAILA_")}
    return subprocess.run(
        [sys.executable, "-m", "laila.cli.main", *arguments],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def files(tmp_path: Path) -> dict[str, str]:
    """The files of both secrets."""
    for name, text in (("old", OLD), ("new", NEW)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    return {"LAILA_SECRET_FILE": str(tmp_path / "new"), "LAILA_ALSO_ACCEPT": str(tmp_path / "old")}


def test_what_is_on_a_volume_is_believed_under_the_new_secret_after_it_was_renewed(tmp_path: Path) -> None:
    with store(tmp_path, OLD, "before") as before:
        before.create("report", "the first")
        before.create("other", "something")
        before.remove("other")
    with store(tmp_path, NEW, "reader") as reader:
        with pytest.raises(UntrustedSigner):
            reader.load("report")
        told = secret("renew", str(tmp_path / "shared"), "--json", **files(tmp_path))
        assert told.returncode == 0, told.stderr
        assert json.loads(told.stdout) == {
            "directory": str(tmp_path / "shared"), "files": 2, "strangers": 0, "signers": 1
        }  # fmt: skip
        assert reader.load("report").get_content_list()[0]["text"] == "the first", "it was open before"
        seen = laila(
            "artifact", "verify", str(tmp_path / "shared/report.maif"), "--secret-file", str(tmp_path / "new")
        )
        assert seen.returncode == 0, seen.stdout
        reader.create("report", "the second")
        reader.create("other", "again")
    with store(tmp_path, OLD, "late") as late, pytest.raises(UntrustedSigner):
        late.load("report")


def test_agents_and_results_are_believed_under_the_new_secret_after_they_were_renewed(tmp_path: Path) -> None:
    def agent(name: str, secret: str) -> DistributedAgent:
        return DistributedAgent(name, tmp_path / "agents", secret=secret, identity=Identity.ephemeral())

    with agent("worker", OLD) as worker:
        worker.register()
        worker.publish_result("task", {"is": "done"})
        renewed = renew(tmp_path / "agents", [NEW, OLD])
        assert renewed.signers == 1
        with agent("reader", NEW) as reader:
            reader.register()
            assert {one["agent_id"]: one["status"] for one in reader.agents()} == {
                "worker": "active", "reader": "active"
            }  # fmt: skip
            found: dict[str, Any] | None = reader.get_result("task")
            assert found is not None
            assert found["result"] == {"is": "done"}


def test_who_is_not_believed_is_not_vouched_for_and_old_vouchers_go(tmp_path: Path) -> None:
    with store(tmp_path, new_secret(), "stranger") as stranger:
        stranger.create("theirs", "not ours")
    with store(tmp_path, OLD, "before") as before:
        before.create("ours", "ours")
    renewed = renew(tmp_path / "shared", [NEW, OLD])
    assert (renewed.files, renewed.strangers, renewed.signers) == (1, 1, 1)
    assert "1 signers of 1 artifacts are vouched for" in str(renewed)
    book = VoucherFile(tmp_path / "shared")
    assert len(book.read()) == 2
    third = new_secret()
    assert renew(tmp_path / "shared", [third, NEW]).signers == 1
    assert len(book.read()) == 2, "the one of the first secret went"
    with store(tmp_path, third, "after") as after:
        assert after.load("ours").get_content_list()[0]["text"] == "ours"
        with pytest.raises(UntrustedSigner):
            after.load("theirs")


@pytest.mark.parametrize("data", [b"", b"rubbish", b"x" * 960, b"\0" * 97])
def test_a_damaged_book_is_nobodys_voucher(tmp_path: Path, data: bytes) -> None:
    with store(tmp_path, OLD, "before") as before:
        before.create("ours", "ours")
    (tmp_path / "shared" / ".laila").mkdir(exist_ok=True)
    (tmp_path / "shared" / ".laila" / "vouchers").write_bytes(data)
    with store(tmp_path, NEW, "after") as after, pytest.raises(UntrustedSigner):
        after.load("ours")
    assert renew(tmp_path / "shared", [NEW, OLD]).signers == 1
    with store(tmp_path, NEW, "later") as later:
        later.load("ours")


def test_a_trust_set_of_ones_own_stays_what_it_is(tmp_path: Path) -> None:
    class Nobody(TrustSet):
        def trusts(self, public_key: bytes, voucher: bytes | None = None) -> str | None:
            return None

    with store(tmp_path, OLD, "before") as before:
        before.create("ours", "ours")
    with (
        SharedArtifactStore(tmp_path / "shared", tmp_path / "n", trust=Nobody(secret=OLD)) as careful,
        pytest.raises(UntrustedSigner),
    ):
        careful.load("ours")


@pytest.mark.parametrize(
    ("arguments", "named", "sentence"),
    [
        (["/nowhere"], True, "/nowhere is no directory"),
        (["."], False, "secret_file (default): /run/secrets/laila_secret cannot be read"),
        ([".", "--also-accept", "/no/old"], True, "/no/old cannot be read"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, arguments: list[str], named: bool, sentence: str) -> None:
    told = secret("renew", *arguments, **(files(tmp_path) if named else {}))
    assert told.returncode == 2
    assert sentence in told.stderr
    assert len(told.stderr.splitlines()) == 1


def test_one_secret_alone_renews_nothing(tmp_path: Path) -> None:
    told = secret("renew", str(tmp_path), LAILA_SECRET_FILE=files(tmp_path)["LAILA_SECRET_FILE"])
    assert told.returncode == 2
    assert "give the old one by --also-accept" in told.stderr
