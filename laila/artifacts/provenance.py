"""The provenance of a file: a signed chain of who did what, from `genesis` to the last `finalize`.

Entries are kept as the JSON text that they came in, and new ones are appended to it, so that a long history costs an
append and not a rewrite.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from . import overlap
from .canonical import canonical, load_json
from .layout import NO_HASH
from .merkle import MerkleTree

FORMAT_VERSION = "2.1"
_FIELDS = {
    "timestamp": int,
    "agent_id": str,
    "agent_did": str,
    "action": str,
    "block_hash": str,
    "entry_hash": str,
    "previous_entry_hash": str,
    "signature": str,
    "chain_position": int,
    "metadata": dict,
}
_TEXTS = tuple(name for name, kind in _FIELDS.items() if kind is str)
_MOST = 1 << 63
_TAIL = b', {"timestamp": '
"""Begins an entry. Within a text its quotes would be escaped, so it can be looked for without parsing."""

Sign = Callable[[bytes], bytes]


def parse(raw: bytes) -> list[dict[str, Any]]:
    """All entries. Raises ValueError, saying what is wrong."""
    if raw != b"[]" and not (raw.startswith(b"[{") and raw.endswith(b"}]")):
        raise ValueError("it is no list of entries, or has white space around it")
    if raw.count(b"{") + raw.count(b"[") > len(raw) // 40 + 16 or raw.count(b",") > len(raw) // 6 + 16:
        raise ValueError("it holds more values than entries of its size can")
    entries = load_json(raw)
    if type(entries) is not list or not all(type(entry) is dict for entry in entries):
        raise ValueError("it is no list of entries")
    for position, entry in enumerate(entries):
        if entry.keys() != _FIELDS.keys():
            raise ValueError(f"entry {position} has other fields than it must have")
        if wrong := [name for name, kind in _FIELDS.items() if type(entry[name]) is not kind]:
            raise ValueError(f"entry {position}: {wrong[0]} is of the wrong type")
        "".join(entry[name] for name in _TEXTS).encode()  # half a character is a ValueError, too
        if not all(-_MOST < entry[name] < _MOST for name in ("timestamp", "chain_position")):
            raise ValueError(f"entry {position}: a number is beyond what the format has room for")
    return entries


def last_entries(end: bytes) -> list[dict[str, Any]]:
    """The whole entries in the end of a chain's text. Raises ValueError."""
    at = end.find(_TAIL)
    return parse(end) if end.startswith(b"[") or at < 0 else parse(b"[" + end[at + 2 :])


def last_entry(raw: bytes) -> dict[str, Any]:
    """The last entry alone, without parsing the others where that is possible. Raises ValueError."""
    start = raw.rfind(_TAIL)
    if start >= 0 and raw.endswith(b"}]"):
        try:
            (entry,) = parse(b"[" + raw[start + 2 :])
        except ValueError:
            pass  # the mark was within some entry's metadata
        else:
            return entry
    entries = parse(raw)
    if not entries:
        raise ValueError("it is empty")
    return entries[-1]


class Chain:
    """A provenance that grows. `sign` signs entry hashes, None leaves them unsigned."""

    def __init__(self, agent_id: str, did: str, sign: Sign | None, raw: bytes = b"[]") -> None:
        self._agent_id = agent_id
        self._did = did
        self._sign = sign
        self._before = raw[:-1]
        self._entries: list[dict[str, Any]] = []
        if raw == b"[]":
            self._previous, self._position = "", 0
        else:
            last = last_entry(raw)
            if last["action"] != "finalize":
                raise ValueError("its last entry is not finalize")
            self._previous, self._position = last["entry_hash"], last["chain_position"] + 1

    def finish(self) -> bytes:
        """Sign what was added; the whole chain as JSON text."""
        _sign_all(self._entries, self._sign)
        texts = [
            json.dumps({name: entry[name] for name in _FIELDS}).encode("ascii") for entry in self._entries
        ]
        joint = b", " if len(self._before) > 1 and texts else b""
        return self._before + joint + b", ".join(texts) + b"]"

    def genesis(self, created: int, file_id: bytes, creator_id: bytes) -> None:
        """The first entry. `created` is the file's, in microseconds of the epoch."""
        metadata = {
            "file_id": file_id.hex(),
            "creator_id": creator_id.hex(),
            "format_version": FORMAT_VERSION,
            "key_algorithm": "Ed25519",
        }
        self._append(created, "genesis", genesis_hash(self._agent_id, created), metadata)

    def added(self, at: int, word: str, content_hash: bytes, block_id: bytes, size: int) -> None:
        """A block; `size` is that of its data alone."""
        metadata = {"block_id": block_id.hex(), "size": size}
        self._append(at, f"add_{word}_block", content_hash.hex(), metadata)

    def finalized(self, at: int, root: bytes, blocks: int) -> None:
        """The end of a version."""
        self._append(at, "finalize", root.hex(), {"block_count": blocks})

    def _append(self, at: int, action: str, block_hash: str, metadata: dict[str, Any]) -> None:
        entry: dict[str, Any] = {
            "timestamp": at,
            "agent_id": self._agent_id,
            "agent_did": self._did,
            "action": action,
            "block_hash": block_hash,
            "previous_entry_hash": self._previous,
            "chain_position": self._position,
            "metadata": metadata,
        }
        self._previous = entry["entry_hash"] = hashlib.sha256(canonical(entry)).hexdigest()
        self._position += 1
        self._entries.append(entry)


