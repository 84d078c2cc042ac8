"""Results: once per task and agent, from whom, by whom they may be read, and how one waits for them."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from laila.agents import DistributedAgent
from laila.agents.vetting import MAX_FILE
from laila.artifacts import TrustSet, create_maif, load_maif
from laila.errors import (
    AlreadyPublished,
    ArtifactCorrupt,
    ArtifactError,
    BadValue,
    DeadlineExceeded,
    Denied,
    LimitExceeded,
    StorageError,
    Unsigned,
    UnsupportedType,
    UntrustedSigner,
)
from laila.transport.identity import Identity
from tests.agents.conftest import Nodes
from tests.agents.support import finish, flip, mounts, run, seed_class, start

Make = Callable[..., DistributedAgent]


def content(agent: DistributedAgent, task_id: str) -> Any:
    found = agent.get_result(task_id)
    return None if found is None else found["result"]


def files(shared: Path) -> list[Path]:
    return sorted(path for path in (shared / "results").rglob("*.maif"))


def test_what_a_result_says(make: Make, nodes: Nodes) -> None:
    """The seed's keys, who signed it and why that is believed, and that the agent is registered."""
    agent = make("worker-1", **nodes.options(0))
    agent.register()
    published = agent.publish_result("task-1", {"n": 1, "deep": {"a": [1, None, "é"]}})
    found = make("reader", **nodes.options(1)).get_result("task-1")
    assert found == published
    assert found is not None
    assert (found["task_id"], found["agent_id"], found["status"]) == ("task-1", "worker-1", "ok")
    assert found["result"] == {"n": 1, "deep": {"a": [1, None, "é"]}}
    assert found["signed_by"] == f"node {nodes.identities[0].node_id}, a pinned key"
    assert found["signer"] == nodes.identities[0].key.public_key().public_bytes_raw().hex()
    assert found["registered"] is True
    assert found["timestamp"].endswith("+00:00")


def test_none_is_no_result(make: Make) -> None:
    """Neither before anything was published, nor for another task."""
    agent = make("worker-1")
    assert (agent.get_result("task-1"), agent.get_results("task-1"), agent.results()) == (None, [], [])
    agent.publish_result("task-1", {})
    assert (agent.get_result("task-2"), agent.get_results("task-2")) == (None, [])


def test_written_once(make: Make) -> None:
    """The same again is no error, another is; the first stays. Order of keys and tuples do not make another."""
    agent = make("worker-1")
    first = agent.publish_result("task-1", {"a": 1, "b": (1, 2)})
    again = make("worker-1").publish_result("task-1", {"b": [1, 2], "a": 1})
    assert again == first
    for other in ({"a": 2}, {"a": True, "b": [1, 2]}, {"a": 1.0, "b": [1, 2]}, {}):
        with pytest.raises(AlreadyPublished, match="use another task id"):
            agent.publish_result("task-1", other)
    assert content(agent, "task-1") == {"a": 1, "b": [1, 2]}


def test_all_agents_of_a_task(make: Make) -> None:
    """Each agent has its own; the first one is what `get_result` and the seed's name give."""
    agents = [make(f"worker-{n}") for n in (2, 0, 1)]
    for agent in agents:
        agent.register()
        agent.publish_result("task-1", {"by": agent.agent_id})
    reader = make("reader")
    assert content(reader, "task-1") == {"by": "worker-2"}
    assert [one["agent_id"] for one in reader.get_results("task-1")] == ["worker-2", "worker-0", "worker-1"]
    listed = reader.results()
    assert sorted((one["agent_id"], one["status"]) for one in listed) == [
        (f"worker-{n}", "ok") for n in range(3)
    ]
    assert all("result" not in one for one in listed)


