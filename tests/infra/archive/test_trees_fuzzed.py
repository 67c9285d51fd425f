# SPDX-License-Identifier: Apache-2.0
"""Nearly valid archives are refused, or read with clean names and within the limits."""

from __future__ import annotations

import gzip
import io
import tarfile
import time
import zipfile

import pytest
from hypothesis import given
from tests.support.archives import link, tar
from tests.support.mutations import TURNS, fuzzed, mutated

from waggle.domain.errors import WaggleError
from waggle.domain.files.tree import MAX_TREE_BYTES, clean_name
from waggle.infra.archive.trees import read_archive

_BLOCK = 512


def repaired(data: bytes) -> bytes:
    """Correct the checksum of every block that looks like a header."""
    blocks = [data[at : at + _BLOCK] for at in range(0, len(data), _BLOCK)]
    return b"".join(_signed(block) if b"ustar" in block[250:270] else block for block in blocks)


def _signed(block: bytes) -> bytes:
    total = sum(block[:148]) + sum(block[156:]) + 8 * ord(" ")
    return block[:148] + b"%06o\0 " % total + block[156:]


MEMBERS = (
    ("d", {"type": tarfile.DIRTYPE}, b""),
    ("d/f", {"mode": 0o4755, "mtime": 1.5}, b"content" * 90),
    link("d/l", "f"),
    link("again", "d/f", tarfile.LNKTYPE),
    ("long" * 40, {"pax_headers": {"GNU.sparse.map": "0,1", "GNU.sparse.size": "9"}}, b"x"),
)
TARS = [tar(*MEMBERS), tar(*MEMBERS, form=tarfile.GNU_FORMAT)]


def _zip(method: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("d/", "")
        archive.writestr("d/f", b"content" * 20)
        archive.writestr("caf\u00e9", b"x")
    return out.getvalue()


ZIPS = [_zip(zipfile.ZIP_STORED), _zip(zipfile.ZIP_DEFLATED)]


def check(data: bytes) -> None:
    started = time.process_time()
    try:
        entries = read_archive(data)
    except WaggleError:
        entries = []
    assert time.process_time() - started < 1
    assert sum(len(entry.data) for entry in entries) <= MAX_TREE_BYTES
    for entry in entries:
        assert clean_name(entry.name) == entry.name


@given(mutated(TARS, repaired))
def test_mutated_tars_are_read_or_refused(data: bytes) -> None:
    check(data)


@given(mutated([gzip.compress(data) for data in TARS]))
def test_mutated_gzip_tars_are_read_or_refused(data: bytes) -> None:
    check(data)


@given(mutated(ZIPS))
def test_mutated_zips_are_read_or_refused(data: bytes) -> None:
    check(data)


@pytest.mark.fuzz
@pytest.mark.parametrize("turn", TURNS)
def test_100_000_tars(turn: int) -> None:
    @fuzzed
    @given(mutated(TARS, repaired))
    def refused_or_clean(data: bytes) -> None:
        check(data)

    refused_or_clean()


@pytest.mark.fuzz
@pytest.mark.parametrize("turn", TURNS)
def test_100_000_zips(turn: int) -> None:
    @fuzzed
    @given(mutated(ZIPS))
    def refused_or_clean(data: bytes) -> None:
        check(data)

    refused_or_clean()
