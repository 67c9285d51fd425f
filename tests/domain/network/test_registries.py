# SPDX-License-Identifier: Apache-2.0
"""What guests answer when they are asked for their registries becomes few and harmless rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.network.registries import (
    MAX_ANSWER,
    MAX_REGISTRIES,
    parse_registries,
    registry_rules,
)


def hosts(answer: str) -> list[str]:
    return [str(rule) for rule in parse_registries(answer)]


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("pip default https://pip.example.org/simple", ["pip.example.org:443"]),
        (
            "pip global.extra-index-url='https://a.example.org/x\\nhttps://b.example.org/y'",
            ["a.example.org:443", "b.example.org:443"],
        ),
        ('npm registry = "https://npm.example.org/"', ["npm.example.org:443"]),
        (
            "go https://go.example.org,https://other.example.org|direct",
            ["go.example.org:443", "other.example.org:443"],
        ),
        ("apt http://apt.example.org/debian", ["apt.example.org:80"]),
        ("pip http://user:secret@pip.example.org:443/simple", ["pip.example.org:443"]),
        ("pip HTTPS://PIP.Example.ORG./simple", ["pip.example.org:443"]),
        ("cargo sparse+https://crates.example.org/", ["crates.example.org:443"]),
        ("pip https://pip.example.org:8443/simple", []),  # another port is the operator's to open
        ("pip https://10.1.2.3/simple https://[fd00::1]/simple", []),  # nor are addresses
        ("pip https://169.254.169.254/ https://1.2.3/", []),
        ("npm https://localhost/ ftp://files.example.org/ https:///x https://*.example.org/", []),
        ("pip https://deny x.example.org/ https://x.example.org:*/", []),
        ("pip https://pip.example.org:99999/ https://pip.example.org:x/", []),
        ("", []),
    ],
)
def test_the_hosts_of_urls_become_rules(answer: str, expected: list[str]) -> None:
    assert hosts(answer) == expected


def test_a_host_is_listed_once_and_the_number_is_bounded() -> None:
    assert hosts("https://a.example.org/1 https://a.example.org/2") == ["a.example.org:443"]
    many = "\n".join(f"https://host{number}.example.org/" for number in range(500))
    assert len(hosts(many)) == MAX_REGISTRIES
    assert hosts(" " * MAX_ANSWER + "https://late.example.org/") == []


@given(st.text(max_size=400) | st.text("htps:/.@[]'\\ *0x-a1\n", max_size=200))
def test_any_answer_gives_rules_for_names_on_web_ports_only(answer: str) -> None:
    rules = parse_registries(answer)
    assert all(rule.block is None and rule.name[0] != "*" for rule in rules)
    assert {rule.ports for rule in rules} <= {((80, 80),), ((443, 443),)}
    assert registry_rules(map(str, rules)) == rules


def test_stored_texts_that_are_no_registries_are_left_out() -> None:
    stored = ["a.example.org:443", "deny b.example.org", "10.0.0.0/8:443", "*:443", "nonsense", ""]
    stored += ["c.example.org", "a.example.org:443", "GET d.example.org:443", "*.e.example.org:80"]
    assert [str(rule) for rule in registry_rules(stored)] == ["a.example.org:443"]
