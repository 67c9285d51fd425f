# SPDX-License-Identifier: Apache-2.0
"""Pages of a file: joined they are the file, and text is never cut inside a character."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import InvalidArgument
from waggle.mcp.results import COPY_BUDGET, wire_size
from waggle.mcp.results.pages import (
    DEFAULT_PAGE_BYTES,
    SMALLEST_PAGE,
    TEXT_PAGE,
    Encoding,
    Page,
    decode_base64,
    mime_type,
    model_window,
    page,
)

files = st.binary(max_size=200) | st.text(max_size=100).map(lambda t: t.encode("utf-8", "replace"))


def pages(data: bytes, encoding: Encoding | None, limit: int | None) -> list[Page]:
    """Return all pages of a file, in the order in which a client reads them."""
    read: list[Page] = []
    offset: int | None = 0
    while offset is not None:
        part = data[offset : offset + max(limit or DEFAULT_PAGE_BYTES, SMALLEST_PAGE)]
        found = page(
            part, offset=offset, size=len(data), encoding=encoding, whole=limit is not None
        )
        assert found.offset == offset
        assert found.size == len(data)
        read.append(found)
        offset = found.next_offset
        assert offset is None or offset > found.offset
    return read


def content(found: Page) -> bytes:
    return found.content.encode() if found.encoding == "utf-8" else decode_base64(found.content)


@given(files, st.sampled_from([None, "base64"]), st.integers(1, 60))
def test_joined_pages_are_the_file(data: bytes, encoding: Encoding | None, limit: int) -> None:
    assert b"".join(content(found) for found in pages(data, encoding, limit)) == data


@given(st.text(max_size=100).filter(lambda text: "\0" not in text), st.integers(1, 60))
def test_text_stays_text_on_every_page(text: str, limit: int) -> None:
    data = text.encode()
    for encoding in (None, "utf-8"):
        read = pages(data, encoding, limit)
        assert {found.encoding for found in read} == {"utf-8"}
        assert "".join(found.content for found in read) == text


@pytest.mark.parametrize("data", [b"\0text", b"\xff\xfe", b"caf\xe9", "é".encode()[:1]])
def test_bytes_that_are_not_text_are_returned_as_base64(data: bytes) -> None:
    (found,) = pages(data, None, None)
    assert (found.encoding, base64.b64decode(found.content)) == ("base64", data)
    with pytest.raises(InvalidArgument, match="not UTF-8 text"):
        pages(data, "utf-8", None)


@pytest.mark.parametrize("piece", [b"a", b'"', b"\x01", "é".encode(), "😀".encode(), b"\xff"])
def test_a_page_without_a_limit_fits_every_client(piece: bytes) -> None:
    data = piece * 1_000_000
    read = pages(data[:2_000_000], None, None)
    assert all(wire_size(found.content) <= COPY_BUDGET for found in read)
    assert wire_size(read[0].content) > COPY_BUDGET // 2


@given(
    st.text(st.sampled_from("aé😀\n"), min_size=1, max_size=60).map(lambda text: text * 3),
    st.integers(4, 40),
)
def test_pages_for_a_model_end_at_line_ends_and_join_to_the_file(
    text: str, characters: int
) -> None:
    data, content, offset = text.encode(), "", 0
    while offset is not None:
        part = data[offset : offset + 4 * characters]
        found = page(part, offset=offset, size=len(data), characters=characters)
        assert 0 < len(found.content) <= characters
        last = found.next_offset is None
        assert last or found.content.endswith("\n") or "\n" not in found.content
        content, offset = content + found.content, found.next_offset
    assert content == text


def test_a_window_for_a_model_is_larger_only_where_a_picture_may_begin() -> None:
    assert model_window(0, None, "base64") == TEXT_PAGE * 3 // 4
    assert model_window(1, None, None) == 4 * TEXT_PAGE
    assert model_window(0, None, None) > 4 * TEXT_PAGE
    assert model_window(9, 100, None) == 100


def test_450_kb_of_plain_text_fit_on_one_page() -> None:
    (found,) = pages(b"x" * 450_000, None, None)
    assert found.next_offset is None


def test_an_offset_beyond_the_end_or_inside_a_character_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="only 3 bytes"):
        page(b"", offset=4, size=3)
    assert page(b"", offset=3, size=3).content == ""
    inside = "é".encode()[1:]
    assert page(inside, offset=1, size=2).encoding == "base64"
    with pytest.raises(InvalidArgument, match="inside a character"):
        page(inside, offset=1, size=2, encoding="utf-8")


@given(st.binary(max_size=100), st.integers(1, 76))
def test_base64_may_be_wrapped(data: bytes, width: int) -> None:
    text = base64.b64encode(data).decode()
    lines = [text[start : start + width] for start in range(0, len(text), width)]
    assert decode_base64("\n".join(lines)) == data


@pytest.mark.parametrize("text", ["a", "ab=", "a?b=", "é", "\ud800", "AAAA====A"])
def test_broken_base64_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="not valid base64"):
        decode_base64(text)


def test_media_types_follow_the_suffix_and_the_encoding() -> None:
    assert mime_type("/a/plot.png", "base64") == "image/png"
    assert mime_type("/a/x.json", "utf-8") == "application/json"
    assert mime_type("/a/unknown", "utf-8") == "text/plain"
    assert mime_type("/a/unknown", "base64") == "application/octet-stream"
    assert mime_type("/a/x.tar.gz", "base64") == "application/octet-stream"
