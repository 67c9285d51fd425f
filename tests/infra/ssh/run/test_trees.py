# SPDX-License-Identifier: Apache-2.0
"""A guest that replaced `files` with another program, and its SSH server with its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import asyncssh
import pytest
from tests.infra.ssh.peer import Peer, Process, RawSftp, peer
from tests.support.strain import STALL, strained

from waggle.domain.errors import GuestLost
from waggle.domain.files.search import SearchQuery
from waggle.domain.programs import Command, Output
from waggle.infra.ssh import SshConnection
from waggle.infra.ssh.run import Shell, trees
from waggle.infra.ssh.run.trees import Trees
from waggle.infra.ssh.sftp import Files

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]
MIB = 1 << 20


class Counted:
    """A stream that keeps nothing."""

    def __init__(self) -> None:
        self.size = 0

    def feed(self, data: bytes) -> None:
        self.size += len(data)

    def output(self) -> Output:
        return Output(b"")


@contextlib.asynccontextmanager
async def guest(run: Process) -> AsyncGenerator[tuple[Peer, Trees]]:
    async def kill(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.exit(0)

    async with peer(run, kill=kill) as made:
        connection = SshConnection(made.port, made.keys)
        try:
            yield made, Trees(Shell(connection, patience=(1.0, 1.0)).run)
        finally:
            await connection.aclose()


def says(*pieces: bytes, times: int = 1) -> Process:
    """Return a program that prints these pieces `times` times and succeeds."""

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        for _ in range(times):
            for piece in pieces:
                process.stdout.write(piece)
                await process.stdout.drain()
        process.exit(0)

    return run


async def test_a_million_unpacking_failures_stall_nothing() -> None:
    async with guest(says(b"x\0a\0b\0" * 5_000, times=130)) as (_, trees), strained() as strain:
        with pytest.raises(GuestLost, match="an invalid answer"):
            await trees.unpack("/home", b"")
    assert strain.stall < STALL
    assert strain.grown < 64 * MIB


async def test_a_search_with_8_mib_of_lines_stalls_nothing() -> None:
    run = says(b"m\0a\x001\x001\x000\0", *[b"\n" * 32_000] * 250)
    query = SearchQuery("/home", content="x")
    async with guest(run) as (_, trees), strained() as strain:
        with pytest.raises(GuestLost, match="an invalid answer"):
            await trees.search(query)
    assert strain.stall < STALL
    assert strain.grown < 64 * MIB


async def test_names_that_are_not_utf_8_are_read_in_a_thread() -> None:
    """A megabyte of them takes a third of a second."""
    record = b"f\0" + b"\xff" * 25_000 + b"\0f\x001\0"
    run = says(*[record] * 44, b"e\0\x000\x000\x000\x000\x000\0")
    async with guest(run) as (_, trees), strained() as strain:
        assert len((await trees.search(SearchQuery("/home", name="*"))).matches) == 44
    assert strain.stall < STALL


async def test_an_endless_tree_is_cut_off_at_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the limit, the server read it for two minutes."""
    monkeypatch.setattr(trees, "MAX_RECORDS_BYTES", 300_000)
    into = Counted()
    async with guest(says(b"s 0 0 0\0a\0" * 3_000, times=1_000_000)) as (made, made_trees):
        async with asyncio.timeout(60):
            with pytest.raises(GuestLost, match="an invalid answer"):
                await made_trees.pack("/home", (), into)
        assert made.kills()
    assert into.size <= 300_000


@pytest.mark.parametrize("size", [1, 1_000])
async def test_a_guest_that_accepts_tiny_packets_is_sent_nothing(size: int) -> None:
    """Byte by byte, 10 MB would be sent for minutes before other tasks had their turn."""

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await process.stdin.read()

    async with peer(run, packet=size) as made:
        connection = SshConnection(made.port, made.keys)
        try:
            async with strained() as strain, asyncio.timeout(60):
                with pytest.raises(GuestLost, match="TinyPackets"):
                    await Shell(connection, patience=(0.1,)).run(
                        Command(("x",), 30.0, 1_000, stdin=bytes(1 << 20))
                    )
        finally:
            await connection.aclose()
    assert strain.stall < STALL


def packet(kind: int, body: bytes) -> bytes:
    return (len(body) + 1).to_bytes(4, "big") + bytes([kind]) + body


def uint32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def listing(count: int) -> RawSftp:
    """Return a server that answers a listing with one packet of `count` names, and then the end."""
    name = uint32(1) + b"a" + bytes(8)
    return RawSftp(
        [
            packet(2, uint32(3)),
            packet(102, uint32(0) + uint32(1) + b"h"),
            packet(104, uint32(1) + uint32(count) + name * count),
            packet(101, uint32(2) + uint32(1) + bytes(8)),
            packet(101, uint32(3) + bytes(12)),
        ]
    )


@contextlib.asynccontextmanager
async def listed(count: int) -> AsyncGenerator[Files]:
    async with peer(session=lambda: listing(count)) as made:
        connection = SshConnection(made.port, made.keys)
        try:
            yield Files(connection)
        finally:
            await connection.aclose()


@pytest.mark.parametrize("count", [300_000, 20_000, 1_001])
async def test_huge_counts_of_names_in_one_packet_stall_nothing(count: int) -> None:
    """300,000 names took seconds to become objects before other tasks had their turn."""
    async with listed(count) as files, strained() as strain, asyncio.timeout(60):
        with pytest.raises(GuestLost):
            await files.list("/d")
    assert strain.stall < STALL
    assert strain.grown < 64 * MIB


async def test_a_thousand_names_in_one_packet_are_accepted() -> None:
    async with listed(1_000) as files:
        assert len((await files.list("/d")).entries) == 1_000
