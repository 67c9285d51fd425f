# SPDX-License-Identifier: Apache-2.0
"""Settings of images and registries: their meaning, and one line of error for an unusable value."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from waggle.config import Settings, load
from waggle.config.images import (
    parse_default_registry,
    parse_pull,
    parse_registries,
    parse_registry_mirrors,
)
from waggle.config.parsers import parsed_by
from waggle.domain.errors import SettingsInvalid
from waggle.domain.image import PullRule


def settings(**values: str) -> Settings:
    return load({f"WAGGLE_{name}": value for name, value in values.items()}, is_root=True)


def test_nothing_is_trusted_and_no_registry_is_implied_by_default() -> None:
    default = settings()
    assert default.allowed_images == ()
    assert default.default_registry == ""
    assert default.insecure_registries == frozenset()
    assert default.registry_mirrors == {}
    assert default.registry_auth_file is None
    assert default.image_pull is PullRule.MISSING


@pytest.mark.parametrize(
    "text,meaning",
    [
        ("registry.example", "registry.example"),
        ("Registry.Example:5000", "registry.example:5000"),
        ("registry.example/library", "registry.example/library"),
        ("localhost:5000/a/b", "localhost:5000/a/b"),
        ("[2001:db8::1]:5000", "[2001:db8::1]:5000"),
        ("intranet", "intranet"),
    ],
)
def test_a_default_registry_is_normalized(text: str, meaning: str) -> None:
    assert settings(DEFAULT_REGISTRY=text).default_registry == meaning


def test_insecure_registries_are_normalized_as_in_references() -> None:
    found = settings(INSECURE_REGISTRIES="Registry.Example:5000, localhost:5000,[::1]:5000")
    assert found.insecure_registries == {"registry.example:5000", "localhost:5000", "[::1]:5000"}


def test_mirrors_of_one_registry_keep_their_order() -> None:
    found = settings(
        REGISTRY_MIRRORS="a.example=m.example/cache, B.example=m.example:5000,a.example=n.example"
    )
    assert found.registry_mirrors == {
        "a.example": ("m.example/cache", "n.example"),
        "b.example": ("m.example:5000",),
    }


@pytest.mark.parametrize(
    "text,meaning",
    [
        ("always", PullRule.ALWAYS),
        ("Never", PullRule.NEVER),
        ("missing", PullRule.MISSING),
        ("24h", timedelta(hours=24)),
        ("90s", timedelta(seconds=90)),
    ],
)
def test_image_pull_is_a_rule_or_a_duration(text: str, meaning: object) -> None:
    assert settings(IMAGE_PULL=text).image_pull == meaning


def test_allowed_images_are_patterns_separated_by_commas() -> None:
    text = "registry.example/team/*, registry.example/**,app:v[12],a@sha256:*"
    assert settings(ALLOWED_IMAGES=text).allowed_images == (
        *("registry.example/team/*", "registry.example/**"),
        *("app:v[12]", "a@sha256:*"),
    )


BAD = [
    ("DEFAULT_REGISTRY", "https://registry.example"),
    ("DEFAULT_REGISTRY", "registry.example:port"),
    ("DEFAULT_REGISTRY", "registry.example:70000"),
    ("DEFAULT_REGISTRY", "registry.example/"),
    ("DEFAULT_REGISTRY", "registry.example/UPPER"),
    ("DEFAULT_REGISTRY", "user@registry.example"),
    ("DEFAULT_REGISTRY", "a b"),
    ("INSECURE_REGISTRIES", "http://registry.example"),
    ("INSECURE_REGISTRIES", "registry.example/path"),
    ("INSECURE_REGISTRIES", "*"),
    ("INSECURE_REGISTRIES", "good.example,bad example"),
    ("REGISTRY_MIRRORS", "registry.example"),
    ("REGISTRY_MIRRORS", "registry.example="),
    ("REGISTRY_MIRRORS", "=mirror.example"),
    ("REGISTRY_MIRRORS", "registry.example/path=mirror.example"),
    ("REGISTRY_MIRRORS", "registry.example=https://mirror.example"),
    ("REGISTRY_MIRRORS", "a.example=m.example,b.example"),
    ("IMAGE_PULL", "sometimes"),
    ("IMAGE_PULL", "-1h"),
    ("IMAGE_PULL", "24"),
    ("ALLOWED_IMAGES", "registry.example/a b"),
    ("ALLOWED_IMAGES", "registry.example/{a,b}"),
    ("ALLOWED_IMAGES", "registry.example/$(id)"),
    ("ALLOWED_IMAGES", "a" * 513),
]


@pytest.mark.parametrize("name,value", BAD)
def test_an_unusable_value_refuses_the_start_with_one_line(name: str, value: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        settings(**{name: value})
    [line] = caught.value.message.splitlines()
    assert line.startswith(f"WAGGLE_{name}")
    assert EXPECTED[name] in line
    assert line.isprintable()
    assert "docs/configuration.md" in caught.value.hint


EXPECTED = {
    "DEFAULT_REGISTRY": "host[:port][/path]",
    "INSECURE_REGISTRIES": "host or host:port",
    "REGISTRY_MIRRORS": "registry=host[:port][/path]",
    "IMAGE_PULL": "always, missing, never",
    "ALLOWED_IMAGES": "*",
}


@given(st.text(max_size=60))
def test_parsers_raise_only_value_error(text: str) -> None:
    for parse in (parse_registries, parse_registry_mirrors, parse_pull, parse_default_registry):
        with contextlib.suppress(ValueError):
            parse(text)


@pytest.mark.parametrize("value", [None, 5, timedelta(1), frozenset({"a"})])
def test_values_that_are_no_text_are_kept(value: object) -> None:
    for parse in (parse_registries, parse_registry_mirrors, parse_pull):
        assert TypeAdapter(Annotated[Any, parsed_by(parse)]).validate_python(value) is value
