# SPDX-License-Identifier: Apache-2.0
"""The certificate authority of one environment, for the hosts of its secrets and nothing else.

Made when an environment gets secrets, kept with it as bytes (the key is worth as much as the
environment: it opens only connections of that guest), and used by `ended` for a leaf per host. The
certificate is limited to the hosts by critical name constraints: should the guest's trust in it be
carried elsewhere, it is good for no other host, and no address. Knows no secrets and no files.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Final, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from waggle.domain.secrets import matches
from waggle.infra.net.tls import server_context

EARLIER: Final = timedelta(hours=1)
LIFETIME: Final = timedelta(days=3653)
"""Longer than any environment is kept: a guest has its certificate in its memory and trust stores,
where it cannot be renewed. It opens nothing but that guest's own connections; what is shown on
these, the leaves, have a short life."""
LEAF_LIFETIME: Final = timedelta(days=30)
RENEWED_BEFORE: Final = timedelta(days=2)
MAX_LEAVES: Final = 64
HANDSHAKES: Final = 200
"""Of one context: it keeps a session of each client of TLS 1.2 for two hours, about 1 kB."""
Now = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class _Shown:
    """A context, until when its leaf is shown, and for how many more handshakes."""

    renewed: datetime
    context: ssl.SSLContext
    left: int = HANDSHAKES - 1


class EnvironmentAuthority:
    """A key, its certificate, and leaves by host; the leaves used last are kept."""

    def __init__(
        self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate, *, now: Now = _now
    ) -> None:
        self._key = key
        self._certificate = certificate
        self._now = now
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._contexts: OrderedDict[tuple[str, str | None], _Shown] = OrderedDict()
        self._hosts = _hosts_of(certificate)

    @classmethod
    def new(
        cls, environment: str, hosts: Iterable[str], *, now: Now = _now
    ) -> EnvironmentAuthority:
        """Make one. `hosts` are names and `*.example.org`; `environment` is put into its name."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"waggle {environment}"[:64])])
        bases = sorted({host.removeprefix("*.") for host in hosts})
        names = [x509.DNSName(base) for base in bases]
        # Constraints say nothing about kinds of names that they do not have.
        addresses = [x509.IPAddress(ip_network(block)) for block in ("0.0.0.0/0", "::/0")]
        usage = x509.KeyUsage(*(False,) * 5, key_cert_sign=True, crl_sign=True, **_NO_ENCIPHERING)
        certificate = (
            _builder(name, name, key, now(), now() + LIFETIME)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.NameConstraints(names, addresses), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate, now=now)

    @classmethod
    def load(cls, data: bytes, *, now: Now = _now) -> EnvironmentAuthority:
        """Read what `to_bytes` returned. Raises ValueError."""
        key = serialization.load_pem_private_key(data, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("not an elliptic curve key")
        return cls(key, x509.load_pem_x509_certificate(data), now=now)

    def to_bytes(self) -> bytes:
        """Return key and certificate in PEM: a secret of the server, never for the guest."""
        return _pem(self._key) + self.certificate

    @property
    def certificate(self) -> bytes:
        """The certificate in PEM, for the guest's trust stores."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def has_expired(self) -> bool:
        """Whether no client accepts a leaf of it any more."""
        return self._now() >= self._certificate.not_valid_after_utc

    def permits(self, host: str, apart_from: Container[str] = ()) -> bool:
        """Whether its certificate is for this host, by a name that is not one of `apart_from`."""
        return any(
            matches(base, host) or matches(f"*.{base}", host)
            for base in self._hosts
            if base not in apart_from
        )

    def context(self, host: str, protocol: str | None) -> ssl.SSLContext:
        """Return the TLS context for a host that takes one protocol; about 1 ms if it is new.

        It refuses a handshake that names another host.
        """
        known = self._contexts.get((host, protocol))
        if known is not None and self._now() < known.renewed and known.left:
            known.left -= 1
            self._contexts.move_to_end((host, protocol))
            return known.context
        leaf = self._leaf(host)
        chain = leaf.public_bytes(serialization.Encoding.PEM)
        context = server_context(chain, _pem(self._leaf_key), protocol)

        def check(_: object, name: str | None, __: object) -> int | None:
            same = name is not None and name.lower() == host
            return None if same else ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

        context.sni_callback = check
        renewed = leaf.not_valid_after_utc - RENEWED_BEFORE
        self._contexts[host, protocol] = _Shown(renewed, context)
        if len(self._contexts) > MAX_LEAVES:
            self._contexts.popitem(last=False)
        return context

    def _leaf(self, host: str) -> x509.Certificate:
        usage = x509.KeyUsage(
            True, *(False,) * 4, key_cert_sign=False, crl_sign=False, **_NO_ENCIPHERING
        )
        until = min(self._now() + LEAF_LIFETIME, self._certificate.not_valid_after_utc)
        # A name of over 64 characters does not fit a common name; clients read the other one.
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "waggle")])
        return (
            _builder(subject, self._certificate.subject, self._leaf_key, self._now(), until)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )


_NO_ENCIPHERING: Final = {"encipher_only": False, "decipher_only": False}


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(until)
        .add_extension(identifier, critical=False)
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints).value
    permitted = constraints.permitted_subtrees or []
    return tuple(cast("str", name.value) for name in permitted)
