# SPDX-License-Identifier: Apache-2.0
"""Terminals: who reads what, idle environments, and programs that want a terminal."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import anyio
import pytest
from tests.service import executing
from tests.service.lasting import start
from tests.service.world import OWNER, World, world
from tests.support.server import EXECUTION, RUNTIMES
from tests.support.terminal import FakeShell

from waggle.domain.errors import Busy, InvalidArgument, JobNotFound
from waggle.domain.programs import GuestUser
from waggle.domain.programs.guest_job import Terminal
from waggle.domain.programs.job import StreamName
from waggle.service.programs import control
from waggle.service.programs.execution import ExecutionService
from waggle.service.programs.jobs import JobService
from waggle.service.programs.surroundings import Surroundings
from waggle.service.programs.terminals import (
    AGAIN,
    MAX_PIECE,
    Ended,
    Event,
    Paused,
    Printed,
    Reader,
    Skipped,
    TerminalService,
    parse_size,
)

pytestmark = pytest.mark.anyio
KEEP = 100_000


@pytest.fixture
async def here() -> AsyncGenerator[World]:
    async with world() as made:
        yield made


@pytest.fixture
def jobs(here: World) -> JobService:
    return here.jobs(keep=KEEP)


@pytest.fixture
def terminals(here: World, jobs: JobService) -> TerminalService:
    return TerminalService(here.service, jobs)


async def opened(here: World, terminals: TerminalService) -> Reader:
    """Open a terminal and read its prompt."""
    environment = await here.created()
    FakeShell().prepare(here.host.only)
    size, user = Terminal(), GuestUser.SANDBOX
    reader = await terminals.open(environment.id, size, owner=OWNER, user=user)
    assert await soon(reader) == Printed(b"$ ")
    return reader


async def soon(reader: Reader) -> Event:
    with anyio.fail_after(10):
        return await reader.next()


async def test_a_reader_gets_what_is_printed_in_pieces_and_then_the_end(
    here: World, terminals: TerminalService
) -> None:
    reader = await opened(here, terminals)
    await terminals.write(reader.job, b"flood 40000\rexit 2\r", owner=OWNER)
    first, second = await soon(reader), await soon(reader)
    assert isinstance(first, Printed)
    assert isinstance(second, Printed)
    assert len(first.data) == MAX_PIECE
    assert second.data.endswith(b"xx")
    ended = await soon(reader)
    assert isinstance(ended, Ended)
    assert ended.view.exit_code == 2


async def test_a_reader_that_is_late_skips_what_is_not_kept(
    here: World, terminals: TerminalService
) -> None:
    reader = await opened(here, terminals)
    await terminals.write(reader.job, b"flood 900000\r", owner=OWNER)
    total = reader.job.streams[StreamName.STDOUT].total
    read, skipped = 2, 0
    while reader.offset < total:
        match await soon(reader):
            case Printed(data):
                read += len(data)
            case Skipped(count):
                skipped += count
            case other:
                raise AssertionError(other)
    assert read + skipped == total
    assert skipped > 500_000
    assert read > KEEP


async def test_a_reader_begins_where_it_says_or_near_the_end(
    here: World, terminals: TerminalService
) -> None:
    reader = await opened(here, terminals)
    await terminals.write(reader.job, b"flood 90000\r", owner=OWNER)
    place = reader.job.environment_id
    total = reader.job.streams[StreamName.STDOUT].total
    for offset, begin in ((0, 0), (7, 7), (1 << 50, total), (None, total - AGAIN)):
        assert (await terminals.attach(place, 1, offset, owner=OWNER)).offset == begin
    with pytest.raises(JobNotFound):
        await terminals.attach(place, 2, 0, owner=OWNER)


async def test_readers_hear_of_pauses_which_typing_ends_and_reading_does_not(
    here: World, terminals: TerminalService
) -> None:
    reader = await opened(here, terminals)
    place = reader.job.environment_id
    await here.service.pause(place, owner=OWNER, to_disk=False)
    assert await soon(reader) == Paused(is_paused=True)
    again = await terminals.attach(place, 1, 0, owner=OWNER)
    assert [await soon(again), await soon(again)] == [Paused(is_paused=True), Printed(b"$ ")]
    assert not await terminals.resize(reader.job, Terminal(9, 9), owner=OWNER)
    assert reader.job.is_paused
    await terminals.write(reader.job, b"x", owner=OWNER)
    assert await soon(reader) == Paused(is_paused=False)
    assert await soon(reader) == Printed(b"x")


async def test_code_that_waits_for_its_turn_takes_no_size_and_input_is_bounded(
    here: World,
    jobs: JobService,
    terminals: TerminalService,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(control, "BEGIN_SECONDS", 0.05)
    place = (await here.created()).id
    execution = ExecutionService(here.service, jobs, executing.RUNTIMES, executing.LIMITS)
    for code in ("hang", "echo"):
        await execution.execute(place, code, owner=OWNER, language="shell", context="main")
    with anyio.fail_after(10):
        reader = await terminals.attach(place, 3, 0, owner=OWNER)
        assert reader.job.is_queued
        assert not await terminals.resize(reader.job, Terminal(9, 9), owner=OWNER)
        with pytest.raises(Busy):
            await terminals.write(reader.job, b"x", owner=OWNER)
    assert here.get(place).active_calls == 0


async def test_typing_into_a_program_without_input_is_refused(
    here: World, jobs: JobService, terminals: TerminalService
) -> None:
    job = await start(jobs, (await here.created()).id, "hang")
    with pytest.raises(InvalidArgument, match="takes no input"):
        await terminals.write(job, b"x", owner=OWNER)


async def test_a_terminal_alone_is_idle_and_typing_is_use(
    here: World, terminals: TerminalService
) -> None:
    reader = await opened(here, terminals)
    place = reader.job.environment_id
    here.clock.advance(minutes=29)
    await terminals.write(reader.job, b"x", owner=OWNER)
    here.clock.advance(minutes=29)
    assert not await here.service.retire(place)
    here.clock.advance(minutes=2)
    assert await here.service.retire(place)


async def test_signals_have_names_and_sizes_bounds(here: World, terminals: TerminalService) -> None:
    reader = await opened(here, terminals)
    await terminals.signal(reader.job, "SIGTERM", owner=OWNER)
    assert [number for _, number in here.host.only.signals] == [15]
    with pytest.raises(InvalidArgument):
        await terminals.signal(reader.job, "SEGV", owner=OWNER)
    for rows, columns in ((0, 1), (1, 1001), (True, 1), (1, "1"), (1.0, 1)):
        with pytest.raises(InvalidArgument):
            parse_size(rows, columns)


async def test_terminals_are_listed_apart_from_other_jobs(
    here: World, jobs: JobService, terminals: TerminalService
) -> None:
    reader = await opened(here, terminals)
    place = reader.job.environment_id
    execution = ExecutionService(here.service, jobs, RUNTIMES, EXECUTION)
    await execution.run_command(place, ["true"], owner=OWNER)
    assert terminals.list(place, owner=OWNER) == (reader.job,)


async def test_a_program_may_want_a_terminal(here: World, jobs: JobService) -> None:
    place = (await here.created()).id
    execution = ExecutionService(here.service, jobs, RUNTIMES, EXECUTION)
    how = Surroundings(tty=True, env={"TERM": "dumb"})
    code = await execution.execute(place, "print()", owner=OWNER, how=how)
    line = await execution.run_command(place, "top", owner=OWNER, how=how)
    for job in (code, line):
        attributes = job.guest_job.attributes
        assert attributes.terminal == Terminal()
        assert not attributes.has_displays
        assert job.guest_job.command.env == {"TERM": "dumb", "COLORTERM": "truecolor"}
        assert job.is_work
    how = Surroundings(tty=True, stdin="x")
    job = await execution.run_command(place, "top", owner=OWNER, how=how)
    assert job.guest_job.command.stdin == b"x"
    how = Surroundings(tty=True)
    with pytest.raises(InvalidArgument, match="context"):
        await execution.execute(place, "1", owner=OWNER, how=how, context="main")
