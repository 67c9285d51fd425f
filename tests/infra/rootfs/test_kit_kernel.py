# SPDX-License-Identifier: Apache-2.0
"""The guest kernel's ELF file, read back by an independent ELF parser."""

from __future__ import annotations

import asyncio
import io
import struct
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import NoteSegment
from hypothesis import given
from hypothesis import strategies as st

from waggle.domain.errors import SetupIncomplete
from waggle.infra.rootfs import kit
from waggle.infra.rootfs.kit import GuestKernel, RawKernel, elf, extract, pvh_note

LOAD, ENTRY, PVH_ENTRY = 0x1000000, 0x1000123, 0x1000000
NOTE = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", PVH_ENTRY)
IMAGE = b"code" * 1000 + NOTE + b"more" * 1000


def test_the_file_loads_the_image_and_has_both_entries() -> None:
    data = elf(RawKernel(IMAGE, LOAD, ENTRY))
    file = ELFFile(io.BytesIO(data))
    assert file.header["e_machine"] == "EM_X86_64"
    assert file.header["e_type"] == "ET_EXEC"
    assert file.header["e_entry"] == ENTRY
    load, note = file.iter_segments()
    assert (load["p_type"], load["p_vaddr"], load["p_paddr"]) == ("PT_LOAD", LOAD, LOAD)
    assert load["p_filesz"] == load["p_memsz"] == len(IMAGE)
    assert load["p_offset"] % load["p_align"] == load["p_vaddr"] % load["p_align"]
    assert load.data() == IMAGE
    assert isinstance(note, NoteSegment)
    assert note.data() == NOTE


@given(before=st.binary(max_size=200), after=st.binary(max_size=50), wide=st.booleans())
def test_the_note_is_found_wherever_it_is(before: bytes, after: bytes, wide: bool) -> None:
    size = 8 if wide else 4
    note = struct.pack("<III4s", 4, size, 18, b"Xen\0") + b"\x01" * size
    assert pvh_note(before + note + after) == note


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"Xen\0" * 50,
        struct.pack("<III4sI", 5, 4, 18, b"Xen\0", 1),
        struct.pack("<III4sI", 4, 5, 18, b"Xen\0", 1),
        NOTE[4:],
    ],
)
def test_a_kernel_without_the_note_is_refused(image: bytes) -> None:
    with pytest.raises(SetupIncomplete, match="no PVH entry"):
        pvh_note(image)


def test_a_wrong_note_before_the_right_one_is_skipped() -> None:
    decoy = struct.pack("<III4sI", 9, 9, 18, b"Xen\0", 1)
    assert pvh_note(decoy + NOTE) == NOTE


def test_a_file_that_is_no_library_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.so"
    text.write_text("not a library")
    for path in (text, tmp_path / "none.so"):
        with pytest.raises(SetupIncomplete, match="cannot be used"):
            extract(path)


def test_a_library_without_the_function_is_refused() -> None:
    with pytest.raises(SetupIncomplete, match="krunfw_get_version"):
        extract(Path("libc.so.6"))


def test_a_missing_kernel_is_an_incomplete_setup(tmp_path: Path) -> None:
    with pytest.raises(SetupIncomplete, match="guest kernel is not built"):
        GuestKernel(tmp_path).require()


@pytest.mark.anyio
async def test_it_is_made_once_from_a_library_and_is_never_partial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extracted: list[Path] = []

    def fake(library: Path) -> RawKernel:
        extracted.append(library)
        return RawKernel(IMAGE, LOAD, ENTRY)

    monkeypatch.setattr(kit, "extract", fake)
    library = tmp_path / "libkrunfw.so"
    made = [GuestKernel(tmp_path / "guest", library) for _ in range(3)]
    paths = await asyncio.gather(*(kernel.ensure(None) for kernel in made))
    assert len(set(paths)) == 1
    assert extracted == [library]
    assert paths[0].read_bytes() == elf(RawKernel(IMAGE, LOAD, ENTRY))
    assert paths[0].stat().st_mode & 0o777 == 0o444
    assert made[0].require() == paths[0]


def test_every_configured_library_has_its_own_kernel_file(tmp_path: Path) -> None:
    library = tmp_path / "libkrunfw.so"
    absent = GuestKernel(tmp_path, library).path
    library.write_bytes(b"one")
    first = GuestKernel(tmp_path, library).path
    assert GuestKernel(tmp_path, library).path == first
    library.write_bytes(b"another")
    paths = {absent, first, GuestKernel(tmp_path, library).path, GuestKernel(tmp_path).path}
    assert len(paths) == 4
