"""`laila replicas`: what it prints for people and machines, what it changes, and what it exits with."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import Nodes, laila, until

from laila.cli.bar import Bar
from laila.maif import create_maif
from laila.replication.store import ReplicatedStore
from laila.secret import new_secret
from laila.transport.identity import Identity


class Trio:
    """A store on three directories, and the command on it, run by somebody else of the same cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.where = [str(folder / name) for name in ("primary", "backup1", "backup2")]
        self.secret = new_secret()
        self.secret_file = folder / "secret"
        self.secret_file.write_text(self.secret)
        self.secret_file.chmod(0o600)
        self.env = {"LAILA_STATE_DIR": str(folder / "state"), "LAILA_SECRET_FILE": str(self.secret_file)}

    def store(self, *more: str) -> ReplicatedStore:
        where = [*self.where, *more]
        return ReplicatedStore(where, identity=Identity.ephemeral(), secret=self.secret, background=False)

    def save(self, name: str, *texts: str) -> None:
        """One version for each text, on all three replicas."""
        with self.store() as store:
            for text in texts:
                artifact = create_maif(name)
                artifact.add_text(text)
                store.save(name, artifact)
            assert store.repair(name).ok

    def run(self, *words: str, code: int = 0, at: list[str] | None = None) -> str:
        """What it prints on stdout; on the other stream there is nothing."""
        done = self.done(*words, at=at)
        assert (done.returncode, done.stderr.decode()) == (code, ""), done
        return done.stdout.decode()

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self.run(*words, "--json", code=code))

    def fails(self, *words: str, code: int, at: list[str] | None = None) -> str:
        """The one sentence on stderr; the same as JSON."""
        done = self.done(*words, at=at)
        assert (done.returncode, done.stdout) == (code, b""), done
        as_json = self.done(*words, "--json", at=at)
        assert as_json.returncode == code
        said = json.loads(as_json.stderr)["error"]
        assert said["kind"].isidentifier()
        lines = done.stderr.decode().splitlines()
        assert len(lines) == 1
        return lines[0].removeprefix("laila: ")

    def done(self, *words: str, at: list[str] | None = None) -> Any:
        where = {"LAILA_REPLICATED": ",".join(self.where if at is None else at)}
        return laila("replicas", *words, env=self.env | where)

    def file(self, name: str, replica: int = 1) -> Path:
        return Path(self.where[replica]) / f"{name}.maif"

    def damage(self, name: str, replica: int = 1) -> None:
        """Turn a bit of what is kept, as a disk does."""
        path = self.file(name, replica)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


@pytest.fixture
def trio(tmp_path: Path) -> Trio:
    found = Trio(tmp_path)
    found.save("plan", "first", "second")
    return found


def cells(text: str) -> list[list[str]]:
    """The cells of the table in a text."""
    lines = text.split("\n\n")[1].splitlines()
    return [re.split(r"  +", line) for line in lines]


def test_status_when_all_is_well(trio: Trio) -> None:
    text = trio.run("status")
    assert text.startswith(
        "quorum: 3 of 3 replicas answer and count, 2 are needed; saves and loads work, 1 more"
    )
    head, *rows = cells(text)
    assert head == ["REPLICA", "STATE", "NAMES", "BEHIND", "SUSPECT", "QUARANTINED", "MEMBERSHIP"]
    assert rows == [[where, "ok", "1", "0", "0", "0", "1"] for where in trio.where]
    found = trio.json("status")
    assert (found["ok"], found["quorum"], found["count"], found["number"]) == (True, True, 3, 1)
    assert [one["where"] for one in found["replicas"]] == trio.where


def test_one_replica_names_the_others(trio: Trio) -> None:
    """Their membership document does."""
    assert [row[0] for row in cells(trio.run("status", at=trio.where[:1]))[1:]] == trio.where
    done = laila("replicas", "status", "--replica", trio.where[2], env=trio.env)
    assert (done.returncode, trio.where[0] in done.stdout.decode()) == (0, True)


