# SPDX-License-Identifier: Apache-2.0
"""The tar reader, with archives by tarfile and GNU tar, and with archives that no tool writes."""

from __future__ import annotations

import contextlib
import io
import stat
import subprocess
import tarfile
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.images import device, directory, file, hard_link, symlink, tar_bytes

from waggle.domain.errors import ImageCorrupt
from waggle.infra.archive import DEFAULT_LIMITS, Limits
from waggle.infra.archive.tar import Entry, TarReader


def read(data: bytes, limits: Limits = DEFAULT_LIMITS) -> list[tuple[Entry, bytes]]:
    """Return all entries with their contents, holes filled in."""
    reader = TarReader(io.BytesIO(data), limits)
    found: list[tuple[Entry, bytes]] = []
    for entry in reader:
        content = bytearray(entry.size)
        for offset, chunk in reader.content():
            content[offset : offset + len(chunk)] = chunk
        found.append((entry, bytes(content)))
    return found


names = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1)
paths = (
    st.lists(names.filter(lambda n: n not in {".", ".."} and len(n.encode()) < 250), min_size=1)
    .map("/".join)
    .filter(lambda p: len(p.encode()) < 2000)
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    path=paths,
    content=st.binary(max_size=2000),
    mode=st.integers(0, 0o7777),
    owner=st.tuples(st.integers(0, 2**32 - 2), st.integers(0, 2**32 - 2)),
    mtime=st.integers(-(2**31), 2**35),
    form=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
)
def test_reads_back_what_tarfile_writes(
    path: str, content: bytes, mode: int, owner: tuple[int, int], mtime: int, form: int
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, encoding="utf-8") as archive:
        info, _ = file(path, content, mode, uid=owner[0], gid=owner[1], mtime=mtime)
        archive.addfile(info, io.BytesIO(content))
    [(entry, found)] = read(out.getvalue())
    assert entry.path == tuple(part.encode() for part in path.split("/"))
    assert (entry.mode, entry.uid, entry.gid) == (stat.S_IFREG | mode, *owner)
    assert entry.mtime_ns == mtime * 1_000_000_000
    assert found == content


@given(st.binary(max_size=2048))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(ImageCorrupt):
        read(data)


@given(st.integers(0, 511), st.binary(min_size=1, max_size=20), st.booleans())
def test_a_damaged_header_is_read_or_refused(at: int, junk: bytes, mend: bool) -> None:
    good = tar_bytes([file("a" * 120, b"x", pax_headers={"SCHILY.xattr.user.a": "1"}), file("b")])
    damaged = bytearray(good)
    damaged[at : at + len(junk)] = junk
    if mend:  # a valid checksum lets the damage reach the fields
        damaged[148:156] = b" " * 8
        damaged[148:156] = b"%06o\0 " % sum(damaged[:512])
    with contextlib.suppress(ImageCorrupt):
        read(bytes(damaged))


def test_every_kind_of_entry_is_read() -> None:
    layer = [
        directory("d", 0o1777),
        file("d/s", b"#!", 0o4755, uid=3, gid=4),
        symlink("l", "../outside"),
        hard_link("h", "d/s"),
        device("null", tarfile.CHRTYPE, 1, 3),
        device("disk", tarfile.BLKTYPE, 254, 1000),
    ]
    found = [entry for entry, _ in read(tar_bytes(layer))]
    assert [stat.filemode(entry.mode)[0] for entry in found] == ["d", "-", "l", "?", "c", "b"]
    assert found[1].mode == stat.S_IFREG | 0o4755
    assert found[2].link == b"../outside"
    assert found[3].is_hard_link
    assert found[3].link == b"d/s"
    assert [found[4].device, found[5].device] == [(1, 3), (254, 1000)]


def test_attributes_and_fractions_of_seconds_come_from_pax_records() -> None:
    value = b"\x01\x00\x00\x02\x00\x04".decode("latin-1")
    headers = {"SCHILY.xattr.security.capability": value, "mtime": "12.5"}
    [(entry, _)] = read(tar_bytes([file("ping", pax_headers=headers)]))
    assert entry.xattrs == ((b"security.capability", value.encode()),)
    assert entry.mtime_ns == 12_500_000_000


