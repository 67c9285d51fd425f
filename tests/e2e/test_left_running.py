# SPDX-License-Identifier: Apache-2.0
"""Programs that a call leaves running: reported, listed and killed, also in copies."""

from __future__ import annotations

from collections.abc import Generator

import anyio
import pytest
from tests.support.waggle_client import call, connected, create, until
from tests.support.waggle_process import Waggle, running, small

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]
CODE = "i=0; while :; do i=$((i+1)); echo $i; busybox usleep 100000; done & echo started"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Waggle]:
    directory = tmp_path_factory.mktemp("left")
    with running(directory, small(directory)) as server:
        yield server


async def test_a_program_left_running_is_reported_listed_and_killed(server: Waggle) -> None:
    async with connected(server) as client:

        async def none_left(where: dict[str, str]) -> bool:
            return "left_running" not in await call(client, "read_job", **where)

        here = {"environment_id": await create(client, "shell")}
        with anyio.fail_after(60):
            ran = await call(client, "execute", **here, code=CODE)
        assert "started\n" in ran["stdout"]
        (program,) = ran["left_running"]
        job = ran["job_id"]
        listed = (await call(client, "read_job", **here))["left_running"]
        assert listed == [{**program, "job_id": job}]
        assert (await call(client, "get_environment", **here))["left_running"] == listed

        forked = await call(client, "fork_environment", **here)
        there = {"environment_id": forked["environments"][0]["environment_id"]}
        seen = (await call(client, "get_environment", **there))["left_running"]
        assert [listed["pid"] for listed in seen] == [program["pid"]]
        await call(client, "read_job", **there, pid=program["pid"])
        await until(lambda: none_left(there), what="it is gone from the copy")

        assert (await call(client, "read_job", **here))["left_running"] == listed
        await call(client, "read_job", **here, job_id=job, kill=True)
        await until(lambda: none_left(here), what="it is gone from the origin")
