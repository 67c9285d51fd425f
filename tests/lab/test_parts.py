# SPDX-License-Identifier: Apache-2.0
"""The disk with libkrun and the guest's parts."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path, PurePosixPath

import pytest
from lab.parts import DISK, documents, ensure, files_key, libraries, machine_monitors, place
from lab.store import Store

pytestmark = pytest.mark.anyio


def test_a_changed_file_changes_the_key(tmp_path: Path) -> None:
    file = tmp_path / "kit"
    file.write_text("1")
    files = {PurePosixPath("cache/guest/kit"): file}
    keys = {files_key(files)}
    os.utime(file, ns=(1, 1))
    keys.add(files_key(files))
    file.write_text("22")
    os.utime(file, ns=(1, 1))
    keys.add(files_key(files))
    keys.add(files_key({PurePosixPath("cache/guest/other"): file}))
    assert len(keys) == 4


def test_libraries_keep_their_names(tmp_path: Path) -> None:
    (tmp_path / "libkrun.so").touch()
    assert libraries([tmp_path]) == {PurePosixPath("lib/libkrun.so"): tmp_path / "libkrun.so"}


def test_machine_monitors_lie_beside_each_other(tmp_path: Path) -> None:
    for name in ("firecracker", "jailer"):
        (tmp_path / name).touch()
    found = machine_monitors([tmp_path])
    assert found == {PurePosixPath("vmm", path.name): path for path in tmp_path.iterdir()}


def test_placing_a_file_links_it_and_makes_directories(tmp_path: Path) -> None:
    source = tmp_path / "disk"
    source.write_text("x")
    target = place(source, tmp_path / "a/b/disk")
    assert target.samefile(source)


async def test_the_disk_holds_the_files_unchanged(tmp_path: Path) -> None:
    if shutil.which("debugfs", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        pytest.fail("debugfs is missing: apt-get install e2fsprogs")
    source = tmp_path / "kit"
    source.write_bytes(b"kit" * 5000)
    made = await ensure(
        Store(tmp_path / "store"), {PurePosixPath("cache/guest/kit"): source}, lambda _: None
    )
    assert [path.name for path in made.iterdir()] == [DISK]
    argv = ["debugfs", "-R", "cat /cache/guest/kit", str(made / DISK)]
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    done = subprocess.run(argv, check=True, capture_output=True, env=environment)
    assert done.stdout == source.read_bytes()


def test_only_the_documents_of_an_image_store_are_included(tmp_path: Path) -> None:
    """A killed build leaves a tree with devices and unreadable files."""
    names = {"index.json", "oci-layout", "blobs/sha256/aa"}
    for name in [*names, ".tmp-killed/tree/etc/passwd"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    with (tmp_path / "blobs/sha256/layer").open("wb") as layer:
        layer.truncate(1 << 20)
    (tmp_path / "blobs/sha256/empty").touch()
    assert documents(tmp_path) == {PurePosixPath(name): tmp_path / name for name in names}
