"""Bad bytes: every flip, every cut, sizes that lie, and the forgeries that the public reader lets through."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from laila.artifacts import Head, Signer, TrustSet, create_maif, lineage, load_maif, read_head, signing
from laila.artifacts.artifact import Artifact
from laila.artifacts.source import Source
from laila.errors import (
    ArtifactCorrupt,
    ArtifactError,
    BadValue,
    NotAnArtifact,
    StorageError,
    Unsigned,
    UnsupportedVersion,
    UntrustedSigner,
    WeakSecret,
)
from laila.transport.identity import Identity
from tests.artifacts import independent


@pytest.fixture
def raw(me: Identity) -> bytes:
    """Three blocks, the last of them a lineage block."""
    artifact = create_maif("demo")
    artifact.add_text("hello", title="T")
    artifact.add_binary(b"\0\1\2", metadata={"x": 1})
    artifact.name_as("doc", sequence=1)
    return artifact.to_bytes(key=me)


def refused(data: bytes | bytearray, trust: TrustSet | None) -> ArtifactError | None:
    try:
        Artifact.from_bytes(data, trust=trust)
    except ArtifactError as error:
        return error
    return None


def test_every_byte_counts(raw: bytes, trust: TrustSet) -> None:
    """One bit of each byte, another one in each round of eight bytes: every flip is an error, none is a crash."""
    assert refused(raw, trust) is None
    passed = []
    for place in range(len(raw)):
        data = bytearray(raw)
        data[place] ^= 1 << place % 8
        if refused(data, trust) is None:
            passed.append(place)
    assert passed == []


def test_a_flip_is_found_without_a_trust_set_too(raw: bytes) -> None:
    """Whole, and signed by the key that it names: a flip in the key or the lineage does not pass either."""
    for place in random.Random(1).sample(range(len(raw)), 400):  # noqa: S311  repeatable on purpose
        data = bytearray(raw)
        data[place] ^= 0x20
        with contextlib.suppress(ArtifactError):
            assert not Artifact.from_bytes(data).verify(), place


def test_every_cut_is_an_error(raw: bytes) -> None:
    for size in range(len(raw)):
        assert refused(raw[:size], None) is not None, size
    for more in (b"\0", b"junk", raw):
        assert refused(raw + more, None) is not None


def test_what_is_no_artifact_says_so(tmp_path: Path) -> None:
    for name, content, words in (
        ("empty", b"", "is empty"),
        ("png", b"\x89PNG\r\n\x1a\n" * 100, "MAIF"),
        ("text", b"MAI", "MAIF"),
        ("zeros", bytes(10_000), "MAIF"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(NotAnArtifact, match=words):
            load_maif(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        load_maif(tmp_path / "absent")
    with pytest.raises((NotAnArtifact, IsADirectoryError)):
        load_maif(tmp_path)
    (tmp_path / "device").symlink_to("/dev/zero")
    with pytest.raises(NotAnArtifact, match="regular"):
        load_maif(tmp_path / "device")


def test_a_pipe_does_not_hang_the_reader(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    for read in (load_maif, read_head):
        with pytest.raises(NotAnArtifact, match="regular"):
            read(tmp_path / "pipe")


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (2, 2), (3, 0), (0, 0), (65535, 65535)])
def test_another_version_is_named(raw: bytes, version: tuple[int, int]) -> None:
    with pytest.raises(UnsupportedVersion, match=f"{version[0]}.{version[1]}"):
        Artifact.from_bytes(b"MAIF" + struct.pack(">HH", *version) + raw[8:])


@pytest.mark.parametrize(
    ("offset", "form"),
    [(124, ">I"), (128, ">Q"), (136, ">Q"), (144, ">Q"), (444, ">I"), (444 + 360, ">I")],
    ids=["block count", "provenance", "security", "index", "block size", "metadata size"],
)
def test_sizes_that_lie_are_errors(raw: bytes, offset: int, form: str, trust: TrustSet) -> None:
    """Every number that says where something is, at its extremes and around the truth."""
    truth = struct.unpack_from(form, raw, offset)[0]
    most = (1 << (8 * struct.calcsize(form))) - 1
    for lie in {0, 1, truth - 1, truth + 1, len(raw), len(raw) - 48, most, most - 1, 444, truth * 2} - {
        truth
    }:
        data = bytearray(raw)
        struct.pack_into(form, data, offset, lie & most)
        error = refused(data, trust)
        assert isinstance(error, ArtifactCorrupt), lie
        assert "offset" in str(error)


def test_a_section_that_says_four_gigabytes_costs_no_memory(raw: bytes, tmp_path: Path) -> None:
    """Nothing is allocated by what a header says: with 300 MiB of address space left the lies are still refused."""
    header = bytearray(raw[:444])
    struct.pack_into(">I", header, 124, 0xFFFFFFFF)
    lies = [bytes(header) + raw[444:], raw[:444] + b"\xff\xff\xff\xff" + raw[448:]]
    provenance_at = struct.unpack_from(">Q", raw, 128)[0]
    lies.append(raw[:provenance_at] + b"\xff\xff\xff\xff" + raw[provenance_at + 4 :])
    for number, lie in enumerate(lies):
        (tmp_path / f"{number}.maif").write_bytes(lie)
    program = (
        "import resource, sys\n"
        "from laila.maif import load_maif\n"
        "from laila.errors import ArtifactCorrupt\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), used + (300 << 20)))\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        load_maif(path)\n"
        "    except ArtifactCorrupt:\n"
        "        continue\n"
        "    sys.exit(path)\n"
    )
    paths = [str(tmp_path / f"{number}.maif") for number in range(len(lies))]
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_deep_and_wide_json_is_refused(me: Identity) -> None:
    """Whoever holds a key can sign anything: such sections are findings, no crash."""
    for section in (
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"[NaN]",
        b"[{}]",
        b"{}",
        b"",
        b"\xff",
        b"[1" + b"0" * 5000 + b"]",
    ):
        data = with_section(forge(me), "provenance", section)
        assert any(finding.kind == "provenance" for finding in Artifact.from_bytes(data).check()), section[
            :20
        ]
    for section in (b"[" * 100_000, b"[]", b"", b"nonsense", b'{"public_key": 3}'):
        data = with_section(forge(me), "security", section)
        error = refused(data, TrustSet([me]))
        assert isinstance(error, ArtifactCorrupt), section[:20]


# ---- forgeries that take no key, and those that take a stranger's ----


def forge(identity: Identity, text: str = "one") -> bytes:
    artifact = create_maif("demo")
    artifact.add_text(text)
    artifact.add_text("two")
    return artifact.to_bytes(key=identity)


def parts(data: bytes) -> tuple[int, int, int]:
    return struct.unpack(">QQQ", data[128:152])


def sealed(data: bytes) -> bytes:
    """With a footer that fits: what anybody can do."""
    body = data[:-48]
    return body + b"FIAM" + struct.pack(">Q", len(data)) + hashlib.sha256(body).digest() + bytes(4)


def with_section(data: bytes, name: str, content: bytes) -> bytes:
    """A section replaced, offsets and footer put right."""
    provenance_at, security_at, index_at = parts(data)
    begin, end = (provenance_at, security_at) if name == "provenance" else (security_at, index_at)
    section = struct.pack(">I", len(content)) + content
    grown = len(section) - (end - begin)
    changed = bytearray(data[:begin] + section + data[end:])
    offsets = (provenance_at, security_at + (grown if name == "provenance" else 0), index_at + grown)
    struct.pack_into(">QQQ", changed, 128, *offsets)
    return sealed(bytes(changed))


def drop_last_block(data: bytes) -> bytes:
    provenance_at, security_at, index_at = parts(data)
    index = data[index_at:-48]
    offset, size = struct.unpack_from(">QQ", index, len(index) - 24)
    changed = bytearray(data[:offset] + data[provenance_at:index_at] + index[:-24] + data[-48:])
    struct.pack_into(">IQQQ", changed, 124, 1, provenance_at - size, security_at - size, index_at - size)
    changed[152:184] = data[444 + 72 : 444 + 104]  # the root of one leaf is the leaf
    return sealed(bytes(changed))


def append_unsigned_block(data: bytes) -> bytes:
    provenance_at, security_at, index_at = parts(data)
    content = b"appended"
    digest = hashlib.sha256(content).digest()
    offset = struct.unpack_from(">QQ", data, index_at + 24)[0]
    block = struct.pack(">I4sIIQ16s", 372 + len(content) + 2, b"TEXT", 2, 1, 1, bytes(16))
    block += data[offset + 72 : offset + 104] + digest + bytes(256) + struct.pack(">I8x", 2) + content + b"{}"
    entry = struct.pack(">QQ4sI", provenance_at, len(block), b"TEXT", 2)
    changed = bytearray(data[:provenance_at] + block + data[provenance_at:-48] + entry + data[-48:])
    moved = (provenance_at + len(block), security_at + len(block), index_at + len(block))
    struct.pack_into(">IQQQ", changed, 124, 3, *moved)
    return sealed(bytes(changed))


def replace_content_and_clear_signed(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[444 + 372 : 444 + 375] = b"ONE"
    struct.pack_into(">I", changed, 444 + 8, 2)
    changed[444 + 72 : 444 + 104] = hashlib.sha256(b"ONE").digest()
    return sealed(bytes(changed))


def clear_file_signed(data: bytes) -> bytes:
    changed = bytearray(data)
    struct.pack_into(">I", changed, 8, 6)
    return sealed(bytes(changed))


def rewrite_provenance(data: bytes) -> bytes:
    provenance_at, security_at, _ = parts(data)
    entries = json.loads(data[provenance_at + 4 : security_at])
    entries[1]["agent_id"] = "somebody else"
    return with_section(data, "provenance", json.dumps(entries).encode())


def remove_provenance(data: bytes) -> bytes:
    return with_section(data, "provenance", b"[]")


def claim_another_signer(data: bytes) -> bytes:
    _, security_at, index_at = parts(data)
    security = json.loads(data[security_at + 4 : index_at])
    security |= {"signer_id": "the boss", "signer_did": "did:maif:the boss"}
    return with_section(data, "security", json.dumps(security).encode())


KEYLESS = (
    drop_last_block,
    append_unsigned_block,
    replace_content_and_clear_signed,
    clear_file_signed,
    rewrite_provenance,
    remove_provenance,
    claim_another_signer,
)


@pytest.mark.parametrize("attack", KEYLESS, ids=lambda attack: attack.__name__)
def test_a_forgery_without_a_key_does_not_pass(
    attack: Callable[[bytes], bytes], me: Identity, trust: TrustSet
) -> None:
    data = attack(forge(me))
    assert data != forge(me)
    assert isinstance(refused(data, trust), ArtifactCorrupt | Unsigned)
    with contextlib.suppress(ArtifactCorrupt):
        assert not Artifact.from_bytes(data).verify()
        assert any(finding.kind != "unsigned" for finding in Artifact.from_bytes(data).check())


def test_content_of_a_forged_file_is_not_handed_out(me: Identity) -> None:
    with pytest.raises(ArtifactCorrupt):
        Artifact.from_bytes(replace_content_and_clear_signed(forge(me))).get_content_list()


def test_a_strangers_signature_is_valid_and_not_believed(
    me: Identity, stranger: Identity, trust: TrustSet
) -> None:
    data = forge(stranger)
    artifact = Artifact.from_bytes(data)
    assert artifact.verify()
    assert not artifact.verify(trust)
    with pytest.raises(UntrustedSigner) as caught:
        artifact.require(trust)
    assert caught.value.signer == Signer(stranger).public_key.hex()
    assert isinstance(refused(data, trust), UntrustedSigner)


def test_unsigned_says_what_is_lost(tmp_path: Path, me: Identity, trust: TrustSet) -> None:
    from laila.maif import UnsignedWarning

    artifact = create_maif("demo")
    artifact.add_text("x")
    with pytest.warns(UnsignedWarning, match="nobody can tell who wrote"):
        artifact.save(tmp_path / "a.maif", sign=False)
    loaded = load_maif(tmp_path / "a.maif")
    assert not loaded.verify()
    assert [finding.kind for finding in loaded.check()] == ["unsigned"]
    assert loaded.get_content_list()[0]["text"] == "x"
    with pytest.raises(Unsigned):
        load_maif(tmp_path / "a.maif", trust=trust)
    data = bytearray((tmp_path / "a.maif").read_bytes())
    data[444 + 372] ^= 1
    with pytest.raises(ArtifactCorrupt):
        Artifact.from_bytes(data).get_content_list()
    loaded.save(tmp_path / "a.maif", key=me)
    assert load_maif(tmp_path / "a.maif", trust=trust).verify(trust)


def test_a_damaged_file_is_not_signed_over(tmp_path: Path, me: Identity, stranger: Identity) -> None:
    """Adding to what does not hold together would give it a fresh signature."""
    path = tmp_path / "a.maif"
    data = bytearray(forge(me))
    data[444 + 372] ^= 1
    for key, content in ((me, bytes(data)), (me, sealed(bytes(data))), (stranger, sealed(bytes(data)))):
        path.write_bytes(content)
        artifact = load_maif(path)
        artifact.add_text("more")
        with pytest.raises(ArtifactCorrupt):
            artifact.save(path, key=key)
        assert path.read_bytes() == content


def test_a_head_of_bad_bytes_is_an_error(raw: bytes, tmp_path: Path, trust: TrustSet) -> None:
    path = tmp_path / "a.maif"
    path.write_bytes(raw)
    read_head(path).require(trust)
    for size in range(0, len(raw), 7):
        path.write_bytes(raw[:size])
        with pytest.raises(ArtifactError):
            read_head(path).require(trust)
    for place in (*range(0, 444, 5), *range(len(raw) - 48, len(raw) - 44)):
        data = bytearray(raw)
        data[place] ^= 4
        path.write_bytes(data)
        try:
            head = read_head(path)
            assert head.header[:440] != raw[:440] or head.footer != raw[-48:] or place >= 440
            if place < 184 + 72:
                with pytest.raises(ArtifactError):
                    head.require(trust)
        except ArtifactError:
            pass


def test_a_flipped_index_is_damage_and_no_other_version(raw: bytes, tmp_path: Path) -> None:
    """Else a reader that remembers would call it a rollback."""
    index_at = parts(raw)[2]
    for place in range(index_at + 2 * 24, index_at + 3 * 24):
        data = bytearray(raw)
        data[place] ^= 1
        (tmp_path / "a.maif").write_bytes(data)
        with pytest.raises(ArtifactCorrupt, match="index"):
            read_head(tmp_path / "a.maif")


def test_a_block_of_four_gigabytes_is_refused_before_anything_is_written(
    tmp_path: Path, me: Identity
) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 32)  # sparse: takes no room
    artifact = create_maif("demo")
    with pytest.raises(BadValue, match="4 GiB"):
        artifact.add_binary(tmp_path / "large")
    artifact.add_text("still usable")
    artifact.save(tmp_path / "a.maif", key=me)


def test_a_save_that_fails_leaves_the_old_version_and_nothing_else(tmp_path: Path, me: Identity) -> None:
    path = tmp_path / "a.maif"
    artifact = create_maif("demo")
    artifact.add_text("old")
    artifact.save(path, key=me)
    old = path.read_bytes()
    artifact.add_binary(bytes(3 << 20))

    def refuse() -> None:
        raise RuntimeError("not now")

    with pytest.raises(RuntimeError, match="not now"):
        artifact.save(path, key=me, before_publish=refuse)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limit[1]))
    try:
        with pytest.raises(StorageError, match="EFBIG") as caught:
            artifact.save(path, key=me)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, before)
    assert caught.value.reason == "EFBIG"
    assert path.read_bytes() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.maif"]
    artifact.save(path, key=me)
    assert load_maif(path).verify()


def test_a_forged_voucher_is_none(me: Identity, stranger: Identity) -> None:
    from laila.secret import new_secret

    secret, other = new_secret(), new_secret()
    for voucher, believed in ((Signer.of(stranger, secret), True), (Signer.of(stranger, other), False)):
        artifact = create_maif("demo")
        artifact.add_text("x")
        artifact.name_as("doc", sequence=1)
        data = artifact.to_bytes(key=voucher)
        assert (refused(data, TrustSet(secret=secret)) is None) is believed
    stolen = Signer(Ed25519PrivateKey.generate(), voucher=Signer.of(stranger, secret).voucher)
    artifact = create_maif("demo")
    artifact.name_as("doc", sequence=1)
    assert isinstance(refused(artifact.to_bytes(key=stolen), TrustSet(secret=secret)), UntrustedSigner)


def cut_and_unsigned(data: bytes, keep: int) -> bytes:
    """A prefix of somebody's signed blocks and provenance, as an unsigned file that still names its key."""
    provenance_at, security_at, index_at = parts(data)
    index = data[index_at:-48]
    end = struct.unpack_from(">Q", index, 24 * keep)[0]
    entries = json.loads(data[provenance_at + 4 : security_at])[: 1 + keep]
    told = json.dumps(entries).encode()
    header = bytearray(data[:184])
    struct.pack_into(">I", header, 8, 6)
    offsets = (end, end + 4 + len(told), end + 4 + len(told) + index_at - security_at)
    struct.pack_into(">IQQQ", header, 124, keep, *offsets)
    leaves, at = [], 444
    while at < end:
        leaves.append(data[at + 72 : at + 104])
        at += struct.unpack_from(">I", data, at)[0]
    header[152:184] = independent.merkle(leaves)
    section = struct.pack(">I", len(told)) + told
    body = (
        bytes(header) + bytes(260) + data[444:end] + section + data[security_at:index_at] + index[: 24 * keep]
    )
    return sealed(body + bytes(48))


