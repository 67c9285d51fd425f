# SPDX-License-Identifier: Apache-2.0
"""Files against SFTP servers that lie, stall or send endlessly: bounded, with clear errors."""

from __future__ import annotations

import contextlib
import stat
import struct
import time
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime

import anyio
import asyncssh
import pytest
from tests.infra.ssh.peer import REGULAR, Peer, RawSftp, Server, SessionFactory, Stalling, peer

from waggle.domain.errors import FileRefused, GuestLost, TooLarge
from waggle.domain.files import MAX_LIST_ENTRIES, FileSlice
from waggle.infra.ssh import SshConnection
from waggle.infra.ssh.sftp import Files

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaks")]
MEMORY = 32 << 20
LIMIT = 10 << 20


@contextlib.asynccontextmanager
async def files(
    server: type[Server] | None = None, *, raw: SessionFactory | None = None, deadline: float = 10.0
) -> AsyncGenerator[tuple[Peer, Files]]:
    async with peer(session=raw, sftp=server) as made:
        connection = SshConnection(made.port, made.keys, timeout=5)
        try:
            yield made, Files(connection, deadline=deadline)
        finally:
            await connection.aclose()


async def read(made: Files, *, limit: int = LIMIT) -> bytes:
    return (await made.read("/f", length=limit, limit=limit)).data


async def test_a_good_server_is_read() -> None:
    async with files(Server) as (_, made):
        assert await read(made) == b"content"


class Endless(Server):
    size = 0

    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        return b"x" * size


async def test_a_file_that_claims_to_be_empty_and_never_ends_is_too_large() -> None:
    async with files(Endless) as (_, made):
        with pytest.raises(TooLarge, match="more than 1000000 bytes"):
            await read(made, limit=1_000_000)


class Generous(Server):
    """A server that sends far more than requested."""

    size = 300_000

    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        return b"x" * (3 << 20)


async def test_excess_data_is_cut_off() -> None:
    async with files(Generous) as (_, made):
        assert await read(made) == b"x" * 300_000


class Stingy(Server):
    """A server that claims a large size, sends one byte at a time, then nothing."""

    size = 1_000

    def read(self, file_obj: object, offset: int, size: int) -> bytes:
        return b"x" if offset < 10 else b""


async def test_a_short_file_ends_where_its_data_ends() -> None:
    async with files(Stingy) as (_, made):
        assert await made.read("/f", limit=LIMIT) == FileSlice(b"x" * 10, 10)
        assert await made.read("/f", offset=4, length=3, limit=LIMIT) == FileSlice(b"xxx", 1_000)
        assert await made.read("/f", offset=10, limit=LIMIT) == FileSlice(b"", 10), "it ends"


class Huge(Server):
    size = 2**63


async def test_a_huge_size_is_too_large() -> None:
    async with files(Huge) as (_, made):
        with pytest.raises(TooLarge, match="9223372036854775808 bytes"):
            await read(made)


class Odd(Server):
    mode = 0


async def test_a_file_of_no_kind_is_refused() -> None:
    async with files(Odd) as (_, made):
        with pytest.raises(FileRefused, match="not a regular file"):
            await read(made)
        with pytest.raises(FileRefused, match="not a regular file"):
            await made.write("/f", b"", 0o644)


class Rude(Server):
    def stat(self, path: bytes) -> asyncssh.SFTPAttrs:
        raise asyncssh.SFTPFailure("\x1b[2J" + "rude " * 1_000)


async def test_a_reason_is_cleaned_and_cut() -> None:
    async with files(Rude) as (_, made):
        with pytest.raises(FileRefused) as caught:
            await read(made)
        assert "\x1b" not in caught.value.message
        assert len(caught.value.message) < 300


def named(name: bytes, **attributes: int) -> asyncssh.SFTPName:
    return asyncssh.SFTPName(name, attrs=asyncssh.SFTPAttrs(**attributes))


class Lister(Server):
    mode = stat.S_IFDIR | 0o755
    names: tuple[asyncssh.SFTPName, ...] = ()

    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        for name in self.names:
            yield name


