"""Vouching anew for the keys that signed what a replica has, while its cluster changes from one secret to another.

A node that accepts two secrets does this now and then for the replicas that it serves, so that everything is believed
under either when the old one goes. Only a key that is believed by what it signed is vouched for: what a replica says of
its names was perhaps written by somebody who can reach its pool, and knows no secret.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from ..artifacts import Artifact, TrustSet
from ..artifacts.signing import vouch
from ..artifacts.vouchers import Pair
from ..errors import ArtifactError
from .agreement import read_vote
from .branches import NOTHING
from .replica import Replica
from .tags import Stand
from .words import PREFIXES

TRIED = 3
"""Names of one signer that are read to believe its key."""


def renew(replica: Replica, trust: TrustSet, secrets: Sequence[str], number: int) -> int:
    """Vouch under each of the secrets for whoever signed what is here and is believed by `trust`, where nobody did so
    yet; for how many keys. `number`: of the membership. Raises what the replica raises.
    """
    known: dict[bytes, int] = {}
    for key, _ in replica.vouchers():
        known[key] = known.get(key, 0) + 1
    made: list[Pair] = []
    keys = 0
    for key in _believed(
        replica, trust, {key for key, count in known.items() if count >= len(secrets)}, number
    ):
        made += [(key, vouch(secret, key)) for secret in secrets]
        keys += 1
    replica.vouch(made)
    return keys


def _believed(replica: Replica, trust: TrustSet, known: Collection[bytes], number: int) -> Iterator[bytes]:
    """The keys of those who signed what is here, each once, without those that are known already."""
    told = {key.hex() for key in known}
    for document in _documents(replica):
        signer = _signer(document, trust)
        if signer and signer not in told:
            told.add(signer)
            yield bytes.fromhex(signer)
    tried: dict[str, int] = {}
    for name, stand in _stands(replica):
        writer = stand.tag.writer
        if writer in told or tried.get(writer, 0) >= TRIED:
            continue
        tried[writer] = tried.get(writer, 0) + 1
        try:
            copy = replica.fetch(name, number)
        except ArtifactError:
            continue
        if copy is None:
            continue
        with copy:
            copy.require(trust)
            if copy.stand.tag.writer not in told:
                told.add(copy.stand.tag.writer)
                yield bytes.fromhex(copy.stand.tag.writer)


def _documents(replica: Replica) -> Iterator[bytes]:
    """The membership, and the one that is being voted on."""
    if document := replica.membership():
        yield document
    _, vote = read_vote(replica)
    if vote is not None and vote.document:
        yield vote.document


def _signer(document: bytes, trust: TrustSet) -> str | None:
    try:
        return Artifact.from_bytes(document, trust=trust).signer
    except ArtifactError:
        return None


def _stands(replica: Replica) -> Iterator[tuple[str, Stand]]:
    """Every name, and what the replica says that it has under it."""
    parts = [""]
    while parts:
        asked = parts[-PREFIXES:]
        del parts[-PREFIXES:]
        answered = replica.branches(asked)
        parts += asked[len(answered) :]
        for branch in answered:
            yield from ((name, found) for name, found in branch.entries if isinstance(found, Stand))
            digests = [
                branch.branches[at : at + len(NOTHING)] for at in range(0, len(branch.branches), len(NOTHING))
            ]
            parts += [
                f"{branch.prefix}{byte:02x}" for byte, digest in enumerate(digests) if digest != NOTHING
            ]
