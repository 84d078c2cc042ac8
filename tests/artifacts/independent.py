"""A reader of MAIF 2.1 that shares no line with laila: written from docs/maif.md, for what laila writes."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(", ", ": "), ensure_ascii=True).encode()


def field(raw: bytes) -> bytes:
    assert raw[:8] == b"ED25519:"
    assert raw[72:] == bytes(184)
    return raw[8:72]


def verify(data: bytes) -> list[tuple[bytes, bytes]]:
    """(type, data) of each block; AssertionError or InvalidSignature when a rule of the format is broken."""
    assert data[:8] == b"MAIF\x00\x02\x00\x01"
    flags, created, modified = struct.unpack(">IQQ", data[8:28])
    file_id, creator_id, did = data[28:44], data[44:60], data[60:124].rstrip(b"\0").decode()
    count, provenance_at, security_at, index_at = struct.unpack(">IQQQ", data[124:152])
    assert flags == 7
    assert data[440:444] == bytes(4)
    assert modified >= created
    size = struct.unpack(">I", data[security_at : security_at + 4])[0]
    assert security_at + 4 + size == index_at
    security = json.loads(data[security_at + 4 : index_at])
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(security["public_key"]))
    assert security["signer_did"] == "did:maif:" + security["signer_id"]
    key.verify(field(data[184:440]), data[:184])
    blocks, leaves, previous, at, index = [], [], bytes(32), 444, b""
    for _ in range(count):
        total, kind, block_flags, version = struct.unpack(">I4sII", data[at : at + 16])
        metadata_size = struct.unpack(">I", data[at + 360 : at + 364])[0]
        body, metadata = (
            data[at + 372 : at + total - metadata_size],
            data[at + total - metadata_size : at + total],
        )
        assert kind in (b"TEXT", b"EMBD", b"IMAG", b"AUDI", b"VIDE", b"KNOW", b"BINA", b"META")
        assert (block_flags, version, data[at + 364 : at + 372]) == (3, 1, bytes(8))
        assert data[at + 40 : at + 72] == previous
        digest = hashlib.sha256(body).digest()
        if json.loads(metadata):
            assert metadata == canonical(json.loads(metadata))
            digest = hashlib.sha256(digest + metadata).digest()
        else:
            assert metadata == b"{}"
        assert data[at + 72 : at + 104] == digest
        cleared = struct.pack(">I", block_flags & ~0x33)
        message = data[at : at + 8] + cleared + data[at + 12 : at + 104] + data[at + 360 : at + 364]
        key.verify(field(data[at + 104 : at + 360]), message + body + metadata)
        index += struct.pack(">QQ4sI", at, total, kind, block_flags)
        blocks.append((kind, body))
        leaves.append(digest)
        previous, at = digest, at + total
    assert at == provenance_at
    assert data[152:184] == merkle(leaves)
    assert data[index_at:-48] == index
    whole, digest = struct.unpack(">Q32s", data[-44:-4])
    assert (data[-48:-44], whole, data[-4:]) == (b"FIAM", len(data), bytes(4))
    assert digest == hashlib.sha256(data[:-48]).digest()
    _provenance(data[provenance_at:security_at], key, leaves, did, created, (file_id, creator_id))
    return blocks


def _provenance(
    section: bytes,
    key: Ed25519PublicKey,
    leaves: list[bytes],
    did: str,
    created: int,
    ids: tuple[bytes, bytes],
) -> None:
    assert struct.unpack(">I", section[:4])[0] == len(section) - 4
    entries, previous, added = json.loads(section[4:]), "", 0
    for position, entry in enumerate(entries):
        assert (entry["chain_position"], entry["previous_entry_hash"]) == (position, previous)
        covered = {name: entry[name] for name in entry if name not in ("entry_hash", "signature")}
        previous = hashlib.sha256(canonical(covered)).hexdigest()
        assert entry["entry_hash"] == previous
        key.verify(bytes.fromhex(entry["signature"]), previous.encode())
        if entry["action"].startswith("add_"):
            assert entry["block_hash"] == leaves[added].hex()
            added += 1
        elif entry["action"] == "finalize":
            assert entry["block_hash"] == merkle(leaves[:added]).hex()
    first = entries[0]
    agent = first["agent_id"]
    assert (first["action"], did) == ("genesis", "did:maif:" + agent)
    assert first["block_hash"] == hashlib.sha256(f"genesis:{agent}:{created}".encode()).hexdigest()
    assert (first["metadata"]["file_id"], first["metadata"]["creator_id"]) == (ids[0].hex(), ids[1].hex())
    assert entries[-1]["action"] == "finalize"
    assert added == len(leaves)


def merkle(leaves: list[bytes]) -> bytes:
    if not leaves:
        return bytes(32)
    while len(leaves) > 1:
        doubled = leaves + leaves[-1:] if len(leaves) % 2 else leaves
        leaves = [hashlib.sha256(doubled[i] + doubled[i + 1]).digest() for i in range(0, len(doubled), 2)]
    return leaves[0]
