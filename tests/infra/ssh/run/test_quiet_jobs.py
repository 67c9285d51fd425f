# SPDX-License-Identifier: Apache-2.0
"""Jobs that print nothing while their connection breaks, once or often."""

from __future__ import annotations

import asyncssh
import pytest
from tests.infra.ssh.peer import peer
from tests.infra.ssh.run.frames import END, frame
from tests.support.jobs import job
from tests.support.vm import command
from tests.support.waiting import until

from waggle.domain.errors import GuestLost
from waggle.infra.ssh import SshConnection
from waggle.infra.ssh.run.jobs import ATTEMPTS, LASTING_SECONDS, GuestJobs

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("leaks")]
START = frame(b"s")


async def quiet_breaks(count: int, *, seconds: float = 0.0, excused: bool = False) -> int:
    """Attend a job that prints nothing and whose connection breaks so often, then ends.

    Each connection lasts so many seconds by its clock. Return its exit code.
    """
    times, left = iter(range(1_000)), count

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        nonlocal left
        if left > 0:
            process.stdout.write(START)
            await process.stdout.drain()
            await until(lambda: wanted.is_started)
            left -= 1
            if excused:
                guest.excuse()
            process.channel.get_connection().abort()
        else:
            process.stdout.write(START + frame(b"x", END))
            process.exit(0)

    wanted = job(command("x", timeout=30))
    async with peer(run) as made:
        connection = SshConnection(made.port, made.keys, timeout=5)
        guest = GuestJobs(connection, now=lambda: next(times) * seconds)
        try:
            return (await guest.attend(wanted)).exit_code or 0
        finally:
            await connection.aclose()


async def test_a_quiet_job_outlives_any_number_of_connections_that_had_lasted() -> None:
    assert await quiet_breaks(ATTEMPTS + 2, seconds=LASTING_SECONDS) == 3


async def test_a_quiet_job_outlives_any_number_of_freezes_however_close() -> None:
    assert await quiet_breaks(ATTEMPTS + 2, excused=True) == 3


async def test_a_quiet_job_whose_connections_break_at_once_is_given_up() -> None:
    assert await quiet_breaks(ATTEMPTS - 1) == 3
    with pytest.raises(GuestLost, match="connection to the guest broke"):
        await quiet_breaks(ATTEMPTS)
