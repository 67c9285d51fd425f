# SPDX-License-Identifier: Apache-2.0
"""One rule and its text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import InvalidArgument
from waggle.domain.network.rules import (
    ALL_PORTS,
    MAX_RULE,
    WEB_PORTS,
    Action,
    Rule,
    is_odd,
    lies_below,
    normal_name,
    parse_rule,
)


@pytest.mark.parametrize(
    "text, same",
    [
        ("example.org", "example.org"),
        ("allow  example.org", "example.org"),
        ("EXAMPLE.org.", "example.org"),
        ("*.example.org:443", "*.example.org:443"),
        ("deny ads.example.org", "deny ads.example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("10.1.2.3/16:5432", "10.1.0.0/16:5432"),
        ("10.1.2.3", "10.1.2.3"),
        ("[2001:db8::1]:8000-8100", "[2001:db8::1]:8000-8100"),
        ("[2001:db8::/32]", "[2001:db8::/32]"),
        ("*", "*"),
        ("deny *:25", "deny *:25"),
        ("example.org:*", "example.org:*"),
        ("deny example.org:*", "deny example.org"),
        ("HEAD,GET api.example.org/v1/", "GET,HEAD api.example.org/v1/"),
        ("api.example.org/", "api.example.org"),
    ],
)
def test_a_rule_has_one_text(text: str, same: str) -> None:
    rule = parse_rule(text)
    assert str(rule) == same
    assert parse_rule(same) == rule


def test_without_a_port_an_allowing_rule_is_for_the_web_and_a_denying_one_for_everything() -> None:
    assert parse_rule("example.org").ports == WEB_PORTS
    assert parse_rule("deny example.org").ports == ALL_PORTS


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "deny", "public", "pubic", "all", "example", "a b c", "get example.org"),
        *("https://example.org", "user@example.org", "example.org:0", "example.org:65536"),
        *("example.org:443-80", "example.org:http", "example.org:", "exa mple.org", "*.*.org"),
        *("*example.org", "exam*.org", "1.2.3.4.5", "1.2.3", "10.0.0.0/33", "2001:db8::1"),
        *("[2001:db8::1", "[fe80::1%eth0]", "-a.example.org", "a..example.org", f"{'a' * 64}.org"),
        *("example.org/../x", "example.org//x", "example.org/%2e%2e/x", "example.org/\\x"),
        *("example.org/ä", f"{'a' * MAX_RULE}.org", "example.org\n", "example\0.org"),
    ],
)
def test_a_wrong_rule_is_refused_with_its_text_and_an_example(text: str) -> None:
    if text.strip() == "example.org":  # white space around a rule does not matter
        assert str(parse_rule(text)) == "example.org"
        return
    with pytest.raises(InvalidArgument) as refused:
        parse_rule(text)
    assert "cannot be a network rule" in str(refused.value)
    assert "*.example.org:443" in (refused.value.hint or "")


@given(st.text(max_size=60) | st.from_regex(r"\A(deny )?[a-z*.\[\]:0-9/]{1,40}\Z"))
def test_any_text_is_a_rule_that_reads_back_the_same_or_is_refused(text: str) -> None:
    try:
        rule = parse_rule(text)
    except InvalidArgument:
        return
    assert parse_rule(str(rule)) == rule
    assert (rule.block is None) is bool(rule.name)


def test_a_path_matches_itself_and_what_lies_below() -> None:
    assert all(lies_below(path, "/v1") for path in ("/v1", "/v1/", "/v1/x", "/v1?x=/y"))
    assert not any(lies_below(path, "/v1") for path in ("/v10", "/", "/x?y=/v1", "/V1"))
    assert lies_below("/v1/x", "/v1/")
    assert not lies_below("/v1", "/v1/")


@pytest.mark.parametrize(
    "path",
    ["/a/../b", "/a/./b", "//a", "/a//b", "/%2E%2e/b", "/a%2Fb", "/a\\b", "/a/..;x/b", "/.."],
)
def test_paths_that_servers_read_in_several_ways_are_odd(path: str) -> None:
    assert is_odd(path)


def test_dots_in_a_query_or_in_a_name_are_not_odd() -> None:
    assert not is_odd("/a.b/..c/x?y=../z//%2e")


def test_names_are_compared_in_lower_case_ascii_without_a_last_dot() -> None:
    assert normal_name("BÜCHER.Example.") == "xn--bcher-kva.example"
    for wrong in ("", ".", "a..b", "a" * 254, "a b", "\ud800.org"):
        with pytest.raises(ValueError, match=r"its|label|encod|codec|idna"):
            normal_name(wrong)


def test_a_rule_knows_whether_it_needs_to_see_requests() -> None:
    assert not Rule(Action.ALLOW, "example.org", None, WEB_PORTS).needs_http
    assert parse_rule("GET example.org").needs_http
    assert parse_rule("example.org/x").needs_http


@pytest.mark.parametrize(
    "text", ["deny 10.0.0.0/255.0.0.0", "deny 10.0.0.0/8x", "10.0.0.1/2/3", "deny 10.1.2.3/033"]
)
def test_a_mistake_in_a_network_is_no_rule_about_paths_of_one_address(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_rule(text)


def test_an_address_inside_ipv6_is_the_address_that_connections_have() -> None:
    assert str(parse_rule("deny [::ffff:10.0.0.0/104]")) == "deny 10.0.0.0/8"
    assert str(parse_rule("[::ffff:10.0.0.1]:5432")) == "10.0.0.1:5432"