def test_an_unsigned_prefix_is_not_continued_as_ones_own(
    tmp_path: Path, me: Identity, trust: TrustSet
) -> None:
    """Whoever cut a signed file short, without any key, must not get it signed by its author's next save."""
    artifact = create_maif("victim")
    for text in ("one", "REVOKED", "three"):
        artifact.add_text(text)
    forged = cut_and_unsigned(artifact.to_bytes(key=me), 1)
    path = tmp_path / "a.maif"
    path.write_bytes(forged)
    assert any(finding.kind == "signature" for finding in load_maif(path).check())
    loaded = load_maif(path)
    for text in ("four", None):
        if text:
            loaded.add_text(text)
        with pytest.raises(ArtifactCorrupt):
            loaded.save(path, key=me)
        loaded = load_maif(path)
    assert path.read_bytes() == forged


def test_many_threads_verify_one_mapped_file(tmp_path: Path, me: Identity) -> None:
    """Blocks are verified where they lie while pages are given back: no good block may be called bad."""
    artifact = create_maif("many")
    block = bytes(range(250)) * 264
    for _ in range(400):
        artifact.add_binary(block)
    artifact.save(tmp_path / "a.maif", key=me, durable=False)
    for _ in range(6):
        signing._valid.clear()
        assert Artifact.load(tmp_path / "a.maif", read_up_to=0).check() == []


