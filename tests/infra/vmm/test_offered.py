# SPDX-License-Identifier: Apache-2.0
"""What an operator may name as a VMM: files, directories, archives, and all that is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import platform
import socket
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from tests.infra.krun.elf import AARCH64, returns, shared_object

from waggle.domain.errors import InvalidArgument, TooLarge
from waggle.infra.vmm import offered
from waggle.infra.vmm.offered import Offered, gather, select

ARCH = platform.machine()
PROGRAM = shared_object({"program": returns(0)})
JAILER = shared_object({"jailer": returns(0)})
FOREIGN = shared_object({"program": returns(0)}, machine=AARCH64)
V = "-v1.12.1-x86_64"


Take = Callable[..., Offered]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


@pytest.fixture
def take(work: Path) -> Take:
    """`gather` on this machine, into a new directory each time."""

    def gathered(path: Path, jailer: Path | None = None) -> Offered:
        return gather(path, jailer, Path(tempfile.mkdtemp(dir=work)), ARCH)

    return gathered


def file(path: Path, content: bytes = PROGRAM) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def archive(path: Path, members: dict[str, bytes | str], kind: str = "w:gz") -> Path:
    """Write a tar; a text is the target of a symlink."""
    with tarfile.TarFile.open(path, cast("Any", kind)) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                tar.addfile(member)
                continue
            member.size, member.mode = len(content), 0o4755
            tar.addfile(member, io.BytesIO(content))
    return path


def names(found: Offered) -> tuple[str, str]:
    return found.program.source, found.jailer.source if found.jailer else ""


def refusal(take: Take, path: Path, jailer: Path | None = None) -> str:
    with pytest.raises((InvalidArgument, TooLarge)) as refused:
        take(path, jailer)
    assert refused.value.hint
    return refused.value.message


def test_a_file_and_the_jailer_beside_it_are_copied(tmp_path: Path, take: Take) -> None:
    program = file(tmp_path / f"firecracker{V}")
    found = take(program)
    assert names(found) == (program.name, "")
    file(tmp_path / f"jailer{V}", JAILER)
    found = take(program)
    assert names(found) == (program.name, f"jailer{V}")
    assert found.program.path.read_bytes() == PROGRAM
    assert found.program.digest == hashlib.sha256(PROGRAM).hexdigest()
    assert found.program.path.stat().st_mode & 0o7777 == 0o555
    assert found.jailer is not None
    assert found.jailer.path.read_bytes() == JAILER


def test_a_named_jailer_comes_before_the_one_beside(tmp_path: Path, take: Take) -> None:
    file(tmp_path / "jailer", JAILER)
    other = file(tmp_path / "other", JAILER)
    assert names(take(file(tmp_path / "firecracker"), other))[1] == "other"


def test_only_a_firecracker_has_a_jailer_beside_it(tmp_path: Path, take: Take) -> None:
    place = tmp_path / "jailer-and-more"
    assert names(take(file(place / "cloud-hypervisor").parent)) == ("cloud-hypervisor", "")
    file(place / "jailer", JAILER)
    assert names(take(place / "cloud-hypervisor")) == ("cloud-hypervisor", "")
    assert "holds no VMM" in refusal(take, Path("/"))


def test_a_link_is_followed(tmp_path: Path, take: Take) -> None:
    file(tmp_path / "opt" / "firecracker")
    (tmp_path / "fc").symlink_to("opt/firecracker")
    assert names(take(tmp_path / "fc")) == ("fc", "")


def test_a_directory_and_the_release_in_it(tmp_path: Path, take: Take) -> None:
    release = tmp_path / "here" / f"release{V}"
    for name in (f"firecracker{V}", f"jailer{V}", f"firecracker{V}.debug", f"seccompiler-bin{V}"):
        file(release / name)
    expected = (f"firecracker{V}", f"jailer{V}")
    assert names(take(release)) == expected
    assert names(take(release.parent)) == expected


@pytest.mark.parametrize("kind", ["w:gz", "w", "w:xz"])
def test_a_release_archive(tmp_path: Path, take: Take, kind: str) -> None:
    members: dict[str, bytes | str] = {
        f"release{V}/firecracker{V}.debug": bytes(100),
        f"release{V}/firecracker{V}": PROGRAM,
        f"release{V}/jailer{V}": JAILER,
        f"release{V}/LICENSE": b"text",
    }
    found = take(archive(tmp_path / "release.tgz", members, kind))
    assert names(found) == (f"firecracker{V}", f"jailer{V}")
    assert found.program.path.read_bytes() == PROGRAM
    assert found.program.path.stat().st_mode & 0o7777 == 0o555


@pytest.mark.parametrize(
    "listed, chosen",
    [
        (["firecracker", "jailer"], ("firecracker", "jailer")),
        (["cloud-hypervisor", "cloud-hypervisor-static"], ("cloud-hypervisor-static", "")),
        (["cloud-hypervisor", "jailer", "ch-remote"], ("cloud-hypervisor", "")),
        (["firecracker-v1.12.1-x86_64", "firecracker-v1.12.1-aarch64"], ("firecracker" + V, "")),
        (["firecracker-v1.13.0-dev-x86_64"], ("firecracker-v1.13.0-dev-x86_64", "")),
        (["firecracker", "jailer-v1.12.1-x86_64"], ("firecracker", "")),
    ],
)
def test_the_program_is_chosen_by_name(listed: list[str], chosen: tuple[str, str]) -> None:
    assert select(listed, Path("here"), "x86_64") == chosen


def test_a_choice_is_left_to_the_operator() -> None:
    with pytest.raises(InvalidArgument, match="several: cloud-hypervisor, firecracker"):
        select(["firecracker", "cloud-hypervisor"], Path("here"), "x86_64")
    with pytest.raises(InvalidArgument, match="no VMM for this processor"):
        select(["firecracker-v1.12.1-aarch64"], Path("here"), "x86_64")
    with pytest.raises(InvalidArgument, match="here holds no VMM"):
        select(["qemu", "firecracker.debug", "firecracker-v1\n"], Path("here"), "x86_64")


def test_what_is_no_file_is_refused_at_once(tmp_path: Path, take: Take) -> None:
    assert "No such file" in refusal(take, tmp_path / "nothing")
    os.mkfifo(tmp_path / "fifo")
    assert "no ordinary file" in refusal(take, tmp_path / "fifo")
    assert "no ordinary file" in refusal(take, Path("/dev/zero"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        assert "no ordinary file" in refusal(take, tmp_path / "socket")
    (tmp_path / "empty").mkdir()
    assert "holds no VMM" in refusal(take, tmp_path / "empty")
    program = file(tmp_path / "firecracker")
    assert "is a directory" in refusal(take, program, tmp_path / "empty")


def test_what_is_no_program_for_this_machine_is_refused(tmp_path: Path, take: Take) -> None:
    assert "it is a script" in refusal(take, file(tmp_path / "a", b"#!/bin/sh\n"))
    assert "no ELF program" in refusal(take, file(tmp_path / "b", b""))
    assert "for aarch64, and this machine is" in refusal(take, file(tmp_path / "c", FOREIGN))
    assert "needs libraries" in refusal(take, Path(sys.executable).resolve())
    special = file(tmp_path / "d")
    special.chmod(0o4755)
    assert "setuid" in refusal(take, special)


def test_a_huge_file_is_refused_before_the_disk_is_full(
    tmp_path: Path, take: Take, work: Path
) -> None:
    huge = file(tmp_path / "huge")
    os.truncate(huge, 1 << 40)
    assert "more than 256 MiB" in refusal(take, huge)
    assert [path.name for path in work.rglob("*") if path.is_file()] == []


class TestHostileArchives:
    def test_names_lead_nowhere(self, tmp_path: Path, take: Take) -> None:
        hostile = archive(tmp_path / "a", {"../../../firecracker": PROGRAM})
        assert "climbs out" in refusal(take, hostile)
        outside = archive(tmp_path / "b", {"/firecracker": PROGRAM})
        assert names(take(outside)) == ("firecracker", "")
        assert not Path("/firecracker").exists()

    def test_links_are_no_programs(self, tmp_path: Path, take: Take) -> None:
        linked = archive(tmp_path / "a", {"firecracker": "/etc/shadow"})
        assert "holds no VMM" in refusal(take, linked)

    def test_one_name_comes_once(self, tmp_path: Path, take: Take) -> None:
        twice = archive(tmp_path / "a", {"a/firecracker": PROGRAM, "b/firecracker": PROGRAM})
        assert "firecracker twice" in refusal(take, twice)

    def test_bombs_are_bounded(self, tmp_path: Path, take: Take) -> None:
        member = tarfile.TarInfo("firecracker")
        member.size = 1 << 36
        bomb = file(tmp_path / "bomb", gzip.compress(member.tobuf() + bytes(1 << 20)))
        assert refusal(take, bomb)
        many = {f"file-{number}": b"" for number in range(offered.LIMITS.entries + 1)}
        assert "more than a release" in refusal(take, archive(tmp_path / "many", {**many}))
        several = {f"firecracker-v1.{number}.0": PROGRAM for number in range(9)}
        assert "more than a release" in refusal(take, archive(tmp_path / "some", {**several}))

    def test_damage_is_named(self, tmp_path: Path, take: Take) -> None:
        whole = archive(tmp_path / "whole", {"firecracker": PROGRAM}).read_bytes()
        for size in (12, len(whole) // 2, len(whole) - 9):
            assert "cannot be read" in refusal(take, file(tmp_path / "cut", whole[:size]))