@pytest.mark.parametrize("form", ["gnu", "posix", "ustar", "v7", "oldgnu"])
def test_reads_what_gnu_tar_writes(tmp_path: Path, form: str) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "f").write_bytes(b"y" * 1000)
    (tree / "l").symlink_to("sub/f")
    packed = subprocess.run(
        ["tar", f"--format={form}", "-C", tree, "-c", "sub", "l"], capture_output=True, check=True
    )
    found = {b"/".join(entry.path): (entry, data) for entry, data in read(packed.stdout)}
    assert set(found) == {b"sub", b"sub/f", b"l"}
    assert found[b"sub/f"][1] == b"y" * 1000
    assert stat.S_ISDIR(found[b"sub"][0].mode)


@pytest.mark.parametrize("form", ["0.0", "0.1", "1.0", "gnu"])
def test_sparse_files_are_read_in_full(tmp_path: Path, form: str) -> None:
    whole = bytearray(3 << 20)
    for number in range(30):
        whole[number * 100_000 : number * 100_000 + 5] = b"%05d" % number
    with (tmp_path / "s").open("wb") as out:
        out.truncate(len(whole))
        for number in range(30):
            out.seek(number * 100_000)
            out.write(b"%05d" % number)
    how = ["--format=gnu"] if form == "gnu" else ["--format=posix", f"--sparse-version={form}"]
    packed = subprocess.run(
        ["tar", "-S", *how, "-C", tmp_path, "-c", "s"], capture_output=True, check=True
    )
    assert len(packed.stdout) < 1 << 20
    [(entry, content)] = read(packed.stdout)
    assert entry.path == (b"s",)
    assert content == bytes(whole)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "..", "a/.."])
def test_a_name_that_climbs_out_of_the_root_is_refused(name: str) -> None:
    with pytest.raises(ImageCorrupt, match=r"climbs out"):
        read(tar_bytes([file(name)]))


@pytest.mark.parametrize("name", ["/etc/passwd", "//etc/./passwd", "./etc//passwd"])
def test_an_absolute_name_counts_from_the_images_root(name: str) -> None:
    [(entry, _)] = read(tar_bytes([file(name)]))
    assert entry.path == (b"etc", b"passwd")


@pytest.mark.parametrize(
    "name,limits",
    [
        ("a/" * 200 + "x", DEFAULT_LIMITS),
        ("n" * 256, DEFAULT_LIMITS),
        ("a/b", Limits(path_bytes=2)),
        ("nul", DEFAULT_LIMITS),
    ],
)
def test_a_name_over_the_limits_is_refused(name: str, limits: Limits) -> None:
    headers = {"path": "a\0b"} if name == "nul" else {}
    with pytest.raises(ImageCorrupt, match=r"name|deep|component"):
        read(tar_bytes([file(name, pax_headers=headers)]), limits)


def test_a_truncated_archive_is_refused() -> None:
    whole = tar_bytes([file("a", b"x" * 5000)])
    for cut in (100, 700, 5000):
        with pytest.raises(ImageCorrupt, match=r"in the middle"):
            read(whole[:cut])


def test_a_huge_extension_header_is_refused_before_it_is_read() -> None:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    with pytest.raises(ImageCorrupt, match=r"extension header"):
        read(info.tobuf(tarfile.GNU_FORMAT))


def test_a_file_over_the_limit_is_refused_before_it_is_read() -> None:
    info = tarfile.TarInfo("x")
    info.size = 1 << 50
    with pytest.raises(ImageCorrupt, match=r"a file of"):
        read(info.tobuf(tarfile.GNU_FORMAT))


def test_an_unknown_type_is_refused() -> None:
    info = tarfile.TarInfo("x")
    info.type = b"Q"
    with pytest.raises(ImageCorrupt, match=r"unknown type"):
        read(info.tobuf())


class NamesWithoutEnd(io.RawIOBase):
    """An archive of `entries` entries in which no two path components are equal."""

    def __init__(self, entries: int) -> None:
        super().__init__()
        self._numbers = iter(range(entries))

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] # the stub's Buffer is a memoryview when BufferedReader calls
        number = next(self._numbers, None)
        if number is None:
            return 0
        info = tarfile.TarInfo("/".join(f"{number * 30 + part:x}" for part in range(30)))
        header = info.tobuf(tarfile.GNU_FORMAT)
        buffer[: len(header)] = header
        return len(header)


def test_path_components_that_never_repeat_take_bounded_memory() -> None:
    """A pull reads in the server's process: a million of these entries once took gigabytes."""
    tracemalloc.start()
    try:
        reader = TarReader(io.BufferedReader(NamesWithoutEnd(4_000), 1 << 16), DEFAULT_LIMITS)
        assert sum(len(entry.path) for entry in reader) == 4_000 * 30
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 7 << 20
