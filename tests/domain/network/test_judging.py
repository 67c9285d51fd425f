# SPDX-License-Identifier: Apache-2.0
"""How connections and requests are judged by the rules."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.network import NO_NETWORK, PUBLIC_NETWORK, parse_network
from waggle.domain.network.judging import NO_SETS, Judge, Judgement, Outcome, RuleTable, Seen
from waggle.domain.network.rules import Rule, parse_rule

PORTS = frozenset({22, 80, 443, 5432, 8080})
PRIVATE, GLOBAL = ip_address("10.1.2.3"), ip_address("93.184.216.34")


def judge(own: str, maximum: str = "public", sets: Mapping[str, Sequence[Rule]] = NO_SETS) -> Judge:
    return Judge(parse_network(own), parse_network(maximum), sets, ports=PORTS)


def by_name(own: str, name: str, port: int = 443, maximum: str = "public") -> Judgement:
    return judge(own, maximum).name(name, port).result


def test_public_allows_every_name_on_the_ports_of_the_web() -> None:
    assert by_name("public", "example.org").outcome is Outcome.ALLOWED
    assert by_name("public", "example.org", 80).outcome is Outcome.ALLOWED
    denied = by_name("public", "example.org", 5432)
    assert (denied.outcome, denied.code) == (Outcome.DENIED, "port")
    assert "without a rule" in denied.reason


def test_a_rule_opens_a_port_that_public_does_not() -> None:
    assert by_name("public, db.example.org:5432", "db.example.org", 5432).rule == (
        "db.example.org:5432"
    )
    assert by_name("db.example.org:25", "db.example.org", 25).code == "closed-port"


def test_what_no_rule_allows_is_denied() -> None:
    assert by_name("example.org", "example.org").rule == "example.org"
    assert by_name("example.org", "www.example.org").code == "no-rule"
    assert by_name("example.org", "example.org", 8080).code == "no-rule"
    assert by_name("*.example.org", "a.b.example.org").outcome is Outcome.ALLOWED
    assert by_name("*.example.org", "example.org").code == "no-rule"
    assert by_name("*", "any.name").outcome is Outcome.ALLOWED


def test_deny_wins_over_a_more_specific_rule() -> None:
    denied = by_name("api.example.org, deny *.example.org", "api.example.org")
    assert (denied.code, denied.rule) == ("rule", "deny *.example.org")
    assert by_name("public, deny *.example.org", "x.example.org").code == "rule"


def test_among_allowing_rules_the_most_specific_is_named() -> None:
    own = "*, *.example.org, *.api.example.org, v1.api.example.org"
    assert by_name(own, "v1.api.example.org").rule == "v1.api.example.org"
    assert by_name(own, "v2.api.example.org").rule == "*.api.example.org"
    assert by_name(own, "example.net").rule == "*"


def test_what_no_rule_decides_is_asked_for() -> None:
    assert by_name("ask, example.org", "example.org").outcome is Outcome.ALLOWED
    assert by_name("ask, example.org", "example.net").outcome is Outcome.ASK
    assert by_name("ask, deny example.net", "example.net").outcome is Outcome.DENIED


def test_the_operators_maximum_bounds_what_clients_ask_for() -> None:
    assert by_name("public", "example.net", maximum="*.example.org").code == "maximum"
    assert by_name("public", "a.example.org", maximum="*.example.org").outcome is Outcome.ALLOWED
    assert by_name("*", "example.org", maximum="public, deny example.org").code == "maximum"
    assert by_name("example.org", "example.org", maximum="ask").outcome is Outcome.ASK
    assert by_name("example.org", "example.org", maximum="none").code == "maximum"


def test_names_of_rules_stand_for_these() -> None:
    sets = {"git": [parse_rule("git.example.org"), parse_rule("deny evil.example.org")]}
    assert judge("@git", sets=sets).name("git.example.org", 443).result.rule == "git.example.org"
    assert judge("public, @git", sets=sets).name("evil.example.org", 443).result.is_denied


def test_named_rules_that_are_gone_allow_nothing_because_they_might_have_denied() -> None:
    sets = {"git": [parse_rule("git.example.org")]}
    for own, maximum in (("public, @gone", "public"), ("@git, @gone, example.org", "public")):
        judged = judge(own, maximum, sets).name("example.org", 443).result
        assert (judged.code, judged.is_denied) == ("unknown-rules", True)
        assert "@gone" in judged.reason
        address = judge(own, maximum, sets).address(ip_address("9.9.9.9"), 443).result
        assert address.code == "unknown-rules"
    limited = judge("public", "@gone", sets).name("example.org", 443).result
    assert (limited.code, "WAGGLE_MAX_NETWORK" in limited.reason) == ("maximum", True)


def test_a_network_in_a_rule_opens_what_is_not_public_if_the_maximum_has_it_too() -> None:
    own = "10.0.0.0/8:5432"
    for maximum, explicit in (("public", False), ("public, 10.1.0.0/16:5432", True)):
        found = judge(own, maximum).address(PRIVATE, 5432).result
        assert (found.outcome, found.block is not None) == (Outcome.ALLOWED, explicit)
    assert judge("public", "public, 10.1.0.0/16").address(PRIVATE, 443).result.block is None


def test_a_name_without_a_rule_waits_for_its_address_if_there_are_rules_for_addresses() -> None:
    ruled = judge("10.0.0.0/8:5432", "public, 10.0.0.0/8:5432")
    name = ruled.name("db.internal.example", 5432)
    assert name.result.outcome is Outcome.UNDECIDED
    assert ruled.address(PRIVATE, 5432, name=name).result.block
    assert ruled.address(GLOBAL, 5432, name=name).result.code == "no-rule"


def test_an_allowed_name_does_not_open_a_denied_address() -> None:
    ruled = judge("example.org, deny 93.184.0.0/16")
    name = ruled.name("example.org", 443)
    assert name.result.outcome is Outcome.ALLOWED
    assert ruled.address(GLOBAL, 443, name=name).result.code == "rule"
    mapped = ip_address("::ffff:93.184.216.34")
    assert ruled.address(mapped, 443, name=name).result.code == "rule"


def test_an_allowed_name_is_not_an_explicit_address() -> None:
    ruled = judge("example.org")
    found = ruled.address(PRIVATE, 443, name=ruled.name("example.org", 443)).result
    assert (found.outcome, found.block) == (Outcome.ALLOWED, None)


def test_a_denied_address_is_denied_behind_a_gateway_to_ipv4_too() -> None:
    denied = judge("public, deny 93.184.0.0/16").address(ip_address("64:ff9b::5db8:d822"), 443)
    assert (denied.result.code, denied.result.rule) == ("rule", "deny 93.184.0.0/16")
    inside = judge("93.184.0.0/16", "93.184.0.0/16")
    assert inside.address(ip_address("64:ff9b::5db8:d822"), 443).result.code == "no-rule"


class TestRequests:
    own = "GET api.example.org/v1/, deny DELETE files.example.org, files.example.org"

    def result(self, name: str, seen: Seen | None) -> Judgement:
        return judge(self.own).name(name, 443, seen).result

    def test_method_and_path_count_where_requests_are_seen(self) -> None:
        allowed = self.result("api.example.org", Seen("GET", "/v1/x"))
        assert allowed.rule == "GET api.example.org/v1/"
        assert self.result("api.example.org", Seen("POST", "/v1/x")).code == "no-rule"
        assert self.result("api.example.org", Seen("GET", "/v2")).code == "no-rule"
        assert self.result("files.example.org", Seen("GET", "/x")).outcome is Outcome.ALLOWED
        assert self.result("files.example.org", Seen("DELETE", "/x")).code == "rule"

    def test_a_path_that_can_be_read_in_several_ways_is_not_allowed(self) -> None:
        assert self.result("api.example.org", Seen("GET", "/v1/../admin")).code == "no-rule"
        denied = judge("public, deny example.org/admin").name(
            "example.org", 443, Seen("GET", "/x/%2e%2e/admin")
        )
        assert denied.result.code == "rule"

    @pytest.mark.parametrize(
        "path",
        [
            *("/admin", "/admin?x", "/admin/x", "/%61dmin", "/%2561dmin", "/ADMIN", "/admin;x=1"),
            *(
                "/admin;/x",
                "/x/..%3b/admin",
                "/x/.;/y",
                "/x/%252e%252e/admin",
                "/admin%00",
                "/admin.",
            ),
        ],
    )
    def test_a_path_is_denied_however_a_server_may_read_it(self, path: str) -> None:
        for rule in ("deny example.org/admin", "deny example.org/admin/"):
            own = judge(f"public, {rule}")
            assert own.name("example.org", 80, Seen("GET", path)).result.code == "rule"

    @pytest.mark.parametrize("path", ["/", "/administrator", "/x/admin", "/a%20b;c?next=/admin"])
    def test_other_paths_are_not(self, path: str) -> None:
        own = judge("public, deny example.org/admin")
        assert own.name("example.org", 80, Seen("GET", path)).result.outcome is Outcome.ALLOWED

    def test_methods_are_denied_in_any_case_and_allowed_as_they_are_written(self) -> None:
        own = judge("example.org, deny POST example.org, GET example.net")
        assert own.name("example.org", 80, Seen("post", "/")).result.code == "rule"
        assert own.name("example.net", 80, Seen("get", "/")).result.code == "no-rule"

    def test_a_request_that_may_be_taken_for_another_is_only_denied_by_such_rules(self) -> None:
        own = judge("GET a.test/v1/, b.test, deny DELETE b.test, c.test")
        seen = Seen("GET", "/v1/x", is_unclear=True)
        codes = [own.name(name, 80, seen).result.code for name in ("a.test", "b.test", "c.test")]
        assert codes == ["no-rule", "rule", "allowed"]

    def test_where_tls_hides_requests_such_a_rule_allows_nothing(self) -> None:
        hidden = self.result("api.example.org", None)
        assert (hidden.outcome, hidden.code) == (Outcome.DENIED, "hidden")
        assert "TLS hides" in hidden.reason
        assert self.result("files.example.org", None).code == "hidden"

    def test_among_rules_that_tls_hides_one_that_denies_counts(self) -> None:
        own = "GET example.org/pub/, deny POST example.org, example.org"
        hidden = judge(own).name("example.org", 443, None).result
        assert (hidden.code, hidden.rule) == ("hidden", "deny POST example.org")

    def test_a_connection_whose_requests_will_be_seen_is_let_through_first(self) -> None:
        assert self.result("api.example.org", Seen()).outcome is Outcome.ALLOWED
        assert self.result("files.example.org", Seen()).outcome is Outcome.ALLOWED


def test_no_network_denies_everything() -> None:
    none = Judge(NO_NETWORK, PUBLIC_NETWORK)
    assert none.name("example.org", 443).result.code == "none"
    assert none.address(GLOBAL, 443).result.code == "none"


def test_mail_is_closed_where_every_port_is_open() -> None:
    everything = Judge(parse_network("*:*, 0.0.0.0/0:*"))
    assert everything.name("example.org", 25).result.code == "closed-port"
    assert everything.name("example.org", 26).result.outcome is Outcome.ALLOWED


LABELS = st.sampled_from(["a", "b", "c"])
NAMES = st.lists(LABELS, min_size=2, max_size=5).map(".".join)
PATTERNS = NAMES | NAMES.map("*.".__add__)


@given(st.lists(PATTERNS, max_size=12), NAMES)
def test_the_table_finds_what_a_search_of_all_rules_finds(patterns: list[str], name: str) -> None:
    table = RuleTable(parse_rule(pattern) for pattern in patterns)
    found = [rule.name for rule in table.for_name(name, 443)]
    wanted = [
        pattern
        for pattern in patterns
        if pattern == name or (pattern.startswith("*.") and name.endswith(pattern[1:]))
    ]
    assert sorted(found) == sorted(wanted)
    assert found == sorted(found, key=lambda pattern: (pattern[:2] == "*.", -len(pattern)))


ADDRESSES = st.integers(10 << 24, (10 << 24) + 4096).map(ip_address)
BLOCKS = st.tuples(ADDRESSES, st.integers(16, 32)).map("{0[0]}/{0[1]}".format)


@given(st.lists(BLOCKS, max_size=12), ADDRESSES)
def test_the_table_finds_every_network_of_an_address(
    blocks: list[str], address: IPv4Address | IPv6Address
) -> None:
    rules = [parse_rule(block) for block in blocks]
    found = list(RuleTable(rules).for_address(address, 443))
    assert sorted(map(str, found)) == sorted(
        str(rule) for rule in rules if rule.block is not None and address in rule.block
    )
    lengths = [rule.block.prefixlen for rule in found if rule.block is not None]
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("wrong", ["93.184.216.34", "2001:db8::1"])
def test_addresses_of_one_family_never_match_rules_of_the_other(wrong: str) -> None:
    everything = RuleTable([parse_rule("0.0.0.0/0" if ":" in wrong else "[::/0]")])
    assert not list(everything.for_address(ip_address(wrong), 443))
