# SPDX-License-Identifier: Apache-2.0
"""Secrets, placeholders and values: what they are, and what no text shows."""

import copy
import pickle

import pytest

from waggle.domain.access import LOCAL, Owner
from waggle.domain.errors import InvalidArgument
from waggle.domain.secrets import (
    MAX_PLACEHOLDER,
    Granted,
    Secret,
    SecretValue,
    has_shape,
    matches,
    mint,
)

HEX = "0123456789abcdef" * 2
ANN = Owner("ann")


def test_a_value_shows_itself_in_no_text() -> None:
    value = SecretValue(b"hunter2-hunter2")
    for text in (repr(value), str(value), f"{value}", f"{value!r:>20}", repr([value])):
        assert "hunter2" not in text
    for keep in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError):
            keep(value)
    assert value.reveal() == b"hunter2-hunter2"


@pytest.mark.parametrize(
    "value",
    [b"", b"1234567", b"a" * 4097, b"line\nline2", b" padded.", b"padded. ", b"caf\xc3\xa9 caf"],
)
def test_a_value_that_cannot_be_masked_or_sent_is_refused_without_repeating_it(
    value: bytes,
) -> None:
    with pytest.raises(InvalidArgument) as error:
        SecretValue(value)
    assert not value or value.decode("latin-1") not in str(error.value)


@pytest.mark.parametrize(
    "pattern, host, fits",
    [
        ("api.example.org", "api.example.org", True),
        ("api.example.org", "x.api.example.org", False),
        ("*.example.org", "a.example.org", True),
        ("*.example.org", "a.b.example.org", True),
        ("*.example.org", "example.org", False),
        ("*.example.org", ".example.org", False),
        ("*.example.org", "badexample.org", False),
    ],
)
def test_hosts_match_exactly_or_below(pattern: str, host: str, fits: bool) -> None:
    assert matches(pattern, host) is fits


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Git-Hub"},
        {"name": ""},
        {"variable": "1X"},
        {"variable": "A=B"},
        {"hosts": ()},
        {"hosts": ("*",)},
        {"hosts": ("*.org",)},
        {"hosts": ("10.0.0.1",)},
        {"hosts": ("Example.org",)},
        {"hosts": ("a.*.org",)},
        {"places": ()},
        {"places": ("body",)},
        {"places": ("header:",)},
    ],
)
def test_a_malformed_description_is_refused(change: dict[str, object]) -> None:
    good = {"name": "github", "variable": "GITHUB_TOKEN", "hosts": ("api.example.org",)}
    with pytest.raises(InvalidArgument):
        Secret(**{**good, **change})  # pyright: ignore[reportArgumentType]


def test_headers_that_rule_the_connection_are_no_place() -> None:
    secret = Secret("a", "A", ("x.example.org",))
    assert secret.may_be_in_header(b"authorization")
    assert not secret.may_be_in_header(b"host")
    assert not secret.may_be_in_header(b"content-length")


def test_a_placeholder_is_safe_everywhere_and_bounded() -> None:
    placeholder = mint("a" * 32, lambda: HEX)
    assert len(placeholder) == MAX_PLACEHOLDER
    assert has_shape(placeholder)
    assert not has_shape(placeholder[:-1])
    assert not has_shape(placeholder + "0")
    with pytest.raises(ValueError, match="hex digits"):
        mint("a", lambda: "short")


class _Vault:
    def __init__(self, *secrets: Secret) -> None:
        self._secrets = {secret.name: secret for secret in secrets}

    def secret(self, name: str) -> Secret | None:
        return self._secrets.get(name)

    async def value(self, name: str) -> SecretValue:
        raise NotImplementedError

    def known(self, name: str) -> tuple[SecretValue, ...]:
        return ()


def test_what_is_granted_follows_the_vault() -> None:
    hers = Secret("a", "A", ("x.example.org",), owners=frozenset({ANN}))
    placeholders = {"a": mint("a", lambda: HEX), "gone": mint("gone", lambda: HEX)}
    assert Granted(ANN, placeholders, _Vault(hers)).covering("x.example.org") == (hers,)
    assert Granted(ANN, placeholders, _Vault(hers)).covering("example.org") == ()
    assert Granted(LOCAL, placeholders, _Vault(hers)).covering("x.example.org") == ()
    assert Granted(ANN, placeholders, _Vault()).secret("gone") is None


@pytest.mark.parametrize(
    "placeholders",
    [
        {},
        {"a": "no placeholder"},
        {"a": f"waggle-a-{HEX}", "b": f"waggle-a-{HEX}"},
        {f"n{n}": f"waggle-n{n}-{HEX}" for n in range(17)},
    ],
)
def test_malformed_placeholders_are_refused(placeholders: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="malformed placeholders"):
        Granted(LOCAL, placeholders, _Vault())
