"""Registering: who may, what is kept, and what a killed, refused or damaged registration leaves."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laila.agents import DistributedAgent
from laila.agents import enrolment as enrolment_module
from laila.agents import refresh as refresh_module
from laila.agents.directory import Directory
from laila.agents.records import Registration
from laila.artifacts import TrustSet, create_maif, load_maif, read_head
from laila.artifacts.canonical import content_hash
from laila.artifacts.layout import BLOCK_HEADER, FILE_HEADER, FOOTER, unpack_block
from laila.errors import (
    ArtifactNotFound,
    BadValue,
    Closed,
    Denied,
    LimitExceeded,
    LockTimeout,
    StorageError,
    UnsafeVolume,
    UnsupportedType,
)
from laila.locks import FlockService
from laila.secret import new_secret
from laila.transport.identity import Identity
from laila.volumes.verdict import UNSAFE, Verdict, assess, keep
from tests.agents.conftest import Nodes
from tests.agents.support import finish, flip, ids, mounts, run, seed_class, start, until

Make = Callable[..., DistributedAgent]


def statuses(agent: DistributedAgent) -> dict[str, str]:
    return {one["agent_id"]: one["status"] for one in agent.agents()}


def test_what_a_registration_says(make: Make, shared: Path) -> None:
    """Capabilities, metadata, where it runs and who signed are listed; a capability chooses."""
    agent = make("worker-1", capabilities=["resize", "crop", "crop"], node="n7")
    said = agent.register(metadata={"gpu": [1, 2], "name": "é"})
    make("worker-2").register(capabilities=["encode"])
    (found,) = agent.get_active_agents(capability="crop")
    assert found["capabilities"] == ["crop", "resize"]
    assert (found["metadata"], found["node"]) == ({"gpu": [1, 2], "name": "é"}, "n7")
    assert found["signer"] == load_maif(shared / "agents" / "worker-1.maif").signer
    assert found["signed_by"].endswith(", a pinned key")
    assert said["agent_id"] == "worker-1"
    assert ids(agent.get_active_agents("encode")) == ["worker-2"]
    assert agent.get_active_agents("fly") == []
    assert agent.register(capabilities=["fly"])["capabilities"] == ["fly"]
    assert ids(agent.get_active_agents("fly")) == ["worker-1"]


def test_registration_is_one_signed_version_of_its_name(make: Make, shared: Path) -> None:
    """Each registration is a version after the one before: name, rising sequence, parent root."""
    agent = make("worker-1")
    agent.register()
    first = load_maif(shared / "agents" / "worker-1.maif")
    agent.register()
    second = load_maif(shared / "agents" / "worker-1.maif")
    assert first.verify()
    assert second.verify()
    assert first.name == second.name == "worker-1"
    assert second.sequence > first.sequence
    assert second.history[-1].parent == first.root
    assert second.fence > 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"capabilities": "resize"}, BadValue),
        ({"capabilities": ["a/b"]}, BadValue),
        ({"capabilities": [f"c{n}" for n in range(300)]}, LimitExceeded),
        ({"expiry": 0}, BadValue),
        ({"expiry": float("nan")}, BadValue),
        ({"expiry": True}, BadValue),
        ({"timeout": -1}, BadValue),
        ({"identity": "key"}, BadValue),
    ],
)
def test_bad_arguments(make: Make, options: dict[str, object], error: type[Exception]) -> None:
    """Each is refused when the agent is made, by an error that says what is wanted."""
    with pytest.raises(error):
        make("worker-1", **options)


def test_bad_metadata(make: Make) -> None:
    """What JSON cannot say, or too much of it, is refused before anything is written."""
    agent = make("worker-1")
    for metadata, error in (
        ({"a": object()}, UnsupportedType),
        ([1], UnsupportedType),
        ({"a": float("nan")}, BadValue),
        ({"a": "x" * 70_000}, LimitExceeded),
        ({"a": "\ud800"}, BadValue),
    ):
        with pytest.raises(error):
            agent.register(metadata=metadata)  # type: ignore[arg-type]  # on purpose
    assert agent.agents() == []


def test_first_key_owns_the_name(make: Make, nodes: Nodes) -> None:
    """Another trusted key is refused while the agent is alive; the same key is not."""
    make("worker-1", **nodes.options(0)).register()
    with pytest.raises(Denied, match="registered by another key.*and alive"):
        make("worker-1", **nodes.options(1)).register()
    make("worker-1", **nodes.options(0)).register()
    reader = make("reader", **nodes.options(2))
    (agent,) = reader.get_active_agents()
    assert agent["signer"] == nodes.identities[0].key.public_key().public_bytes_raw().hex()


def test_one_of_many_keys_wins(shared: Path, state: Path) -> None:
    """Six processes with six keys register one id at once: exactly one is not refused."""
    code = """
