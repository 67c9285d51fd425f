# SPDX-License-Identifier: Apache-2.0
"""Placeholders found and values masked in streams, however they are split; in linear time."""

import base64
import time
from urllib.parse import quote_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.secrets import SecretValue
from waggle.domain.secrets.masking import Masker, Masks
from waggle.domain.secrets.substitution import Finder, credentials_in

PLACEHOLDER = b"waggle-github-" + b"0123456789abcdef" * 2
VALUE = b"s3cr3t+/value&1"
PIECES = st.sampled_from([VALUE, VALUE[:7], VALUE[3:], b"s", b"s3c", b"xyz", b"\0", VALUE * 2])


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, at = list[bytes](), 0
    for size in sizes:
        pieces.append(data[at : at + size])
        at += size
    return [*pieces, data[at:]]


@given(st.lists(PIECES), st.lists(st.integers(0, 20)))
def test_a_value_is_masked_however_it_is_split(parts: list[bytes], sizes: list[int]) -> None:
    data = b"".join(parts)
    masker = Masker(Masks([SecretValue(VALUE)]))
    got = b"".join(masker.feed(piece) for piece in cut(data, sizes)) + masker.finish()
    assert got == data.replace(VALUE, b"*" * len(VALUE))


@pytest.mark.parametrize("value", [b"abababab!x", b"aaaaaaab", b"aabaabaac", b"abcaabcab."])
@given(before=st.integers(0, 9), copies=st.integers(1, 2), sizes=st.lists(st.integers(1, 11)))
def test_a_value_that_repeats_its_beginning_is_masked(
    value: bytes, before: int, copies: int, sizes: list[int]
) -> None:
    """Who has a server send back parts of it before it cannot hide where it begins."""
    data = value[:2] * before + value * copies
    masker = Masker(Masks([SecretValue(value)]))
    got = b"".join(masker.feed(piece) for piece in cut(data, sizes)) + masker.finish()
    assert value not in got
    assert len(got) == len(data)
    assert got.endswith(b"*" * len(value))


@given(st.binary(max_size=8), st.binary(max_size=8), st.booleans())
def test_base64_around_a_value_gives_at_most_its_edges(
    before: bytes, after: bytes, url_safe: bool
) -> None:
    encode = base64.urlsafe_b64encode if url_safe else base64.b64encode
    packed = encode(before + VALUE + after)
    masked = Masks([SecretValue(VALUE)]).masked(packed)
    assert len(masked) == len(packed)
    assert masked.count(b"*") >= (len(VALUE) * 8 - 10) // 6


@pytest.mark.parametrize("value", [VALUE, b'quo"te\\and back', b"with space in"])
def test_escaped_forms_are_masked(value: bytes) -> None:
    masks = Masks([SecretValue(value)])
    escaped = quote_from_bytes(value, safe="").encode()
    assert masks.masked(b"a=" + escaped) == b"a=" + b"*" * len(escaped)
    json = value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    assert masks.masked(json) == b"*" * len(json)


@pytest.mark.parametrize(
    "sent",
    [
        rb"a\/b c&<d>+e='\"",  # PHP
        rb"a/b c\u0026\u003cd\u003e+e='\"",  # Go, Rails
        rb"a/b c\u0026\u003cd\u003e+e\u003d\u0027\"",  # Gson
        rb"a/b c\u0026\u003Cd\u003E\u002Be=\u0027\u0022",  # .NET
        b"a/b c&amp;&lt;d&gt;+e=&#x27;&quot;",
        b"a/b c&amp;&lt;d&gt;+e=&#39;&#34;",
        b"a/b c&amp;&lt;d&gt;+e='\"",
        b"a%2fb%20c%26%3cd%3e%2be%3d%27%22",
        b"a%2Fb+c%26%3Cd%3E%2Be%3D%27%22",
    ],
)
def test_a_value_is_masked_as_common_servers_escape_it(sent: bytes) -> None:
    masks = Masks([SecretValue(b"a/b c&<d>+e='\"")])
    assert masks.masked(b"x" + sent + b"y") == b"x" + b"*" * len(sent) + b"y"


def test_a_plain_value_has_few_forms() -> None:
    assert len(Masks([SecretValue(b"ghp_0123456789abcdef")]).forms) == 4


def test_pieces_may_be_bytearrays() -> None:
    assert Finder([PLACEHOLDER]).feed(bytearray(b"x" * 200 + PLACEHOLDER)) == PLACEHOLDER
    masker = Masker(Masks([SecretValue(VALUE)]))
    assert masker.feed(bytearray(b"x" + VALUE[:4])) == b"x"
    assert masker.feed(bytearray(VALUE[4:] + b"y")) == b"*" * len(VALUE) + b"y"


def test_only_a_beginning_is_held_back() -> None:
    masker = Masker(Masks([SecretValue(VALUE)]))
    assert masker.feed(b"data: x\n\n") == b"data: x\n\n"
    assert masker.feed(b"it is " + VALUE[:5]) == b"it is "
    assert masker.feed(b"nothing") == VALUE[:5] + b"nothing"
    assert masker.finish() == b""


@given(st.integers(0, 40), st.lists(st.integers(0, 60)))
def test_a_placeholder_is_found_however_it_is_split(before: int, sizes: list[int]) -> None:
    data = b"w" * before + PLACEHOLDER + b"waggle-github-"
    finder = Finder([b"waggle-other-" + b"0" * 32, PLACEHOLDER])
    assert PLACEHOLDER in [finder.feed(piece) for piece in cut(data, sizes)]


@given(st.lists(st.sampled_from([b"waggle-", PLACEHOLDER[:-1], b"github-", b"0"])))
def test_parts_of_one_are_none(parts: list[bytes]) -> None:
    data = b"!".join(parts)
    finder = Finder([PLACEHOLDER])
    assert not any(finder.feed(piece) for piece in cut(data, [7] * 200))


def test_hostile_streams_cost_little() -> None:
    almost = [b"waggle-" * 9000, PLACEHOLDER[:-1] * 1400, b"s3cr3t+/value&" * 4600]
    almost.append((b"s3" * 1999 + b"-") * 16)
    begun = time.process_time()
    for data in almost:
        finder, masker = (
            Finder([PLACEHOLDER]),
            Masker(Masks(map(SecretValue, (VALUE, b"s3" * 2000)))),
        )
        for _ in range(16):  # 1 MiB
            finder.feed(data)
            masker.feed(data)
    assert time.process_time() - begun < 1.5


@pytest.mark.parametrize(
    "text, found",
    [
        (b"Basic " + base64.b64encode(b"a:b"), b"a:b"),
        (b"bAsIc   YTpiYw", b"a:bc"),
        (b"Basic YTpi\t", b"a:b"),
        (b"Basic !", None),
        (b"Bearer YTpi", None),
        (b"Basic YTpi YTpi", None),
        (b"Basic A", None),
    ],
)
def test_basic_credentials_are_read_as_servers_do(text: bytes, found: bytes | None) -> None:
    assert credentials_in(text) == found