def test_one_of_many_writers_wins(shared: Path, make: Make) -> None:
    """Eight processes publish different results for one agent and task: one is told yes, all others what is there."""
    code = """
import sys
from laila.agents import DistributedAgent
from laila.errors import AlreadyPublished
agent = DistributedAgent("worker", sys.argv[1])
print("ready", flush=True); sys.stdin.readline()
for task in range(10):
    try:
        agent.publish_result(f"task-{task}", {"by": sys.argv[2]})
        print(task)
    except AlreadyPublished:
        pass
"""
    children = [start(code, shared, number) for number in range(8)]
    for child in children:
        assert child.stdout is not None
        child.stdout.readline()
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    won = [
        (int(task), str(number)) for number, child in enumerate(children) for task in finish(child).split()
    ]
    reader = make("reader")
    assert sorted(won) == [(task, content(reader, f"task-{task}")["by"]) for task in range(10)]


@pytest.mark.parametrize(
    ("result", "error"),
    [
        ([1], UnsupportedType),
        ({"a": object()}, UnsupportedType),
        ({"a": b"bytes"}, UnsupportedType),
        ({"a": float("inf")}, BadValue),
        ({"a": "\udc80"}, BadValue),
        ({"a": "x" * (17 << 20)}, LimitExceeded),
    ],
)
def test_bad_results(make: Make, shared: Path, result: Any, error: type[Exception]) -> None:
    """Refused before anything is written."""
    with pytest.raises(error):
        make("worker-1").publish_result("task-1", result)
    assert not (shared / "results").exists()


def test_names_in_any_letters(make: Make) -> None:
    """Long and foreign names work for agents and tasks."""
    for name in ("é" * 60, "名前", "a" * 120, "spaces in it", "x.maif", "x"):
        agent = make(name)
        agent.register()
        agent.publish_result(name, {"by": name})
        assert content(make("reader"), name) == {"by": name}
    assert len(make("reader").get_active_agents()) == 6
    assert len(make("reader").results()) == 6


# -- whom to believe ---------------------------------------------------------------------------------------


def test_a_strangers_result(make: Make, nodes: Nodes) -> None:
    """Raised by who asks for it and who waits for it, listed as untrusted, its content shown nowhere."""
    make("worker-1", identity=Identity.ephemeral(), trust=TrustSet()).publish_result("task-1", {"evil": 1})
    reader = make("reader", **nodes.options(0))
    for call in (reader.get_result, lambda task: reader.wait_result(task, 5)):
        with pytest.raises(UntrustedSigner, match="does not trust"):
            call("task-1")
    (listed,) = reader.results()
    (found,) = reader.get_results("task-1")
    assert (listed["status"], found["status"], found["result"]) == ("untrusted", "untrusted", None)
    assert "evil" not in repr((listed, found))


def test_a_trusted_result_beside_a_strangers(make: Make, nodes: Nodes) -> None:
    """A stranger who was first keeps nobody from the result of somebody trusted."""
    make("stranger", identity=Identity.ephemeral(), trust=TrustSet()).publish_result("task-1", {"evil": 1})
    make("worker-1", **nodes.options(1)).publish_result("task-1", {"n": 1})
    reader = make("reader", **nodes.options(0))
    assert content(reader, "task-1") == {"n": 1}
    assert sorted(one["status"] for one in reader.get_results("task-1")) == ["ok", "untrusted"]


def test_another_members_forgery(make: Make, nodes: Nodes) -> None:
    """A trusted node that publishes in the name of an agent that another node registered is found out."""
    forger = make("worker-1", **nodes.options(1))
    forger.publish_result("task-1", {"n": 1})
    make("worker-1", **nodes.options(0)).register()
    reader = make("reader", **nodes.options(2))
    with pytest.raises(UntrustedSigner, match="registered under another key"):
        reader.get_result("task-1")
    (listed,) = reader.results()
    assert (listed["status"], listed["agent_id"]) == ("untrusted", "worker-1")
    with pytest.raises(Denied, match="registered under another key"):
        forger.publish_result("task-2", {})


def test_a_forgery_in_my_place(make: Make, nodes: Nodes, shared: Path) -> None:
    """What a stranger put under my name is moved out of the way when I publish."""
    make("worker-1", identity=Identity.ephemeral(), trust=TrustSet()).publish_result("task-1", {"evil": 1})
    agent = make("worker-1", **nodes.options(0))
    agent.publish_result("task-1", {"n": 1})
    assert content(make("reader", **nodes.options(1)), "task-1") == {"n": 1}
    (kept,) = (shared / ".laila" / "set-aside").iterdir()
    assert load_maif(kept).verify()


