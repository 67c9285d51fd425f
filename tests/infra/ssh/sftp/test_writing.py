# SPDX-License-Identifier: Apache-2.0
"""Writes over a real SFTP server on a directory of this host: modes and links stay.

Hard links and other owners are the guest's part: tests/infra/rootfs/test_replace.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncGenerator
from pathlib import Path

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.infra.ssh.peer import peer
from tests.support.waiting import until

from waggle.domain.errors import FileRefused
from waggle.infra.ssh import SshConnection
from waggle.infra.ssh.sftp import Files
from waggle.infra.ssh.sftp.writing import kept


class Server(asyncssh.SFTPServer):
    """A server that resolves a path only if its directories exist, as OpenSSH's does."""

    def realpath(self, path: bytes) -> bytes:
        real = os.path.realpath(path)
        Path(os.fsdecode(real)).parent.stat()
        return real


@contextlib.asynccontextmanager
async def files() -> AsyncGenerator[Files]:
    async with peer(sftp=Server) as made:
        connection = SshConnection(made.port, made.keys, timeout=5)
        try:
            yield Files(connection, deadline=10)
        finally:
            await connection.aclose()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.anyio
@pytest.mark.usefixtures("leaks")
async def test_a_file_keeps_its_mode_and_a_new_one_gets_0644(tmp_path: Path) -> None:
    async with files() as made:
        for bits in (0o755, 0o600, 0o444, 0o2640):
            path = tmp_path / f"f{bits:o}"
            path.write_bytes(b"old")
            path.chmod(bits)
            await made.write(str(path), b"new")
            assert path.read_bytes() == b"new"
            assert mode(path) == bits
        await made.write(str(tmp_path / "f755"), b"", 0o640)
        assert mode(tmp_path / "f755") == 0o640
        await made.write(str(tmp_path / "a/b/new"), b"")
        assert mode(tmp_path / "a/b/new") == 0o644


@pytest.mark.anyio
@pytest.mark.usefixtures("leaks")
async def test_links_are_written_through(tmp_path: Path) -> None:
    real = tmp_path / "d/real"
    real.parent.mkdir()
    real.write_bytes(b"old")
    real.chmod(0o640)
    (tmp_path / "one").symlink_to("d/real")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    (tmp_path / "dangling").symlink_to("d/made")
    (tmp_path / "lost").symlink_to("no/where")
    async with files() as made:
        await made.write(str(tmp_path / "two"), b"new")
        await made.write(str(tmp_path / "dangling"), b"made")
        with pytest.raises(FileRefused, match="a link into a directory that is not there"):
            await made.write(str(tmp_path / "lost"), b"")
    assert real.read_bytes() == b"new"
    assert mode(real) == 0o640
    assert (tmp_path / "d/made").read_bytes() == b"made"
    links = ("one", "two", "dangling", "lost")
    targets = [Path("d/real"), tmp_path / "one", Path("d/made"), Path("no/where")]
    assert [(tmp_path / name).readlink() for name in links] == targets
    assert sorted(path.name for path in real.parent.iterdir()) == ["made", "real"]


@pytest.mark.anyio
@pytest.mark.usefixtures("leaks")
async def test_a_write_cancelled_at_any_step_leaves_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    seen: set[bytes] = set()
    async with files() as made:
        for steps in range(80):
            path.write_bytes(b"old")
            task = asyncio.ensure_future(made.write(str(path), b"new"))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await until(lambda: [path.name for path in tmp_path.iterdir()] == ["f"], 5)
            seen.add(path.read_bytes())
    assert seen == {b"old", b"new"}


@given(st.integers(0, 0o7777))
def test_kept_removes_what_a_write_clears_of_a_mode(bits: int) -> None:
    left = kept(bits)
    assert left & 0o1777 == bits & 0o1777
    assert not left & stat.S_ISUID
    assert bool(left & stat.S_ISGID) == bool(bits & stat.S_ISGID and not bits & stat.S_IXGRP)
