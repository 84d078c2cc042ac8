"""TLS 1.3 as Python's `ssl` gives it: an SSLSocket, a certificate on both sides, a thread per client."""

from __future__ import annotations

import datetime
import socket
import ssl
import tempfile
from pathlib import Path

from . import raw_frames
from .contender import Address, Announce


def certificate() -> str:
    """A fresh self-signed certificate for localhost with its key, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return (private + signed.public_bytes(serialization.Encoding.PEM)).decode()


def context(purpose: ssl.Purpose, pem: str) -> ssl.SSLContext:
    """TLS 1.3 only; both sides show `pem` and accept nothing else."""
    made = ssl.create_default_context(purpose, cadata=pem)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pair.pem")
        path.touch(mode=0o600)
        path.write_text(pem)
        made.load_cert_chain(path)
    return made


class RawTls(raw_frames.RawClient):
    """The raw protocol inside TLS."""

    def open_socket(self, address: Address) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", address["port"]))
        client = context(ssl.Purpose.SERVER_AUTH, address["pem"])
        return client.wrap_socket(plain, server_hostname="localhost")

    def serve(self, announce: Announce) -> None:
        pem = certificate()
        server = context(ssl.Purpose.CLIENT_AUTH, pem)
        listener, port = raw_frames.listen()
        announce({"port": port, "pem": pem})
        raw_frames.serve_threads(listener, lambda sock: server.wrap_socket(sock, server_side=True))
