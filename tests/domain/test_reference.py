# SPDX-License-Identifier: Apache-2.0
"""Image references, compared with the reference grammar written here as one regular expression."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from waggle.domain.errors import InvalidArgument
from waggle.domain.reference import (
    ImageReference,
    canonical_name,
    check_default_registry,
    matches,
    named_registry,
    parse_reference,
)

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"

# The distribution project's grammar. As in `docker pull`, a dot, a colon
# or `localhost` before the first slash marks a registry.
LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
DOMAIN = rf"(?P<host>{LABEL}(?:\.{LABEL})*|\[(?P<v6>[a-fA-F0-9:]+)\])(?::(?P<port>[0-9]+))?"
PATH = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
MARK = r"(?:[^/]*[.:][^/]*/|localhost/)"
REFERENCE = re.compile(
    rf"\A(?:(?={MARK})(?P<domain>{DOMAIN})/|(?!{MARK}))(?P<path>{PATH}(?:/{PATH})*)"
    rf"(?::(?P<tag>[a-zA-Z0-9_][a-zA-Z0-9_.-]{{0,127}}))?"
    rf"(?:@(?P<digest>[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{{32,}}))?\Z"
)


def expected(text: str) -> tuple[str, str, str, str] | None:
    """Return the parts that the grammar finds, with the narrowings that the module documents."""
    match = REFERENCE.match(text)
    if match is None:
        return None
    domain, path, digest = match["domain"] or "", match["path"], match["digest"] or ""
    if digest and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        return None
    if (port := match["port"]) and (port.startswith("0") or int(port) > 65535):
        return None
    if match["v6"]:
        try:
            address = ipaddress.IPv6Address(match["v6"])
        except ValueError:
            return None
        domain = f"[{address.compressed}]" + (f":{port}" if port else "")
    if len(f"{domain}/{path}" if domain else path) > 255:
        return None
    return domain.lower(), path, "" if digest else match["tag"] or "latest", digest


hosts = st.from_regex(rf"\A{LABEL}(?:\.{LABEL}){{0,3}}\Z") | st.sampled_from(
    ["localhost", "registry.example", "REGISTRY.Example", "[::1]", "[2001:DB8::0:1]", "10.0.0.1"]
)
ports = st.just("") | st.integers(0, 70000).map(lambda n: f":{n}")
paths = st.from_regex(rf"\A{PATH}(?:/{PATH}){{0,3}}\Z")
tags = st.just("") | st.from_regex(r"\A:[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,130}\Z")
digests = st.just("") | st.just(f"@{DIGEST}") | st.from_regex(r"\A@sha(256|512):[0-9a-f]{60,66}\Z")
domains = st.just("") | st.builds("{}{}/".format, hosts, ports)
well_formed = st.builds("{}{}{}{}".format, domains, paths, tags, digests)
ALPHABET = "aB0.-_:/@[]\0\n é\u0663\u017f*"


def inserted(text: str, at: int, extra: str) -> str:
    at %= len(text) + 1
    return text[:at] + extra + text[at:]


mangled = st.builds(
    inserted,
    well_formed,
    st.integers(0, 400),
    st.text(ALPHABET, min_size=1, max_size=3),
)


@given(well_formed | mangled | st.text(ALPHABET, max_size=30) | st.text(max_size=40))
@example("a" * 255)
@example("a" * 256)
@example(f"registry.example/{'a' * 238}")
@example(f"registry.example/{'a' * 239}")
@example(f"a:{'t' * 128}")
@example(f"a:{'t' * 129}")
@example("a\n")
@example("registry.example/a:b\n")
@example(f"a@{DIGEST}\n")
def test_the_parser_accepts_exactly_what_the_grammar_accepts(text: str) -> None:
    meant = expected(text)
    if meant is not None:
        found = parse_reference(text)
        assert (found.registry, found.repository, found.tag, found.digest) == meant
        return
    with pytest.raises(InvalidArgument) as caught:
        parse_reference(text)
    assert caught.value.hint
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 600


@given(well_formed | mangled)
def test_the_canonical_form_parses_to_the_same_reference(text: str) -> None:
    try:
        found = parse_reference(text)
    except InvalidArgument:
        return
    assert parse_reference(str(found)) == found
    assert str(parse_reference(str(found))) == str(found)
    if found.registry:
        assert parse_reference(str(found), "other.example") == found, "a default changes nothing"


@pytest.mark.parametrize(
    "text, canonical",
    [
        ("python", "python:latest"),
        ("python:3.12", "python:3.12"),
        ("team/app", "team/app:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("localhost:5000/app:1", "localhost:5000/app:1"),
        ("localhost:5000", "localhost:5000"),
        ("Registry.EXAMPLE/app", "registry.example/app:latest"),
        ("[2001:db8:0::1]:5000/a/b", "[2001:db8::1]:5000/a/b:latest"),
        ("[::1]/a", "[::1]/a:latest"),
        (f"registry.example/a:v1@{DIGEST}", f"registry.example/a@{DIGEST}"),
        ("a__b--c/d.e:_x.", "a__b--c/d.e:_x."),
    ],
)
def test_references_have_a_canonical_form(text: str, canonical: str) -> None:
    assert str(parse_reference(text)) == canonical


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "a/", "/a", "a//b", "a/../b", "..", "a:", "a@", "a@sha256:", ":a", "@a"),
        *("A", "a/B", "Team/app", "a b", "a\0", "a\nb", "é", "a:é", "\uff41", "a:b:c", "a:b/c"),
        *("a---", "-a", "a..b", "a___b", "a._b", "a:.x", "a:-x", "registry.example./a", "a_b.c/d"),
        *("-x.example/a", "x-.example/a", "x_y.example/a", "x.example:/a", "x.example:0/a"),
        *("x.example:65536/a", "x.example:080/a", "x.example:8 0/a", "user@x.example/a"),
        *("[::1/a", "::1/a", "[::g]/a", "[]/a", "[::1]x/a", "[::1%eth0]/a", "[::1]:/a"),
        *("https://x.example/a", "x.example/a?b", "x.example/a#b", "docker://x.example/a"),
        *(f"a@sha256:{HEX.upper()}", f"a@sha512:{HEX}", f"a@{DIGEST}0", f"a@{DIGEST}:b"),
        *(f"@{DIGEST}", "a" * 100_000, "oci:/srv/x"),
    ],
)
def test_malformed_references_are_refused(text: str) -> None:
    assert expected(text) is None
    with pytest.raises(InvalidArgument) as caught:
        parse_reference(text)
    assert "reference" in str(caught.value)


@pytest.mark.parametrize(
    "text, default, canonical",
    [
        ("python", "registry.example", "registry.example/python:latest"),
        ("python:3", "registry.example/library", "registry.example/library/python:3"),
        ("team/app", "registry.example/library", "registry.example/team/app:latest"),
        ("team/app", "REGISTRY.example:5000", "registry.example:5000/team/app:latest"),
        ("other.example/a", "registry.example/library", "other.example/a:latest"),
        (f"python@{DIGEST}", "registry.example", f"registry.example/python@{DIGEST}"),
    ],
)
def test_a_default_registry_completes_short_names(text: str, default: str, canonical: str) -> None:
    assert str(parse_reference(text, default)) == canonical


def test_the_default_counts_for_the_length() -> None:
    with pytest.raises(InvalidArgument, match=r"is not an image reference"):
        parse_reference("a" * 250, "registry.example")


@pytest.mark.parametrize("text", ["a b", "x/", "/x", "x//y", "x/Y", "https://x", "x:0", "x:y/z"])
def test_a_malformed_default_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        check_default_registry(text)
    with pytest.raises(InvalidArgument):
        parse_reference("python", text)


def test_a_well_formed_default_is_normalized() -> None:
    assert check_default_registry("") == ""
    assert check_default_registry("BOX/library") == "box/library"
    assert check_default_registry("BOX:5000") == "box:5000"


def test_the_canonical_name_of_other_text_is_empty() -> None:
    assert canonical_name("Registry.example/a") == "registry.example/a:latest"
    assert canonical_name("not a reference") == ""


def allowed(pattern: str, text: str) -> bool:
    return matches(pattern, parse_reference(text))


@pytest.mark.parametrize(
    "pattern, text",
    [
        ("**", "anything.example/a/b:c"),
        ("registry.example/**", "registry.example/a/b/c:v1"),
        ("registry.example/*", "registry.example/a:v1"),
        ("registry.example/*", f"registry.example/a@{DIGEST}"),
        ("registry.example/a", "registry.example/a:latest"),
        ("registry.example/a:v1", "registry.example/a:v1"),
        ("registry.example/a:v*", "registry.example/a:v1.2"),
        ("registry.example/*/a:*", "registry.example/team/a:v1"),
        ("**/a:*", "registry.example/x/y/a:v1"),
        (f"registry.example/a@{DIGEST}", f"registry.example/a:v1@{DIGEST}"),
        ("python:*", "python:3.12"),
    ],
)
def test_a_pattern_allows(pattern: str, text: str) -> None:
    assert allowed(pattern, text)


@pytest.mark.parametrize(
    "pattern, text",
    [
        ("", "a"),
        ("*", "team/a"),
        ("registry.example/*", "registry.example/a/b"),
        ("registry.example/**", "registry.example.evil/a"),
        ("registry.example/**", "evil.example/registry.example/a"),
        ("registry.example/a", "registry.example/a:v1"),
        ("registry.example/a", "registry.example:5000/a"),
        ("registry.example/a:*", f"registry.example/a@{DIGEST}"),
        ("registry.example/a:v*", f"registry.example/a:v1@{DIGEST}"),
        ("registry.example/a*:v1", "registry.example/ab/c:v1"),
        ("[rp]ython:*", "python:3"),
        ("pytho?:*", "python:3"),
        (".*", "python:3"),
        ("python:*", "registry.example/python:3"),
        ("NOT a reference", "a"),
    ],
)
def test_a_pattern_does_not_allow(pattern: str, text: str) -> None:
    assert not allowed(pattern, text)


@given(st.lists(st.sampled_from(["a", "b", "/", "*", "**", ":"]), max_size=8).map("".join), paths)
def test_patterns_match_the_same_as_a_regular_expression(pattern: str, path: str) -> None:
    reference = ImageReference("", path, "ab", "")
    parts = re.split(r"(\*\*|\*)", pattern)
    meaning = {"**": "(?s:.*)", "*": "[^/]*"}
    expression = "".join(meaning.get(part) or re.escape(part) for part in parts)
    if "*" in pattern:
        assert matches(pattern, reference) == bool(re.fullmatch(expression, str(reference)))


def test_matching_a_pattern_takes_no_exponential_time() -> None:
    assert not allowed("*a" * 200 + "b", "a" * 250)


@pytest.mark.parametrize(
    "pattern,registry",
    [
        ("registry.example/team/*", "registry.example"),
        ("Registry.example:5000/**", "registry.example:5000"),
        ("registry.example/app:v1", "registry.example"),
        ("**", ""),
        ("*/app", ""),
        ("*.example/app", ""),
        ("**/app", ""),
        ("team/*", ""),
        ("python", ""),
        ("not a host.x/any", ""),
    ],
)
def test_a_pattern_may_name_a_registry(pattern: str, registry: str) -> None:
    assert named_registry(pattern) == registry
