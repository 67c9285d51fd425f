# SPDX-License-Identifier: Apache-2.0
"""The archive that the outer kernel unpacks, and the order of its modules."""

from __future__ import annotations

import stat
import subprocess
from pathlib import Path

import pytest
from lab.initramfs import Entry, build, init_script, load_order, needed_by, newc


def module(*needed: str) -> bytes:
    return b"\x7fELF...\0license=GPL\0depends=" + ",".join(needed).encode() + b"\0name=x\0"


def test_cpio_can_unpack_the_archive(tmp_path: Path) -> None:
    entries = [
        Entry("bin", stat.S_IFDIR | 0o755),
        Entry("bin/tool", stat.S_IFREG | 0o755, b"#!/bin/true\n"),
        Entry("empty", stat.S_IFREG | 0o644),
    ]
    archive = newc(entries)
    assert len(archive) % 4 == 0
    argv = ["busybox", "cpio", "-i"]
    subprocess.run(argv, input=archive, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "bin/tool").read_bytes() == b"#!/bin/true\n"
    assert (tmp_path / "bin/tool").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "empty").read_bytes() == b""


def test_a_device_has_its_numbers() -> None:
    archive = newc([Entry("console", stat.S_IFCHR | 0o600, device=(5, 1))])
    assert archive[:110].endswith(b"00000005" + b"00000001" + b"00000008" + b"00000000")


def test_dependencies_are_read_from_the_module() -> None:
    assert needed_by(module("kvm", "ccp")) == ["kvm", "ccp"]
    assert needed_by(module()) == []
    assert needed_by(b"no module") == []


def test_modules_come_once_and_after_their_dependencies() -> None:
    files = {
        "kvm_amd": module("kvm", "cc-p"),
        "kvm": module("irqbypass"),
        "irqbypass": module(),
        "cc_p": module("irqbypass"),
    }
    assert load_order(["kvm_amd", "kvm"], files.__getitem__) == [
        "irqbypass",
        "kvm",
        "cc_p",
        "kvm_amd",
    ]


def test_a_missing_module_is_an_error() -> None:
    files: dict[str, bytes] = {}
    with pytest.raises(KeyError):
        load_order(["kvm"], files.__getitem__)


def test_the_script_loads_modules_with_their_options() -> None:
    script = init_script(["kvm", "kvm_amd"], {"kvm_amd": "nested=1"})
    assert "$b insmod /modules/kvm.ko\n$b insmod /modules/kvm_amd.ko nested=1\n" in script
    subprocess.run(["sh", "-n"], input=script.encode(), check=True)


def test_the_error_for_a_tree_without_modules_names_one(tmp_path: Path) -> None:
    (tmp_path / "lib/modules/6.1/kernel").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/busybox").write_bytes(b"")
    with pytest.raises(KeyError, match="virtio_pci"):
        build(tmp_path)
