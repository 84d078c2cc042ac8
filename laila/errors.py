"""Every error laila raises, as one tree.

LailaError
├── BadValue (also ValueError)          the caller's value cannot be used
│   ├── UnsupportedType (also TypeError)    no codec for a type; says where in the value it sits
│   ├── LimitExceeded                   a named limit was crossed
│   ├── WeakSecret                      a secret that could be guessed
│   ├── BadName                         a name that cannot name an artifact, agent, task or lock
│   ├── AlreadyPublished (also FileExistsError)  written once, and another was there
│   └── BadConfig                       a configuration that cannot be run
├── Corrupt                             bytes that do not decode to what they claim to be
├── ArtifactError                       an artifact that must not be used, or cannot be written
│   ├── NotAnArtifact                       these bytes are no MAIF file
│   ├── UnsupportedVersion                  a MAIF file of a version that is not 2.1
│   ├── ArtifactCorrupt (also Corrupt)      it does not hold together; says what and where
│   ├── Unsigned                            whole, but nobody stands for it
│   ├── UntrustedSigner                     a valid signature, by nobody whom this reader trusts
│   └── RolledBack                          older than what this reader has seen under the name
├── LockError                           a lock could not do what was asked
│   ├── LockTimeout (also TimeoutError)     somebody else holds it; says who
│   ├── LockLost                            held no longer, or overtaken: what it guarded must not go on
│   ├── LockReentered                       the holder asked again; that would wait for ever
│   └── LockUnavailable                     the lock service, or the volume, cannot lock now
├── NotFound (also LookupError)
│   ├── EntryNotFound (also KeyError)
│   ├── UnknownPool (also KeyError)
│   ├── UnknownPeer (also KeyError)
│   ├── UnknownService (also KeyError)
│   └── ArtifactNotFound (also FileNotFoundError)
├── Denied (also PermissionError)
│   ├── AccessDenied                    an access rule of the other node says no
│   └── AuthenticationFailed            no shared secret, or a certificate that does not hold
├── StorageError (also OSError)         a pool could not read or write; the reason is the system's
│   ├── PoolClosed
│   └── UnsafeVolume                    a volume on which locks do not exclude
├── LinkError (also ConnectionError)
│   ├── Unreachable                     nobody answers at that address
│   ├── PeerLost                        the link went away; says whether the request may have run
│   ├── ProtocolError                   the other side broke the protocol
│   ├── VersionMismatch                 no protocol version in common
│   ├── DuplicateNode                   another live node has the same identity
│   └── SelfPeer                        a node was asked to peer with itself
├── ReplicaError                        what replicas could not do, or must not
│   ├── QuorumLost                          too few replicas answered; says which, why, and what may have been stored
│   ├── MixedReplicas                       a replica of another store, or one that its members do not know
│   ├── MembershipStale                     asked under an older membership; carries the newer one
│   └── MembershipBusy                      another change of the members came first, or is under way
├── DeadlineExceeded (also TimeoutError)
├── Busy                                a queue is full; try again later
├── Closed                              this policy, peer or connection was closed
├── RemoteError                         the other node failed in a way that has no class here
└── LabError                            the lab, or the engine it drives, could not do its work

Fields come first and the message is built from them. `fault` says whose mistake it was ("caller", "peer", "network",
"storage", "here"), `retryable` whether the same call may succeed later. Errors cross the wire by `code` and fields and
are raised as the same class on the other side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class LailaError(Exception):
    """Root of the tree. `str(error)` is one sentence that says what happened and what to do."""

    fault: ClassVar[str] = "caller"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message

    def fields(self) -> dict[str, Any]:
        """Arguments that rebuild this error elsewhere: `type(e)(**e.fields())`."""
        return {"message": self.message}


class BadValue(LailaError, ValueError):
    """The caller's value cannot be used."""


class UnsupportedType(BadValue, TypeError):
    """No codec for a type. `path` is where in the value it sits, such as `value["a"][3]`."""

    def __init__(self, message: str, *, path: str = "value", type_name: str = "") -> None:
        super().__init__(message)
        self.path = path
        self.type_name = type_name

    def fields(self) -> dict[str, Any]:
        return {"message": self.message, "path": self.path, "type_name": self.type_name}


