"""Operations on the artifacts of a store: publish and load, once or for some time, forge, and die while publishing.

A version's content is a text that is never twice the same; its fingerprint (`print`) tells whether a reader got all of
one version. Signing and trust are the node's own: its identity, and the secret of its cluster.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from laila.artifacts import (
    Artifact,
    Signer,
    UnsignedWarning,
    create_maif,
    default_identity,
    layout,
    load_maif,
)
from laila.artifacts.trust import known_secret
from laila.errors import BadValue, DeadlineExceeded, LailaError
from laila.lab.client import describe
from laila.lab.worker.bench import Bench, Words, number, span, text
from laila.shared import SharedArtifactStore

MOST = 3000
"""Versions or loads that one call tells of; more would not fit in a line."""
FILLER = 2048
"""Bytes of a version's text, about."""


def store_of(bench: Bench, words: Words) -> SharedArtifactStore:
    """The store in a directory of the volume, opened once."""
    place = str(bench.path(text(words, "store")))
    if ("store", place) not in bench.things:
        bench.things["store", place] = SharedArtifactStore(place)
    store: SharedArtifactStore = bench.things["store", place]
    return store


def new_text(chance: random.Random) -> str:
    """A text that nobody has written before, some kilobytes long."""
    piece = f"{uuid.uuid4().hex} {chance.getrandbits(64):016x} "
    return piece * chance.randint(1, 2 * FILLER // len(piece))


def print_of(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:24]


def create(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """`store.create`: a version with a new text; its print."""
    content = new_text(random.Random(number(words, "seed")))  # noqa: S311  repeatable on purpose
    path = store_of(bench, words).create(text(words, "name"), content)
    return {"print": print_of(content), "path": os.path.relpath(path, bench.volume)}


def load(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """`store.load` or `store.load_cached` (`how`): what was got, and who signed it."""
    store, name = store_of(bench, words), text(words, "name")
    return seen(_verb(store, text(words, "how"))(name))


def seen(artifact: Artifact) -> dict[str, Any]:
    """What a reader got: the print of the text, the version's number, the signer."""
    content = artifact.get_content_list()[0]["text"]
    return {"print": print_of(content), "sequence": artifact.sequence, "signer": artifact.signer}


def publish_for(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Publish version after version for `seconds`; each told as `[print, sequence, began, ended]`, and what failed."""
    store, name = store_of(bench, words), text(words, "name")
    chance = random.Random(number(words, "seed"))  # noqa: S311  repeatable on purpose
    pause, until = span(words, "pause"), time.monotonic() + min(number(words, "seconds"), timeout)
    writes: list[list[Any]] = []
    errors: list[dict[str, Any]] = []
    while time.monotonic() < until and len(writes) < MOST and not errors:
        content, artifact = new_text(chance), create_maif("lab-check")
        artifact.add_text(content)
        began = time.monotonic()
        try:
            store.put(name, artifact)
            writes.append([print_of(content), artifact.sequence, began, time.monotonic()])
        except LailaError as error:
            errors.append({**describe(error), "print": print_of(content), "began": began})
        time.sleep(chance.uniform(*pause))
    return {"writes": writes, "errors": errors}


def load_for(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Load again and again for `seconds`, cached and not by turns; each told as
    `[how, print, sequence, began, ended]`, and what failed.
    """
    store, name = store_of(bench, words), text(words, "name")
    until = time.monotonic() + min(number(words, "seconds"), timeout)
    reads: list[list[Any]] = []
    errors: list[dict[str, Any]] = []
    turn = 0
    while time.monotonic() < until and len(reads) < MOST and not errors:
        how, began = ("load", "load_cached")[turn % 2], time.monotonic()
        try:
            got = seen(_verb(store, how)(name))
            reads.append([how, got["print"], got["sequence"], began, time.monotonic()])
        except LailaError as error:
            errors.append({**describe(error), "how": how, "began": began})
        turn += 1
    return {"reads": reads, "errors": errors}


def publish_and_die(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """A process that publishes without a pause is killed (-9) after `after` seconds.

    Tells what it had begun and what it had been acknowledged, as it said before and after each, and when it died.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _publish_until_killed(bench, words, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        try:
            first = told.readline()  # it runs, and its store is open
            time.sleep(number(words, "after"))
        finally:
            before = time.monotonic()
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            after = time.monotonic()
        lines = told.read().decode("ascii").splitlines()
    if first != b"ready\n":
        raise DeadlineExceeded(f"the writer did not begin: {first.decode('ascii', 'replace')}")
    return {"said": [line.split() for line in lines], "killed": [before, after]}


def _publish_until_killed(bench: Bench, words: Words, writing: int) -> None:
    """The child. Each line is one write, so a line is there as a whole or not at all."""
    try:
        store = SharedArtifactStore(str(bench.path(text(words, "store"))))
        name, chance = text(words, "name"), random.Random(number(words, "seed"))  # noqa: S311  repeatable on purpose
        os.write(writing, b"ready\n")
        while True:
            content, artifact = new_text(chance), create_maif("lab-check")
            artifact.add_text(content)
            os.write(writing, f"begun {print_of(content)} {time.monotonic()}\n".encode())
            store.put(name, artifact)
            os.write(writing, f"done {artifact.sequence} {time.monotonic()}\n".encode())
    except BaseException as error:
        os.write(writing, f"failed {type(error).__name__}: {error}\n".encode()[:4000])
    finally:
        os._exit(1)


def forge(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Write what must not be believed to the file `to`: `kind` is

    `stranger`: the next version, well made, signed by a key that nobody knows; `resigned`: the present version, signed
    anew by such a key; `unsigned`: the next version without a signature; `other`: a version of another name.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    source, target, kind = bench.path(text(words, "path")), bench.path(text(words, "to")), text(words, "kind")
    present, key = load_maif(source), Ed25519PrivateKey.generate()
    target.parent.mkdir(parents=True, exist_ok=True)
    name = present.name or ""
    if kind == "resigned":
        present.save(target, key=key)
    elif kind in ("stranger", "unsigned", "other"):
        made = create_maif("lab-check")
        made.add_text("a forgery")
        name = f"{name}-other" if kind == "other" else name
        made.name_as(name, sequence=present.sequence + 1, parent=present.root, fence=present.fence + 1)
        _save(made, target, kind, key)
    else:
        raise BadValue(f"no forgery {kind!r}; there are stranger, resigned, unsigned, other")
    return {"signer": load_maif(target).signer}


def _save(made: Artifact, target: Path, kind: str, key: Any) -> None:
    if kind == "unsigned":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnsignedWarning)  # that is what is wanted here
            made.save(target, sign=False)
    else:
        own = Signer.of(default_identity(), known_secret())
        made.save(target, key=own if kind == "other" else key)


def sections(bench: Bench, words: Words, timeout: float) -> dict[str, Any]:
    """Where the parts of an artifact's file are, in order: `[name, from, to]`, in bytes."""
    data = bench.path(text(words, "path")).read_bytes()
    header = layout.unpack_file_header(data)[3]
    block = layout.FILE_HEADER
    front = layout.unpack_block(data[block : block + layout.BLOCK_HEADER])[0]
    content, end = block + layout.BLOCK_HEADER, block + front.size
    marks = [
        ("the magic number", 0, len(layout.MAGIC)),
        ("the header", 8, layout.SIGNED_PART),
        ("the file's signature", layout.SIGNED_PART, layout.FILE_HEADER - 4),
        ("a block's header", block, content),
        ("the content", content, end),
        ("the lineage", end, header.provenance_at),
        ("the provenance", header.provenance_at, header.security_at),
        ("the signer's key", header.security_at, header.index_at),
        ("the index", header.index_at, len(data) - layout.FOOTER),
        ("the footer", len(data) - layout.FOOTER, len(data)),
    ]
    return {"sections": marks, "size": len(data)}


def _verb(store: SharedArtifactStore, how: str) -> Callable[[str], Artifact]:
    verbs = {"load": store.load, "load_cached": store.load_cached}
    if how not in verbs:
        raise BadValue(f"`how` is load or load_cached, not {how!r}")
    return verbs[how]


OPERATIONS = {
    operation.__name__: operation
    for operation in (create, load, publish_for, load_for, publish_and_die, forge, sections)
}
