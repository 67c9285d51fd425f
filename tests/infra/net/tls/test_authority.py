# SPDX-License-Identifier: Apache-2.0
"""The authority of an environment: good for the hosts of its secrets, and for no other."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from waggle.infra.net.tls.authority import (
    HANDSHAKES,
    LIFETIME,
    MAX_LEAVES,
    EnvironmentAuthority,
)

HOSTS = ("api.example.org", "*.git.example.org")


class Clock:
    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now


def shake_hands(server: ssl.SSLContext, trusted: bytes, name: str, asked: str | None = None) -> str:
    """Return how a client of OpenSSL finds the handshake."""
    client_context = ssl.create_default_context(cadata=trusted.decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=asked or name)
    end = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (client, end):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return error.verify_message
            except ssl.SSLError as error:
                return str(error.reason)
    return "fine"


@pytest.mark.parametrize("host", ["api.example.org", "a.git.example.org"])
def test_clients_accept_a_leaf_for_a_host_of_a_secret(host: str) -> None:
    authority = EnvironmentAuthority.new("box-1", HOSTS)
    assert authority.permits(host)
    assert shake_hands(authority.context(host, None), authority.certificate, host) == "fine"


@pytest.mark.parametrize("host", ["example.org", "bank.example.com", "badapi.example.org"])
def test_clients_refuse_a_leaf_for_any_other(host: str) -> None:
    authority = EnvironmentAuthority.new("box-1", HOSTS)
    assert not authority.permits(host)
    found = shake_hands(authority.context(host, None), authority.certificate, host)
    assert found == "permitted subtree violation"


def test_a_leaf_is_shown_only_for_its_own_name() -> None:
    authority = EnvironmentAuthority.new("box-1", HOSTS)
    context = authority.context("api.example.org", "h2")
    found = shake_hands(context, authority.certificate, "api.example.org", "x.git.example.org")
    assert found == "CALLBACK_FAILED"


def test_it_survives_as_bytes() -> None:
    first = EnvironmentAuthority.new("e" * 200, HOSTS)
    again = EnvironmentAuthority.load(first.to_bytes())
    assert again.certificate == first.certificate
    assert b"PRIVATE KEY" not in first.certificate
    host = "api.example.org"
    assert shake_hands(again.context(host, None), first.certificate, host) == "fine"
    with pytest.raises(ValueError, match=r".*"):
        EnvironmentAuthority.load(b"damaged")


def test_its_certificate_says_what_it_is() -> None:
    clock = Clock()
    authority = EnvironmentAuthority.new("box-1", HOSTS, now=clock)
    certificate = x509.load_pem_x509_certificate(authority.certificate)
    constraints = certificate.extensions.get_extension_for_class(x509.NameConstraints)
    assert constraints.critical
    excluded = constraints.value.excluded_subtrees or []
    assert [str(name.value) for name in excluded] == ["0.0.0.0/0", "::/0"]
    assert certificate.subject.rfc4514_string() == "CN=waggle box-1"
    assert certificate.not_valid_before_utc <= clock.now - timedelta(minutes=59)
    assert certificate.not_valid_after_utc >= clock.now + LIFETIME - timedelta(seconds=1)
    assert not authority.has_expired
    clock.now += LIFETIME
    assert authority.has_expired
    assert timedelta(days=3650) < LIFETIME, "longer than any environment is kept"


def test_it_tells_hosts_that_are_still_those_of_secrets_from_others() -> None:
    authority = EnvironmentAuthority.new("box-1", HOSTS)
    still = {"git.example.org"}
    assert authority.permits("api.example.org", apart_from=still)
    assert not authority.permits("a.git.example.org", apart_from=still)


def test_a_context_that_would_keep_many_sessions_is_replaced() -> None:
    authority = EnvironmentAuthority.new("box-1", HOSTS)
    contexts = [authority.context("api.example.org", None) for _ in range(2 * HANDSHAKES)]
    assert contexts[0] is contexts[HANDSHAKES - 1]
    assert len({id(context) for context in contexts}) == 2


def test_leaves_are_kept_renewed_and_bounded() -> None:
    clock = Clock()
    authority = EnvironmentAuthority.new("box-1", HOSTS, now=clock)
    first = authority.context("api.example.org", "h2")
    assert authority.context("api.example.org", "h2") is first
    assert authority.context("api.example.org", "http/1.1") is not first
    clock.now += timedelta(days=29)
    renewed = authority.context("api.example.org", "h2")
    assert renewed is not first
    for number in range(MAX_LEAVES):
        authority.context(f"{number}.git.example.org", None)
    assert authority.context("api.example.org", "h2") is not renewed
