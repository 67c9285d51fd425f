# SPDX-License-Identifier: Apache-2.0
"""The network of an environment, and its text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import InvalidArgument
from waggle.domain.network import (
    MAX_ITEMS,
    NO_NETWORK,
    PUBLIC_NETWORK,
    Default,
    Network,
    parse_additions,
    parse_network,
)
from waggle.domain.network.rules import parse_rule

RULES = st.sampled_from(["example.org", "deny *.example.net", "10.0.0.0/8:5432", "GET a.org/x"])


@pytest.mark.parametrize(
    "text, network",
    [
        ("none", NO_NETWORK),
        ("public", PUBLIC_NETWORK),
        ("ask", Network(Default.ASK)),
        ("example.org", Network(Default.RULES, (parse_rule("example.org"),))),
        (
            "public, deny ads.example.org,@packages",
            Network(Default.PUBLIC, (parse_rule("deny ads.example.org"),), ("packages",)),
        ),
        ("GET,HEAD example.org", Network(Default.RULES, (parse_rule("GET,HEAD example.org"),))),
    ],
)
def test_a_text_is_a_network(text: str, network: Network) -> None:
    assert parse_network(text) == network
    assert parse_network(str(network)) == network
    assert parse_network(network.items) == network


@given(
    st.sampled_from(["", "public", "ask"]), st.lists(RULES, max_size=4), st.lists(RULES, max_size=4)
)
def test_its_text_reads_back_the_same(default: str, one: list[str], two: list[str]) -> None:
    items = [*([default] if default else []), *one, "@a", *two]
    network = parse_network(items)
    assert parse_network(str(network)) == network
    assert len(network.rules) == len({*one, *two})


@pytest.mark.parametrize(
    "given",
    [
        "",
        " , ",
        [],
        [""],
        "none, example.org",
        "none,@packages",
        "public, ask",
        "publik",
        "@",
        "@A",
    ],
)
def test_a_wrong_one_is_refused(given: str | list[str]) -> None:
    with pytest.raises(InvalidArgument):
        parse_network(given)


def test_the_number_of_rules_is_bounded() -> None:
    many = [f"n{number}.example.org" for number in range(MAX_ITEMS)]
    assert len(parse_network(many).rules) == MAX_ITEMS
    with pytest.raises(InvalidArgument, match="at most"):
        parse_network([*many, "@packages"])


def test_an_added_rule_takes_the_place_of_the_one_that_says_the_opposite() -> None:
    network = parse_network("ask, deny example.org:443, example.net")
    added = network.with_rules(parse_rule("example.org:443"), parse_rule("example.net"))
    assert added == parse_network("ask, example.org:443, example.net")
    with pytest.raises(InvalidArgument, match="no network"):
        NO_NETWORK.with_rules(parse_rule("example.org"))


@pytest.mark.parametrize("item", ["bad", "https://a.example/x", "10.1.2.3/33"])
def test_a_wrong_addition_is_named_as_it_was_given(item: str) -> None:
    for allow, deny in (([item], []), ([], [item])):
        with pytest.raises(InvalidArgument) as refused:
            parse_additions(allow, deny)
        assert refused.value.message.startswith(f"'{item}' cannot be a network rule")


def test_an_addition_with_the_other_action_is_sent_to_its_place() -> None:
    assert parse_additions(["allow a.example"], ["deny b.example"]) == parse_additions(
        ["a.example"], ["b.example"]
    )
    for allow, deny in ((["deny a.example"], []), ([], ["allow a.example"])):
        with pytest.raises(InvalidArgument) as refused:
            parse_additions(allow, deny)
        assert refused.value.hint == "Rules that deny belong into deny, others into allow."