def test_status_with_replicas_away(trio: Trio) -> None:
    """A minority: exit 1 and why; a majority: exit 2 and what that means. Nothing is made where they were."""
    Path(trio.where[2]).rename(trio.folder / "away")
    text = trio.run("status", code=1)
    assert "2 of 3 replicas answer and count, 2 are needed; saves and loads work, no other may fail" in text
    assert cells(text)[3][:2] == [trio.where[2], "unreachable"]
    assert f"{trio.where[2]}: " in text.split("\n\n")[2]
    Path(trio.where[1]).rename(trio.folder / "away too")
    found = trio.json("status", code=2)
    assert (found["ok"], found["quorum"], found["fit"], found["needed"]) == (False, False, 1, 2)
    assert trio.run("status", code=2).startswith("quorum LOST: 1 of 3 replicas")
    assert not Path(trio.where[1]).exists()
    assert not Path(trio.where[2]).exists()


def test_a_quorum_that_is_lost_is_said_in_words(trio: Trio) -> None:
    for replica in (1, 2):
        Path(trio.where[replica]).rename(trio.folder / f"away{replica}")
    said = trio.fails("history", "plan", code=2)
    assert trio.where[1] in said
    assert "2 are needed" in said


def test_verify(trio: Trio) -> None:
    """Exit 0 when all agree; 1, and per replica what is wrong, when not."""
    found = trio.json("verify", "plan")
    assert (found["ok"], found["count"], found["agree"]) == (True, 1, 1)
    rows = found["names"]["plan"]
    assert list(rows) == trio.where
    assert {
        (one["exists"], one["valid"], one["version"], one["lag"], one["error"]) for one in rows.values()
    } == {(True, True, 2, 0, "")}
    assert len({one["digest"] for one in rows.values()}) == 1
    assert "all replicas agree on 1 name\n" in trio.run("verify", "plan")

    trio.damage("plan")
    text = trio.run("verify", "plan", code=1)
    states = {
        row[1]: row[2] for row in (re.split(r"  +", line) for line in text.split("\n\n")[0].splitlines()[1:])
    }
    assert states == {trio.where[0]: "ok", trio.where[1]: "damaged", trio.where[2]: "ok"}
    assert f"plan: {trio.where[1]}: " in text
    assert "replicas agree on 0 of 1 name; `laila replicas repair plan`" in text


def test_verify_all_shows_those_that_differ(trio: Trio) -> None:
    trio.save("report", "text")
    assert trio.run("verify", "--all") == "all replicas agree on 2 names\n"
    trio.file("report", 2).unlink()
    text = trio.run("verify", "--all", code=1)
    assert "report" in text
    assert "plan" not in text
    assert "replicas agree on 1 of 2 names" in text
    assert trio.run("verify", "nothing", code=1).count("absent") == 3
    text = trio.run("verify", code=1)
    assert "1 of 2 names differ" in text
    assert "never had it" in text
    assert trio.run("repair")
    assert trio.run("verify") == "all replicas that answer agree on 2 names, by digests\n"
    found = trio.json("verify")
    assert (found["ok"], found["names"], found["exchanges"]) == (True, 2, 1)
    assert "NAME…, or --all" in trio.fails("verify", "plan", "--all", code=2)


def test_accept_what_a_majority_lost(trio: Trio) -> None:
    for place in (0, 1):
        trio.file("plan", place).write_bytes(b"damaged")
    assert "needed" in trio.fails("history", "plan", code=2)
    assert trio.run("accept", "plan") == "version 2 of plan counts again\n"
    assert trio.run("verify", "plan")
    assert trio.json("accept", "plan") == {"name": "plan", "version": 2}
    assert trio.json("accept", "never", code=1) == {"name": "never", "version": None}


