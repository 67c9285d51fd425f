# SPDX-License-Identifier: Apache-2.0
"""A frozen machine packed into one file is unpacked unchanged; anything else is refused."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from waggle.domain.errors import FrozenMachineUnusable
from waggle.infra.store import frozen_files
from waggle.infra.store.checksums import BLOCK
from waggle.infra.store.frozen_archive import pack, unpack
from waggle.infra.store.frozen_files import FILES, MANIFEST

MOST: dict[str, int] = dict.fromkeys(FILES, 64 << 20)
SIZES = json.dumps(dict.fromkeys(FILES, 4 * BLOCK)).encode()


def frozen(directory: Path) -> Path:
    """Make a small frozen machine with holes, stored zeros, and data that fills no whole block."""
    directory.mkdir()
    for number, name in enumerate(FILES):
        with (directory / name).open("wb") as file:
            file.truncate((number + 1) * (5 << 20) + 7)
            file.seek(3 * BLOCK)
            file.write(bytes([number + 1]) * (6 << 20 if name == "ram" else 10))
            file.seek(-7, io.SEEK_END)
            file.write(b"the end")
    frozen_files.seal(directory, {"about": "this"})
    return directory


def packed(directory: Path) -> bytes:
    out = io.BytesIO()
    pack(directory, (directory / MANIFEST).read_bytes(), out)
    return out.getvalue()


def made(
    *members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE, end: bytes = bytes(1024)
) -> bytes:
    """Build a file with these members after a manifest and sizes, as an attacker could."""
    out = bytearray()
    for name, data in ((MANIFEST, b"{}"), ("sizes.json", SIZES), *members):
        about = tarfile.TarInfo(name)
        about.size = len(data)
        if (name, data) in members:
            about.type = kind
        out += about.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)
    return zstandard.compress(bytes(out) + end)


def refusal(data: bytes, directory: Path) -> str:
    directory.mkdir(exist_ok=True)
    with pytest.raises(FrozenMachineUnusable) as caught:
        unpack(io.BytesIO(data), directory, lambda _: MOST)
    return caught.value.message


def test_files_are_unpacked_unchanged_with_their_holes(tmp_path: Path) -> None:
    source, target = frozen(tmp_path / "source"), tmp_path / "target"
    target.mkdir()
    manifests: list[bytes] = []

    def bounds(manifest: bytes) -> dict[str, int]:
        manifests.append(manifest)
        return MOST

    data = packed(source)
    unpack(io.BytesIO(data), target, bounds)
    assert len(data) < 100_000
    assert manifests == [(source / MANIFEST).read_bytes()]
    assert sorted(path.name for path in target.iterdir()) == sorted([*FILES, MANIFEST])
    for name in (*FILES, MANIFEST):
        assert (target / name).read_bytes() == (source / name).read_bytes()
        assert (target / name).stat().st_mode & 0o777 == 0o600
    assert frozen_files.problem(target) is None
    assert frozen_files.size(target) < 8 << 20


def test_tarfile_can_list_the_members(tmp_path: Path) -> None:
    plain = zstandard.ZstdDecompressor().decompressobj().decompress(packed(frozen(tmp_path / "a")))
    with tarfile.open(fileobj=io.BytesIO(plain)) as tar:
        names = tar.getnames()
    assert names[:3] == [MANIFEST, "sizes.json", f"ram/{3 * BLOCK:016x}"]


@pytest.mark.parametrize(
    "members, words",
    [
        ([("ram/../../etc/passwd", b"x")], "has a member"),
        ([("/ram/0000000000000000", b"x")], "has a member"),
        ([("other/0000000000000000", b"x")], "has a member"),
        ([("ram/000000000000000g", b"x")], "has a member"),
        ([("state/0000000000000000", b"x"), ("ram/0000000000000000", b"x")], "not in order"),
        ([("ram/0000000000000000", b"xy"), ("ram/0000000000000001", b"x")], "impossible position"),
        ([("ram/0000000000040000", b"x")], "impossible position"),
        ([("ram/ffffffffffffffff", b"x")], "impossible position"),
        ([("ram/0000000000000000", bytes((4 << 20) + 1))], "too large"),
    ],
)
def test_impossible_members_are_refused(
    tmp_path: Path, members: list[tuple[str, bytes]], words: str
) -> None:
    assert words in refusal(made(*members), tmp_path / "in")
    assert not (tmp_path / "etc").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, tarfile.XHDTYPE]
)
def test_members_that_are_not_files_are_refused(tmp_path: Path, kind: bytes) -> None:
    assert "is not a file" in refusal(
        made(("ram/0000000000000000", b""), kind=kind), tmp_path / "in"
    )


def test_impossible_ends_are_refused(tmp_path: Path) -> None:
    for number, (end, words) in enumerate(
        [(b"", "cut off"), (bytes(512), "cut off"), (bytes(1025), "follows"), (b"x" * 512, "head")]
    ):
        assert words in refusal(made(end=end), tmp_path / str(number))


@pytest.mark.parametrize(
    "sizes", [b"[]", b"{", b"{}", SIZES.replace(b"ram", b"rom"), SIZES.replace(b"262144", b"-1", 1)]
)
def test_impossible_sizes_are_refused(tmp_path: Path, sizes: bytes) -> None:
    data = zstandard.ZstdDecompressor().decompress(made())
    other = data.replace(SIZES, sizes.ljust(len(SIZES))[: len(SIZES)])
    assert "sizes.json" in (message := refusal(zstandard.compress(other), tmp_path / "in")) or (
        "impossible size" in message
    )


def test_a_file_larger_than_its_bound_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(FrozenMachineUnusable, match="ram has an impossible size"):
        unpack(io.BytesIO(made()), tmp_path / "in", lambda _: {**MOST, "ram": BLOCK})
    assert [*(tmp_path / "in").iterdir()] == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return packed(frozen(tmp_path_factory.mktemp("whole") / "a"))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_never_gives_another_frozen_machine(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    broken = data.draw(st.sampled_from([whole[:at], flipped, whole + b"x"]))
    target = tmp_path_factory.mktemp("broken")
    try:
        unpack(io.BytesIO(broken), target, lambda _: MOST)
    except FrozenMachineUnusable:
        return
    assert frozen_files.problem(target) is None
    assert frozen_files.facts(target) == {"about": "this"}
