# SPDX-License-Identifier: Apache-2.0
"""The images that clients may name, and when a registry is asked."""

from __future__ import annotations

from datetime import timedelta

import pytest

from waggle.domain.errors import InvalidArgument
from waggle.domain.image import AllowedImages, PullRule, needs_pull
from waggle.domain.reference import ImageReference, parse_reference

HOUR = timedelta(hours=1)
TAGGED = parse_reference("registry.example/app:v1")
BY_DIGEST = parse_reference("registry.example/app@sha256:" + "a" * 64)
SHORT = parse_reference("app:v1")
ALLOWED = AllowedImages(
    frozenset({"python"}), ("registry.example/team/*",), "registry.example/team"
)


class TestAllowed:
    def test_names_of_the_operator_are_allowed_unchanged(self) -> None:
        assert ALLOWED.check("python") == "python"

    @pytest.mark.parametrize("text", ["registry.example/team/app", "app", "app:latest"])
    def test_an_image_that_a_pattern_allows_gets_its_canonical_name(self, text: str) -> None:
        assert ALLOWED.check(text) == "registry.example/team/app:latest"

    @pytest.mark.parametrize("text", ["registry.example/other/app", "other.example/team/app"])
    def test_any_other_image_is_refused_with_the_allowed_ones(self, text: str) -> None:
        with pytest.raises(InvalidArgument, match="not allowed") as caught:
            ALLOWED.check(text)
        assert "python, registry.example/team/*" in caught.value.hint

    @pytest.mark.parametrize("text", ["/etc", "oci:/etc", "../x", "~/x", "", "a\0"])
    def test_a_path_on_the_host_is_not_an_image(self, text: str) -> None:
        with pytest.raises(InvalidArgument):
            AllowedImages(frozenset(), ("**",)).check(text)


@pytest.mark.parametrize(
    "reference, rule, is_here, age, needed",
    [
        (TAGGED, PullRule.MISSING, False, None, True),
        (TAGGED, PullRule.MISSING, True, HOUR * 100, False),
        (TAGGED, PullRule.ALWAYS, True, timedelta(0), True),
        (TAGGED, PullRule.NEVER, False, None, False),
        (TAGGED, HOUR, True, HOUR, False),
        (TAGGED, HOUR, True, HOUR + timedelta(seconds=1), True),
        (TAGGED, HOUR, True, None, True),
        (TAGGED, HOUR, False, timedelta(0), True),
        (BY_DIGEST, PullRule.ALWAYS, True, None, False),
        (BY_DIGEST, PullRule.MISSING, False, None, True),
        (SHORT, PullRule.ALWAYS, False, None, False),
    ],
)
def test_a_registry_is_asked_according_to_the_pull_rule(
    reference: ImageReference,
    rule: PullRule | timedelta,
    is_here: bool,
    age: timedelta | None,
    needed: bool,
) -> None:
    assert needs_pull(reference, rule, is_here=is_here, age=age) is needed
