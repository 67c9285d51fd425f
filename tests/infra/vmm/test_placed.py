# SPDX-License-Identifier: Apache-2.0
"""Files in a VMM's /run; `test_frozen` of each adapter has what a hostile VMM writes there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.infra.vmm.guarded import UID, as_root

from waggle.domain.errors import BootFailed
from waggle.infra.vmm import placed


@pytest.fixture
def run(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def opened() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


@pytest.mark.parametrize("kind", ["directory", "pipe", "link", "empty", "large", "none"])
def test_what_is_no_state_is_refused_and_stays_open_nowhere(
    run: int, tmp_path: Path, kind: str
) -> None:
    """A VMM could use up the server's descriptors, one with every snapshot."""
    path = tmp_path / "state"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind != "none":
        path.write_bytes(b"" if kind == "empty" else b"12345")
    before = opened()
    with pytest.raises((BootFailed, OSError)):
        placed.take(run, "state", 4, "Firecracker")
    assert opened() == before


def test_a_state_is_taken_whole(run: int, tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"1234")
    assert placed.take(run, "state", 4, "Firecracker") == b"1234"


@as_root
def test_what_is_placed_belongs_to_the_vmms_user_alone(run: int, tmp_path: Path) -> None:
    placed.put(b"own", run, "bytes", UID)
    with (tmp_path / "bytes").open("rb") as source:
        placed.put(source.fileno(), run, "file", UID)
    for name in ("bytes", "file"):
        about = (tmp_path / name).stat()
        assert ((tmp_path / name).read_bytes(), about.st_uid, about.st_gid) == (b"own", UID, UID)
        assert about.st_mode & 0o777 == 0o600
        with pytest.raises(FileExistsError):
            placed.put(b"again", run, name, UID)
    placed.remove(run, "bytes", "file", "none")
    assert not [*tmp_path.iterdir()]
