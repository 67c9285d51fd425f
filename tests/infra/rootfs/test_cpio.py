# SPDX-License-Identifier: Apache-2.0
"""Archives of a first root, unpacked by another program."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from waggle.infra.rootfs.cpio import Entry, newc

ENTRIES = [
    Entry("boot", stat.S_IFDIR | 0o755),
    Entry("boot/one", stat.S_IFREG | 0o644, b"1"),
    Entry("boot/odd", stat.S_IFREG | 0o600, b"12345"),
    Entry("init", stat.S_IFREG | 0o755, b"#!/bin/sh\n"),
    Entry("none", stat.S_IFREG | 0o644),
]


@pytest.mark.skipif(not shutil.which("busybox"), reason="busybox is not installed")
def test_cpio_unpacks_names_modes_and_contents(tmp_path: Path) -> None:
    argv = ["busybox", "cpio", "-i"]
    subprocess.run(argv, input=newc(ENTRIES), cwd=tmp_path, check=True, capture_output=True)
    for entry in ENTRIES:
        path = tmp_path / entry.name
        assert stat.S_IFMT(path.stat().st_mode) == stat.S_IFMT(entry.mode)
        if path.is_file():
            assert path.read_bytes() == entry.data
            assert path.stat().st_mode & 0o777 == entry.mode & 0o777
    assert len([*tmp_path.rglob("*")]) == len(ENTRIES)


def test_everything_is_aligned_and_it_depends_on_the_entries_alone() -> None:
    assert newc(ENTRIES) == newc(iter(ENTRIES))
    assert len(newc(ENTRIES)) % 4 == 0
    assert newc([]).startswith(b"070701")
