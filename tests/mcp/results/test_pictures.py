# SPDX-License-Identifier: Apache-2.0
"""The size of an image is read from its header, and no header makes this fail or take long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.displays import png

from waggle.mcp.results.pictures import pixels

APP0 = b"\xff\xe0\x00\x10" + b"JFIF\0" + b"\0" * 9
SOF = b"\xff\xc2\x00\x11\x08\x01\xe0\x02\x80" + b"\0" * 10
TABLE = b"\xff\xc4\x00\x05abc"


@pytest.mark.parametrize(
    "kind, data, size",
    [
        ("image/png", png(640, 480), (640, 480)),
        ("image/png", png(0, 480), None),
        ("image/png", png()[:20], None),
        ("image/png", b"\x89PNG\r\n\x1a\n\0\0\0\rJUNK" + b"\0\0\0\1" * 4, None),
        ("image/gif", b"GIF89a\x80\x02\xe0\x01;", (640, 480)),
        ("image/gif", b"GIF89a;", None),
        ("image/jpeg", b"\xff\xd8" + APP0 + TABLE + b"\xff" + SOF + b"\xff\xd9", (640, 480)),
        ("image/jpeg", b"\xff\xd8" + APP0 + b"\xff\xd9", None),
        ("image/jpeg", b"\xff\xd8\xff\xe0\x00\x00" + b"\0" * 9, None),
        ("image/jpeg", b"\xff\xd8" + b"\xff" * 9_000, None),
        ("image/webp", b"RIFF....WEBPVP8 ....\0\0\0\x9d\x01\x2a\x80\x02\xe0\x01", (640, 480)),
        ("image/webp", b"RIFF....WEBPVP8L....\x2f\x7f\xc2\x77\0", (640, 480)),
        ("image/webp", b"RIFF....WEBPVP8X....\0\0\0\0\x7f\x02\0\xdf\x01\0", (640, 480)),
        ("image/webp", b"RIFF....WEBPVP8L....\x2f", None),
        ("image/webp", b"RIFF....WEBPXXXX", None),
        ("image/svg+xml", b"<svg/>", None),
    ],
)
def test_the_size_is_that_of_the_header(
    kind: str, data: bytes, size: tuple[int, int] | None
) -> None:
    assert pixels(data, kind) == size


@given(
    st.sampled_from(["png", "gif", "jpeg", "webp"]),
    st.sampled_from(
        [png()[:16], b"GIF89a", b"\xff\xd8\xff", b"RIFF....WEBPVP8X", b"RIFF....WEBPVP8L", b""]
    ),
    st.binary(max_size=60),
)
def test_garbage_never_raises(kind: str, head: bytes, rest: bytes) -> None:
    size = pixels(head + rest, f"image/{kind}")
    assert size is None or (size[0] > 0 and size[1] > 0)