def test_repair(trio: Trio) -> None:
    """Missing, damaged and old copies come up; what was damaged is kept aside; what was forgotten stays so."""
    trio.save("report", "text")
    trio.save("note", "text")
    with trio.store() as store:
        store.forget("note")
    trio.file("report", 2).unlink()
    trio.damage("plan")
    text = trio.run("repair", "plan", "report")
    assert "every replica has the newest version" in text
    assert trio.run("verify", "--all") == "all replicas agree on 2 names\n"
    found = trio.json("repair", "--rate", "10MB/s")
    assert (found["ok"], found["failures"]) == (True, 0)
    assert [row[1] for row in cells(trio.run("status"))[1:]] == ["ok", "ok", "ok"]
    assert trio.json("status")["replicas"][1]["quarantined"] == 1
    assert not any(trio.file("note", replica).exists() for replica in range(3))


def test_repair_without_all_replicas(trio: Trio) -> None:
    """What can be done is done; exit 1 and who was not there."""
    Path(trio.where[2]).rename(trio.folder / "away")
    text = trio.run("repair", code=1)
    assert f"{trio.where[2]}: " in text
    assert "every replica has" not in text


def test_scrub(trio: Trio) -> None:
    """Damage that nobody has read is found and repaired, which is worth an exit code of 1; then there is none."""
    assert "3 files read" in trio.run("scrub")
    trio.damage("plan", 2)
    text = trio.run("scrub", "--rate", "50MB/s", code=1)
    assert "1 damaged" in text
    assert f"plan: {trio.where[2]}: " in text
    found = trio.json("scrub")
    assert (found["ok"], found["looked"], found["damaged"]) == (True, 3, [])


def test_history(trio: Trio) -> None:
    trio.save("notes", "one")
    with trio.store() as store:
        for text in ("two", "three"):
            artifact = store.load("notes")
            artifact.add_text(text)
            store.save("notes", artifact)
    found = trio.json("history", "notes")
    assert [one["version"] for one in found["versions"]] == [1, 2, 3]
    roots = [one["root"] for one in found["versions"]]
    assert [one["parent"] for one in found["versions"]] == ["", *roots[:2]]
    text = trio.run("history", "notes")
    assert [line.split()[0] for line in text.splitlines()] == ["VERSION", "1", "2", "3"]
    assert "not found" in trio.fails("history", "nothing", code=1)


def test_members(trio: Trio) -> None:
    """Shown, added, replaced, removed; the store keeps what it has."""
    found = trio.json("members")
    assert (found["number"], found["changing"]) == (1, False)
    assert [(one["where"], one["role"]) for one in found["members"]] == [
        (where, "member") for where in trio.where
    ]
    fourth, fifth = str(trio.folder / "fourth"), str(trio.folder / "fifth")

    found = trio.json("members", "add", fourth)
    assert [one["where"] for one in found["members"]] == [*trio.where, fourth]
    number = found["number"]
    assert number > 1
    found = trio.json("members", "replace", fourth, fifth)
    assert [one["where"] for one in found["members"]] == [*trio.where, fifth]
    assert trio.where[1] not in trio.run("members", "remove", trio.where[1])
    assert "is no member of this store" in trio.fails("status", code=2)  # which the list still names
    left = [trio.where[0], trio.where[2], fifth]
    Path(trio.where[0]).rename(trio.folder / "away")
    assert trio.where[0] not in trio.run("members", "remove", trio.where[0], "--lost", at=left)
    assert not Path(trio.where[0]).exists()
    assert (Path(fifth) / "plan.maif").read_bytes() == trio.file("plan", 2).read_bytes()
    assert trio.json("status", "--replica", fifth)["count"] == 2
    assert trio.json("members", "resume", "--replica", fifth)["changing"] is False


def test_members_asked_wrongly(trio: Trio) -> None:
    for words in (["add"], ["add", "/a", "/b"], ["replace", "/a"], ["drop", "/a"], ["resume", "/a"]):
        assert "is no change; write add WHERE" in trio.fails("members", *words, code=2)
    assert str(trio.folder / "nobody") in trio.fails("members", "remove", str(trio.folder / "nobody"), code=2)