import sys
from laila.agents import DistributedAgent
from laila.artifacts import TrustSet
from laila.errors import Denied
from laila.secret import new_secret
from laila.transport.identity import Identity
shared, keys, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
all = [Identity.load_or_create(f"{keys}/{n}") for n in range(6)]
agent = DistributedAgent("worker", shared, identity=all[number], trust=TrustSet(all))
print("ready", flush=True); sys.stdin.readline()
try:
    agent.register()
    print("mine")
except Denied:
    print("refused")
"""
    identities = [Identity.load_or_create(state / "keys" / str(n)) for n in range(6)]
    children = [start(code, shared, state / "keys", number) for number in range(6)]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    said = [finish(child).strip() for child in children]
    assert sorted(said) == ["mine"] + ["refused"] * 5
    (agent,) = Directory(shared, TrustSet(identities)).agents()
    assert agent["signer"] == identities[said.index("mine")].key.public_key().public_bytes_raw().hex()


def test_a_name_is_free_after_deregistering(make: Make, nodes: Nodes) -> None:
    """Then another key may have it, and what the first one published is still believed."""
    first = make("worker-1", **nodes.options(0))
    first.register()
    first.publish_result("task-1", {"n": 1})
    first.deregister()
    first.deregister()
    assert statuses(first) == {"worker-1": "gone"}
    assert first.get_active_agents() == []
    second = make("worker-1", **nodes.options(1))
    second.register()
    result = make("reader", **nodes.options(2)).get_result("task-1")
    assert result is not None
    assert (result["result"], result["registered"]) == ({"n": 1}, True)
    with pytest.raises(ArtifactNotFound, match="has not registered here"):
        first.heartbeat()
    with pytest.raises(Denied, match="only that key can deregister"):
        first.deregister()
    with pytest.raises(Denied):
        first.register()
    assert statuses(second) == {"worker-1": "active"}


def test_a_name_is_free_after_expiry(make: Make, nodes: Nodes) -> None:
    """An agent that stopped beating loses its name to who registers next, and learns that when it comes back."""
    first = make("worker-1", expiry=0.3, **nodes.options(0))
    first.register()
    second = make("worker-1", **nodes.options(1))
    until(lambda: statuses(second) == {"worker-1": "expired"}, "expiry")
    second.register()
    with pytest.raises(Denied, match="took the id over"):
        first.heartbeat()
    with pytest.raises(ArtifactNotFound):
        first.heartbeat()
    assert statuses(second) == {"worker-1": "active"}


def test_deregistering_needs_a_registration(make: Make) -> None:
    """Nobody there: an error that says so."""
    with pytest.raises(ArtifactNotFound, match="'worker-1' is not registered"):
        make("worker-1").deregister()


def test_strangers_are_listed_and_not_served(make: Make, shared: Path, nodes: Nodes) -> None:
    """A stranger's registration is shown as untrusted, is not active, and keeps nobody from the name."""
    make("worker-1", identity=Identity.ephemeral(), trust=TrustSet()).register()
    agent = make("worker-1", **nodes.options(0))
    (found,) = agent.agents()
    assert (found["agent_id"], found["status"]) == ("worker-1", "untrusted")
    assert "whom this reader does not trust" in found["problem"]
    assert agent.get_active_agents() == []
    agent.register()
    assert statuses(agent) == {"worker-1": "active"}
    assert any(path.name.startswith("worker-1.maif.") for path in (shared / ".laila" / "set-aside").iterdir())


