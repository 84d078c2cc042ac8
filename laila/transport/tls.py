"""Mutual TLS 1.3 from a shared secret.

secret -> HKDF-SHA256 -> Ed25519 key of a certificate authority, the same for all who know the secret. Each node issues
itself a short-lived leaf for its identity key under that authority, and both sides verify strictly. Nothing that is
derived from the secret but the authority's *public* key ever leaves the process.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import ssl
import tempfile
from collections.abc import Iterator, Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..errors import AuthenticationFailed
from ..ids import node_id
from .identity import Identity

SCHEME = b"laila peering authority, version 1"
LEAF_LIFETIME = datetime.timedelta(days=7)
BACKDATE = datetime.timedelta(hours=1)
"""Clocks may differ by so much."""
_CA_FROM = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
_CA_UNTIL = datetime.datetime(2120, 1, 1, tzinfo=datetime.UTC)
_CA_NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "laila peers")])


def authority_key(secret: str) -> Ed25519PrivateKey:
    """The key that everybody who knows the secret derives."""
    seed = HKDF(algorithm=hashes.SHA256(), length=32, salt=SCHEME, info=b"ed25519 seed").derive(
        secret.encode()
    )
    return Ed25519PrivateKey.from_private_bytes(seed)


def authority(secret: str) -> tuple[Ed25519PrivateKey, x509.Certificate]:
    """The authority's key and its certificate, byte for byte the same everywhere (Ed25519 is deterministic)."""
    key = authority_key(secret)
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_CA_NAME)
        .issuer_name(_CA_NAME)
        .public_key(public)
        .serial_number(1)
        .not_valid_before(_CA_FROM)
        .not_valid_after(_CA_UNTIL)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, None)
    )
    return key, certificate


def issue_leaf(
    identity: Identity, secret: str, now: datetime.datetime | None = None
) -> tuple[x509.Certificate, x509.Certificate]:
    """A leaf for this node and the authority that it was issued under."""
    now = now or datetime.datetime.now(datetime.UTC)
    ca_key, ca = authority(secret)
    public = identity.key.public_key()
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.node_id)]))
        .issuer_name(_CA_NAME)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + LEAF_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, None)
    )
    return leaf, ca


def make_context(
    identity: Identity, secret: str, also_accept: Sequence[str] = (), *, server: bool
) -> ssl.SSLContext:
    """A context for one side. `also_accept` are further secrets whose holders are let in, for rotation."""
    leaf, ca = issue_leaf(identity, secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # a node is who holds its key, wherever it lives
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_TICKET
    if server:
        context.num_tickets = 0
    authorities = [ca, *(authority(other)[1] for other in also_accept)]
    context.load_verify_locations(
        cadata="".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in authorities)
    )
    key = identity.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with _in_memory_file(leaf.public_bytes(serialization.Encoding.PEM) + key) as path:
        context.load_cert_chain(path)
    return context


def peer_identity(der: bytes | None) -> str:
    """The node id of whoever proved this certificate's key. Raises AuthenticationFailed without one."""
    if not der:
        raise AuthenticationFailed("the other side showed no certificate")
    public = x509.load_der_x509_certificate(der).public_key()
    if not isinstance(public, Ed25519PublicKey):
        raise AuthenticationFailed("the other side's certificate holds a key of another kind than Ed25519")
    return node_id(public.public_bytes_raw())


def explain(error: ssl.SSLError, where: str) -> tuple[str, str]:
    """A failed handshake in words: a short reason for counters, and a sentence."""
    text = f"{getattr(error, 'verify_message', '') or ''} {error}".lower()
    if "expired" in text or "not yet valid" in text:
        return "clock", (
            f"{where}: a certificate is not valid at this time; "
            "compare the clocks of both nodes (they may differ by an hour at most)"
        )
    if "bad certificate" in text or "bad_certificate" in text or "certificate_expired" in text:
        return "clock", (
            f"{where} does not accept this node's certificate: it is not valid there at this time; "
            "compare the clocks of both nodes, `date` on each (they may differ by an hour at most)"
        )
    if any(
        word in text for word in ("unknown ca", "certificate verify failed", "unknown_ca", "bad signature")
    ):
        return "secret", f"{where} does not share this secret; give both nodes the same secret file"
    if "certificate required" in text or "did not return a certificate" in text:
        return "no-certificate", f"{where} did not prove that it knows the secret"
    if (
        "wrong version number" in text
        or "http request" in text
        or "record layer" in text
        or "bad record" in text
    ):
        return "not-tls", f"{where} does not speak TLS 1.3: is it a laila node?"
    if "unsupported protocol" in text or "protocol version" in text:
        return "tls-version", f"{where} offers no TLS 1.3"
    return "handshake", f"{where}: the TLS handshake failed ({error.reason or error})"


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )


@contextlib.contextmanager
def _in_memory_file(content: bytes) -> Iterator[str]:
    # The ssl module takes keys only from files; this one is never on a disk, and needs no writable file system.
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("laila", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name
