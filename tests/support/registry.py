# SPDX-License-Identifier: Apache-2.0
"""A real registry for tests: Debian's docker-registry on a free port of loopback.

with run_registry(directory) as registry: ...                      # plain HTTP
with run_registry(directory, tls=make_tls(directory)) as registry: ...
with run_registry(directory, basic=True) as registry: ...          # user `bee`, password `honey`

Every registry has its own configuration and storage in `directory` and is ended by its pid.
"""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import ipaddress
import json
import signal
import ssl
import subprocess
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.support.programs import program
from tests.support.registry_program import registry_program

USER, PASSWORD = "bee", "honey"
# `htpasswd -B` makes this from the two, so that the tests need no bcrypt.
HTPASSWD = "bee:$2y$05$qZzfKD8AXCQR5HwcuQNFJu.6CNaL./6aewOA81iR6EEtT0k8Xqncm\n"
_END_SECONDS = 20.0


@dataclass(frozen=True)
class Tls:
    """A certificate for 127.0.0.1, 127.0.0.2 and localhost, and the authority that signed it."""

    ca_pem: bytes
    certificate: Path
    key: Path

    def context(self) -> ssl.SSLContext:
        """Return a context for a test's own server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


@dataclass(frozen=True)
class Registry:
    port: int
    pid: int

    @property
    def name(self) -> str:
        """The registry's name in image references."""
        return f"127.0.0.1:{self.port}"


@contextlib.contextmanager
def run_registry(
    directory: Path,
    *,
    tls: Tls | None = None,
    basic: bool = False,
    token: Mapping[str, str] | None = None,
) -> Generator[Registry]:
    """Run a registry; `token` is its `auth: token:` section."""
    program = registry_program()
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "config.json"  # JSON is YAML
    config.write_text(json.dumps(_config(directory, tls, basic=basic, token=token)))
    process = subprocess.Popen(
        [program, "serve", str(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    drain: Thread | None = None
    try:
        port = _port_of(process)
        assert process.stderr is not None
        drain = Thread(target=process.stderr.read, name="registry log", daemon=True)
        drain.start()
        yield Registry(port, process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=_END_SECONDS)
        if drain:
            drain.join()
        if process.stderr:
            process.stderr.close()


def _config(
    directory: Path, tls: Tls | None, *, basic: bool, token: Mapping[str, str] | None
) -> dict[str, object]:
    http: dict[str, object] = {"addr": "127.0.0.1:0", "secret": "test"}
    config: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "storage")}},
        "http": http,
    }
    if tls:
        http["tls"] = {"certificate": str(tls.certificate), "key": str(tls.key)}
    if basic:
        (directory / "htpasswd").write_text(HTPASSWD)
        config["auth"] = {"htpasswd": {"realm": "test", "path": str(directory / "htpasswd")}}
    if token:
        config["auth"] = {"token": dict(token)}
    return config


def _port_of(process: subprocess.Popen[str]) -> int:
    """Read the port from the log."""
    assert process.stderr is not None
    seen: list[str] = []
    for line in process.stderr:
        seen.append(line)
        _, found, rest = line.partition("listening on 127.0.0.1:")
        if found:
            return int("".join(c for c in rest[:5] if c.isdigit()))
    raise AssertionError("docker-registry did not start:\n" + "".join(seen))


def make_tls(directory: Path) -> Tls:
    """Make an authority and a certificate that it signed, as strict as Python 3.13 requires."""
    directory.mkdir(parents=True, exist_ok=True)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "waggle test authority")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "registry")])
    now = dt.datetime.now(dt.UTC)

    def builder(subject: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca_name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
        )

    ca = (
        builder(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage(signs_certificates=True), critical=True)
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName(
        [
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.IPAddress(ipaddress.ip_address("127.0.0.2")),
            x509.DNSName("localhost"),
        ]
    )
    certificate = (
        builder(name, key.public_key())
        .add_extension(names, critical=False)
        .add_extension(usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    paths = directory / "registry.crt", directory / "registry.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(private_pem(key))
    return Tls(ca.public_bytes(serialization.Encoding.PEM), *paths)


def usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """Return the key usage of an authority or of a server."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def auth_file(path: Path, registry: str, user: str = USER, password: str = PASSWORD) -> Path:
    """Write an auth.json with one entry."""
    entry = {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}
    path.write_text(json.dumps({"auths": {registry: entry}}))
    return path


def skopeo(*arguments: str) -> None:
    """Run skopeo, which must succeed."""
    command = [program("skopeo"), "--insecure-policy", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
