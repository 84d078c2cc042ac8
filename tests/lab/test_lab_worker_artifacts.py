"""What a worker does with artifacts, agents and locks: real ones, on a directory."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_lab_worker import ask, refusal

from laila.artifacts import TrustSet, load_maif, signing
from laila.errors import ArtifactError, Unsigned, UntrustedSigner
from laila.lab.worker.bench import Bench

SECRET = "9f3c61e2b7d84a05c1e96f2038ab47d5"  # noqa: S105  opens nothing
FILE = "store/doc.maif"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    (tmp_path / "secret").write_text(SECRET + "\n", encoding="ascii")
    (tmp_path / "volume").mkdir()
    monkeypatch.setenv("LAILA_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("LAILA_SECRET_FILE", str(tmp_path / "secret"))
    signing._identity_at.cache_clear()
    made = Bench(tmp_path / "volume")
    yield made
    made.close()
    signing._identity_at.cache_clear()


def test_what_is_created_is_what_is_loaded(bench: Bench) -> None:
    first = ask(bench, "create", store="store", name="doc", seed=1)
    second = ask(bench, "create", store="store", name="doc", seed=1)
    assert first["print"] != second["print"], "no content twice, whatever the seed"
    assert second["path"] == FILE
    for how in ("load", "load_cached"):
        got = ask(bench, "load", store="store", name="doc", how=how)
        assert (got["print"], got["sequence"]) == (second["print"], 2)
    assert "load or load_cached" in refusal(bench, "load", store="store", name="doc", how="magic")
    assert refusal(bench, "load", store="store", name="nope", how="load").startswith("ArtifactNotFound")


def test_publishing_and_loading_for_a_while_tell_every_version(bench: Bench) -> None:
    words = {"store": "store", "name": "doc", "seconds": 0.3}
    writes = ask(bench, "publish_for", seed=1, pause=[0, 0.001], **words)
    assert [write[1] for write in writes["writes"]] == list(range(1, len(writes["writes"]) + 1))
    reads = ask(bench, "load_for", **words)
    assert {(read[1], read[2]) for read in reads["reads"]} == {
        (writes["writes"][-1][0], len(writes["writes"]))
    }
    assert {read[0] for read in reads["reads"]} == {"load", "load_cached"}
    assert (writes["errors"], reads["errors"]) == ([], [])


def test_a_writer_is_killed_in_the_middle_and_says_what_it_had_begun(bench: Bench) -> None:
    ask(bench, "create", store="store", name="doc", seed=1)
    told = ask(bench, "publish_and_die", store="store", name="doc", after=0.1, seed=2)
    said = told["said"]
    begun = [line for line in said if line[0] == "begun"]
    assert len(begun) >= 1
    assert [line[0] for line in said] == ["begun", "done"] * (len(said) // 2) + ["begun"] * (len(said) % 2)
    before, after = told["killed"]
    assert max(float(line[2]) for line in said) <= after
    assert before <= after
    got = ask(bench, "load", store="store", name="doc", how="load")
    assert got["sequence"] in (len(begun), len(begun) + 1)


@pytest.mark.parametrize(
    ("kind", "error"),
    [("stranger", UntrustedSigner), ("resigned", UntrustedSigner), ("unsigned", Unsigned), ("other", None)],
)
def test_forgeries_are_what_they_say(bench: Bench, kind: str, error: type[Exception] | None) -> None:
    """Well made, so that nothing but the signer, the missing signature or the name gives them away."""
    ask(bench, "create", store="store", name="doc", seed=1)
    ask(bench, "forge", path=FILE, to="aside/forged", kind=kind)
    trust, forged = TrustSet.default(secret=SECRET), bench.path("aside/forged")
    if error is None:
        assert load_maif(forged, trust=trust).name == "doc-other"
    else:
        with pytest.raises(error):
            load_maif(forged, trust=trust)
    assert load_maif(forged).verify() == (kind != "unsigned")


def test_the_sections_of_a_file_cover_it(bench: Bench) -> None:
    ask(bench, "create", store="store", name="doc", seed=1)
    told = ask(bench, "sections", path=FILE)
    covered = sum(end - begin for _, begin, end in told["sections"])
    assert told["size"] - covered == 8, "all but the version (4 to 8) and four reserved bytes"
    for name, begin, end in told["sections"]:
        ask(bench, "flip", path=FILE, at=(begin + end) // 2)
        with pytest.raises(ArtifactError, match="doc.maif"):
            load_maif(bench.path(FILE), trust=TrustSet.default(secret=SECRET))
        ask(bench, "flip", path=FILE, at=(begin + end) // 2)
        assert load_maif(bench.path(FILE)).verify(), name


def test_agents_register_and_are_listed_with_their_results(bench: Bench) -> None:
    told = ask(bench, "register_some", agents="agents", prefix="a", count=3)
    assert ([item[0] for item in told["done"]], told["errors"]) == (["a-0", "a-1", "a-2"], [])
    for what in ("agents", "results"):
        assert sorted(ask(bench, "list_all", agents="agents", what=what)["members"]) == ["a-0", "a-1", "a-2"]
    assert "agents or results" in refusal(bench, "list_all", agents="agents", what="magic")


def test_a_lock_is_kept_until_it_is_given_back(bench: Bench) -> None:
    taken = ask(bench, "take", locks="locks", name="one")
    assert taken["asked"] <= taken["got"]
    assert ask(bench, "holder", locks="locks", name="one")["holder"]["token"] == taken["token"]
    assert "held by this worker already" in refusal(bench, "take", locks="locks", name="one")
    assert ask(bench, "give", name="one")["loss"] == ""
    assert ask(bench, "holder", locks="locks", name="one") == {"holder": None}


def test_contending_counts_the_register_up_by_one_for_each_exclusive_hold(bench: Bench) -> None:
    ask(bench, "register", register="count", write=[0, 0])
    words: dict[str, Any] = {"locks": "locks", "name": "one", "register": "count", "seed": 1, "shared": 0.3}
    told = ask(bench, "contend", held=[0, 0.001], pause=[0, 0.001], seconds=0.3, **words)["holds"]
    exclusive = [hold for hold in told if not hold[0]]
    assert [hold[7] for hold in exclusive] == list(range(1, len(exclusive) + 1))
    assert ask(bench, "register", register="count")["register"] == (len(exclusive), exclusive[-1][1])
    assert all(asked <= got <= gave for _, _, asked, got, gave, *_ in told)


def test_a_worker_is_killed_and_waited_for(bench: Bench) -> None:
    words = [sys.executable, "-m", "laila.cli.main", "lab", "worker", "--volume", str(bench.volume)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(b'{"id": 1, "op": "take", "locks": "locks", "name": "one"}\n')
        worker.stdin.flush()
        assert b'"token"' in worker.stdout.readline()
        assert "LockTimeout" in refusal(bench, "take", locks="locks", name="one", wait=0.1)
        before, after = ask(bench, "kill", pid=worker.pid)["killed"]
        assert before <= after <= time.monotonic()
        assert worker.wait(5) == -9
    assert ask(bench, "take", locks="locks", name="one", wait=5)["token"] > 0
    assert bench.path("locks/one.lock").exists()
