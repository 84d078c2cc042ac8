"""What a worker does with a replicated store, here on directories: the same operations as on what nodes serve."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import laila
from laila.lab.worker import program
from laila.lab.worker.bench import Bench
from laila.lab.worker.replicas import content_of

VALUE = "v1-0123-3"


@pytest.fixture(autouse=True)
def _of_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text(laila.new_secret())
    monkeypatch.setenv("LAILA_SECRET_FILE", str(secret))
    monkeypatch.setenv("LAILA_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    (tmp_path / "home").mkdir()
    made = Bench(tmp_path / "home")
    yield made
    made.close()


def answered(bench: Bench, op: str, **words: Any) -> dict[str, Any]:
    return program.answer(bench, {"id": 1, "op": op, **words})


def ask(bench: Bench, op: str, **words: Any) -> Any:
    answer = answered(bench, op, **words)
    assert answer["ok"], answer
    return answer["result"]


@pytest.fixture
def opened(bench: Bench, tmp_path: Path) -> Bench:
    """A store on three directories, one of them where a node's own would be."""
    replicas = [str(bench.volume / "replica"), str(tmp_path / "b"), str(tmp_path / "c")]
    ask(bench, "replica_open", nodes={}, replicas=replicas, patience=10)
    return bench


def test_a_value_says_whether_it_is_whole() -> None:
    assert content_of(VALUE) == "v1-0123-3 v1-0123-3 v1-0123-3 "


@pytest.mark.parametrize("value", ["", "x", "x-0", "a b-1", "x--"])
def test_a_value_without_a_count_is_refused(opened: Bench, value: str) -> None:
    answer = answered(opened, "replica_save", name="a", value=value)
    assert answer["error"]["code"] == "BadValue"


def test_what_is_saved_is_loaded_and_what_is_forgotten_is_gone(opened: Bench) -> None:
    assert ask(opened, "replica_load", name="a") == {"value": None, "sequence": 0}
    assert ask(opened, "replica_save", name="a", value=VALUE) == {"sequence": 1}
    assert ask(opened, "replica_save", name="a", value="v2-0-1") == {"sequence": 2}
    assert ask(opened, "replica_load", name="a") == {"value": "v2-0-1", "sequence": 2}
    assert ask(opened, "replica_names") == {"names": ["a"]}
    ask(opened, "replica_forget", name="a")
    assert ask(opened, "replica_load", name="a") == {"value": None, "sequence": 0}
    assert ask(opened, "replica_names") == {"names": []}
    assert answered(opened, "replica_forget", name="a")["error"]["code"] == "ArtifactNotFound"


def test_the_store_must_be_opened_first(bench: Bench) -> None:
    assert "replica_open" in answered(bench, "replica_load", name="a")["error"]["message"]
    answer = answered(bench, "replica_open", nodes=["node1"], replicas=[], patience=1)
    assert answer["error"]["code"] == "BadValue"


def test_a_node_that_is_not_there_is_named(bench: Bench) -> None:
    words = {
        "nodes": {"node9": "127.0.0.1:1"},
        "replicas": ["laila://node9/store"],
        "patience": 1,
        "timeout": 0.5,
    }
    answer = answered(bench, "replica_open", **words)
    assert (answer["error"]["code"], answer["error"]["message"]) == ("DeadlineExceeded", "no link to node9")


def test_the_files_of_a_replica_are_looked_at_without_asking_the_store(opened: Bench) -> None:
    ask(opened, "replica_save", name="a", value=VALUE)
    ask(opened, "replica_save", name="b", value="w-1")
    ask(opened, "replica_forget", name="b")
    found = ask(opened, "replica_holdings", path="replica")
    digest, sequence, value = found["live"]["a"]
    assert (len(digest), sequence, value) == (64, 1, VALUE)
    assert "b" not in found["live"] or found["live"]["b"][1] < found["gone"]["b"][1]
    assert found["gone"]["b"][1:] == [2, None]
    assert (found["quarantine"], found["suspect"]) == ([], [])
    assert ask(opened, "look", path="replica/a.maif")["digest"] == digest
    assert ask(opened, "replica_holdings", path="nowhere")["live"] == {}


def test_a_damaged_file_is_found_by_a_scrub_and_lies_in_quarantine(opened: Bench) -> None:
    ask(opened, "replica_save", name="a", value=VALUE)
    good = ask(opened, "replica_repair") and ask(opened, "look", path="replica/a.maif")
    ask(opened, "flip", path="replica/a.maif", at=good["size"] // 2)
    _, _, said = ask(opened, "replica_holdings", path="replica")["live"]["a"]
    assert said.startswith("Artifact")
    assert ask(opened, "replica_load", name="a")["value"] == VALUE
    ask(opened, "replica_scrub")
    ask(opened, "replica_repair")
    found = ask(opened, "replica_holdings", path="replica")
    assert found["live"]["a"][0] == good["digest"]
    assert [file.startswith("a.") for file in found["quarantine"]] == [True]
    states = ask(opened, "replica_verify", name="a")["replicas"]
    assert [state["valid"] for state in states.values()] == [True, True, True]
