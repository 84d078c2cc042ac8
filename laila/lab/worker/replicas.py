"""Operations on a replicated store, from beside one of its nodes: save, load, forget, and what the replica there has.

The worker is a peer of every node, so that it reaches what its node reaches, and nothing when its node is cut off. It
signs with the node's identity. A value is a text that says by itself whether it is whole: its last part is how often
it is repeated.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from laila.artifacts import Artifact, TrustSet, create_maif, default_identity, load_maif
from laila.artifacts.trust import known_secret
from laila.errors import ArtifactNotFound, BadValue, DeadlineExceeded, LailaError
from laila.lab.client import CLIENT_NAME
from laila.lab.worker.bench import Bench, Words, number, text

if TYPE_CHECKING:
    from laila.macros.defaults import DefaultPolicy
    from laila.replication.store import ReplicatedStore

_OPENED = "the replicated store"
_LOOK = 0.02
MOST = 4000
"""Files of a replica that one call tells of; more would not fit in a line."""


@dataclass(slots=True)
class Opened:
    """A store and the links to its nodes."""

    policy: DefaultPolicy
    store: ReplicatedStore

    def close(self) -> None:
        self.store.close()
        self.policy.close()


def replica_open(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Peer with every node (`nodes`: name to `host:port`) and open the store whose replicas they serve (`replicas`).

    `patience`: what each later operation may take, in seconds.
    """
    if _OPENED not in bench.things:
        nodes, replicas = words.get("nodes"), words.get("replicas")
        if not isinstance(nodes, dict) or not isinstance(replicas, list):
            raise BadValue("`nodes` must map names to host:port, and `replicas` be a list of places")
        bench.things[_OPENED] = _open(nodes, replicas, number(words, "patience"), time.monotonic() + timeout)
    return {"signer": default_identity().node_id}


def _open(nodes: dict[str, str], replicas: list[str], patience: float, until: float) -> Opened:
    from laila.macros.defaults import DefaultPolicy
    from laila.replication.store import ReplicatedStore

    secret = known_secret()
    if secret is None:
        raise BadValue("LAILA_SECRET_FILE names no secret, so no node lets this worker in")
    policy = DefaultPolicy(name=CLIENT_NAME)
    try:
        for address in nodes.values():
            host, _, port = address.rpartition(":")
            policy.communication.maintain(host, int(port), secret)
        while missing := set(nodes) - {link.peer_name for link in _up(policy)}:
            if time.monotonic() > until:
                raise DeadlineExceeded(f"no link to {', '.join(sorted(missing))}")
            time.sleep(_LOOK)
        return Opened(policy, ReplicatedStore(replicas, timeout=patience, policy=policy))
    except BaseException:
        policy.close()
        raise


def _up(policy: DefaultPolicy) -> Iterator[Any]:
    return (link for link in policy.communication.links() if link.state == "up")


def store_of(bench: Bench) -> ReplicatedStore:
    """Raises BadValue before `replica_open`."""
    opened = bench.things.get(_OPENED)
    if opened is None:
        raise BadValue("open the store first, by replica_open")
    store: ReplicatedStore = opened.store
    return store


# -- values -------------------------------------------------------------------------------------------------


def content_of(value: str) -> str:
    """The text of a value such as `7f3a-12`: the value, twelve times. Raises BadValue."""
    times = value.rpartition("-")[2]
    if not times.isdecimal() or not 0 < int(times) < 1_000_000 or " " in value:
        raise BadValue(f"`value` must be a word that ends with -COUNT, not {value!r}")
    return f"{value} " * int(times)


def value_of(artifact: Artifact) -> str:
    """The value whose text this is. What is no whole value gives a word that nobody ever writes."""
    items = artifact.get_content_list()
    found = str(items[0]["text"]) if items else ""
    value = found.partition(" ")[0]
    try:
        whole = len(items) == 1 and content_of(value) == found
    except BadValue:
        whole = False
    return value if whole else f"torn:{hashlib.sha256(found.encode()).hexdigest()[:16]}"


