# SPDX-License-Identifier: Apache-2.0
"""The URLs of a repository, and the URLs to which a redirect may lead."""

from __future__ import annotations

import contextlib

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import ImageUnavailable, SettingsInvalid
from waggle.domain.reference import parse_reference
from waggle.infra.oci.registry.endpoints import endpoints, origin, redirected, shown
from waggle.infra.oci.registry.options import RegistryOptions
from waggle.infra.oci.registry.push import upload_url

OPTIONS = RegistryOptions(
    insecure=frozenset({"plain.example:5000", "open.example", "[::1]:5000"}),
    mirrors={"registry.example": ("plain.example:5000/kept", "mirror.example")},
)
SOURCE = httpx2.URL("https://registry.example/v2/a/blobs/x")


def test_mirrors_come_first_with_their_own_path_and_scheme() -> None:
    found = endpoints(parse_reference("registry.example/team/app:v1"), OPTIONS)
    assert [str(server.url("manifests/v1")) for server in found] == [
        "http://plain.example:5000/v2/kept/team/app/manifests/v1",
        "https://mirror.example/v2/team/app/manifests/v1",
        "https://registry.example/v2/team/app/manifests/v1",
    ]
    assert found[0].name == "plain.example:5000/kept/team/app"


def test_a_registry_may_be_an_address_in_brackets() -> None:
    (own,) = endpoints(parse_reference("[::1]:5000/app:v1"), OPTIONS)
    assert origin(own.url("")) == ("http", "::1", 5000)


@pytest.mark.parametrize(
    "mirror",
    ["", "u:p@mirror.example", "a b", "x/../y", "x#y", "x:99999", "x/Y", "https://x", "/x"],
)
def test_a_malformed_mirror_is_refused(mirror: str) -> None:
    options = RegistryOptions(mirrors={"registry.example": (mirror,)})
    with pytest.raises(SettingsInvalid, match="WAGGLE_REGISTRY_MIRRORS"):
        endpoints(parse_reference("registry.example/app:v1"), options)


@pytest.mark.parametrize(
    "location, target",
    [
        ("/v2/b", "https://registry.example/v2/b"),
        ("https://cdn.example/x?s=1", "https://cdn.example/x?s=1"),
        ("//cdn.example/x", "https://cdn.example/x"),
        ("http://plain.example:5000/x", "http://plain.example:5000/x"),
        ("http://open.example/x", "http://open.example/x"),
        ("http://open.example:80/x", "http://open.example/x"),
    ],
)
def test_redirects_lead_to_encrypted_or_listed_hosts(location: str, target: str) -> None:
    assert str(redirected(SOURCE, location, OPTIONS)) == target


@pytest.mark.parametrize(
    "location",
    [
        "http://registry.example/v2/a",
        "http://plain.example:5001/x",
        "http://plain.example/x",
        "http://open.example:81/x",
        "http://open.example.evil.example/x",
        "file:///etc/passwd",
        "ftp://cdn.example/x",
        "https://u:p@cdn.example/x",
        "http://[broken",
    ],
)
def test_other_redirects_are_refused(location: str) -> None:
    with pytest.raises(ImageUnavailable):
        redirected(SOURCE, location, OPTIONS)


@given(st.text(max_size=40))
def test_any_location_is_followed_safely_or_refused(location: str) -> None:
    with contextlib.suppress(ImageUnavailable):
        target = redirected(SOURCE, location, OPTIONS)
        assert target.scheme == "https"
        assert target.host
        assert shown(target).isprintable()
    with contextlib.suppress(ImageUnavailable):
        assert origin(upload_url(SOURCE, location)) == origin(SOURCE)


def test_messages_show_no_path_and_no_query() -> None:
    assert shown(httpx2.URL("https://cdn.example:8443/secret?sig=x")) == "https://cdn.example:8443"
