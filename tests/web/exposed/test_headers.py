# SPDX-License-Identifier: Apache-2.0
"""Headers and cookies between clients and guests: what passes, what changes and what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.exposed_url import Place
from waggle.web.exposed import cookies, headers
from waggle.web.exposed.headers import SANDBOX, Caller

PREFIX = "/e/id/8000"
BY_PATH = Caller(Place("id", 8000), "waggle.test:8080", "http", "192.0.2.7", PREFIX)
BY_HOST = replace(BY_PATH, authority="8000-id.box.test", scheme="https", prefix=None)
Pairs = list[tuple[bytes, bytes]]


def asked(given: Pairs, caller: Caller = BY_PATH, *, authorization: bool = False) -> Pairs:
    return [*headers.to_guest(given, caller, authorization=authorization)]


def answered(given: Pairs, caller: Caller = BY_PATH) -> Pairs:
    return [*headers.from_guest(given, caller)]


def test_headers_of_the_hop_and_of_proxies_do_not_reach_the_guest() -> None:
    dropped = [
        b"host", b"connection", b"keep-alive", b"te", b"trailer", b"upgrade", b"expect",
        b"proxy-authorization", b"transfer-encoding", b"content-length", b"forwarded",
        b"x-forwarded-for", b"x_forwarded_for", b"x-forwarded-host", b"x-forwarded-prefix",
        b"x-forwarded-proto", b"x-real-ip", b"proxy", b"x-original-url", b"authorization", b"x-hop",
    ]  # fmt: skip
    given = [(name, b"evil") for name in dropped if name != b"connection"]
    passed = dict(asked([*given, (b"connection", b"close, X-Hop"), (b"accept", b"*/*")]))
    assert passed == {
        b"host": b"localhost:8000",
        b"accept": b"*/*",
        b"x-forwarded-for": b"192.0.2.7",
        b"x-forwarded-proto": b"http",
        b"x-forwarded-host": b"waggle.test:8080",
        b"x-forwarded-prefix": b"/e/id/8000",
    }


def test_authorization_is_passed_on_only_if_it_is_the_guests() -> None:
    given = [(b"authorization", b"Basic eA==")]
    assert (b"authorization", b"Basic eA==") not in asked(given)
    assert (b"authorization", b"Basic eA==") in asked(given, authorization=True)


@pytest.mark.parametrize(
    "caller, name, value, passed",
    [
        (BY_PATH, b"origin", b"http://waggle.test:8080", b"http://localhost:8000"),
        (BY_PATH, b"origin", b"http://waggle.test:80801", b"http://waggle.test:80801"),
        (BY_PATH, b"origin", b"null", b"null"),
        (BY_PATH, b"referer", b"http://waggle.test:8080/e/id/8000/a", b"http://localhost:8000/a"),
        (BY_PATH, b"referer", b"http://waggle.test:8080/x?waggle_link=abc", None),
        (BY_HOST, b"origin", b"https://8000-id.box.test", b"http://localhost:8000"),
        (BY_HOST, b"referer", b"https://other.test/", b"https://other.test/"),
    ],
)
def test_a_page_of_the_port_is_one_of_the_guests_own_server(
    caller: Caller, name: bytes, value: bytes, passed: bytes | None
) -> None:
    assert dict(asked([(name, value)], caller)).get(name) == passed


def test_subprotocols_pass_without_a_token() -> None:
    given = [(b"sec-websocket-protocol", b"chat, waggle.bearer.secret"), (b"x", b"y")]
    assert dict(asked(given))[b"sec-websocket-protocol"] == b"chat"
    only = [(b"sec-websocket-protocol", b"waggle.bearer.secret")]
    assert b"sec-websocket-protocol" not in dict(asked(only))


def test_headers_that_act_beyond_the_port_do_not_leave_the_guest() -> None:
    dropped = [
        b"service-worker-allowed", b"clear-site-data", b"strict-transport-security", b"alt-svc",
        b"nel", b"report-to", b"x-accel-redirect", b"x-accel-buffering", b"x-sendfile",
        b"transfer-encoding", b"connection", b"upgrade", b"www-authenticate", b"trailer", b"date",
        b"sec-websocket-accept",
    ]  # fmt: skip
    given = [(name, b"evil") for name in dropped]
    assert answered([*given, (b"etag", b"1")]) == [
        (b"content-security-policy", SANDBOX),
        (b"etag", b"1"),
    ]
    prompt = [(b"www-authenticate", b"Basic")]
    assert answered(prompt, BY_HOST) == prompt


def test_a_guests_policy_cannot_weaken_the_sandbox() -> None:
    own = (b"content-security-policy", b"sandbox allow-same-origin allow-scripts")
    assert answered([own]) == [(b"content-security-policy", SANDBOX), own]  # browsers apply both


@pytest.mark.parametrize(
    "given, passed",
    [
        ([], b"private"),
        ([b"public, max-age=60"], b"private, max-age=60"),
        ([b"s-maxage=60", b"PUBLIC"], b"private"),
        ([b"no-store"], b"no-store"),
        ([b"private, max-age=1"], b"private, max-age=1"),
    ],
)
def test_what_needed_a_token_is_in_no_shared_cache(given: list[bytes], passed: bytes) -> None:
    pairs = [(b"cache-control", value) for value in given]
    private = replace(BY_HOST, is_private=True)
    assert answered(pairs, private) == [(b"cache-control", passed)]
    assert answered(pairs, BY_HOST) == pairs


@pytest.mark.parametrize(
    "value, by_path, by_host",
    [
        ("/x?y#z", f"{PREFIX}/x?y#z", "/x?y#z"),
        ("/", f"{PREFIX}/", "/"),
        (f"{PREFIX}/x", f"{PREFIX}/x", f"{PREFIX}/x"),
        (f"{PREFIX}0/x", f"{PREFIX}{PREFIX}0/x", f"{PREFIX}0/x"),
        ("x", "x", "x"),
        ("?a", "?a", "?a"),
        ("http://localhost:8000/x", f"{PREFIX}/x", "/x"),
        ("HTTPS://LocalHost:8000", f"{PREFIX}/", "/"),
        ("http://127.0.0.1:8000?x", f"{PREFIX}/?x", "/?x"),
        ("http://[::1]:8000/", f"{PREFIX}/", "/"),
        ("//0.0.0.0:8000/x", f"{PREFIX}/x", "/x"),
        ("http://localhost:8000//evil.test/", f"{PREFIX}//evil.test/", "/.//evil.test/"),
        ("http://localhost:9000/x", None, None),
        ("http://localhost/x", None, None),
        ("http://localhost:8000@evil.test/", None, None),
        ("https://elsewhere.test/x", None, None),
        ("//elsewhere.test/x", None, None),
    ],
)
def test_redirects_to_the_guests_own_server_stay_there(
    value: str, by_path: str | None, by_host: str | None
) -> None:
    for caller, expected in ((BY_PATH, by_path), (BY_HOST, by_host)):
        assert headers.location(value.encode(), caller) == (expected or value).encode()


def test_a_redirect_to_the_name_that_the_client_used_stays_there() -> None:
    assert headers.location(b"http://waggle.test:8080/x", BY_PATH) == f"{PREFIX}/x".encode()
    assert headers.location(b"https://8000-id.box.test/x", BY_HOST) == b"/x"


@pytest.mark.parametrize(
    "given, by_path, by_host",
    [
        (b"a=b", b"waggle-e.a=b", b"a=b"),
        (b"a=b; Path=/", b"waggle-e.a=b; Path=/e/id/8000/", b"a=b; Path=/"),
        (b"a=b; path=/x; Secure", b"waggle-e.a=b; Path=/e/id/8000/x; Secure", None),
        (b"a=b; Path=x; HttpOnly", b"waggle-e.a=b; HttpOnly", b"a=b; Path=x; HttpOnly"),
        (b"a=b; Domain=.test; SameSite=Lax", b"waggle-e.a=b; SameSite=Lax", b"a=b; SameSite=Lax"),
        (b"a=", b"waggle-e.a=", b"a="),
        (b"waggle_link=x", None, None),
        (b"WAGGLE_LINK=x", None, None),
        (b" waggle_link =x", None, None),
        (b"__Host-waggle_link=x; Path=/; Secure", None, None),
        (b"=waggle_link=x", None, None),
        (b"waggle_link", None, None),
        (b"a b=c", None, None),
    ],
)
def test_a_guests_cookies_stay_with_its_port(
    given: bytes, by_path: bytes | None, by_host: bytes | None
) -> None:
    assert cookies.from_guest(given, PREFIX) == by_path
    if by_host is not None or by_path is None:
        assert cookies.from_guest(given, None) == by_host


def test_a_guest_sees_its_own_cookies_alone() -> None:
    given = [b"other=1; waggle-e.a=2; waggle_link=t; __Host-waggle_link=u", b"waggle-e.b=3=4; c"]
    assert cookies.to_guest(given, by_path=True) == b"a=2; b=3=4"
    assert cookies.to_guest(given, by_path=False) == b"other=1; waggle-e.a=2; waggle-e.b=3=4; c="
    assert cookies.link_tokens(given) == ["u", "t"]
    assert cookies.link_tokens([b"waggle_link=%d" % n for n in range(9)]) == ["0", "1", "2", "3"]
    tossed = b"; ".join([b"waggle_link=%d" % n for n in range(9)] + [b"__Host-waggle_link=mine"])
    assert cookies.link_tokens([tossed])[0] == "mine", "which only the server's answer could set"


def test_the_cookie_of_a_link_is_for_its_port_and_no_script() -> None:
    rules = "Max-Age=60; Path=/e/id/8000/; HttpOnly; SameSite=Lax"
    made = cookies.link_cookie("t", 60, path=f"{PREFIX}/", secure=False)
    assert made == f"waggle_link=t; {rules}"
    made = cookies.link_cookie("t", 60, path=None, secure=True)
    assert made == "__Host-waggle_link=t; Max-Age=60; Path=/; HttpOnly; SameSite=Lax; Secure"


VALUES = st.binary(max_size=60).filter(lambda value: not set(value) & {0, 10, 13})


@given(VALUES)
def test_any_cookie_of_a_guest_is_marked_or_refused(value: bytes) -> None:
    made = cookies.from_guest(value, PREFIX)
    assert made is None or made.startswith(b"waggle-e.")
    by_host = cookies.from_guest(value, None)
    assert by_host is None or not by_host.lower().startswith(b"waggle_link")
    assert by_host is None or b"domain" not in by_host.lower().split(b";", 1)[-1].split(b"=")[0]


@given(st.lists(VALUES, max_size=4))
def test_no_cookies_of_a_client_bring_the_link_to_a_guest(values: list[bytes]) -> None:
    given = [*values, b"waggle_link=secret-token"]
    for by_path in (True, False):
        assert b"secret-token" not in cookies.to_guest(given, by_path=by_path)


@given(VALUES)
def test_any_redirect_has_an_answer(value: bytes) -> None:
    for caller in (BY_PATH, BY_HOST):
        assert isinstance(headers.location(value, caller), bytes)
