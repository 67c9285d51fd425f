# SPDX-License-Identifier: Apache-2.0
"""Archives from hostile clients and trees from hostile guests: no entry leads out of the tree."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.archives import Member, link, tar

from waggle.domain.errors import InvalidArgument, TooLarge, WaggleError
from waggle.domain.files.search import Kind
from waggle.domain.files.tree import (
    MAX_TREE_BYTES,
    Skipped,
    TreeEntry,
    check_target,
    clean_name,
    decode,
    encode,
)
from waggle.infra.archive.trees import read_archive, read_packed, write_archive
from waggle.service.files.trees import batches

GOOD = tar(
    ("./", {"type": tarfile.DIRTYPE, "mode": 0o755}, b""),
    ("./d", {"type": tarfile.DIRTYPE, "mode": 0o700}, b""),
    ("./d/f", {"mode": 0o4755, "mtime": 77}, b"hi"),
    link("d/l", "f"),
    link("again", "./d/f", tarfile.LNKTYPE),
)
ENTRIES = [
    TreeEntry(Kind.DIRECTORY, b"d", 0o700),
    TreeEntry(Kind.FILE, b"d/f", 0o755, 77, b"hi"),
    TreeEntry(Kind.LINK, b"d/l", 0o644, 0, b"f"),
    TreeEntry(Kind.FILE, b"again", 0o755, 77, b"hi"),
]


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
def test_every_form_of_tar_is_read(pack: Any) -> None:
    assert read_archive(pack(GOOD)) == ENTRIES


@pytest.mark.parametrize("name", ["PK0012.txt", "PK\x03\x04"])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_whose_first_name_begins_as_a_zip_does_is_a_tar(name: str, form: int) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=form) as archive:
        archive.addfile(tarfile.TarInfo(name))
    assert [entry.name for entry in read_archive(data.getvalue())] == [name.encode()]


def test_a_zip_is_read() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("d/", "")
        run = zipfile.ZipInfo("d/run", (1980, 1, 1, 0, 0, 0))
        run.external_attr = (stat.S_IFREG | 0o755) << 16
        archive.writestr(run, "hi")
        symlink = zipfile.ZipInfo("d/l", (1980, 1, 1, 0, 0, 0))
        symlink.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(symlink, "run")
    entries = {entry.name: entry for entry in read_archive(out.getvalue())}
    assert (entries[b"d/run"].mode, entries[b"d/run"].data) == (0o755, b"hi")
    assert (entries[b"d/l"].kind, entries[b"d/l"].data) == (Kind.LINK, b"run")


HOSTILE: list[tuple[list[Any], str]] = [
    ([("/etc/passwd", {}, b"")], "absolute"),
    ([("a/../../b", {}, b"")], r"\.\."),
    ([link("l", "")], "possible target"),
    ([link("l", "d"), ("l/f", {}, b"")], "not a directory"),
    ([link("l", "/etc"), ("l/passwd", {}, b"")], "not a directory"),
    ([link("l", "/etc"), ("l", {"type": tarfile.DIRTYPE}, b"")], "twice"),
    ([("a/b", {}, b""), ("a", {}, b"")], "twice"),
    ([("a/b", {}, b""), link("a", "/etc")], "twice"),
    ([link("a", "b", tarfile.LNKTYPE)], "hard link"),
    ([link("a", "/etc/passwd", tarfile.LNKTYPE)], "hard link"),
    ([("p", {"type": tarfile.FIFOTYPE}, b"")], "no file, directory or link"),
    ([("n", {"type": tarfile.CHRTYPE}, b"")], "no file, directory or link"),
    ([("x" * 256, {}, b"")], "too long"),
    ([], "empty"),
]


@pytest.mark.parametrize("members, why", HOSTILE)
def test_a_hostile_archive_is_refused_whole(members: list[Any], why: str) -> None:
    with pytest.raises(InvalidArgument, match=why):
        read_archive(tar(("good", {}, b"x"), *members) if members else tar())


def test_hostile_names_in_a_zip_are_refused() -> None:
    for name in ("../x", "/x", "a/../../x"):
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr(zipfile.ZipInfo(name), "x")
        with pytest.raises(InvalidArgument, match="refused"):
            read_archive(out.getvalue())


def test_decompression_bombs_are_refused_at_the_size_limit() -> None:
    zeros = bytes(9_000_000)
    count = MAX_TREE_BYTES // len(zeros) + 1
    members: list[Member] = [(f"f{n}", {}, zeros) for n in range(count)]
    for bomb in (gzip.compress(tar(*members), 1), zstandard.compress(tar(*members))):
        with pytest.raises(TooLarge):
            read_archive(bomb)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, _, data in members:
            archive.writestr(name, data)
    with pytest.raises(TooLarge):
        read_archive(out.getvalue())
    with pytest.raises(InvalidArgument, match="11000000 bytes"):
        read_archive(tar(("f", {}, bytes(11_000_000))))


@settings(max_examples=100)
@given(st.binary(max_size=600), st.integers(0, len(GOOD) - 1))
def test_a_damaged_archive_is_refused_or_gives_clean_names(noise: bytes, place: int) -> None:
    damaged = GOOD[:place] + noise + GOOD[place + len(noise) :]
    for data in (noise, damaged, gzip.compress(GOOD)[:-5] + noise, b"PK\x03\x04" + noise):
        try:
            entries = read_archive(data)
        except WaggleError:
            continue
        for entry in entries:
            assert clean_name(entry.name) == entry.name


names = st.lists(st.sampled_from([b"a", b"b", b"..", b".", b"", b"\n", b"\xff"]), max_size=4).map(
    b"/".join
)
modes, times = st.integers(0, 0o7777), st.integers(0, 1 << 32)
tree_entries = st.one_of(
    st.builds(TreeEntry, st.sampled_from([Kind.FILE, Kind.LINK]), names, modes, times, data=names),
    st.builds(TreeEntry, st.just(Kind.DIRECTORY), names, modes, times),
)


@given(st.lists(tree_entries, max_size=8))
def test_no_entry_that_a_guest_packs_leads_out_of_the_tree(entries: list[TreeEntry]) -> None:
    out = io.BytesIO()
    left_out = write_archive(entries, out)  # pyright: ignore[reportArgumentType] # as good as raw
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        members = archive.getmembers()
    kinds = {member.name: member for member in members}
    assert len(members) + left_out.count <= len(entries)
    for member in members:
        parts = member.name.split("/")
        assert not {"", ".", ".."} & set(parts)
        assert member.mode & ~0o777 == member.uid == 0
        for count in range(1, len(parts)):
            above = kinds.get("/".join(parts[:count]))
            assert above is None or above.isdir()
        if member.issym():
            check_target(member.linkname.encode("utf-8", "surrogateescape"))


def test_a_tree_that_was_cut_short_is_refused() -> None:
    for reason in ("bytes", "entries"):
        with pytest.raises(TooLarge, match=reason):
            write_archive([Skipped(b"", reason)], io.BytesIO())  # pyright: ignore[reportArgumentType]


def records(data: bytes) -> list[TreeEntry | Skipped]:
    return list(decode(lambda at, size: data[at : at + size], len(data)))


@given(st.lists(tree_entries, max_size=5))
def test_records_are_read_as_they_were_written(entries: list[TreeEntry]) -> None:
    data = b"".join(map(encode, entries)) + b"e 0 0 0\0\0"
    plain = [
        TreeEntry(entry.kind, entry.name, entry.mode & 0o777, entry.modified, entry.data)
        for entry in entries
    ]
    assert records(data) == plain
    for cut in range(0, len(data), 7):
        with pytest.raises(ValueError, match=r".*"):
            records(data[:cut])


@given(st.binary(max_size=60))
def test_arbitrary_records_raise_nothing_but_value_errors(data: bytes) -> None:
    try:
        records(data)
    except ValueError:
        return


def test_a_tree_is_sent_in_as_few_pieces_as_possible() -> None:
    entries = [TreeEntry(Kind.FILE, b"%d" % n, data=b"x" * 400) for n in range(10)]
    pieces = list(batches(entries, limit=1_000))
    assert len(pieces) == 5
    assert all(len(piece) <= 1_000 for piece in pieces)
    assert records(b"".join(pieces) + b"e 0 0 0\0\0") == entries


@pytest.mark.parametrize(
    "entry",
    [
        tarfile.TarInfo("../up"),
        tarfile.TarInfo("/etc/x"),
        tarfile.TarInfo("a/../../up"),
    ],
    ids=lambda entry: entry.name,
)
def test_an_archive_that_a_server_sends_is_checked_again(entry: tarfile.TarInfo) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("fine"))
        tar.addfile(entry)
    with pytest.raises(InvalidArgument):
        read_packed(out.getvalue())