class Strange(Lister):
    names = (
        named(b"."),
        named(b".."),
        named(b""),
        named(b"../../etc/passwd", permissions=REGULAR),
        named(b"/etc/passwd", permissions=REGULAR),
        named(b"nul\0nul", permissions=REGULAR),
        named(b"\xff\xfe", permissions=0o170000 | 0o7777, size=2**64 - 1, mtime=2**32 - 1, atime=0),
        named(b"bare"),
    )


async def test_impossible_names_are_left_out() -> None:
    async with files(Strange) as (_, made):
        listing = await made.list("/d")
    assert [entry.name for entry in listing.entries] == [r"\xff\xfe", "bare"]
    odd, bare = listing.entries
    assert (odd.size, odd.mode, odd.is_dir, odd.is_link) == (2**64 - 1, 0o7777, False, False)
    assert odd.modified == datetime(2106, 2, 7, 6, 28, 15, tzinfo=UTC)
    assert (bare.size, bare.mode, bare.modified) == (0, 0, datetime(1970, 1, 1, tzinfo=UTC))


class EndlessList(Lister):
    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        while True:
            yield named(b"name", permissions=REGULAR)


class EndlessNothing(Lister):
    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        while True:
            yield named(b".", permissions=REGULAR)


@pytest.mark.parametrize("server, count", [(EndlessList, MAX_LIST_ENTRIES), (EndlessNothing, 0)])
async def test_an_endless_listing_is_cut(server: type[Server], count: int) -> None:
    async with files(server) as (_, made):
        listing = await made.list("/d")
        assert listing.truncated
        assert len(listing.entries) == count


async def test_a_server_that_stalls_is_lost_at_the_deadline() -> None:
    async with files(Stalling, deadline=0.4) as (made, stalled):
        started = time.monotonic()
        with pytest.raises(GuestLost, match=r"no answer within 0\.4 s"):
            await read(stalled)
        assert time.monotonic() - started < 2
        assert made.connections == 1


async def test_a_cancelled_call_does_not_wait_for_the_server() -> None:
    async with files(Stalling) as (_, made):
        with anyio.move_on_after(0.2) as scope:
            await read(made)
        assert scope.cancelled_caught


VERSION = struct.pack(">IBI", 5, 2, 3)


def answering(*answers: bytes, endless: bytes = b"") -> SessionFactory:
    return lambda: RawSftp(answers, endless)


@pytest.mark.parametrize(
    "serve",
    [
        pytest.param(answering(b"\xff\xff\xff\xff"), id="a packet of 4 GiB"),
        pytest.param(answering(b"\0\x10\0\0", endless=b"x" * 60_000), id="a packet of 1 MiB"),
        pytest.param(answering(b"\0\0\0\0"), id="an empty packet"),
        pytest.param(answering(struct.pack(">IBI", 5, 2, 99)), id="version 99"),
        pytest.param(answering(VERSION, b"\xff\xff\xff\xff"), id="4 GiB in answer"),
        pytest.param(answering(VERSION, b"\0\0\0\x05\x65\0\0\0\x63"), id="an unknown request"),
        pytest.param(answering(VERSION, b"\0\0\0\x05\x65\0\0\0\0"), id="an answer cut short"),
        pytest.param(
            answering(VERSION, endless=b"\0\0\0\x05\x65\0\0\0\0"), id="answers to nothing"
        ),
        pytest.param(answering(VERSION, endless=b"\xff" * 60_000), id="noise"),
        pytest.param(answering(), id="no answer"),
        pytest.param(answering(VERSION), id="no answer but a version"),
    ],
)
async def test_raw_malformed_packets_are_bounded(serve: SessionFactory) -> None:
    async with files(raw=serve, deadline=1.5) as (_, made):
        tracemalloc.start()
        started = time.monotonic()
        try:
            with pytest.raises((GuestLost, FileRefused)):
                await read(made)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < MEMORY
        assert time.monotonic() - started < 5


async def test_a_broken_session_is_opened_again_once() -> None:
    sessions: list[RawSftp] = []

    def serve() -> RawSftp:
        sessions.append(RawSftp([VERSION, b""]))
        return sessions[-1]

    async with files(raw=serve) as (made, failing):
        with pytest.raises(GuestLost, match="file server failed"):
            await read(failing)
        assert len(sessions) == 2
        assert made.connections == 1