class LimitExceeded(BadValue):
    """A named limit was crossed; `limit` is its name, `allowed` its value, `got` what was asked."""

    def __init__(self, message: str, *, limit: str = "", allowed: int = 0, got: int = 0) -> None:
        super().__init__(message)
        self.limit = limit
        self.allowed = allowed
        self.got = got

    def fields(self) -> dict[str, Any]:
        return {"message": self.message, "limit": self.limit, "allowed": self.allowed, "got": self.got}


class WeakSecret(BadValue):
    """A secret that could be guessed by whoever watches one handshake."""


class BadName(BadValue):
    """A name that cannot name an artifact, an agent, a task or a lock."""


class AlreadyPublished(BadValue, FileExistsError):
    """What is written once was written before, and differently."""


class BadConfig(BadValue):
    """A configuration that cannot be run."""


class Corrupt(LailaError):
    """Bytes that do not decode to what they claim to be."""

    fault = "storage"


class ArtifactError(LailaError):
    """An artifact that must not be used, or cannot be written. `path` is where it was, empty when it has none."""

    fault = "storage"

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path

    def fields(self) -> dict[str, Any]:
        return {"message": self.message, "path": self.path}


class NotAnArtifact(ArtifactError):
    """These bytes are no MAIF file."""


class UnsupportedVersion(ArtifactError):
    """A MAIF file of a version that is not 2.1."""


class ArtifactCorrupt(ArtifactError, Corrupt):
    """It does not hold together. `findings`: a line for each thing that is wrong (the first few), with its offset."""

    def __init__(self, message: str, *, path: str = "", findings: tuple[str, ...] = ()) -> None:
        super().__init__(message, path=path)
        self.findings = tuple(findings)

    def fields(self) -> dict[str, Any]:
        return {"message": self.message, "path": self.path, "findings": list(self.findings)}


class Unsigned(ArtifactError):
    """Whole, but nobody stands for it."""


class UntrustedSigner(ArtifactError):
    """A valid signature, by nobody whom this reader trusts. `signer` is the public key in hex."""

    fault = "peer"

    def __init__(self, message: str, *, path: str = "", signer: str = "") -> None:
        super().__init__(message, path=path)
        self.signer = signer

    def fields(self) -> dict[str, Any]:
        return {"message": self.message, "path": self.path, "signer": self.signer}


class RolledBack(ArtifactError):
    """Older than what this reader has seen under the name."""


class NotFound(LailaError, LookupError):
    """What was asked for is not there."""


class EntryNotFound(NotFound, KeyError):
    """No entry has this id; `missing` lists the ids (the first few), `pool` is where they were sought."""

    def __init__(self, message: str, *, missing: tuple[str, ...] = (), pool: str = "") -> None:
        super().__init__(message)
        self.missing = tuple(missing)
        self.pool = pool

    def fields(self) -> dict[str, Any]:
        return {"message": self.message, "missing": list(self.missing), "pool": self.pool}


class UnknownPool(NotFound, KeyError):
    """No pool has this nickname."""


class UnknownPeer(NotFound, KeyError):
    """No peer has this id or name."""


class UnknownService(NotFound, KeyError):
    """The other node offers no service of this name."""


class ArtifactNotFound(NotFound, FileNotFoundError):
    """No artifact, agent or result has this name."""


class Denied(LailaError, PermissionError):
    """Refused."""


class AccessDenied(Denied):
    """An access rule of the other node says no."""


class AuthenticationFailed(Denied):
    """No shared secret, or a certificate that does not hold."""


class StorageError(LailaError, OSError):
    """A pool could not read or write. `reason` is the system's word, such as ENOSPC."""

    fault = "storage"
    retryable = True

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason

    def fields(self) -> dict[str, Any]:
        return {"message": self.message, "reason": self.reason}


