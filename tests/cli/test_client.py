# SPDX-License-Identifier: Apache-2.0
"""The command line's report of a server that answers, but not with the result."""

from __future__ import annotations

import anyio
import pytest
from tests.support.server import Rig, Setup, serving
from tests.support.waiting import until

from waggle.cli.client import ShuttingDown, call, connected
from waggle.web.server import ServerLimits

pytestmark = pytest.mark.anyio


async def test_a_server_that_stops_is_reported() -> None:
    setup = Setup(limits=ServerLimits(grace=60))
    setup.host.hold = anyio.Event()
    async with serving(setup) as rig, anyio.create_task_group() as group:
        group.start_soon(_create, rig)
        await setup.host.creating.wait()
        rig.server.stop()
        await until(lambda: rig.web.endpoint.draining)
        with pytest.raises(ShuttingDown) as refused:
            async with connected(rig.mcp) as client:
                await call(client, "list_environments")
        assert refused.value.message == f"The server at {rig.mcp} is shutting down."
        setup.host.hold.set()


async def _create(rig: Rig) -> None:
    async with connected(rig.mcp) as client:
        await client.list_tools()  # or the SDK lists them in the middle of the stop
        await call(client, "create_environment", runtime="shell")
