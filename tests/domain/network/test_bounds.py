# SPDX-License-Identifier: Apache-2.0
"""Defaults that go beyond the operator's maximum."""

from __future__ import annotations

import pytest

from waggle.domain.network import parse_network
from waggle.domain.network.bounds import beyond, narrowed


@pytest.mark.parametrize(
    "network, maximum, over",
    [
        ("public", "none", ["public"]),
        ("ask", "none", ["ask"]),
        ("@git, example.org, deny a.example", "none", ["@git", "example.org"]),
        ("none", "none", []),
        ("none", "example.org", []),
        ("public", "public", []),
        ("public", "ask", []),
        ("public", "example.org", ["public"]),
        ("public", "@packages", ["public"]),
        ("public", "*", []),
        ("public", "0.0.0.0/0:*", []),
        ("ask", "example.org", []),
        ("@git", "example.org", []),
        ("other.example", "@git", []),
        ("other.example, example.org", "example.org", ["other.example"]),
        ("a.example.org", "*.example.org", []),
        ("*.example.org", "a.example.org", []),
        ("example.org", "*.example.org", ["example.org"]),
        ("example.org:22", "example.org", ["example.org:22"]),
        ("GET example.org/v1/", "example.org", []),
        ("10.1.0.0/16:5432", "10.1.2.3:5432", []),
        ("10.1.0.0/16:5432", "10.2.0.0/16:5432", ["10.1.0.0/16:5432"]),
        ("10.1.2.3", "example.org", []),
        ("deny other.example, example.org", "example.org", []),
    ],
)
def test_what_the_maximum_surely_refuses_is_found(
    network: str, maximum: str, over: list[str]
) -> None:
    wanted, most = parse_network(network), parse_network(maximum)
    assert beyond(wanted, most) == over
    assert narrowed(wanted, most) == (most if over else wanted)
