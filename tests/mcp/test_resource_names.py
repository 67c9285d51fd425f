# SPDX-License-Identifier: Apache-2.0
"""URIs of resources, made and parsed; and the pace of change notices."""

from __future__ import annotations

import contextlib
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.uri_template import UriTemplate

from waggle.domain.errors import InvalidArgument
from waggle.domain.programs.job import StreamName
from waggle.mcp.resources.changes import SECONDS, Pace
from waggle.mcp.uris import (
    ARCHIVE_TEMPLATE,
    CHART,
    DISPLAY_TEMPLATE,
    DISPLAYS_TEMPLATE,
    FILE_TEMPLATE,
    FORM_TEMPLATE,
    STREAM_TEMPLATE,
    ArchiveAddress,
    DisplayAddress,
    DisplaysAddress,
    EnvironmentAddress,
    FileAddress,
    Range,
    StreamAddress,
    archive_uri,
    display_uri,
    displays_uri,
    environment_uri,
    file_uri,
    output_uri,
    parse_uri,
)

ID = "0123abcd-0000-4000-8000-00000000000f"
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
ROUNDING = 1e-9
"""The rounding error of sums of floats, in seconds."""


@given(names)
def test_the_uri_of_any_file_parses_back(name: str) -> None:
    path = f"/{name.lstrip('/')}"
    if path != "/":
        uri = file_uri(ID, path)
        assert uri.isascii()
        assert parse_uri(uri) == FileAddress(ID, path)
        assert parse_uri(f"{uri}?offset=3&length=4") == FileAddress(ID, path, Range(3, 4))


@given(st.integers(1, 10**9 - 1), st.sampled_from(StreamName), st.text(min_size=1, max_size=200))
def test_stream_and_search_uris_parse_back(number: int, stream: StreamName, search: str) -> None:
    assert parse_uri(output_uri(ID, number, stream)) == StreamAddress(ID, number, stream)
    if search.isascii() and "\0" not in search:
        variables = {"id": ID, "n": str(number), "stream": stream, "search": search}
        uri = UriTemplate.parse(STREAM_TEMPLATE).expand(variables)
        assert parse_uri(uri) == StreamAddress(ID, number, stream, Range(search=search))


def test_a_client_that_expands_the_template_names_the_same_file() -> None:
    template = UriTemplate.parse(FILE_TEMPLATE)
    for path in ("tmp/a b/ü.txt", "/tmp/a b/ü.txt"):
        uri = template.expand({"id": ID, "path": path, "offset": "5"})
        assert parse_uri(uri) == FileAddress(ID, "/tmp/a b/ü.txt", Range(5))


def test_the_uri_of_an_archive_parses_back() -> None:
    archive = "0123456789abcdef"
    assert parse_uri(archive_uri(ID, archive)) == ArchiveAddress(ID, archive)
    uri = UriTemplate.parse(ARCHIVE_TEMPLATE).expand({"id": ID, "archive": archive, "offset": "7"})
    assert parse_uri(uri) == ArchiveAddress(ID, archive, Range(7))
    for wrong in ("", "0123", archive.upper(), f"{archive}/x", f"../{archive}"):
        assert parse_uri(f"{environment_uri(ID)}/archives/{wrong}") is None


def test_the_uris_of_displays_parse_back() -> None:
    assert parse_uri(displays_uri(ID, 7)) == DisplaysAddress(ID, 7)
    assert parse_uri(display_uri(ID, 7, 12)) == DisplayAddress(ID, 7, 12)
    for form in ("image/svg+xml", "text/html", CHART, "application/vnd.vega-lite.v5+json"):
        assert parse_uri(display_uri(ID, 7, 1, form)) == DisplayAddress(ID, 7, 1, form)
        variables = {"id": ID, "n": "7", "k": "1", "form": form, "offset": "5"}
        uri = UriTemplate.parse(FORM_TEMPLATE).expand(variables)
        assert parse_uri(uri) == DisplayAddress(ID, 7, 1, form, Range(5))
        coded = display_uri(ID, 7, 1, quote(form, safe=""))
        assert parse_uri(coded) == DisplayAddress(ID, 7, 1, form)
    variables = {"id": ID, "n": "7", "length": "9"}
    uri = UriTemplate.parse(DISPLAYS_TEMPLATE).expand(variables)
    assert parse_uri(uri) == DisplaysAddress(ID, 7, Range(length=9))
    whole = UriTemplate.parse(DISPLAY_TEMPLATE).expand({**variables, "k": "3"})
    assert parse_uri(whole) == DisplayAddress(ID, 7, 3, "", Range(length=9))
    for wrong in ("/0", "/-1", "/x", "/1/", "/1/a/b/c", "/1/../x", "/1/text/", "/1/A/B", "/1/a b"):
        assert parse_uri(displays_uri(ID, 7) + wrong) is None
    with pytest.raises(InvalidArgument):
        parse_uri(display_uri(ID, 7, 1) + "?search=x")


def test_equal_uris_of_an_environment_parse_to_one_address() -> None:
    assert parse_uri(environment_uri(ID)) == EnvironmentAddress(ID)
    assert parse_uri(environment_uri(ID).replace("abcd", "ABCD")) == EnvironmentAddress(ID)
    assert parse_uri(f"{environment_uri(ID)}/") == EnvironmentAddress(ID)


@given(st.text())
@pytest.mark.parametrize(
    "before", ["", "waggle://environments/", f"waggle://environments/{ID}/files/"]
)
def test_any_text_is_parsed_safely(before: str, text: str) -> None:
    address = None
    with contextlib.suppress(InvalidArgument):
        address = parse_uri(before + text)
    if isinstance(address, FileAddress):
        assert address.path.startswith("/")
        assert "\0" not in address.path
        address.path.encode()


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 3), st.booleans()), max_size=40),
    st.floats(0, 0.5),
)
def test_changes_are_sent_in_time_and_not_too_often(
    marks: list[tuple[str, float, bool]], step: float
) -> None:
    pace: Pace[str] = Pace()
    now = 0.0
    sent: dict[str, float] = {}
    unsent: dict[str, float] = {}
    for event, later, final in marks:
        now += later
        pace.mark(event, now, final=final)
        unsent.setdefault(event, now)
        now += step
        for taken in pace.take(now):
            if not final or taken != event:
                assert now - sent.get(taken, -SECONDS) >= SECONDS - ROUNDING
            sent[taken] = now
            del unsent[taken]
        for taken, since in unsent.items():
            assert now - since < SECONDS + ROUNDING
            assert sent[taken] + SECONDS > now - ROUNDING
    while (due := pace.next()) is not None:
        for taken in pace.take(due):
            del unsent[taken]
    assert unsent == {}
