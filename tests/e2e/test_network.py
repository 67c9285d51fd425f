# SPDX-License-Identifier: Apache-2.0
"""The network of a guest: nothing, or the internet through the proxy, and never this host."""

from __future__ import annotations

import contextlib
import http.server
import ipaddress
import socket
import ssl
import threading
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.support.waggle_client import call, connected, create, execute
from tests.support.waggle_process import Waggle, running

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]

SECRET = b"only for this machine"
ALLOWED = "127.0.0.2"
"""The address of a simulated internet server; the operator allows this one address."""
EVERYWHERE = "0.0.0.0"  # noqa: S104 - the service that a guest must not reach
CURL = "curl -sS -m 20 -w ' %{http_code}' "


@dataclass
class Site:
    """A web server on all addresses of this host. `/to/URL` redirects."""

    port: int = 0
    tls_port: int = 0
    certificate: Path = Path()
    requests: list[str] = field(default_factory=list[str])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    site = Site()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            here = f"{self.connection.getsockname()[0]}{self.path}"
            site.requests.append(here)
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", self.path.removeprefix("/to/"))
                self.end_headers()
            else:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(SECRET)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

    site.certificate = tmp_path_factory.mktemp("site") / "site.pem"
    site.certificate.write_bytes(certificate(ALLOWED))
    with contextlib.ExitStack() as stack:
        plain, secure = (
            stack.enter_context(http.server.ThreadingHTTPServer((EVERYWHERE, 0), Handler))
            for _ in range(2)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(site.certificate)
        secure.socket = context.wrap_socket(secure.socket, server_side=True)
        site.port, site.tls_port = plain.server_port, secure.server_port
        for server in (plain, secure):
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
        yield site


def certificate(address: str) -> bytes:
    """Return a self-signed certificate and its key, as PEM. Only a client given it trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "waggle test")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    form = serialization.Encoding.PEM
    return signed.public_bytes(form) + key.private_bytes(
        form, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, site: Site) -> Generator[Waggle]:
    """A server that allows the site's port, so that only the address is refused."""
    directory = tmp_path_factory.mktemp("network")
    bundle = directory / "ca.pem"
    bundle.write_text(site.certificate.read_text().partition("-----BEGIN PRIVATE")[0])
    settings = {
        "egress_allow_cidrs": f"{ALLOWED}/32",
        "egress_ports": f"80,{site.port},{site.tls_port}",
        "ca_bundle": str(bundle),
    }
    with running(directory, settings) as server:
        yield server


async def _environment(server: Waggle, network: str) -> AsyncGenerator[str]:
    async with connected(server) as client:
        environment = await create(client, "shell", network=network)
    yield environment
    async with connected(server) as client:
        await call(client, "destroy_environment", environment_id=environment)


@pytest.fixture(scope="module")
async def public(server: Waggle, anyio_backend: str) -> AsyncGenerator[str]:
    async for environment in _environment(server, "public"):
        yield environment


@pytest.fixture(scope="module")
async def lonely(server: Waggle, anyio_backend: str) -> AsyncGenerator[str]:
    async for environment in _environment(server, "none"):
        yield environment


def own_addresses() -> list[str]:
    """Return the IPv4 addresses under which a guest may know this host."""
    found = {"127.0.0.1", "10.0.2.2", EVERYWHERE, "169.254.169.254"}
    found |= {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None)}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
            found.add(str(probe.getsockname()[0]))
        except OSError:
            pass  # no network at all
    return sorted(address for address in found if ":" not in address)


async def sh(server: Waggle, environment: str, code: str) -> str:
    """Return what a script prints on both streams. The script may fail."""
    async with connected(server) as client:
        return await execute(client, environment, f"exec 2>&1\n{code}\ntrue")


async def test_a_public_network_uses_the_proxy(server: Waggle, public: str, site: Site) -> None:
    said = await sh(server, public, f"{CURL} http://{ALLOWED}:{site.port}/hello; echo $http_proxy")
    assert said == f"{SECRET.decode()} 200http://127.0.0.1:3128\n"
    assert f"{ALLOWED}/hello" in site.requests


