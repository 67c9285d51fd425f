# SPDX-License-Identifier: Apache-2.0
"""ELF headers: those of real programs, and bytes that are none."""

from __future__ import annotations

import contextlib
import os
import platform
import random
import struct
import sys
from pathlib import Path

import pytest
from tests.infra.krun.elf import AARCH64, returns, shared_object

from waggle.infra.vmm import elf


def look(path: Path) -> elf.Program:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return elf.read(descriptor)
    finally:
        os.close(descriptor)


def test_a_program_of_this_machine_and_its_loader() -> None:
    found = look(Path(sys.executable).resolve())
    assert found.arch == platform.machine()
    assert not found.is_static
    assert Path(found.interpreter).exists()


def test_a_program_that_was_not_copied_whole_is_cut_off(tmp_path: Path) -> None:
    program = tmp_path / "program"
    whole = Path(sys.executable).resolve().read_bytes()
    program.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(elf.NotElf, match="cut off"):
        look(program)


def test_another_architecture_is_named(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(shared_object({"f": returns(0)}, machine=AARCH64))
    assert look(program) == elf.Program("aarch64", "")
    assert look(program).is_static


@pytest.mark.parametrize(
    "content, why",
    [
        (b"", "no ELF"),
        (b"#!/bin/sh\nexec firecracker\n", "a script"),
        (b"MZ" + bytes(500), "no ELF"),
        (b"\x7fELF", "cut off"),
        (b"\x7fELF\x01\x01" + bytes(58), "32-bit or big-endian"),
        (b"\x7fELF\x02\x02" + bytes(58), "32-bit or big-endian"),
        (b"\x7fELF\x02\x01" + bytes(10) + b"\x01\x00" + bytes(46), "an object file"),
        (b"\x7fELF\x02\x01" + bytes(10) + b"\x02\x00" + bytes(46), "damaged"),
    ],
)
def test_other_files_are_refused_with_what_they_are(
    tmp_path: Path, content: bytes, why: str
) -> None:
    program = tmp_path / "program"
    program.write_bytes(content)
    with pytest.raises(elf.NotElf, match=why):
        look(program)


def test_an_impossible_loader_is_damage(tmp_path: Path) -> None:
    program = tmp_path / "program"
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    for offset, length in ((1 << 63, 20), (0, 1 << 40), (120, 20), (0, 20), (64, 0)):
        segment = struct.pack("<IIQQQQQQ", 3, 4, offset, 0, 0, length, length, 1)
        program.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + header + segment)
        with pytest.raises(elf.NotElf, match="damaged"):
            look(program)


def test_cut_and_flipped_programs_are_read_or_refused(tmp_path: Path) -> None:
    whole = shared_object({"f": returns(0)})[:1024]
    program, chance = tmp_path / "program", random.Random(18)
    for _ in range(400):
        data = bytearray(whole[: chance.randrange(len(whole))])
        for _ in range(chance.randrange(8)):
            if data:
                data[chance.randrange(min(len(data), 300))] = chance.randrange(256)
        program.write_bytes(data)
        with contextlib.suppress(elf.NotElf):
            look(program)
