# SPDX-License-Identifier: Apache-2.0
"""WWW-Authenticate headers as registries write them, as the RFC allows them, and malformed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.infra.oci.registry.challenge import (
    MAX_HEADER,
    Basic,
    Bearer,
    choose,
    parse_challenges,
)

TOKEN = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=12)
VALUE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40)
BEARER = Bearer("https://auth.example/token", "registry.example", "repository:a/b:pull")


def quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@pytest.mark.parametrize(
    "header",
    [
        'Bearer realm="https://auth.example/token",service="registry.example",'
        'scope="repository:a/b:pull"',
        'bearer REALM="https://auth.example/token" , service = "registry.example",'
        "scope=repository:a/b:pull",
        'Basic realm="x", Bearer realm="https://auth.example/token",service="registry.example",'
        'scope="repository:a/b:pull", realm="https://second.example"',
        'Negotiate abc==, Bearer realm="https://auth.example/token",service=registry.example,'
        'scope="repository:a/b:pull"',
    ],
)
def test_a_token_service_is_found(header: str) -> None:
    assert choose([header]) == BEARER


def test_challenges_may_come_in_several_headers() -> None:
    assert choose(["Negotiate", 'Basic realm="x"', "Digest qop=auth"]) == Basic()
    assert choose(["Negotiate"]) is None
    assert choose([]) is None


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        'Bearer realm=""',
        'Bearer realm="unterminated',
        'Bearer realm="https://a.example/\x01"',
        'Bearer realm="https://a.example",scope="' + "x" * 2000 + '"',
        'Bearer realm="https://a.example",x="' + "x" * MAX_HEADER + '"',
        'realm="https://a.example"',
        "",
        ",,, ,",
        '"',
    ],
)
def test_an_unusable_challenge_is_ignored(header: str) -> None:
    assert choose([header]) is None


@given(st.lists(st.tuples(TOKEN, st.dictionaries(TOKEN, VALUE, max_size=4)), max_size=4))
def test_well_formed_challenges_are_parsed(
    challenges: list[tuple[str, dict[str, str]]],
) -> None:
    header = ", ".join(
        scheme + " " + ", ".join(f"{name}={quoted(value)}" for name, value in fields.items())
        for scheme, fields in challenges
    )
    assert parse_challenges([header]) == challenges


@given(st.text(st.sampled_from('Bearer realm=",\\ \t\r\nab=:/\x00é'), max_size=60))
def test_any_text_is_read_without_an_error(text: str) -> None:
    for scheme, fields in parse_challenges([text]):
        assert scheme == scheme.lower()
        assert all(name == name.lower() for name in fields)
    choose([text])


@pytest.mark.parametrize("text", ['a="\\' * 2700, "a " * 4000, "a=" * 4000, '"' * 8000, "," * 8000])
def test_hostile_repetition_is_parsed_quickly(text: str) -> None:
    choose([text[:MAX_HEADER], 'Bearer realm="https://a.example"'])
