# SPDX-License-Identifier: Apache-2.0
"""The reaper of a real server. The `aging` fixture starts its environments before other tests."""

from __future__ import annotations

from datetime import datetime

import pytest
from tests.e2e.aging import WORKING_SECONDS, Aging
from tests.support.waggle_client import curl_result, until
from tests.support.waggle_process import Waggle

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(300)]


def times(server: Waggle, event: str, environment: str) -> list[datetime]:
    """Return the times at which the server logged an event of an environment."""
    found = [line for line in server.events(event) if line["environment"] == environment]
    return [datetime.fromisoformat(line["timestamp"]) for line in found]


async def test_an_idle_environment_is_paused_and_then_removed(aging: Aging) -> None:
    server = aging.server
    await until(lambda: times(server, "environment_destroyed", aging.idle), 120)
    (created,) = times(server, "environment_created", aging.idle)
    (paused,) = times(server, "environment_paused", aging.idle)
    (destroyed,) = times(server, "environment_destroyed", aging.idle)
    assert 60 <= (paused - created).total_seconds() < 75
    assert 4 <= (destroyed - paused).total_seconds() < 20
    assert aging.idle not in server.directories()


async def test_a_working_environment_is_not_reaped(aging: Aging) -> None:
    server = aging.server
    said, _ = aging.work.communicate(timeout=2 * WORKING_SECONDS)
    assert curl_result(said)["stdout"] == "finished\n"
    (created,) = times(server, "environment_created", aging.busy)
    for destroyed in times(server, "environment_destroyed", aging.busy):
        # If other tests took long, its idle time may be over by now, but it counts from the job's
        # end.
        assert (destroyed - created).total_seconds() >= WORKING_SECONDS + 60