def test_white_space_around_the_provenance_is_a_finding(tmp_path: Path, me: Identity) -> None:
    data = forge(me)
    provenance_at, security_at, _ = parts(data)
    told = data[provenance_at + 4 : security_at]
    for changed in (told.replace(b'": ', b'":', 1) + b" ", b" " + told, told + b"\n"):
        bad = with_section(data, "provenance", changed)
        assert "white space" in str(Artifact.from_bytes(bad).check())
        (tmp_path / "a.maif").write_bytes(bad)
        artifact = load_maif(tmp_path / "a.maif")
        artifact.add_text("more")
        with pytest.raises(ArtifactCorrupt):
            artifact.save(tmp_path / "a.maif", key=me)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"agent_id": "demo"', b'"agent_id": "\\ud800"'),
        (b'"metadata": {"block_count": 2}', b'"metadata": ' + b'{"a":' * 80 + b"1" + b"}" * 80),
        (b'"metadata": {"block_count": 2}', b'"metadata": {"block_count": 2, "block_count": 2}'),
        (b'"chain_position": 1', b'"chain_position": 1' + b"0" * 400),
        (b'"chain_position": 1', b'"chain_position": NaN'),
    ],
    ids=["half a character", "deep", "twice", "huge", "nan"],
)
def test_strange_json_in_the_provenance_is_a_finding(me: Identity, old: bytes, new: bytes) -> None:
    data = forge(me)
    provenance_at, security_at, _ = parts(data)
    told = data[provenance_at + 4 : security_at].replace(old, new)
    artifact = Artifact.from_bytes(with_section(data, "provenance", told))
    assert any(finding.kind == "provenance" for finding in artifact.check())
    with pytest.raises(ArtifactCorrupt):
        _ = artifact.provenance


