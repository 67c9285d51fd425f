# SPDX-License-Identifier: Apache-2.0
"""Records of `files watch`, and a guest that replaced it with another program."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.infra.ssh.peer import Peer, Process, peer
from tests.support.strain import STALL, strained

from waggle.domain.errors import FileNotFound, FileRefused, GuestLost, Unsupported, WaggleError
from waggle.domain.files.guest_files import Names
from waggle.infra.ssh import SshConnection
from waggle.infra.ssh.run import Shell
from waggle.infra.ssh.run.watching import (
    BURST,
    EVERY,
    MAX_NAME,
    MAX_NAMES,
    RATE,
    Records,
    Watches,
)

MIB = 1 << 20
ANYTHING = frozenset[str]()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut data at these places, as a connection may."""
    inside = sorted({place % (len(data) + 1) for place in places})
    return [data[a:b] for a, b in zip([0, *inside], [*inside, len(data)], strict=True)]


def valid(record: bytes) -> bool:
    return 0 < len(record) <= MAX_NAME and not {b"", b".", b".."} & {*record.split(b"/")}


NAMES = st.lists(
    st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name and valid(name)),
    max_size=150,
)
PLACES = st.lists(st.integers(0, 10_000), max_size=12)


@given(NAMES, PLACES)
def test_valid_names_come_out_as_they_went_in(names: list[bytes], places: list[int]) -> None:
    records = Records(Clock())
    records.feed(b"\0")
    assert records.take() == ANYTHING
    for piece in cut(b"".join(name + b"\0" for name in names), places):
        records.feed(piece)
    assert records.filled.is_set() == bool(names)
    shown = {name.decode("utf-8", "backslashreplace") for name in names}
    assert records.take() == (shown if len(shown) <= MAX_NAMES else ANYTHING)
    assert not records.filled.is_set()
    assert records.take() == ANYTHING


@given(st.lists(st.binary(max_size=60), max_size=60), PLACES)
def test_bytes_are_refused_exactly_if_watch_c_cannot_print_them(
    pieces: list[bytes], places: list[int]
) -> None:
    data = b"\0".join(pieces)
    records = Records(Clock())
    for piece in cut(data, places):
        records.feed(piece)
    *whole, _rest = data.split(b"\0")
    is_valid = all(not record or valid(record) for record in whole) and not (whole and whole[0])
    assert records.is_invalid is not is_valid
    if is_valid:
        assert len(records.take()) <= MAX_NAMES
    else:
        with pytest.raises(GuestLost, match="an invalid answer"):
            records.take()


def test_an_empty_record_means_anything_until_it_is_taken() -> None:
    records = Records(Clock())
    records.feed(b"\0a\0")
    assert records.take() == ANYTHING
    records.feed(b"b\0\0c\0")
    assert records.take() == ANYTHING
    records.feed(b"d\0e\0d\0")
    assert records.take() == {"d", "e"}


@pytest.mark.parametrize(
    "data",
    [
        b"a\0",
        b"\0/etc\0",
        b"\0a//b\0",
        b"\0a/\0",
        b"\0../a\0",
        b"\0a/..\0",
        b"\0.\0",
        b"\0" + b"x" * (MAX_NAME + 1),
        b"\0" + b"x" * (MAX_NAME + 1) + b"\0",
    ],
)
def test_what_watch_c_does_not_print_is_refused_for_good(data: bytes) -> None:
    records = Records(Clock())
    records.feed(data)
    records.feed(b"\0a\0")
    for _ in range(2):
        with pytest.raises(GuestLost, match="an invalid answer"):
            records.take()


def test_more_than_watch_c_prints_is_refused() -> None:
    clock = Clock()
    records = Records(clock)
    records.feed(b"\0" * BURST)
    records.take()
    clock.now += 2.0
    records.feed(b"\0" * 2 * RATE)
    records.take()
    records.feed(b"\0")
    with pytest.raises(GuestLost, match="an invalid answer"):
        records.take()


def test_a_long_silence_allows_no_more_than_a_burst() -> None:
    clock = Clock()
    records = Records(clock)
    clock.now += 1e6
    records.feed(b"\0" * (BURST + 1))
    assert records.is_invalid


@contextlib.asynccontextmanager
async def guest(run: Process) -> AsyncGenerator[tuple[Peer, Watches]]:
    running: set[asyncssh.SSHServerProcess[bytes]] = set()

    async def held(process: asyncssh.SSHServerProcess[bytes]) -> None:
        running.add(process)
        await run(process)

    async def kill(process: asyncssh.SSHServerProcess[bytes]) -> None:
        for ended in running:
            ended.exit_with_signal("KILL")
        process.exit(0)

    async with peer(held, kill=kill) as made:
        connection = SshConnection(made.port, made.keys)
        try:
            yield made, Watches(Shell(connection, patience=(1.0, 1.0)).run)
        finally:
            await connection.aclose()