# -- operations ---------------------------------------------------------------------------------------------


def replica_save(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Save `value` under `name`: a version that is newer than all before."""
    artifact = create_maif("lab-check")
    artifact.add_text(content_of(text(words, "value")))
    store_of(bench).save(text(words, "name"), artifact)
    return {"sequence": artifact.sequence}


def replica_save_and_die(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Save as a writer that dies of SIGKILL once the replica `at` (a place) has it, and before any other was asked.

    It reaches into the register: nothing public stops halfway, and nothing should.
    """
    register, place = store_of(bench)._register, text(words, "at")
    put = register._put

    def put_and_die(view: Any, id: str, replica: Any, copy: Any) -> Any:
        if place not in [member.where for member in view if member.id == id]:
            time.sleep(timeout)
            raise DeadlineExceeded("this writer was to be dead by now")
        put(view, id, replica, copy)
        os.kill(os.getpid(), signal.SIGKILL)

    register._put = put_and_die  # type: ignore[method-assign]
    return replica_save(bench, words, timeout)


def replica_load(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Load `name`: its value and number; value null when there is none."""
    try:
        artifact = store_of(bench).load(text(words, "name"))
    except ArtifactNotFound:
        return {"value": None, "sequence": 0}
    return {"value": value_of(artifact), "sequence": artifact.sequence}


def replica_forget(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Forget `name`, which is there."""
    store_of(bench).forget(text(words, "name"))
    return {}


def replica_names(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    return {"names": list(store_of(bench).names())}


def replica_verify(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """`verify_replicas(name)`: what every replica says of it, by its place."""
    found = store_of(bench).verify_replicas(text(words, "name"))
    return {
        "replicas": {
            where: {key: _plain(value) for key, value in said.items()} for where, said in found.items()
        }
    }


def replica_repair(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """An explicit repair of all names: what it says it did."""
    return {"said": str(store_of(bench).repair())}


def replica_scrub(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Every replica reads all its bytes and verifies them."""
    return {"said": str(store_of(bench).scrub())}


def replica_holdings(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """What lies in this node's replica directory (`path`), by its own files, which nobody is asked about.

    `live` and `gone`: name to `[SHA-256 of the file, sequence, value or what is wrong]`; `quarantine`: file names.
    """
    place = bench.path(text(words, "path"))
    trust = TrustSet.default(default_identity(), None)
    kept = place / ".laila"
    return {
        "live": _files(place, trust),
        "gone": _files(kept / "gone", trust),
        "quarantine": _listed(kept / "quarantine"),
        "suspect": _listed(kept / "suspect"),
    }


def _files(directory: Path, trust: TrustSet) -> dict[str, list[Any]]:
    found = {}
    for name in _listed(directory)[:MOST]:
        if name.endswith(".maif"):
            told = _file(directory / name, trust)
            if told is not None:
                found[name.removesuffix(".maif")] = told
    return found


def _file(path: Path, trust: TrustSet) -> list[Any] | None:
    """None when it went away meanwhile."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        artifact = load_maif(path, trust=trust)
    except FileNotFoundError:
        return None
    except LailaError as error:
        return ["", 0, f"{type(error).__name__}: {error}"]
    gone = artifact.version is not None and artifact.version.gone
    return [digest, artifact.sequence, None if gone else value_of(artifact)]


def _listed(directory: Path) -> list[str]:
    try:
        return sorted(item.name for item in directory.iterdir())
    except FileNotFoundError:
        return []


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


OPERATIONS = {
    operation.__name__: operation
    for operation in (
        replica_open,
        replica_save,
        replica_save_and_die,
        replica_load,
        replica_forget,
        replica_names,
        replica_verify,
        replica_repair,
        replica_scrub,
        replica_holdings,
    )
}
