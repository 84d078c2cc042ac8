"""Nothing acknowledged is lost, however many write at once."""

from __future__ import annotations

import contextlib
import json
import threading
from pathlib import Path

from laila.maif import load_maif
from laila.shared import SharedArtifactStore
from tests.shared.child import Child, run

PROCESSES, EACH = 8, 25

ADDING = """
import sys
from laila.shared import SharedArtifactStore
with SharedArtifactStore(sys.argv[1]) as store:
    print("ready", flush=True)
    input()
    for number in range(int(sys.argv[3])):
        with store.edit("log", create=True) as log:
            log.add_json({"by": int(sys.argv[2]), "number": number})
    print("done", flush=True)
"""
NAIVE_ADDING = """
import os, sys
from laila.maif import create_maif, load_maif
from tests.shared.seed import naive_store
store = naive_store()(sys.argv[1], sys.argv[1] + "-cache")
print("ready", flush=True)
input()
for number in range(int(sys.argv[3])):
    # `create` locks and `load` locks, but nothing holds the lock from the one to the other.
    path = f"{sys.argv[1]}/log.maif"
    log = store.load("log") if os.path.exists(path) else create_maif("log")
    log.add_json({"by": int(sys.argv[2]), "number": number})
    with store.locked_artifact("log", "w") as path:
        log.save(path)
print("done", flush=True)
"""


def add_at_once(code: str, shared: Path) -> None:
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(Child(code, shared, number, EACH)) for number in range(PROCESSES)]
        for child in children:
            assert child.hear() == "ready"
        for child in children:
            child.say()
        for child in children:
            assert child.hear() == "done"


def test_eight_processes_lose_none_of_their_additions(store: SharedArtifactStore, shared: Path) -> None:
    add_at_once(ADDING, shared)
    log = store.load("log")
    found = sorted((item["content"]["by"], item["content"]["number"]) for item in log.get_content_list())
    assert found == [(by, number) for by in range(PROCESSES) for number in range(EACH)]
    assert [version.sequence for version in log.history] == list(range(1, PROCESSES * EACH + 1))
    fences = [version.fence for version in log.history]
    assert fences == sorted(set(fences))


def test_threads_of_one_store_lose_none(store: SharedArtifactStore) -> None:
    problems: list[str] = []

    def add(by: int) -> None:
        try:
            for number in range(5):
                with store.edit("log", create=True) as log:
                    log.add_json([by, number])
                assert store.load_cached("log").sequence
        except Exception as error:  # judged by the test's own thread
            problems.append(repr(error))

    threads = [threading.Thread(target=add, args=(by,)) for by in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    found = sorted(item["content"] for item in store.load("log").get_content_list())
    assert found == [[by, number] for by in range(6) for number in range(5)]


FORKED = """
import os, sys
from laila.shared import SharedArtifactStore
with SharedArtifactStore(sys.argv[1]) as store:
    store.create("log", "parent")
    with store.edit("log") as log:
        log.add_text("parent again")
        pid = os.fork()
        if pid == 0:
            # The child holds nothing of its parent's, and waits for it as any other process does.
            try:
                store.add("log", "child")
                os._exit(0)
            finally:
                os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    print([item["text"] for item in store.load("log").get_content_list()])
"""


def test_a_forked_child_may_go_on_with_the_store(shared: Path) -> None:
    assert run(FORKED, shared) == "['parent', 'parent again', 'child']\n"


def test_the_seeds_interface_loses_some(shared: Path) -> None:
    """The hole: it has no read-modify-write, so whoever adds by loading and saving overwrites what came in between."""
    add_at_once(NAIVE_ADDING, shared)
    found = {json.dumps(item["content"]) for item in load_maif(shared / "log.maif").get_content_list()}
    assert len(found) < PROCESSES * EACH