def test_overtaken_while_moving_a_stranger_away(
    make: Make, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who registers the name in the instant when it is free has it, and is not replaced by whoever made it free."""
    make("worker-1", identity=Identity.ephemeral(), trust=TrustSet()).register()
    set_aside = enrolment_module.set_aside

    def and_then_somebody_registers(*arguments: Any) -> None:
        set_aside(*arguments)
        make("worker-1", timeout=0.1, **nodes.options(1))._enrolment.enter(
            Registration("worker-1", "now", expiry=30.0, at=1)
        )

    monkeypatch.setattr(enrolment_module, "set_aside", and_then_somebody_registers)
    with pytest.raises(Denied, match="and alive"):
        make("worker-1", **nodes.options(0)).register()
    (agent,) = make("reader", **nodes.options(2)).agents()
    assert agent["signer"] == nodes.identities[1].key.public_key().public_bytes_raw().hex()


def test_a_strangers_summary_is_set_aside(make: Make, shared: Path, nodes: Nodes) -> None:
    """Nothing that a stranger signed is taken over under our signature; it is kept, and listed before that."""
    seed_class()("stranger", str(shared)).register()
    agent = make("worker-1", **nodes.options(0))
    assert statuses(agent) == {"stranger": "untrusted"}
    agent.register()
    assert ids(seed_class()("r", str(shared)).get_active_agents()) == ["worker-1"]
    (kept,) = (shared / ".laila" / "set-aside").iterdir()
    assert load_maif(kept).verify()


def test_voucher_of_the_cluster(make: Make) -> None:
    """Agents that know the cluster's secret trust each other without knowing each other's keys; others do not."""
    secret = new_secret()
    first = make("worker-1", identity=Identity.ephemeral(), secret=secret)
    first.register()
    first.publish_result("task-1", {})
    second = make("worker-2", identity=Identity.ephemeral(), secret=secret)
    (agent,) = second.get_active_agents()
    assert "vouches for" in agent["signed_by"]
    assert second.get_result("task-1") is not None
    assert statuses(make("w", identity=Identity.ephemeral(), trust=TrustSet())) == {"worker-1": "untrusted"}


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "text", "directory"])
def test_damaged_registration(make: Make, shared: Path, damage: str) -> None:
    """It is listed as damaged, is not active, and registering again puts it right."""
    agent, reader = make("worker-1"), make("reader")
    agent.register()
    path = shared / "agents" / "worker-1.maif"
    if damage == "directory":
        path.unlink()
        path.mkdir()
    elif damage == "flipped":
        flip(path, 900)
    else:
        path.write_bytes({"empty": b"", "truncated": path.read_bytes()[:-50], "text": b"hello" * 300}[damage])
    assert statuses(reader) == {"worker-1": "damaged"}
    assert reader.get_active_agents() == []
    agent.register()
    assert statuses(reader) == {"worker-1": "active"}


def test_another_agents_registration_in_its_place(make: Make, shared: Path) -> None:
    """A valid file under another agent's name is damage, not that agent."""
    agent = make("worker-1")
    agent.register()
    make("worker-2").register()
    shutil.copy(shared / "agents" / "worker-2.maif", shared / "agents" / "worker-1.maif")
    assert statuses(agent) == {"worker-1": "damaged", "worker-2": "active"}


@pytest.mark.parametrize(
    "wrong", ["no lineage", "another name", "another number", "no JSON", "another agent", "no text"]
)
def test_signed_nonsense(make: Make, shared: Path, wrong: str) -> None:
    """A file that somebody trusted signed, but which is no registration of this agent, is damage."""
    agent = make("worker-1")
    agent.register()
    path = shared / "agents" / "worker-1.maif"
    text = load_maif(path).get_content_list()[0]["text"]
    sequence = load_maif(path).sequence
    artifact = create_maif("x")
    if wrong == "no text":
        artifact.add_binary(text.encode())
    else:
        said = {"no JSON": "hello", "another agent": text.replace("worker-1", "worker-2")}
        artifact.add_text(said.get(wrong, text))
    if wrong != "no lineage":
        name = "worker-2" if wrong == "another name" else "worker-1"
        artifact.name_as(name, sequence=sequence + (wrong == "another number"))
    artifact.save(path)
    assert statuses(make("reader")) == {"worker-1": "damaged"}


@pytest.mark.parametrize("thorough", [False, True])
def test_a_forged_text(make: Make, shared: Path, thorough: bool) -> None:
    """Whoever changes a text and makes every hash fit again, but has no key, is found out by listings too."""
    make("worker-1", capabilities=["harmless"]).register()
    path = shared / "agents" / "worker-1.maif"
    data = bytearray(path.read_bytes())
    at = data.index(b"harmless")
    data[at : at + 8] = b"powerful"
    if thorough:
        front, _, metadata_size, _ = unpack_block(bytes(data[FILE_HEADER : FILE_HEADER + BLOCK_HEADER]))
        end = FILE_HEADER + front.size
        fresh = content_hash(
            data[FILE_HEADER + BLOCK_HEADER : end - metadata_size], bytes(data[end - metadata_size : end])
        )
        data = bytearray(bytes(data).replace(front.content_hash, fresh))
    data[-FOOTER + 12 : -4] = hashlib.sha256(data[:-FOOTER]).digest()
    path.write_bytes(data)
    assert statuses(make("reader")) == {"worker-1": "damaged"}


def test_an_older_registration_put_back(make: Make, shared: Path) -> None:
    """Who has seen the newer one says so."""
    agent, reader = make("worker-1"), make("reader")
    agent.register()
    path = shared / "agents" / "worker-1.maif"
    old = path.read_bytes()
    agent.deregister()
    assert statuses(reader) == {"worker-1": "gone"}
    path.write_bytes(old)
    assert statuses(reader) == {"worker-1": "rolled back"}
    assert reader.get_active_agents() == []


@pytest.mark.parametrize("damage", [b"", b"MAIF", b"x" * 5000])
def test_damaged_summary(make: Make, shared: Path, damage: bytes) -> None:
    """It keeps nobody from registering; it is set aside and made anew with everybody in it."""
    make("worker-1").register()
    (shared / "agent_states.maif").write_bytes(damage)
    reader = make("reader")
    assert statuses(reader) == {"": "damaged", "worker-1": "active"}
    make("worker-2").register()
    assert sorted(ids(seed_class()("r", str(shared)).get_active_agents())) == ["worker-1", "worker-2"]


def test_lock_held_by_somebody_else(make: Make, shared: Path) -> None:
    """A new agent is registered for all of ours; that the summary cannot be written is said, with who holds it."""
    make("worker-1").register()
    with FlockService(shared) as service, service.lock("agent_states").hold(5, purpose="a long look"):
        agent = make("worker-2", timeout=0.2)
        with pytest.raises(LockTimeout, match="a long look"):
            agent.register()
        assert ids(make("reader").get_active_agents()) == ["worker-1", "worker-2"]
        assert ids(seed_class()("r", str(shared)).get_active_agents()) == ["worker-1"]
    agent.heartbeat()
    agent.heartbeat()
    assert ids(seed_class()("r", str(shared)).get_active_agents()) == ["worker-1", "worker-2"]


def test_locks_by_address(make: Make, shared: Path, tmp_path: Path) -> None:
    """`locks=` takes the address of a service, or one that stays open when the agent is closed."""
    elsewhere = tmp_path / "locks"
    elsewhere.mkdir()
    make("worker-1", locks=f"flock:{elsewhere}").register()
    assert (elsewhere / "agent_states.lock").exists()
    assert not (shared / "agent_states.lock").exists()
    with FlockService(elsewhere) as service:
        with DistributedAgent("worker-2", shared, locks=service) as agent:
            agent.register()
        with service.lock("agent_states").hold(5):
            pass


def test_unsafe_volume(shared: Path, make: Make, tmp_path: Path) -> None:
    """Where locks are known not to exclude, flock on the volume is refused, and what to do instead is said."""
    shared.mkdir()
    keep(shared, Verdict(UNSAFE, "two held one lock", (), assess(shared).mount))
    with pytest.raises(UnsafeVolume, match=r"DistributedAgent\(id, path, locks="):
        make("worker-1")
    elsewhere = tmp_path / "locks"
    elsewhere.mkdir()
    make("worker-1", locks=f"flock:{elsewhere}").register()


def test_a_thousand_registrations_rewrite_the_summary_rarely(
    make: Make, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond some hundred agents the summary is rewritten for a quarter of them at once; beats take in what is left."""
    monkeypatch.setattr(refresh_module, "AT_ONCE", 8)
    sequences = []
    for number in range(40):
        make(f"w{number:02}").register()
        sequences.append(read_head(shared / "agent_states.maif").sequence)
    assert len(set(sequences)) < 20
    assert len(set(sequences[:7])) == 7
    seed = seed_class()("r", str(shared))
    assert len(seed.get_active_agents()) < 40
    last = make("w39")
    last.register()
    last.heartbeat()
    last.heartbeat()
    assert len(seed.get_active_agents()) == 40
    assert list((shared / "agents" / ".pending").iterdir()) == []


@mounts
def test_full_volume(shared: Path) -> None:
    """No space: an error with the reason, what was there stays whole, and afterwards it goes on."""
    shared.mkdir()
    said = run(
        """
import os, sys
from pathlib import Path
from laila.agents import DistributedAgent
from laila.errors import StorageError
from tests.agents.support import seed_class
shared = Path(sys.argv[1])
agent = DistributedAgent("worker-1", shared)
agent.register()
agent.publish_result("task-1", {"n": 1})
filler = shared / "filler"
with filler.open("wb", buffering=0) as file:
    try:
        while True:
            file.write(b"x" * 1024)
    except OSError as error:
        print(error.strerror)
second = DistributedAgent("worker-2", shared)
for call in (second.register, lambda: agent.publish_result("task-2", {"n": 2}), agent.register):
    try:
        call()
    except StorageError as error:
        print(error.reason, "free space" in str(error))
names = lambda: [one["agent_id"] for one in agent.get_active_agents()]
print(names(), agent.get_result("task-1")["result"], agent.get_result("task-2"))
print([one["agent_id"] for one in seed_class()("r", str(shared)).get_active_agents()])
filler.unlink()
second.register()
agent.publish_result("task-2", {"n": 2})
print(names(), agent.get_result("task-2")["result"])
""",
        shared,
        before=[
            "unshare",
            "-m",
            "sh",
            "-c",
            'mount -t tmpfs -o size=128k none "$0" && shift 0 && exec "$@"',
            str(shared),
        ],
    )
    assert said.splitlines() == [
        "No space left on device",
        "ENOSPC True",
        "ENOSPC True",
        "ENOSPC True",
        "['worker-1'] {'n': 1} None",
        "['worker-1']",
        "['worker-1', 'worker-2'] {'n': 2}",
    ]


@mounts
def test_volume_unmounted(shared: Path) -> None:
    """Everything says that the volume is out of reach; nothing is written into the empty directory below it."""
    shared.mkdir()
    said = run(
        """
import os, subprocess, sys
from pathlib import Path
from laila.agents import DistributedAgent
from laila.errors import StorageError
shared = Path(sys.argv[1])
agent = DistributedAgent("worker-1", shared)
agent.register()
agent.close()
agent = DistributedAgent("worker-1", shared)
subprocess.run(["umount", "-l", shared], check=True)
calls = {"register": agent.register, "agents": agent.agents, "get": lambda: agent.get_result("t"),
         "results": agent.results, "publish": lambda: agent.publish_result("t", {}),
         "wait": lambda: agent.wait_result("t", 5)}
for name, call in calls.items():
    try:
        call()
    except StorageError as error:
        print(name, error.reason)
print(os.listdir(shared))
""",
        shared,
        before=["unshare", "-m", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(shared)],
    )
    names = ["register", "agents", "get", "results", "publish", "wait"]
    assert said.splitlines() == [*(f"{name} ESTALE" for name in names), "[]"]


def test_closed_agent(make: Make) -> None:
    """It says so, whatever it is asked; closing twice is all right."""
    agent = make("worker-1")
    agent.register()
    agent.close()
    agent.close()
    for call in (agent.register, agent.heartbeat, agent.agents, agent.results, agent.deregister):
        with pytest.raises(Closed):
            call()
    assert "closed" in repr(agent)


def test_forgotten_agent_leaks_nothing(shared: Path) -> None:
    """An agent that nobody closed, as in the seed's program, warns of nothing; one that beats does."""
    run(
        "import sys, gc\nfrom laila.agents import DistributedAgent\n"
        "agent = DistributedAgent('w', sys.argv[1]); agent.register(); del agent; gc.collect()",
        shared,
    )
    agent = DistributedAgent("worker-1", shared)
    agent.register()
    agent.start_heartbeat(0.05)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del agent
        import gc

        until(lambda: gc.collect() or caught, "a warning")
    assert [one.category for one in caught] == [ResourceWarning]


def test_storage_error_is_one_sentence(shared: Path) -> None:
    """A path that is a file."""
    shared.write_text("")
    with pytest.raises(StorageError, match="file is where a directory is expected|File exists"):
        DistributedAgent("w", shared)