def test_what_cannot_be_a_replica(trio: Trio) -> None:
    """Said in one sentence, with exit code 2."""
    assert "no replica is named" in trio.fails("status", code=2, at=[])
    assert "which a command does not have" in trio.fails("status", code=2, at=["pool:cold"])
    assert "s3://" in trio.fails("status", code=2, at=["s3://bucket"])
    assert "HOST:PORT" in trio.fails("status", code=2, at=["laila://node2/store"])
    assert "--rate" in trio.fails("repair", "--rate", "fast", code=2)
    assert "--rate" in trio.fails("repair", "--rate", "0/s", code=2)
    assert "--timeout" in trio.fails("status", "--timeout", "0", code=2)
    assert "64 hex digits" in trio.fails("status", "--trust", "xyz", code=2)
    assert "ACTION" in laila("replicas").stderr.decode()


def test_looking_makes_no_store(trio: Trio) -> None:
    """Neither where nothing is, nor in empty directories."""
    none = [str(trio.folder / f"none{number}") for number in range(3)]
    assert "none of these replicas answers" in trio.fails("status", code=2, at=none)
    for where in none[:2]:
        Path(where).mkdir()
    assert "it belongs to no store yet" in trio.fails("status", code=1, at=none)
    assert [sorted(Path(where).iterdir()) for where in none[:2]] == [[], []]
    assert not Path(none[2]).exists()


def test_a_stranger_is_told_that_nobody_is_trusted(trio: Trio) -> None:
    """Without the cluster's secret what the replicas say is believed by nobody."""
    env = {"LAILA_STATE_DIR": str(trio.folder / "other")}
    done = laila("replicas", "status", "--replica", ",".join(trio.where), env=env)
    assert (done.returncode, done.stdout) == (2, b"")
    assert "trust" in done.stderr.decode()


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    found = Nodes(tmp_path)
    yield found
    found.close()


def test_replicas_on_nodes(nodes: Nodes, tmp_path: Path) -> None:
    """Two nodes and a directory: reached by address and secret, seen when one is killed, repaired when it is back."""
    served = [nodes.node(name, "--replicas", f"store={tmp_path / name}").start() for name in ("n1", "n2")]
    where = [f"laila://{node.ready().address}/store" for node in served] + [str(tmp_path / "disk")]
    with ReplicatedStore(
        where, identity=Identity.ephemeral(), secret=nodes.secret, background=False
    ) as store:
        artifact = create_maif("plan")
        artifact.add_text("first")
        store.save("plan", artifact)
        assert store.repair().ok

        env = {"LAILA_STATE_DIR": str(tmp_path / "state"), "LAILA_REPLICATED": ",".join(where)}

        def run(*words: str) -> Any:
            secret = ("--secret-file", str(nodes.secret_file))
            return laila("replicas", *words, *secret, env=env)

        done = run("status", "--json")
        assert done.returncode == 0, done
        assert [one["where"] for one in json.loads(done.stdout)["replicas"]] == where
        served[1].kill()
        done = run("status", "--timeout", "10")
        assert done.returncode == 1, done
        assert [row[1] for row in cells(done.stdout.decode())[1:]] == ["ok", "unreachable", "ok"]
        store.save("plan", create_maif("again"))

        served[1].start().ready()
        until(lambda: run("repair").returncode == 0, "a repair of all replicas")
        done = run("verify", "plan", "--json")
        assert done.returncode == 0, done
        assert {one["version"] for one in json.loads(done.stdout)["names"]["plan"].values()} == {2}

    done = laila("replicas", "status", env=env)
    assert done.returncode == 2
    assert "secret_file" in done.stderr.decode()


def test_the_bar_is_for_terminals(tmp_path: Path) -> None:
    """On one it is drawn, and wiped at the end; elsewhere there is not a byte."""
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal, Bar("repairing", terminal) as bar:
        bar.turn(5, 10, 1 << 20)
        drawn = os.read(master, 4096).decode()
        bar.turn(10, 10)
    assert "repairing  [############            ]  50%  5 of 10 names  1.0 MiB" in drawn
    assert os.read(master, 4096).decode().endswith("\r\x1b[K")
    os.close(master)
    with (tmp_path / "file").open("w") as file, Bar("repairing", file) as bar:
        bar.turn(5, 10)
    assert (tmp_path / "file").read_text() == ""