def test_unsigned_result(make: Make, shared: Path) -> None:
    """Nobody stands for it."""
    make("reader")
    (shared / "results").mkdir()
    artifact = create_maif("x")
    artifact.add_text('{"task_id": "task-1", "agent_id": "a", "result": {}, "timestamp": ""}')
    with pytest.warns(UserWarning, match="without signatures"):
        artifact.save(shared / "results" / "task-1.maif", sign=False)
    with pytest.raises(Unsigned):
        make("reader").get_result("task-1")
    assert [one["status"] for one in make("reader").results()] == ["unsigned"]


_RESULT = '{"task_id": "%s", "agent_id": "a", "result": %s, "timestamp": ""}'


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", "[" * 100_000, _RESULT % ("task-2", "{}"), _RESULT % ("task-1", "[]")]
)
def test_signed_nonsense(make: Make, shared: Path, text: str) -> None:
    """A file by somebody trusted that holds no result, or another task's, is damage."""
    make("reader")
    (shared / "results").mkdir()
    artifact = create_maif("x")
    artifact.add_text(text)
    artifact.save(shared / "results" / "task-1.maif")
    with pytest.raises(ArtifactCorrupt):
        make("reader").get_result("task-1")
    assert [one["status"] for one in make("reader").results()] == ["damaged"]


# -- damage ------------------------------------------------------------------------------------------------


def test_every_flip_is_found(make: Make, shared: Path) -> None:
    """Bytes all over a result's file are flipped, one at a time: an error each time, never another content."""
    make("worker-1").publish_result("task-1", {"n": 1})
    path = shared / "results" / "task-1.maif"
    reader = make("reader")
    size = path.stat().st_size
    for at in range(0, size, 41):
        flip(path, at)
        with pytest.raises(ArtifactError):
            reader.get_result("task-1")
        assert reader.results()[0]["status"] != "ok"
        flip(path, at)
    assert content(reader, "task-1") == {"n": 1}


def test_every_truncation_is_found(make: Make, shared: Path) -> None:
    """A file that ends early, wherever, is an error."""
    make("worker-1").publish_result("task-1", {"n": 1})
    path = shared / "results" / "task-1.maif"
    data = path.read_bytes()
    for size in range(0, len(data), 97):
        path.write_bytes(data[:size])
        with pytest.raises(ArtifactError):
            make("reader").get_result("task-1")


def test_damage_is_healed_by_publishing_again(make: Make, shared: Path) -> None:
    """The damaged file is kept aside; the result is there again under both names."""
    agent = make("worker-1")
    agent.publish_result("task-1", {"n": 1})
    flip(shared / "results" / "task-1.maif", 900)
    agent.publish_result("task-1", {"n": 1})
    assert content(make("reader"), "task-1") == {"n": 1}
    assert seed_class()("r", str(shared)).get_result("task-1")["result"] == {"n": 1}
    assert all(load_maif(path).verify() for path in files(shared))
    assert len(list((shared / ".laila" / "set-aside").iterdir())) == 2


def test_first_name_is_put_back(make: Make, shared: Path) -> None:
    """Killed between the two names, or one of them removed: readers find it, publishing again completes it."""
    agent = make("worker-1")
    agent.publish_result("task-1", {"n": 1})
    (shared / "results" / "task-1.maif").unlink()
    assert content(make("reader"), "task-1") == {"n": 1}
    assert [one["task_id"] for one in make("reader").results()] == ["task-1"]
    agent.publish_result("task-1", {"n": 1})
    assert seed_class()("r", str(shared)).get_result("task-1")["result"] == {"n": 1}


def test_a_giant_file_is_not_read(make: Make, shared: Path) -> None:
    """What is larger than any result is refused by its size."""
    make("reader")
    (shared / "results").mkdir()
    with (shared / "results" / "task-1.maif").open("wb") as file:
        file.write(b"MAIF")
        file.truncate(MAX_FILE * 1000)
    with pytest.raises(ArtifactCorrupt, match="at most"):
        make("reader").get_result("task-1")


