# SPDX-License-Identifier: Apache-2.0
"""Archives as other tools write them: every entry is read as its writer meant it."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from tests.support.archives import Member, link, tar
from tests.support.programs import program

from waggle.domain.errors import InvalidArgument, TooLarge, WaggleError
from waggle.domain.files.search import Kind
from waggle.domain.files.tree import TreeEntry
from waggle.infra.archive.trees import read_archive, read_packed, write_archive

UNIX, DOS = 3, 0


def by_name(data: bytes) -> dict[bytes, TreeEntry]:
    entries = read_archive(data)
    found = {entry.name: entry for entry in entries}
    assert len(found) == len(entries)
    return found


# Links and tars


def test_links_of_a_virtual_environment_survive_a_round_trip() -> None:
    targets = {
        b"venv/bin/python": b"/usr/bin/python3",
        b"venv/bin/python3": b"python",
        b"venv/lib64": b"lib",
        b"venv/up": b"../../elsewhere",
        b"venv/through": b"lib/../../../x",
    }
    members = [link(name.decode(), target.decode()) for name, target in targets.items()]
    found = read_archive(tar(*members, ("venv/lib/f", {}, b"1")))
    assert {e.name: e.data for e in found if e.kind is Kind.LINK} == targets
    out = io.BytesIO()
    assert write_archive(found, out).count == 0  # pyright: ignore[reportArgumentType] # as good as raw
    assert [e for e in read_packed(out.getvalue()) if e.kind is Kind.LINK] == [
        e for e in found if e.kind is Kind.LINK
    ]


def test_the_last_of_several_entries_with_one_name_counts() -> None:
    found = by_name(
        tar(
            ("a", {}, b"first"),
            link("h", "a", tarfile.LNKTYPE),
            link("b", "/etc"),
            ("a", {"mode": 0o755}, b"second"),
            ("b", {}, b"a file now"),
            ("c", {}, b""),
            link("c", "a"),
        )
    )
    assert {name: (e.kind, e.data) for name, e in found.items()} == {
        b"h": (Kind.FILE, b"first"),
        b"a": (Kind.FILE, b"second"),
        b"b": (Kind.FILE, b"a file now"),
        b"c": (Kind.LINK, b"a"),
    }


def test_a_hard_link_to_a_link_is_a_link() -> None:
    found = by_name(tar(link("a", "/x"), link("b", "./a", tarfile.LNKTYPE)))
    assert (found[b"b"].kind, found[b"b"].data) == (Kind.LINK, b"/x")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_that_are_not_utf8_are_kept(form: int) -> None:
    name = b"caf\xe9/" + b"long" * 40
    found = by_name(tar((name.decode("utf-8", "surrogateescape"), {}, b"1"), form=form))
    assert found[name].data == b"1"


Pack = Callable[[bytes], bytes]
PACKERS: dict[str, Pack] = {
    "gzip": gzip.compress,
    "two members": lambda d: gzip.compress(d[:700]) + gzip.compress(d[700:]),
    "zeros behind": lambda d: gzip.compress(d) + bytes(4096),
    "garbage behind": lambda d: gzip.compress(d) + b"not a member",
    "zstd": zstandard.compress,
    "two frames": lambda d: zstandard.compress(d[:700]) + zstandard.compress(d[700:]),
    "a wide window": lambda d: zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(window_log=27)
    ).compress(d),
    "bzip2": bz2.compress,
    "two streams of bzip2": lambda d: bz2.compress(d[:700]) + bz2.compress(d[700:]),
    "xz": lambda d: lzma.compress(d, preset=0),
    "xz in two": lambda d: lzma.compress(d[:700]) + bytes(8) + lzma.compress(d[700:]) + bytes(4),
    "plain": bytes,
    "plain without an end": lambda d: d.rstrip(b"\0"),
}


@pytest.mark.parametrize("how", PACKERS)
def test_a_tar_is_read_in_every_compression(how: str) -> None:
    found = by_name(PACKERS[how](tar(("d/f", {"mode": 0o755}, b"x" * 1000), ("g", {}, b"end."))))
    assert (found[b"d/f"].data, found[b"g"].data) == (b"x" * 1000, b"end.")


@pytest.mark.parametrize("how", ["bzip2", "xz"])
def test_bombs_in_xz_and_bzip2_are_refused(how: str) -> None:
    zeros: list[Member] = [(f"f{n}", {}, bytes(9_000_000)) for n in range(8)]
    with pytest.raises(TooLarge):
        read_archive(PACKERS[how](tar(*zeros)))


@given(st.binary(max_size=300), st.integers(0, 200))
def test_damaged_xz_and_bzip2_is_read_or_refused(noise: bytes, place: int) -> None:
    whole = tar(("f", {}, b"content" * 300))
    for packed in (bz2.compress(whole), lzma.compress(whole)):
        damaged = packed[:place] + noise + packed[place + len(noise) :]
        try:
            read_archive(damaged)
        except WaggleError:
            continue


# Zips


def zipped(*members: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, data in members:
            archive.writestr(info, data)
    return out.getvalue()


def member(
    name: bytes, data: bytes = b"", *, system: int = UNIX, utf8: bool = False, extra: bytes = b"",
    attributes: int = 0,
) -> bytes:  # fmt: skip
    """Build a zip of one stored file whose name is exactly these bytes."""
    flags, crc = (0x800 if utf8 else 0), zlib.crc32(data)
    common = struct.pack(
        "<HHHHHLLLHH", 20, flags, 0, 0, 33, crc, len(data), len(data), len(name), len(extra)
    )
    local = b"PK\x03\x04" + common + name + extra + data
    central = (
        b"PK\x01\x02" + struct.pack("<BB", 20, system) + common
        + struct.pack("<HHHLL", 0, 0, 0, attributes, 0) + name + extra
    )  # fmt: skip
    end = struct.pack("<HHHHLLH", 0, 0, 1, 1, len(central), len(local), 0)
    return local + central + b"PK\x05\x06" + end


def unicode_path(name: bytes, meant: str) -> bytes:
    data = struct.pack("<BL", 1, zlib.crc32(name)) + meant.encode()
    return struct.pack("<HH", 0x7075, len(data)) + data


@pytest.mark.parametrize(
    "raw, options, meant",
    [
        ("日本/é".encode(), {"utf8": True}, "日本/é".encode()),
        ("日本/é".encode(), {}, "日本/é".encode()),
        ("日本/é".encode(), {"system": DOS}, "日本/é".encode()),
        (b"caf\xe9", {}, b"caf\xe9"),
        (b"caf\x82", {"system": DOS}, "café".encode()),
        (b"caf_", {"extra": unicode_path(b"caf_", "café")}, "café".encode()),
        (b"caf_", {"extra": unicode_path(b"other", "café")}, b"caf_"),
        (b"a\\b\\c.txt", {"system": DOS}, b"a/b/c.txt"),
        (b"a\\b\\c.txt", {"system": 11}, b"a/b/c.txt"),
        (b"a\\b\\c.txt", {}, b"a/b/c.txt"),
        (b"d/a\\b", {}, b"d/a\\b"),
        (b"d/a\\b", {"system": DOS}, b"d/a\\b"),
    ],
)
def test_names_in_a_zip_are_decoded_as_meant(raw: bytes, options: Any, meant: bytes) -> None:
    [entry] = read_archive(member(raw, b"1", **options))
    assert (entry.name, entry.data) == (meant, b"1")


@pytest.mark.parametrize(
    "name, options",
    [
        (b"d/", {}),
        (b"d\\", {"system": DOS}),
        (b"d", {"system": DOS, "attributes": 0x10}),
        (b"d", {"attributes": (stat.S_IFDIR | 0o755) << 16}),
    ],
)
def test_every_form_of_a_directory_in_a_zip_is_recognised(name: bytes, options: Any) -> None:
    [entry] = read_archive(member(name, **options))
    assert (entry.kind, entry.name, entry.mode) == (Kind.DIRECTORY, b"d", 0o755)


def test_modes_and_times_of_a_zip_are_read() -> None:
    assert read_archive(member(b"f", b"1", system=DOS))[0].mode == 0o644
    [entry] = read_archive(member(b"f", attributes=(stat.S_IFREG | 0o750) << 16))
    assert entry.mode == 0o750
    times = struct.pack("<HHBl", 0x5455, 5, 1, 1_700_000_001)
    assert read_archive(member(b"f", extra=times))[0].modified == 1_700_000_001


def test_the_name_in_the_central_directory_counts_over_the_local_one() -> None:
    data = member(b"d/a.txt", b"1")
    [entry] = read_archive(data.replace(b"d/a.txt", b"d\\a.txt", 1))
    assert (entry.name, entry.data) == (b"d/a.txt", b"1")


def test_hostile_names_do_not_hide_behind_backslashes() -> None:
    for name in (b"..\\x", b"\\x", b"a\\..\\..\\x"):
        with pytest.raises(InvalidArgument, match="refused"):
            read_archive(member(name, b"1", system=DOS))


class Pipe(io.RawIOBase):
    """A target that cannot seek, so that `zipfile` writes sizes after the data."""

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += data
        return len(data)


def test_a_streamed_zip64_is_read() -> None:
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("stream", "w", force_zip64=True) as file:
            file.write(b"1" * 1000)
        archive.writestr("__MACOSX/._f", b"\0\5\26\7")
    found = by_name(bytes(pipe.data))
    assert found[b"stream"].data == b"1" * 1000
    assert b"__MACOSX/._f" in found


def test_unsupported_features_of_a_zip_are_named_in_the_refusal() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("f", b"1" * 100)
    with pytest.raises(InvalidArgument, match="'f' of the archive is refused: its compression"):
        read_archive(out.getvalue())
    locked = bytearray(member(b"f", b"1"))
    locked[6] |= 1
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(InvalidArgument, match="it is encrypted"):
        read_archive(bytes(locked))


@given(
    st.binary(max_size=12), st.binary(max_size=40), st.sampled_from([0, 3, 11, 19]), st.booleans()
)
def test_any_zip_is_read_or_refused(name: bytes, extra: bytes, system: int, utf8: bool) -> None:
    try:
        entries = read_archive(member(name, b"1", system=system, utf8=utf8, extra=extra))
    except WaggleError:
        return
    for entry in entries:
        assert not {b"", b".", b".."} & set(entry.name.split(b"/"))


def test_a_zip_by_info_zip_is_read(tmp_path: Path) -> None:
    tree = tmp_path / "t"
    (tree / "dir é").mkdir(parents=True)
    (tree / "dir é/run").write_bytes(b"#!")
    (tree / "dir é/run").chmod(0o755)
    (tree / "link").symlink_to("/usr/bin/env")
    words = [program("zip"), "-qry", str(tmp_path / "t.zip"), "."]
    subprocess.run(words, cwd=tree, check=True)
    found = by_name((tmp_path / "t.zip").read_bytes())
    run = found["dir é/run".encode()]
    assert (run.mode, run.data) == (0o755, b"#!")
    assert run.modified == int((tree / "dir é/run").stat().st_mtime)
    assert (found[b"link"].kind, found[b"link"].data) == (Kind.LINK, b"/usr/bin/env")


@pytest.mark.parametrize("options", [[], ["--format=gnu", "-S"], ["--format=v7"], ["-z"], ["-J"]])
def test_a_tar_by_gnu_tar_is_read(tmp_path: Path, options: list[str]) -> None:
    tree = tmp_path / "t"
    (tree / "bin").mkdir(parents=True)
    (tree / "bin/run").write_bytes(b"#!")
    (tree / "bin/again").hardlink_to(tree / "bin/run")
    (tree / "bin/python").symlink_to("/usr/bin/python3")
    with (tree / "sparse").open("wb") as file:
        file.truncate(1 << 20)
        file.seek(500_000)
        file.write(b"data")
    done = subprocess.run(
        [program("tar"), "-c", *options, "-C", str(tree), "."], check=True, capture_output=True
    )
    found = by_name(done.stdout)
    assert found[b"bin/run"].data == found[b"bin/again"].data == b"#!"
    assert found[b"bin/python"].data == b"/usr/bin/python3"
    assert found[b"sparse"].data == (tree / "sparse").read_bytes()
