# SPDX-License-Identifier: Apache-2.0
"""Tars as other tools write them: the reader tolerates what those tools' readers tolerate."""

from __future__ import annotations

import io
import stat
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.images import file, tar_bytes

from waggle.domain.errors import ImageCorrupt
from waggle.infra.archive import DEFAULT_LIMITS
from waggle.infra.archive.tar import Entry, TarReader

CONTENT = b"no multiple of a block"


def read(data: bytes) -> list[tuple[Entry, bytes]]:
    reader = TarReader(io.BytesIO(data), DEFAULT_LIMITS)
    return [(e, b"".join(piece for _, piece in reader.content())) for e in reader]


def sealed(header: bytearray) -> bytes:
    """Return the header with its checksum filled in."""
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def header(name: bytes, size: int = 0, kind: bytes = b"0", **fields: bytes) -> bytes:
    """Build a header by hand; `fields` may be mode, uid, gid, prefix, magic and trailer."""
    places = {"mode": 100, "uid": 108, "gid": 116, "magic": 257, "prefix": 345, "trailer": 508}
    made = bytearray(512)
    made[0 : len(name)] = name
    made[124:136] = b"%011o\0" % size
    made[156:157] = kind
    for field, value in {"mode": b"0000644\0", "magic": b"ustar\x0000", **fields}.items():
        made[places[field] : places[field] + len(value)] = value
    return sealed(made)


@given(st.binary(max_size=1500), st.integers(0, 2000))
def test_padding_after_the_last_entry_may_be_missing(content: bytes, more: int) -> None:
    whole = tar_bytes([file("first", b"1"), file("last", content)])
    found = read(whole[: 1536 + len(content) + more])
    assert [(e.path[-1], data) for e, data in found] == [(b"first", b"1"), (b"last", content)]


def test_an_archive_cut_off_in_content_or_header_is_refused() -> None:
    whole = tar_bytes([file("f", CONTENT)])
    with pytest.raises(ImageCorrupt, match="middle of an entry"):
        read(whole[: 512 + len(CONTENT) - 1])
    with pytest.raises(ImageCorrupt, match="middle of a header"):
        read(whole[:512][:300])


def test_entries_that_only_gnu_tar_or_solaris_use_are_skipped() -> None:
    data = (
        header(b"backup of today", kind=b"V")
        + header(b"acl", 700, b"A")
        + bytes(1024)
        + header(b"d/", 9, b"D")
        + b"Yf\0Yg\0\0\0\0".ljust(512, b"\0")
        + header(b"d/f", 1)
        + b"1"
    )
    found = [(entry.path, stat.S_ISDIR(entry.mode), content) for entry, content in read(data)]
    assert found == [((b"d",), True, b""), ((b"d", b"f"), False, b"1")]


def test_an_extended_header_by_solaris_is_read() -> None:
    [(entry, _)] = read(header(b"x", 13, b"X") + b"13 path=long\n".ljust(512, b"\0") + header(b"s"))
    assert entry.path == (b"long",)


def test_times_that_star_puts_into_the_prefix_are_not_part_of_the_name() -> None:
    times = b"sub".ljust(131, b"\0") + b"14000000000\x0014000000000\0"
    [(entry, _)] = read(header(b"f", prefix=times, trailer=b"tar\0"))
    assert entry.path == (b"sub", b"f")
    [(entry, _)] = read(header(b"f", prefix=b"p" * 155))
    assert entry.path == (b"p" * 155, b"f")


@pytest.mark.parametrize(
    "uid, expected",
    [(-2, 4294967294), (-1, 0), (4294967294, 4294967294), (4294967295, 0), (70_000, 70_000)],
)
def test_owner_ids_are_read_as_chown_reads_them(uid: int, expected: int) -> None:
    member = file("f", uid=0, pax_headers={"uid": str(uid), "gid": str(uid)})
    [(entry, _)] = read(tar_bytes([member]))
    assert (entry.uid, entry.gid) == (expected, expected)
    field = (uid % (1 << 64)).to_bytes(8, "big") if uid < 0 else b"\x80" + uid.to_bytes(7, "big")
    [(entry, _)] = read(header(b"f", uid=field))
    assert entry.uid == expected


def test_an_owner_of_more_than_32_bits_is_refused() -> None:
    for uid in (1 << 32, -(1 << 40)):
        with pytest.raises(ImageCorrupt, match="impossible owner"):
            read(tar_bytes([file("f", pax_headers={"uid": str(uid)})]))


def test_a_global_header_is_not_an_entry() -> None:
    out = io.BytesIO()
    tags = {"comment": "0123456789abcdef"}  # as git archive writes it
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers=tags) as tar:
        tar.addfile(file("f")[0])
    assert [entry.path for entry, _ in read(out.getvalue())] == [(b"f",)]