def says(*pieces: bytes, times: int = 1, code: int | None = None, error: bytes = b"") -> Process:
    """Return a program that prints these pieces `times` times, then ends with a code or never."""

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        for _ in range(times):
            for piece in pieces:
                process.stdout.write(piece)
                await process.stdout.drain()
        if code is None:
            await asyncio.Event().wait()
        process.stderr.write(error)
        process.exit(code or 0)

    return run


class Heard:
    """The notifications, and when the first ones came."""

    def __init__(self) -> None:
        self.names: list[Names] = []
        self.times: list[float] = []
        self.more = asyncio.Event()

    def __call__(self, names: Names) -> None:
        self.names.append(names)
        self.times.append(asyncio.get_running_loop().time())
        self.more.set()

    async def first(self) -> Names:
        async with asyncio.timeout(20):
            await self.more.wait()
        return self.names[0]


@pytest.mark.anyio
async def test_names_are_passed_on_until_the_program_ends() -> None:
    heard = Heard()
    async with guest(says(b"\0", b"a\0b/c\0", code=0)) as (made, watches):
        await watches.watch("/home", heard)
        assert heard.names[0] == ANYTHING
        assert len(made.runs()) == 1


@pytest.mark.anyio
async def test_a_watch_is_killed_when_it_is_cancelled() -> None:
    heard = Heard()
    async with guest(says(b"\0")) as (made, watches):
        watching = asyncio.ensure_future(watches.watch("/home", heard))
        assert await heard.first() == ANYTHING
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching
        assert len(made.kills()) == 1


@pytest.mark.anyio
async def test_all_watches_end_quietly_together() -> None:
    several = [Heard() for _ in range(3)]
    async with guest(says(b"\0")) as (made, watches):
        watching = [asyncio.ensure_future(watches.watch("/home", heard)) for heard in several]
        for heard in several:
            await heard.first()
        await watches.end_all(20.0)
        async with asyncio.timeout(20):
            assert await asyncio.gather(*watching) == [None] * 3
        assert len(made.kills()) == 3
        await watches.end_all(20.0)


@pytest.mark.anyio
async def test_a_guest_that_does_not_obey_delays_the_end_of_all_only_so_long() -> None:
    async def deaf(_process: asyncssh.SSHServerProcess[bytes]) -> None:
        await asyncio.Event().wait()

    async with peer(says(b"\0"), kill=deaf) as made:
        connection = SshConnection(made.port, made.keys)
        watches, heard = Watches(Shell(connection, patience=(1.0, 1.0)).run), Heard()
        watching = asyncio.ensure_future(watches.watch("/home", heard))
        await heard.first()
        began = asyncio.get_running_loop().time()
        await watches.end_all(0.1)
        assert asyncio.get_running_loop().time() - began < 0.9
        assert not watching.done()
        async with asyncio.timeout(20):
            await watching
        await connection.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "code, words, error",
    [
        (1, b"No such file or directory\n", FileNotFound),
        (1, b"Permission denied\n", FileRefused),
        (2, b"waggle: not a command: watch\n", Unsupported),
        (3, b"", GuestLost),
        (127, b"\xff\x1b[31m" * 1_000, GuestLost),
    ],
)
async def test_a_program_that_fails_is_an_error(
    code: int, words: bytes, error: type[WaggleError]
) -> None:
    async with guest(says(code=code, error=words)) as (_, watches):
        with pytest.raises(error) as raised:
            await watches.watch("/x", Heard())
    assert len(str(raised.value)) < 1_000
    assert str(raised.value).isprintable()


@pytest.mark.anyio
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "piece", [b"\0" * 32_000, b"a\0" * 16_000, b"x" * 32_000, b"\0" + b"\xff" * 4_000]
)
async def test_a_flood_ends_the_watch_and_stalls_nothing(piece: bytes) -> None:
    heard = Heard()
    async with guest(says(b"\0", piece, times=1_000_000)) as (made, watches), strained() as strain:
        async with asyncio.timeout(60):
            with pytest.raises(GuestLost, match="an invalid answer"):
                await watches.watch("/home", heard)
        assert made.kills()
    assert strain.stall < STALL
    assert strain.grown < 64 * MIB


@pytest.mark.anyio
async def test_a_trickle_notifies_five_times_a_second_at_most() -> None:
    """One name every few milliseconds, as of a guest that does not gather them."""

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.stdout.write(b"\0")
        for number in range(150):
            process.stdout.write(b"%d\0" % number)
            await process.stdout.drain()
            await asyncio.sleep(0.005)
        process.exit(0)

    heard = Heard()
    async with guest(run) as (_, watches):
        await watches.watch("/home", heard)
    apart = [after - before for before, after in zip(heard.times, heard.times[1:], strict=False)]
    assert apart
    assert min(apart[:-1], default=EVERY) >= EVERY * 0.95  # the last one comes with the end
    assert heard.names[-1]
