# SPDX-License-Identifier: Apache-2.0
"""The full kernel: what is taken out of a package, its bounds and key, and one real build."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from tests.support.leaks import Leaks

from waggle.config import load
from waggle.domain.errors import SetupIncomplete
from waggle.infra.rootfs import full_kernel
from waggle.infra.rootfs.full_kernel import SOURCES, FullKernel, full_key, initramfs, unpacked

NOTE = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", 0x1000000)
ELF = b"\x7fELF\x02\x01" + b"code" * 500 + NOTE + b"more" * 100
SECTORS, OFFSET = 3, 0x40


def packed(elf: bytes = ELF, *, magic: bytes = b"HdrS", length: int | None = None) -> bytes:
    """Return a kernel as a boot loader reads it."""
    payload = zstandard.ZstdCompressor().compress(elf)
    kernel = bytearray((SECTORS + 1) * 512 + OFFSET) + payload + bytes(100)
    kernel[0x1F1] = SECTORS
    kernel[0x202:0x206] = magic
    struct.pack_into("<II", kernel, 0x248, OFFSET, len(payload) if length is None else length)
    return bytes(kernel)


def made_in(directory: Path, *, modules: int = 100) -> tuple[Path, Path]:
    """Write what the package's script makes; return its directory and the file of modules."""
    (directory / "boot").mkdir()
    for name in ("102-b.ko", "101-a.ko"):
        (directory / "boot" / name).write_bytes(name.encode())
    (directory / "init").write_bytes(b"\x7fELF")
    file = directory / "modules.erofs"
    file.write_bytes(bytes(modules))
    return directory, file


def test_the_kernel_is_unpacked() -> None:
    assert unpacked(packed()) == ELF


@pytest.mark.parametrize(
    "kernel, problem",
    [
        (b"", "no bzImage"),
        (packed(magic=b"HdrX"), "no bzImage"),
        (packed(length=1 << 30), "not packed by zstd"),
        (packed(length=0), "not packed by zstd"),
        (packed(length=30), "cannot be unpacked|no ELF file|no PVH"),
        (packed(b"MZ" + ELF), "no ELF file"),
        (packed(b"\x7fELF\x02\x01" + bytes(100)), "no PVH entry point"),
    ],
)
def test_another_file_is_refused(kernel: bytes, problem: str) -> None:
    with pytest.raises(SetupIncomplete, match=problem):
        unpacked(kernel)


@given(st.integers(0, len(packed()) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_harmless(at: int, by: int) -> None:
    damaged = bytearray(packed())
    damaged[at] ^= by
    with contextlib.suppress(SetupIncomplete):
        assert len(unpacked(bytes(damaged))) <= full_kernel.MAX_KERNEL


def test_a_kernel_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_kernel, "MAX_KERNEL", 1000)
    with pytest.raises(SetupIncomplete, match="no ELF file"):
        unpacked(packed())


def test_the_first_root_has_the_modules_in_their_order(tmp_path: Path) -> None:
    archive = initramfs(*made_in(tmp_path))
    names = [b"init\0", b"boot/101-a.ko\0", b"boot/102-b.ko\0", b"modules.erofs\0"]
    places = [archive.index(name) for name in names]
    assert places == sorted(places)


def test_one_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_kernel, "MAX_INITRD", 1 << 20)
    with pytest.raises(SetupIncomplete, match="initramfs has 2 MiB"):
        initramfs(*made_in(tmp_path, modules=2 << 20))


def test_every_source_changes_the_key(tmp_path: Path) -> None:
    copy = tmp_path / "guest"
    shutil.copytree(SOURCES, copy)
    seen = {full_key(), full_key(copy)}
    assert len(seen) == 1
    for file in sorted(copy.iterdir()):
        file.write_bytes(file.read_bytes() + b"\n")
        seen.add(full_key(copy))
    assert len(seen) == 1 + len([*copy.iterdir()])


def test_a_missing_kernel_is_an_incomplete_setup(tmp_path: Path) -> None:
    with pytest.raises(SetupIncomplete, match="full guest kernel is not there"):
        FullKernel(tmp_path).require()


def test_a_kernel_without_its_initramfs_is_an_incomplete_setup(tmp_path: Path) -> None:
    kernel = FullKernel(tmp_path)
    kernel.path.write_bytes(b"kernel")
    with pytest.raises(SetupIncomplete, match="full guest kernel is not there"):
        kernel.require()
    kernel.initrd.write_bytes(b"initramfs")
    assert kernel.require() == kernel.path


@pytest.mark.anyio
async def test_a_build_without_its_tool_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing: Callable[[str], None] = lambda _name: None  # noqa: E731
    monkeypatch.setattr(shutil, "which", nothing)
    with pytest.raises(SetupIncomplete, match="mmdebstrap is not installed"):
        await FullKernel(tmp_path).ensure("http://mirror.example/debian")
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.anyio
@pytest.mark.net
@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_it_is_made_once_from_nothing_and_found_again(tmp_path: Path) -> None:
    watch = Leaks()
    mirror = load().debian_mirror
    printed = asyncio.Event()
    cancelled = asyncio.create_task(
        FullKernel(tmp_path).ensure(mirror, lambda _line: printed.set())
    )
    await printed.wait()
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]

    kernels = [FullKernel(tmp_path) for _ in range(2)]
    paths = await asyncio.gather(*(kernel.ensure(mirror) for kernel in kernels))
    assert paths[0] == paths[1] == kernels[0].require()
    assert {path.stat().st_mode & 0o777 for path in (paths[0], kernels[0].initrd)} == {0o444}
    assert 16 << 20 < paths[0].stat().st_size < full_kernel.MAX_KERNEL
    archive = kernels[0].initrd.read_bytes()
    assert 4 << 20 < len(archive) < 24 << 20
    order = [archive.index(f"{name}.ko\0".encode()) for name in ("virtio_blk", "erofs", "vsock")]
    assert order == sorted(order)
    started = time.monotonic()
    assert await FullKernel(tmp_path).ensure(None) == paths[0]
    assert time.monotonic() - started < 1
    assert {path.suffix for path in tmp_path.iterdir()} == {".lock", ".elf", ".initrd"}
    await watch.settle()