@pytest.mark.parametrize(
    "changed",
    [
        {"at": 10**400},
        {"at": -1},
        {"sequence": 1 << 70},
        {"sequence": True},
        {"fence": -1},
        {"parent": "zz"},
        {"voucher": "ab"},
        {"name": "../x"},
    ],
    ids=str,
)
def test_a_strange_lineage_is_a_finding(tmp_path: Path, me: Identity, changed: dict[str, object]) -> None:
    """By somebody who can sign: nothing crashes, and the name can still be read around."""
    value = {
        "scheme": 1,
        "name": "x",
        "sequence": 1,
        "parent": "",
        "fence": 0,
        "at": 0,
        "voucher": "",
    } | changed
    artifact = create_maif("demo")
    artifact._add(b"META", Source(json.dumps(value).encode()), lineage.METADATA)
    (tmp_path / "a.maif").write_bytes(artifact.to_bytes(key=me))
    loaded = load_maif(tmp_path / "a.maif")
    assert [finding.kind for finding in loaded.check()] == ["lineage"]
    assert "damaged" in repr(loaded)
    with pytest.raises(ArtifactCorrupt):
        read_head(tmp_path / "a.maif")


def test_a_head_is_not_put_together_from_two_versions(tmp_path: Path, me: Identity, trust: TrustSet) -> None:
    """The header of one version and the lineage block of the next are each signed; together they are a lie."""
    versions = []
    artifact = create_maif("demo")
    for number in (1, 2):
        artifact.add_text("same size")
        artifact.name_as("doc", sequence=number, parent=artifact.root)
        versions.append(artifact.to_bytes(key=me))
    path = tmp_path / "a.maif"
    path.write_bytes(versions[1])
    read_head(path).require(trust)
    old, new = versions[0], bytearray(versions[1])
    # The old header, made to point at the new file's sections: all of it but the signature would fit.
    new[152:440] = old[152:440]
    path.write_bytes(sealed(bytes(new)))
    with pytest.raises(ArtifactCorrupt):
        read_head(path).require(trust)
    spliced = replace(read_head_of(tmp_path, versions[0]), meta=read_head_of(tmp_path, versions[1]).meta)
    with pytest.raises(ArtifactCorrupt):
        spliced.require(trust)