def _sign_all(entries: list[dict[str, Any]], sign: Sign | None) -> None:
    def work(part: Sequence[dict[str, Any]]) -> None:
        for entry in part:
            entry["signature"] = sign(entry["entry_hash"].encode()).hex() if sign is not None else ""

    jobs = [partial(work, part) for part in overlap.shares(entries)]
    overlap.run(jobs, weight=overlap.SIGNATURE * len(entries))


def resigned(raw: bytes, sign: Sign | None) -> bytes:
    """The same entries, signed by another key (or by nobody). Their hashes do not cover signatures, so they stay."""
    entries = parse(raw)
    _sign_all(entries, sign)
    return json.dumps(entries).encode("ascii")


def genesis_hash(agent_id: str, created: int) -> str:
    return hashlib.sha256(f"genesis:{agent_id}:{created}".encode()).hexdigest()


def entry_hash(entry: dict[str, Any]) -> str:
    """What an entry's hash must be, in hex."""
    covered = {name: value for name, value in entry.items() if name not in ("entry_hash", "signature")}
    return hashlib.sha256(canonical(covered)).hexdigest()


def faults(
    entries: list[dict[str, Any]],
    blocks: list[tuple[str, bytes, bytes, int]],
    *,
    created: int,
    file_id: bytes,
    creator_id: bytes,
) -> Iterator[tuple[int, str]]:
    """What is wrong with a chain, as (position, words). `blocks` are (word, content hash, block id, data size)."""
    previous, added, tree = "", 0, MerkleTree()
    for position, entry in enumerate(entries):
        if entry["chain_position"] != position:
            yield position, f"it says that it is entry {entry['chain_position']}"
        if entry["previous_entry_hash"] != previous:
            yield position, "it does not follow the entry before it"
        previous = entry["entry_hash"]
        if entry_hash(entry) != previous:
            yield position, "its hash is not that of its content"
        action = entry["action"]
        if (action == "genesis") != (position == 0):
            yield position, "genesis is the first entry, and the first entry only"
        elif action == "genesis":
            yield from ((position, words) for words in _genesis_faults(entry, created, file_id, creator_id))
        elif action == "finalize":
            root = tree.root if added else NO_HASH
            if entry["block_hash"] != root.hex() or entry["metadata"].get("block_count") != added:
                yield position, "it ends another version than the blocks before it make"
        elif added >= len(blocks) or _mismatch(entry, blocks[added]):
            yield position, f"{action!r} is about another block than the file's block {added}"
            added += 1
        else:
            tree.add(blocks[added][1])
            added += 1
    if added != len(blocks):
        yield len(entries), f"it tells of {added} blocks; the file has {len(blocks)}"
    if not entries or entries[-1]["action"] != "finalize":
        yield len(entries), "its last entry is not finalize"


def _mismatch(entry: dict[str, Any], block: tuple[str, bytes, bytes, int]) -> bool:
    word, content_hash, block_id, size = block
    return bool(
        entry["action"] != f"add_{word}_block"
        or entry["block_hash"] != content_hash.hex()
        or entry["metadata"].get("block_id") != block_id.hex()
        or entry["metadata"].get("size") != size
    )


def _genesis_faults(entry: dict[str, Any], created: int, file_id: bytes, creator_id: bytes) -> Iterator[str]:
    if entry["block_hash"] != genesis_hash(entry["agent_id"], created) or entry["timestamp"] != created:
        yield "genesis does not fit the time and agent of the file"
    metadata = entry["metadata"]
    if metadata.get("file_id") != file_id.hex() or metadata.get("creator_id") != creator_id.hex():
        yield "genesis names another file or creator than the file header"
