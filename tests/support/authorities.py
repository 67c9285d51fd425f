# SPDX-License-Identifier: Apache-2.0
"""Certificates for servers of tests: an authority, and leaves that are good or bad on purpose."""

import ssl
import tempfile
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOUR = timedelta(hours=1)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """An authority of a test's own; `bundle` is its certificate."""

    def __init__(self, name: str = "test authority") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = _name(name)
        now = datetime.now(UTC)
        certificate = (
            self._builder(self.name, self.key, now + HOUR)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.bundle = certificate.public_bytes(serialization.Encoding.PEM)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, until: datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(until - 48 * HOUR)
            .not_valid_after(until)
        )

    def chain(self, host: str, *, expired: bool = False) -> bytes:
        """Return key and leaf for `host` in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        until = datetime.now(UTC) + (-HOUR if expired else HOUR)
        leaf = (
            self._builder(_name("leaf"), key, until)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return private + leaf.public_bytes(serialization.Encoding.PEM)

    def server(self, host: str, *protocols: str, expired: bool = False) -> ssl.SSLContext:
        """Return a server's context with a leaf for `host`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if protocols:
            context.set_alpn_protocols(list(protocols))
        with tempfile.NamedTemporaryFile() as file:
            file.write(self.chain(host, expired=expired))
            file.flush()
            context.load_cert_chain(file.name)
        return context
