# SPDX-License-Identifier: Apache-2.0
"""URLs of exposed ports: what is written is read again, and nothing else is."""

from __future__ import annotations

import uuid
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.exposed_url import ExposedUrls, Place, in_path

ID = "0a000000-0000-4000-8000-00000000000f"
PLACE = Place(ID, 8000)
PLACES = st.builds(Place, st.uuids().map(str), st.integers(1, 65_535))
BY_PATH = ExposedUrls("https://waggle.test/base")
BY_HOST = ExposedUrls("https://waggle.test:8443", "box.test")


@given(PLACES)
def test_a_path_names_its_place(place: Place) -> None:
    plain = ExposedUrls()
    assert in_path(f"{plain.prefix(place)}/a/b".encode()) == (place, b"/a/b")
    assert in_path(plain.prefix(place).encode()) == (place, b"")
    assert urlsplit(plain.url(place, "127.0.0.1:8080")).path == f"{plain.prefix(place)}/"


@given(PLACES)
def test_a_host_names_its_place(place: Place) -> None:
    authority = urlsplit(BY_HOST.url(place, "")).netloc
    assert BY_HOST.in_host(authority) == place
    assert BY_HOST.in_host(authority.upper()) == place


@given(st.binary(max_size=80))
def test_any_other_path_names_nothing(path: bytes) -> None:
    assert in_path(path) is None


@pytest.mark.parametrize(
    "path",
    [
        f"/e/{ID}/8000x",
        f"/e/{ID}/08000/",
        f"/e/{ID}/0/",
        f"/e/{ID}/65536/",
        f"/e/{ID}/800000/",
        f"/e/{ID}/-1/",
        f"/e/{ID}/٣/",
        f"/e/{ID.upper()}/8000/",
        f"/e/{ID[:-1]}/8000/",
        f"/e/{uuid.UUID(ID).hex}/8000/",
        f"/e/{ID}//8000/",
        f"/e/../e/{ID}/8000/",
        f"/e/{ID}%2f8000/",
        f"//e/{ID}/8000/",
    ],
)
def test_a_path_has_one_form(path: str) -> None:
    assert in_path(path.encode()) is None


@pytest.mark.parametrize(
    "host",
    [
        "box.test",
        f"8000-{ID}.box.test.evil.test",
        f"8000-{ID}box.test",
        f"8000-{ID}.other.test",
        f"x.8000-{ID}.box.test",
        f"08000-{ID}.box.test",
        f"70000-{ID}.box.test",
        f"8000-{ID}.box.test:x",
        f"8000-{ID}.box.test:80:80",
        f"8000-{ID}.box.test@evil.test",
        f"8000-{ID}.box.test/",
        "",
    ],
)
def test_a_host_has_one_form(host: str) -> None:
    assert BY_HOST.in_host(host) is None
    assert ExposedUrls().in_host(f"8000-{ID}.box.test") is None


def test_urls_are_those_that_clients_see() -> None:
    label = f"8000-{ID}"
    token = "waggle_link=abc"
    assert ExposedUrls().url(PLACE, "127.0.0.1:1") == f"http://127.0.0.1:1/e/{ID}/8000/"
    assert BY_PATH.url(PLACE, "x", "abc") == f"https://waggle.test/base/e/{ID}/8000/?{token}"
    assert BY_PATH.prefix(PLACE) == f"/base/e/{ID}/8000"
    assert BY_HOST.url(PLACE, "x", "abc") == f"https://{label}.box.test:8443/?{token}"
    local = ExposedUrls(host="localhost")
    assert local.url(PLACE, "127.0.0.1:8080") == f"http://{label}.localhost:8080/"
    assert local.url(PLACE, "[::1]:8080") == f"http://{label}.localhost:8080/"
    assert ExposedUrls(host="box.test:9").url(PLACE, "x:1") == f"http://{label}.box.test:9/"


def test_a_server_known_by_loopback_alone_has_no_urls_for_others() -> None:
    for name in ("localhost", "127.0.0.1", "[::1]", "LocalHost"):
        for authority in (name, f"{name}:8080"):
            assert not ExposedUrls().reaches_beyond(authority)
            assert BY_HOST.reaches_beyond(authority)
    for authority in ("waggle.test", "waggle.test:80", "192.0.2.1", "[2001:db8::1]:80"):
        assert ExposedUrls().reaches_beyond(authority)