async def test_the_operators_certificates_are_trusted(
    server: Waggle, public: str, site: Site
) -> None:
    url = f"https://{ALLOWED}:{site.tls_port}/hello"
    code = f"""{CURL} {url}; echo
env -u SSL_CERT_FILE -u CURL_CA_BUNDLE {CURL} {url}; echo
{CURL} --cacert /dev/null --capath /nowhere {url}; echo
test -s /etc/ssl/certs/waggle-ca.pem && echo there
git ls-remote {url}"""
    said = await sh(server, public, code)
    assert said.count(f"{SECRET.decode()} 200\n") == 2, said
    assert said.count(" 000\n") == 1, "without it, no program trusts it"
    assert "there\n" in said
    assert "certificate" not in said.partition("there\n")[2], "git trusts it, too"


HOME_NAMES = {EVERYWHERE, "localhost", "2130706433", "[::1]", "[::ffff:127.0.0.1]"}
"""Names of the environment itself: the proxy leads there, and never to the host."""


async def test_the_host_is_refused_with_a_reason(server: Waggle, public: str, site: Site) -> None:
    names = [*own_addresses(), "localhost", "2130706433", "[::1]", "[::ffff:127.0.0.1]"]
    code = "\n".join(
        f"{CURL} --noproxy '' 'http://{name}:{site.port}/direct'; echo" for name in names
    )
    before = len(site.requests)
    said = await sh(server, public, code)
    assert len(site.requests) == before, "nothing of the host was asked"
    home = [name for name in names if name in HOME_NAMES or name.startswith("127.")]
    assert said.count("does not accept connections") == said.count(" 502\n") == len(home), said
    assert said.count(" 403\n") == len(names) - len(home), said
    assert said.count("WAGGLE_EGRESS_ALLOW_CIDRS") == len(names) - len(home), said
    assert server.events("egress_denied"), "a line a second, and then a count"


async def test_a_redirect_to_the_host_is_refused(server: Waggle, public: str, site: Site) -> None:
    there = f"http://127.0.0.1:{site.port}/redirected"
    said = await sh(
        server, public, f"{CURL} -L --noproxy '' http://{ALLOWED}:{site.port}/to/{there}"
    )
    assert said.endswith(" 502"), "it leads to the environment itself, where nothing listens"
    assert SECRET.decode() not in said
    assert site.requests[-1].startswith(f"{ALLOWED}/to/"), "and nothing was asked after that"


async def test_there_is_no_way_around_the_proxy(server: Waggle, public: str, site: Site) -> None:
    code = "\n".join(
        f"timeout 5 curl -sS --noproxy '*' http://{address}:{site.port}/around"
        for address in own_addresses()
        if not address.startswith(("127.", "0."))  # those are the guest's own
    )
    said = await sh(server, public, f"{code}\ngetent hosts none.invalid || echo no such name")
    assert SECRET.decode() not in said
    assert "no such name" in said
    assert not any(path.endswith("/around") for path in site.requests)


async def test_a_port_that_is_not_allowed_is_refused(server: Waggle, public: str) -> None:
    said = await sh(server, public, f"{CURL} http://{ALLOWED}:22/; {CURL} -p http://{ALLOWED}:22/")
    assert said.count("WAGGLE_EGRESS_PORTS") >= 1
    assert "403" in said


async def test_network_none_reaches_nothing(server: Waggle, lonely: str, site: Site) -> None:
    before = len(site.requests)
    code = f"""env | grep -i proxy
for a in {ALLOWED} {" ".join(own_addresses())}; do
  timeout 5 curl -sS http://$a:{site.port}/ -o /dev/null && echo REACHED
  timeout 5 curl -sS -x http://127.0.0.1:3128 http://$a:{site.port}/ -o /dev/null && echo REACHED
done"""
    said = await sh(server, lonely, code)
    assert "REACHED" not in said
    assert "proxy=" not in said.lower()
    assert len(site.requests) == before


async def test_a_download_works_right_after_a_rollback(server: Waggle, site: Site) -> None:
    """The proxy's port and all else that the frozen connection held in the guest are free again."""
    download = f"{CURL} http://{ALLOWED}:{site.port}/again"
    async with connected(server) as client:
        environment = await create(client, "shell")
        assert await execute(client, environment, download) == f"{SECRET.decode()} 200"
        kept = await call(client, "snapshot_environment", environment_id=environment)
        back = {"environment_id": environment, "snapshot_id": kept["snapshot_id"]}
        for _ in range(3):
            await call(client, "rollback_environment", **back)
            assert await execute(client, environment, download) == f"{SECRET.decode()} 200"
        await call(client, "delete_snapshot", snapshot_id=kept["snapshot_id"])
        await call(client, "destroy_environment", environment_id=environment)
