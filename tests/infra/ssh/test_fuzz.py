# SPDX-License-Identifier: Apache-2.0
"""Fuzz tests of a guest's answers, 100,000 of every kind: an answer or a refusal, and quickly.

Inputs are valid answers with a few bytes changed, cut, doubled or spliced. A failure shows the seed
and the number of its input.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import asyncssh
import pytest
from asyncssh.packet import Boolean, PacketDecodeError, SSHPacket, String, UInt32
from tests.infra.ssh.peer import Peer, peer
from tests.support.changed import LONGEST, SEED, changed

from waggle.domain.diagnosis import parse_listeners
from waggle.domain.programs import Command
from waggle.domain.programs.guest_job import MAX_GUEST_JOBS, GuestJob, JobStreams
from waggle.infra.ssh import SshConnection
from waggle.infra.ssh.asyncssh_internals import open_exec
from waggle.infra.ssh.bounded import BoundedConnection, connect
from waggle.infra.ssh.run.following import Frames, InvalidFrame, parse_jobs
from waggle.infra.ssh.run.launcher import (
    MAX_RECORD,
    CommandSession,
    OutputCollector,
    parse_left,
    parse_record,
)
from waggle.infra.ssh.sftp.reading import entry, is_usable_name

INPUTS = 100_000
RUN = "0b7d9f4e-6a53-4b61-8a5e-7f8f5d5c2b11"
RECORD = (
    f"id {RUN}\nexit 127\nsignal 9\nexec 2\noom 3\nmemory 1 2 3\nforks 4 5\ndisk 6 7\n"
    "file /usr/bin/x\nneeds /lib/ld.so\nhave python3 node\n"
).encode()
LEFT = f"{RUN} 42 sleep 100\n{RUN} 43 python3 -m http.server\nall 2\n".encode()
END = b"exit 3\nelapsed 1500000000\n" + LEFT
FRAMES = b"".join(
    kind + len(data).to_bytes(4, "big") + data
    for kind, data in ((b"s", b""), (b"o", b"words"), (b"O", b"90"), (b"e", b"oops"), (b"x", END))
)
JOBS = f"{RUN} 1 0 5000 10 20 30 4\nnote\n{RUN} 2 768 5000 10 20 30 0\n\nall 2\n".encode()
LISTENERS = b"  0: 0100007F:1F90 00000000:0000 0A 1000 42 python3\n8080 42 python3\n"
FRAGMENTS = (
    b"\0", b"\n", b" ", b"\xff\xfe", b"all ", b"id ", b"9" * 30, b"-1", b"\0waggle-left ",
    RUN.encode(), b"\xed\xa0\x80", b"x" * 600, b"\x1b[2J", b"\r",
)  # fmt: skip


def numbered(good: bytes) -> Iterator[tuple[int, bytes, random.Random]]:
    chance = random.Random(SEED)
    for number in range(INPUTS):
        yield number, changed(good, chance, FRAGMENTS), chance


def try_record(data: bytes, _: random.Random) -> None:
    record = parse_record(data, RUN)
    assert len(record.file) <= MAX_RECORD
    assert len(record.have or ()) <= 64


def try_left(data: bytes, _: random.Random) -> None:
    left = parse_left(data)
    assert left.count >= len(left.programs)
    assert all(program.command.isprintable() for program in left.programs)


def try_frames(data: bytes, chance: random.Random) -> None:
    """However they are split, no more is taken than comes, and an end is whole."""
    out, err, shown = (OutputCollector(1_000) for _ in range(3))
    job = GuestJob(RUN, Command(("x",), 1.0), JobStreams(out, err, shown), 1.0)
    frames, at = Frames(job), 0
    with contextlib.suppress(InvalidFrame):
        while at < len(data):
            size = chance.randint(1, 40)
            frames.feed(data[at : at + size])
            at += size
    assert frames.end is None or frames.end.elapsed >= 0
    assert out.output().total == job.offsets[0]


def try_jobs(data: bytes, _: random.Random) -> None:
    with contextlib.suppress(InvalidFrame):
        assert len(parse_jobs(data)) <= MAX_GUEST_JOBS


def try_listeners(data: bytes, _: random.Random) -> None:
    listeners = parse_listeners(data.decode("utf-8", "replace"))
    assert all(0 <= listener.port < 65_536 for listener in listeners)


def try_entry(data: bytes, chance: random.Random) -> None:
    attributes = asyncssh.SFTPAttrs(
        size=chance.choice((None, 0, 0xFFFFFFFF_FFFFFFFF)),
        permissions=chance.choice((None, 0, 0o100644, 0xFFFFFFFF)),
        mtime=chance.choice((None, 0, 0xFFFFFFFF)),
    )
    if is_usable_name(data):
        assert entry(data, attributes).size >= 0


@pytest.mark.fuzz
@pytest.mark.parametrize(
    "good, attempt",
    [
        pytest.param(RECORD, try_record, id="the record of a failed run"),
        pytest.param(LEFT, try_left, id="programs left running"),
        pytest.param(FRAMES, try_frames, id="the frames of a job"),
        pytest.param(JOBS, try_jobs, id="the list of jobs"),
        pytest.param(LISTENERS, try_listeners, id="listeners"),
        pytest.param(b"a name of a file", try_entry, id="an entry of a directory"),
    ],
)
def test_answers_of_the_launcher(
    good: bytes, attempt: Callable[[bytes, random.Random], None]
) -> None:
    for number, data, chance in numbered(good):
        began = time.thread_time()
        try:
            attempt(data, chance)
        except Exception as error:
            raise AssertionError(f"seed {SEED}, input {number}: {data!r}") from error
        assert time.thread_time() - began < LONGEST, (SEED, number)


def _packet(chance: random.Random) -> tuple[int, bytes]:
    """Return a packet that a server may send, after its type; no key exchange or authentication."""
    number = UInt32(chance.choice((0, 1, 2, 7, 0xFFFFFFFF)))
    kinds = (
        (1, UInt32(11) + String(b"bye") + String(b"")),
        (2, String(b"padding")),
        (3, UInt32(1)),
        (4, Boolean(True) + String(b"hello") + String(b"en")),
        (80, String(b"keepalive@openssh.com") + Boolean(True)),
        (80, String(b"hostkeys-00@openssh.com") + Boolean(False) + String(b"\0" * 20)),
        (81, b""),
        (82, b""),
        (90, String(b"forwarded-tcpip") + number * 3 + String(b"127.0.0.1") + number
         + String(b"192.0.2.1") + number),
        (90, String(b"auth-agent@openssh.com") + number * 3),
        (90, String(b"x11") + number * 3 + String(b"x") + number),
        (91, number * 4),
        (92, number * 2 + String(b"no") + String(b"")),
        (93, number * 2),
        (94, number + String(b"data")),
        (95, number + UInt32(1) + String(b"data")),
        (96, number),
        (97, number),
        (98, number + String(b"exit-status") + Boolean(False) + UInt32(7)),
        (98, number + String(b"exit-signal") + Boolean(False) + String(b"KILL") + Boolean(True)
         + String(b"killed") + String(b"")),
        (99, number),
        (100, number),
        (chance.choice((7, 53, 127, 200, 255)), struct.pack(">I", chance.randrange(1 << 32))),
    )  # fmt: skip
    kind, payload = chance.choice(kinds)
    return kind, payload if chance.random() < 0.2 else changed(payload, chance, FRAGMENTS)


async def _open(made: Peer) -> BoundedConnection:
    options = SshConnection(made.port, made.keys)._options()
    connection = await connect(made.port, options, lambda _how: None)
    await open_exec(connection, CommandSession(1_000), "x", window=1 << 20)
    return connection


def _handle(connection: BoundedConnection, kind: int, payload: bytes) -> None:
    """Pass a packet to the connection or the channel, as asyncssh does after decryption."""
    packet = SSHPacket(bytes([kind]) + payload)
    packet.get_byte()
    handler = cast("Any", connection)
    if 93 <= kind <= 127:
        handler = handler._channels.get(packet.get_uint32())
    if handler is not None:
        handler.process_packet(kind, 7, packet)


@pytest.mark.fuzz
@pytest.mark.anyio
@pytest.mark.usefixtures("leaks")
async def test_packets_of_an_ssh_server() -> None:
    """A packet is accepted or refused; nothing else is raised, and none takes long."""
    chance = random.Random(SEED)
    opened = 0

    async def wait(process: asyncssh.SSHServerProcess[bytes]) -> None:
        await process.stdin.read()

    async with peer(wait) as made:
        connection = await _open(made)
        for number in range(INPUTS):
            state = cast("Any", connection)
            if state._transport is None or not state._channels:
                connection.abort()
                await connection.wait_closed()
                connection = await _open(made)
                opened += 1
            kind, payload = _packet(chance)
            began = time.thread_time()
            try:
                _handle(connection, kind, payload)
            except (asyncssh.DisconnectError, PacketDecodeError):
                pass
            except Exception as error:
                raise AssertionError(f"seed {SEED}, input {number}: {kind} {payload!r}") from error
            assert time.thread_time() - began < LONGEST, (SEED, number)
            if number % 100 == 0:
                await asyncio.sleep(0)
        connection.abort()
        await connection.wait_closed()
    assert opened > 1
