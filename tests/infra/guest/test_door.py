# SPDX-License-Identifier: Apache-2.0
"""Connections to a socket in a VMM's directory, whatever a VMM that was taken over puts there."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from waggle.infra.guest.door import dial

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
NAME = "api.sock"


@pytest.fixture
async def directory(nothing_left: None, tmp_path: Path) -> AsyncGenerator[int]:
    (tmp_path / "run").mkdir()
    opened = os.open(tmp_path / "run", os.O_RDONLY | os.O_DIRECTORY)
    yield opened
    os.close(opened)


@contextlib.contextmanager
def listening(path: Path) -> Generator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.setblocking(False)
        listener.bind(str(path))
        listener.listen()
        yield listener


async def test_the_vmm_is_connected_to(directory: int, tmp_path: Path) -> None:
    with listening(tmp_path / "run" / NAME) as vmm:
        wire = await dial(directory, NAME, pid=os.getpid(), uid=os.geteuid())
        with wire, vmm.accept()[0] as other:
            other.send(b"hello")
            assert await asyncio.get_running_loop().sock_recv(wire, 9) == b"hello"


@pytest.mark.parametrize("others", [{"pid": 1}, {"uid": 65533}])
async def test_whoever_else_listens_is_told_nothing(
    directory: int, tmp_path: Path, others: dict[str, int]
) -> None:
    with listening(tmp_path / "run" / NAME) as stranger:
        with pytest.raises(ConnectionAbortedError, match="another process answers"):
            await dial(directory, NAME, **others)
        with stranger.accept()[0] as other:
            assert other.recv(1) == b""


@pytest.mark.parametrize("kind", ["link", "link to a link", "file", "fifo", "directory"])
async def test_nothing_but_a_socket_is_connected_to(
    directory: int, tmp_path: Path, kind: str
) -> None:
    """The server is root: some service of the host acts when anybody of it just connects."""
    place = tmp_path / "run" / NAME
    with listening(tmp_path / "of-the-host") as host:
        match kind:
            case "link":
                place.symlink_to(tmp_path / "of-the-host")
            case "link to a link":
                (tmp_path / "run" / "other").symlink_to(tmp_path / "of-the-host")
                place.symlink_to("other")
            case "fifo":
                os.mkfifo(place)
            case "directory":
                place.mkdir()
            case _:
                place.touch()
        with pytest.raises(ConnectionAbortedError, match=r"api\.sock is no socket"):
            await dial(directory, NAME, pid=os.getpid())
        with pytest.raises(BlockingIOError):
            host.accept()


async def test_a_full_queue_is_no_stranger(directory: int, tmp_path: Path) -> None:
    """The VMM is only slow: asyncio takes that for a connection."""
    place = str(tmp_path / "run" / NAME)
    with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as waiting:
        busy.bind(place)
        busy.listen(0)
        first, more = (waiting.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        more.setblocking(False)
        first.connect(place)
        with pytest.raises(BlockingIOError):
            more.connect(place)
        with pytest.raises(ConnectionRefusedError, match="no room"):
            await dial(directory, NAME, pid=os.getpid())


async def test_one_that_is_not_there_yet_is_told_apart(directory: int, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await dial(directory, NAME, pid=os.getpid())
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "run" / NAME))
        with pytest.raises(ConnectionRefusedError):
            await dial(directory, NAME, pid=os.getpid())