class PoolClosed(StorageError):
    """The pool was closed."""

    retryable = False


class UnsafeVolume(StorageError):
    """A volume on which locks are known not to exclude; the message says which lock service to use instead."""

    retryable = False


class LockError(LailaError):
    """A lock could not do what was asked."""


class LockTimeout(LockError, TimeoutError):
    """Somebody else held it all the time; `holder` says who, as far as is known."""

    retryable = True

    def __init__(self, message: str, *, holder: str = "") -> None:
        super().__init__(message)
        self.holder = holder

    def fields(self) -> dict[str, Any]:
        return {"message": self.message, "holder": self.holder}


class LockLost(LockError):
    """Held no longer, or overtaken by another holder: what it guarded must not go on."""

    fault = "storage"


class LockReentered(LockError):
    """The holder asked again; waiting for oneself would never end."""


class LockUnavailable(LockError):
    """The lock service, or the volume, cannot lock now."""

    fault = "storage"
    retryable = True


class LinkError(LailaError, ConnectionError):
    """Something between two nodes."""

    fault = "network"
    retryable = True


class Unreachable(LinkError):
    """Nobody answers at that address, or its name does not resolve."""


class PeerLost(LinkError):
    """The link went away. `executed` is "no" when the request cannot have run, else "maybe"."""

    def __init__(self, message: str, *, executed: str = "maybe") -> None:
        super().__init__(message)
        self.executed = executed

    def fields(self) -> dict[str, Any]:
        return {"message": self.message, "executed": self.executed}


class ProtocolError(LinkError):
    """The other side broke the protocol."""

    fault = "peer"
    retryable = False


class VersionMismatch(LinkError):
    """No protocol version in common."""

    fault = "peer"
    retryable = False


class DuplicateNode(LinkError):
    """Another live node has the same identity."""

    fault = "peer"
    retryable = False


class SelfPeer(LinkError):
    """A node was asked to peer with itself."""

    fault = "caller"
    retryable = False


class ReplicaError(LailaError):
    """Something that replicas could not do, or must not."""


class QuorumLost(ReplicaError):
    """Too few replicas answered. Whether a write took place is then unknown: `stored` are the replicas that have it,
    `maybe` those that may. `reasons` says per replica why it does not count.
    """

    fault = "storage"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        needed: int = 0,
        stored: Sequence[str] = (),
        maybe: Sequence[str] = (),
        reasons: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.needed = needed
        self.stored = list(stored)
        self.maybe = list(maybe)
        self.reasons = dict(reasons or {})

    def fields(self) -> dict[str, Any]:
        return {
            "message": self.message,
            "needed": self.needed,
            "stored": self.stored,
            "maybe": self.maybe,
            "reasons": self.reasons,
        }


class MixedReplicas(ReplicaError):
    """A replica of another store, or one that is no member."""


class MembershipStale(ReplicaError):
    """The other side knows a newer membership: `number`, and `document`, its signed artifact (bytes)."""

    retryable = True

    def __init__(self, message: str, *, number: int = 0, document: bytes = b"") -> None:
        super().__init__(message)
        self.number = number
        self.document = document

    def fields(self) -> dict[str, Any]:
        return {"message": self.message, "number": self.number, "document": self.document}


class MembershipBusy(ReplicaError):
    """Another change of the members came first, or is under way."""

    retryable = True


class DeadlineExceeded(LailaError, TimeoutError):
    """It took longer than was allowed; the message says on what it waited."""

    fault = "network"
    retryable = True


class Busy(LailaError):
    """A queue is full."""

    fault = "peer"
    retryable = True


class Closed(LailaError):
    """This policy, peer or connection was closed."""


class RemoteError(LailaError):
    """The other node failed in a way that has no class here; `kind` is its name there."""

    fault = "peer"

    def __init__(self, message: str, *, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind

    def fields(self) -> dict[str, Any]:
        return {"message": self.message, "kind": self.kind}


class LabError(LailaError):
    """The lab could not do its work: an engine, a program beside a node, or a run that cannot be judged."""

    fault = "here"
