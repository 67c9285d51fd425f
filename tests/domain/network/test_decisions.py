# SPDX-License-Identifier: Apache-2.0
"""What is said of refused connections: short, precise, and with a step that can be taken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from waggle.domain.network import parse_network
from waggle.domain.network.decisions import (
    Decision,
    in_another,
    next_step,
    next_steps,
    reach,
    summary,
)
from waggle.domain.network.questions import NOBODY
from waggle.domain.toolset import Offer, Toolset

NO_RULE = Decision("example.org", 443, "no-rule", "no rule allows it")
PRIVATE = Decision("10.0.0.9", 443, "private", "it is a private address")
DENY = "deny *.ads.example"
ADS = Decision("x.ads.example", 443, "rule", f"the rule '{DENY}' denies it", DENY)
RULES = parse_network(f"example.net, *.example.net:5432, {DENY}")


def test_an_address_that_the_operator_allows_can_be_opened_by_the_client() -> None:
    step = next_steps([replace(PRIVATE, is_open=True)], RULES, "box")
    assert 'set_network with allow ["10.0.0.9"] opens it' in step
    assert "`waggle env network box --allow 10.0.0.9`" in step
    assert "operator" not in step


def test_what_was_refused_is_listed_once_with_its_reason() -> None:
    assert summary([NO_RULE, NO_RULE]) == "example.org:443 was refused: no rule allows it."
    assert summary([ADS]) == f"x.ads.example:443 was refused: the rule '{DENY}' denies it."
    both = "example.org:443 (no rule allows it), 10.0.0.9:443 (it is a private address)"
    assert summary([NO_RULE, PRIVATE]) == f"{both} were refused."
    many = [Decision(f"{n}.test", 443, "no-rule", "no rule allows it") for n in range(5)]
    assert summary(many) == (
        "0.test:443, 1.test:443, 2.test:443 and 2 more were refused: no rule allows it."
    )


@pytest.mark.parametrize(
    "network, words",
    [
        ("example.net, deny x.example.net", "Allowed: example.net."),
        ("public", "Allowed: the public internet on ports 80 and 443."),
        (
            "public, example.org:22",
            "Allowed: the public internet on ports 80 and 443, example.org:22.",
        ),
        ("deny example.org", "Allowed: nothing."),
        ("none", "This environment has no network."),
        (", ".join(f"h{n}.test" for n in range(9)), "h4.test, h5.test and 3 more."),
    ],
)
def test_what_is_allowed_is_shortened(network: str, words: str) -> None:
    assert reach(parse_network(network)).endswith(words)


def test_a_client_is_given_the_call_and_the_command_that_allow_it() -> None:
    assert next_steps([NO_RULE, ADS], RULES, "box") == (
        "Allowed: example.net, *.example.net:5432. "
        'set_network with allow ["example.org"] opens it; a person opens it with '
        "`waggle env network box --allow example.org`. "
        "A rule that denies wins over those that allow, until the network is set without it."
    )


def test_a_client_without_the_tool_is_given_the_command_alone() -> None:
    core = Offer(frozenset({Toolset.CORE}))
    assert core.advice(next_steps([NO_RULE], RULES, "box")) == (
        "Allowed: example.net, *.example.net:5432. A person opens it with "
        "`waggle env network box --allow example.org`."
    )


def test_a_program_is_given_no_tool() -> None:
    said = next_step(NO_RULE, RULES)
    assert "set_network" not in said
    assert said.endswith("A person opens it with `waggle env network ENV --allow example.org`.")


@pytest.mark.parametrize(
    "decision, words",
    [
        (Decision("h.test", 5432, "port", "x"), "--allow h.test:5432`"),
        (Decision("h.test", 443, "ask", "x"), "--allow h.test`"),
        (Decision("h.test", 443, "hidden", "x", "GET h.test/x"), "--allow h.test`"),
        (Decision("x.h.test", 443, "rule", "x", "deny *.h.test"), "A rule that denies wins"),
        (Decision("h.test", 443, "hidden", "x", "deny GET h.test"), "Only the operator"),
        (Decision("h.test", 443, "not-verified", "x"), "WAGGLE_CA_BUNDLE"),
        (Decision("h.test", 443, "none", "x"), "create another environment"),
        (Decision("h.test", 443, "unknown-rules", "x"), "set without that name"),
        (Decision("h.test", 25, "closed-port", "x"), "WAGGLE_EGRESS_PORTS"),
        (Decision("h.test", 443, "maximum", "x"), "Only the operator"),
        (Decision("h.test", 443, "rule", "x", "deny h.test:1-9"), "Only the operator"),
        (PRIVATE, "WAGGLE_EGRESS_ALLOW_CIDRS"),
        (Decision("h.test", 443, "private", "x", is_open=True), "such as 10.1.0.0/16:5432, opens"),
        (Decision("10.0.0.9", 443, "no-rule", "x"), "WAGGLE_EGRESS_ALLOW_CIDRS"),
        (Decision("8.8.8.8", 443, "no-rule", "x"), "--allow 8.8.8.8`"),
    ],
)
def test_each_kind_of_refusal_has_its_step(decision: Decision, words: str) -> None:
    assert words in next_step(decision, parse_network("example.net, deny *.h.test"))


def test_of_what_nobody_can_allow_it_is_said_what_is_allowed() -> None:
    assert next_step(Decision("224.0.0.1", 443, "multicast", "x"), RULES) == reach(RULES)


def test_a_rule_of_the_environment_that_denies_just_this_can_be_turned_round() -> None:
    network = parse_network("public, deny h.test")
    denied = Decision("h.test", 443, "rule", "x", "deny h.test")
    assert "--allow h.test`" in next_step(denied, network)


def test_a_denial_of_requests_that_are_hidden_is_not_opened_by_a_rule_for_the_host() -> None:
    network = parse_network("public, deny GET h.test")
    said = next_step(Decision("h.test", 443, "hidden", "x", "deny GET h.test"), network)
    assert said.startswith("A rule that denies wins")
    assert "--allow" not in said


@pytest.mark.parametrize(
    "code, words",
    [
        ("bytes-used-up", "WAGGLE_EGRESS_MAX_MB"),
        ("owner-bytes-used-up", "WAGGLE_EGRESS_OWNER_MB"),
        ("too-many-names", "look up fewer at once"),
    ],
)
def test_a_limit_has_a_next_step_of_its_own(code: str, words: str) -> None:
    refused = Decision("example.org", 443, code, "this environment has used up the 1 MiB")
    assert refused.sentence.startswith("example.org:443 was refused: this environment has")
    assert words in next_step(refused, RULES)
    assert "WAGGLE_EGRESS_ALLOW_CIDRS" not in next_step(refused, RULES)


def test_a_refusal_of_a_placeholder_says_itself_what_to_do() -> None:
    reason = "the placeholder of secret 'x' was not sent without TLS. Use https://."
    refused = Decision("h.test", 80, "secret-plain", reason)
    assert summary([refused]) == f"h.test:80 was refused: {reason}"
    assert next_steps([refused], RULES, "box") == ""
    steps = next_steps([refused, NO_RULE], RULES, "box")
    assert steps.endswith("--allow example.org`.")


def test_a_handshake_for_another_host_has_its_step() -> None:
    assert "SNI" in next_step(Decision("h.test", 443, "other-name", "x"), RULES)


@pytest.mark.parametrize("cut", [False, True])
def test_what_is_gone_is_run_again_with_the_whole_network(cut: bool) -> None:
    steps = next_steps([NO_RULE, Decision("2606:4700::1", 22, "port", "x")], RULES, "box")
    if cut:
        steps = Offer(frozenset({Toolset.CORE})).advice(steps)
        assert "set_network" not in steps
    said = in_another(steps, RULES, lambda items: f"Again: {list(items)}.")
    assert said == f"{reach(RULES)} Again: {[*RULES.items, 'example.org', '[2606:4700::1]:22']}."
    kept = next_steps([Decision("h.test", 443, "other-name", "x")], RULES, "box")
    assert in_another(kept, RULES, str) == kept
    full = parse_network([f"h{number}.test" for number in range(200)])
    assert in_another(steps, full, str).endswith(" ['example.org', '[2606:4700::1]:22']")


def test_what_nobody_could_be_asked_names_the_call_and_the_command() -> None:
    nobody = Decision("example.org", 443, "ask", NOBODY)
    steps = next_steps([nobody], parse_network("ask, example.net"), "box")
    assert 'set_network with allow ["example.org"]' in steps
    assert "`waggle env network box --allow example.org`" in steps
