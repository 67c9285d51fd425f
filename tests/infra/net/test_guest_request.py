# SPDX-License-Identifier: Apache-2.0
"""The target of a guest's request: names, addresses and URLs."""

import contextlib
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.infra.net.guest_request import BadTarget, Target, parse_authority, parse_http_url


@pytest.mark.parametrize(
    "text,host,port",
    [
        ("example.org:443", "example.org", 443),
        ("EXAMPLE.org:443", "example.org", 443),
        ("example.org.:443", "example.org.", 443),
        ("xn--bcher-kva.example:1", "xn--bcher-kva.example", 1),
        ("_dns.my_host:65535", "_dns.my_host", 65535),
        ("a" * 63 + ".b:1", "a" * 63 + ".b", 1),
        # Address spellings that only a resolver understands stay names until it has answered.
        ("0x7f.1:80", "0x7f.1", 80),
        ("2130706433:80", "2130706433", 80),
        ("0177.0.0.1:80", "0177.0.0.1", 80),
        ("127.1:80", "127.1", 80),
    ],
)
def test_names(text: str, host: str, port: int) -> None:
    assert parse_authority(text) == Target(host, port, None)


@pytest.mark.parametrize(
    "text,host",
    [
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:80", "::1"),
        ("[0:0:0:0:0:0:0:1]:80", "::1"),
        ("[::FFFF:127.0.0.1]:80", str(ip_address("::ffff:127.0.0.1"))),
    ],
)
def test_addresses_need_no_resolver(text: str, host: str) -> None:
    assert parse_authority(text) == Target(host, 80, ip_address(host))


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", ":80", "a", "a:", "a:0", "a:65536", "a:99999", "a:123456", "a:-1", "a:+1"),
        *("a:8 0", "a:80:80", "a b:80", "a/b:80", "a\\b:80", "a%00:80", "a\x00:80", "a\n:80"),
        *("user@a:80", "user:pw@a:80", "@a:80", "a..b:80", ".a:80", ".:80", "-a:80", "a-:80"),
        *("bücher.example:80", "a:\uff18\uff10", "a" * 64 + ":80", "a." * 127 + "a:80"),
        *("::1:80", "[::1:80", "::1]:80", "[::1]", "[]:80", "[a]:80", "[::1%eth0]:80"),
        *("[fe80::1%25eth0]:80", "[::1]x:80", "[[::1]]:80", "[127.0.0.1]:80"),
    ],
)
def test_malformed_targets_are_refused(text: str) -> None:
    with pytest.raises(BadTarget):
        parse_authority(text)


@pytest.mark.parametrize(
    "url,authority,path",
    [
        ("http://a", "a", "/"),
        ("http://a/", "a", "/"),
        ("HTTP://A/b?c=d", "a", "/b?c=d"),
        ("http://a?x", "a", "/?x"),
        ("http://a:80/x", "a", "/x"),
        ("http://a:8080/x", "a:8080", "/x"),
        ("http://a:/x", "a", "/x"),
        ("http://[::1]/x", "[::1]", "/x"),
        ("http://[::1]:81/x", "[::1]:81", "/x"),
        ("http://a/http://b/", "a", "/http://b/"),
        ("http://a/@b", "a", "/@b"),
    ],
)
def test_http_urls_are_parsed(url: str, authority: str, path: str) -> None:
    target, parsed = parse_http_url(url)
    assert (target.authority(), parsed) == (authority, path)


@pytest.mark.parametrize(
    "url",
    [
        *("/x", "*", "a:80", "https://a/", "ftp://a/", "file:///etc/passwd", "http:/a", "http:a"),
        *("http://", "http:///x", "http://u@a/", "http://u:p@a/x", "http://a\\@b/", "http://a#b/"),
        *("http://a/#f", "http://a b/", "http://[::1%25lo]/", "//a/", "http://a:x/", "http://?a"),
    ],
)
def test_malformed_urls_are_refused(url: str) -> None:
    with pytest.raises(BadTarget):
        parse_http_url(url)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E)))
def test_any_text_is_a_target_or_refused(text: str) -> None:
    for parse in (parse_authority, _host_of_url):
        with contextlib.suppress(BadTarget):
            target = parse(text)
            # A parsed target reads back as the same target.
            assert parse_authority(target.authority(), 80) == target


def _host_of_url(text: str) -> Target:
    return parse_http_url(f"http://{text}")[0]