def read_head_of(folder: Path, data: bytes) -> Head:
    (folder / "head.maif").write_bytes(data)
    return read_head(folder / "head.maif")


def test_what_is_added_while_saving_is_kept(tmp_path: Path, me: Identity) -> None:
    artifact = create_maif("a")
    artifact.add_text("1")
    artifact.save(tmp_path / "a.maif", key=me, before_publish=lambda: artifact.add_text("2"))
    assert [item["text"] for item in artifact.get_content_list()] == ["1", "2"]
    assert artifact.changed
    artifact.save(tmp_path / "a.maif", key=me)
    assert len(load_maif(tmp_path / "a.maif").get_content_list()) == 2


def test_an_empty_or_weak_secret_is_no_authority() -> None:
    for secret in ("", "password", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"):
        with pytest.raises(WeakSecret):
            TrustSet(secret=secret)
    with pytest.raises(BadValue):
        TrustSet(authority=b"short")
    with pytest.raises(BadValue):
        TrustSet(node_ids="3e05741c")


@pytest.mark.parametrize("name", ["", ".", "/", "a\0b"])
def test_a_path_that_names_no_file(name: str, me: Identity) -> None:
    with pytest.raises(BadValue, match="names no file"):
        create_maif("a").save(name, key=me)


def test_a_new_version_keeps_the_access_of_the_old_one(tmp_path: Path, me: Identity) -> None:
    path = tmp_path / "a.maif"
    create_maif("a").save(path, key=me)
    path.chmod(0o600)
    create_maif("a").save(path, key=me)
    assert path.stat().st_mode & 0o777 == 0o600