def test_durable_when_it_returns(make: Make, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and the directories that name them were fsynced before register and publish_result return."""
    synced: set[int] = set()
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", spy)
    agent = make("worker-1")
    for _ in range(2):
        agent.register()
        paths = [shared, shared / "agent_states.maif", shared / "agents", shared / "agents" / "worker-1.maif"]
        assert {path.stat().st_ino for path in paths} <= synced
        synced.clear()
    agent.publish_result("task-1", {})
    own = next(path for path in files(shared) if path.name == "worker-1.maif")
    chain = [own, *own.parents]
    assert {path.stat().st_ino for path in chain[: chain.index(shared) + 1]} <= synced


def test_strange_files_do_not_stop_a_listing(make: Make, shared: Path) -> None:
    """Names that no task has, directories, pipes and links to nowhere."""
    make("worker-1").publish_result("task-1", {})
    results = shared / "results"
    (results / "dir.maif").mkdir()
    os.mkfifo(results / "pipe.maif")
    (results / "link.maif").symlink_to("/nonexistent")
    (results / "bad\nname.maif").write_text("")
    (results / ".by-agent" / "zz").write_text("")
    (results / ".by-agent" / "00" / "task-9").mkdir(parents=True, exist_ok=True)
    found = {one["task_id"]: one["status"] for one in make("reader").results()}
    assert found == {"dir": "damaged", "pipe": "damaged", "task-1": "ok"}


def test_without_hard_links(make: Make, shared: Path, nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that refuses links: everything goes by lock and rename, and is still written once."""

    def refuse(*args: object, **options: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    first, second = make("worker-1", **nodes.options(0)), make("worker-2", **nodes.options(1))
    first.register()
    second.register()
    first.publish_result("task-1", {"n": 1})
    second.publish_result("task-1", {"n": 2})
    with pytest.raises(AlreadyPublished):
        first.publish_result("task-1", {"n": 3})
    reader = make("reader", **nodes.options(2))
    assert len(reader.get_active_agents()) == 2
    assert content(reader, "task-1") == {"n": 1}
    assert [one["agent_id"] for one in reader.get_results("task-1")] == ["worker-1", "worker-2"]
    assert len(files(shared)) == 3
    assert all(path.stat().st_nlink == 1 for path in files(shared))


# -- reading and waiting -----------------------------------------------------------------------------------


@mounts
def test_reading_needs_no_write_permission(make: Make, shared: Path) -> None:
    """On a read-only mount everything that reads works, and what writes says why it cannot."""
    agent = make("worker-1")
    agent.register()
    agent.publish_result("task-1", {"n": 1})
    before = sorted(path for path in shared.rglob("*"))
    said = run(
        """
import sys
from laila.agents import DistributedAgent
from laila.errors import LailaError
agent = DistributedAgent("reader", sys.argv[1])
print([one["agent_id"] for one in agent.get_active_agents()], len(agent.agents()), len(agent.results()))
print(agent.get_result("task-1")["result"], agent.wait_result("task-1", 5)["result"], len(agent.get_results("task-1")))
for call in (agent.register, lambda: agent.publish_result("task-2", {})):
    try:
        call()
    except LailaError as error:
        print(type(error).__name__, error.reason)
agent.close()
""",
        shared,
        before=["unshare", "-m", "sh", "-c",
                'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"', str(shared)],
    )  # fmt: skip
    assert said.splitlines() == [
        "['worker-1'] 1 1", "{'n': 1} {'n': 1} 1", "StorageError EROFS", "StorageError EROFS",
    ]  # fmt: skip
    assert sorted(path for path in shared.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up the rights of root, so it needs them")
def test_permission_denied(make: Make, shared: Path) -> None:
    """Another user's file that may not be read: an error with the reason, no `None`."""
    agent = make("worker-1")
    agent.publish_result("task-1", {"n": 1})
    said = run(
        """
import ctypes, sys
from pathlib import Path
from laila.agents.directory import Directory
from laila.artifacts import TrustSet
from laila.errors import StorageError
directory = Directory(sys.argv[1], TrustSet())
for path in Path(sys.argv[1]).rglob("*.maif"):
    path.chmod(0)
# root without its right to read everything
libc = ctypes.CDLL(None, use_errno=True)
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
data = (ctypes.c_uint32 * 6)(*[0] * 6)
assert libc.capset(header, data) == 0
try:
    directory.get_result("task-1")
except StorageError as error:
    print(error.reason)
""",
        shared,
    )
    assert said == "EACCES\n"


def test_waiting_for_another_process(make: Make, shared: Path) -> None:
    """Returns what appears while it waits."""
    code = """
import sys, time
from laila.agents import DistributedAgent
agent = DistributedAgent("worker-1", sys.argv[1])
print("ready", flush=True); sys.stdin.readline(); time.sleep(0.5)
agent.publish_result("task-1", {"n": 1})
"""
    child = start(code, shared)
    assert child.stdout is not None
    assert child.stdin is not None
    child.stdout.readline()
    child.stdin.write("\n")
    child.stdin.flush()
    assert make("reader").wait_result("task-1", 30)["result"] == {"n": 1}
    finish(child)


def test_waiting_ends(make: Make) -> None:
    """With an error that says on what it waited; with the agent's own timeout when none is given."""
    with pytest.raises(DeadlineExceeded, match="a result of task 'task-1'"):
        make("reader").wait_result("task-1", 0.1)
    with pytest.raises(DeadlineExceeded, match="0.2 s"):
        make("impatient", timeout=0.2).wait_result("task-1")
    with pytest.raises(DeadlineExceeded):
        make("reader").wait_result("task-1", 0)
    for timeout in (-1, float("nan"), "x"):
        with pytest.raises(BadValue, match="timeout"):
            make("reader").wait_result("task-1", timeout)  # type: ignore[arg-type]  # on purpose


def test_waiting_does_not_hammer(make: Make, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a second and a half some twenty looks, and none after half a second without."""
    looks: list[float] = []
    agent = make("reader")
    look = agent._directory.get_result
    monkeypatch.setattr(
        agent._directory, "get_result", lambda task: (looks.append(time.monotonic()), look(task))[1]
    )
    with pytest.raises(DeadlineExceeded):
        agent.wait_result("task-1", 1.5)
    assert 8 <= len(looks) <= 30


def test_waiting_in_a_coroutine(make: Make) -> None:
    """The event loop goes on, several waits go on at once, and a cancelled one ends."""
    agent, reader = make("worker-1"), make("reader")
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    async def everything() -> list[dict[str, Any]]:
        counting = asyncio.create_task(count())
        waiting = [asyncio.create_task(reader.wait_result_async(f"task-{n}", 30)) for n in range(5)]
        cancelled = asyncio.create_task(reader.wait_result_async("never", 30))
        await asyncio.sleep(0.3)
        for n in range(5):
            await asyncio.to_thread(agent.publish_result, f"task-{n}", {"n": n})
        found = await asyncio.gather(*waiting)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        with pytest.raises(DeadlineExceeded):
            await reader.wait_result_async("never", 0.05)
        counting.cancel()
        return found

    assert [one["result"] for one in asyncio.run(everything())] == [{"n": n} for n in range(5)]
    assert turns > 10


def test_threads_share_an_agent(make: Make) -> None:
    """Eight threads publish and read with one agent."""
    agent = make("worker-1").start_heartbeat(0.05)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for n in range(10):
                agent.publish_result(f"task-{number}-{n}", {"n": n})
                assert content(agent, f"task-{number}-{n}") == {"n": n}
                agent.get_active_agents()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert len(agent.results()) == 80


def test_results_directory_copied_elsewhere(make: Make, shared: Path, tmp_path: Path) -> None:
    """A copy, whose files are no links of each other any more, lists each result once."""
    make("worker-1").publish_result("task-1", {"n": 1})
    shutil.copytree(shared, tmp_path / "copy")
    reader = make("reader", tmp_path / "copy")
    assert [(one["task_id"], one["agent_id"]) for one in reader.results()] == [("task-1", "worker-1")]


def test_a_file_in_the_way(make: Make, shared: Path) -> None:
    """A file where the directory of results should be."""
    agent = make("worker-1")
    (shared / "results").write_text("")
    with pytest.raises(StorageError):
        agent.publish_result("task-1", {})
