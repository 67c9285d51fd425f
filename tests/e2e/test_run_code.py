# SPDX-License-Identifier: Apache-2.0
"""run_code and expose_port with real machines, and clients that leave in every phase."""

from __future__ import annotations

from collections.abc import Generator

import anyio
import httpx2
import pytest
from tests.support.server import ERAS
from tests.support.waggle_client import bare, call, connected, create, heard, streaming, until
from tests.support.waggle_process import Waggle, running, small

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Waggle]:
    directory = tmp_path_factory.mktemp("run")
    slow = {"runtime_shell_install_command": "/bin/busybox sleep 987 {packages}"}
    with running(directory, {**small(directory), **slow, "default_network": "public"}) as server:
        yield server


@pytest.mark.parametrize("era", ERAS)
async def test_run_code_runs_a_program_and_leaves_nothing(server: Waggle, era: str) -> None:
    async with connected(server, era) as client:
        output = await call(
            client,
            "run_code",
            runtime="shell",
            code="busybox cat a.txt -; exit 3",
            files={"a.txt": "one "},
            stdin="two",
        )
    assert (output["stdout"], output["exit_code"]) == ("one two", 3)
    assert server.remains() == {}


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("phase", ["Booting the machine", "installing", "running"])
async def test_the_machine_of_a_client_that_leaves_is_removed(
    server: Waggle, phase: str, era: str
) -> None:
    arguments = {
        "runtime": "shell",
        "code": "busybox setsid busybox sleep 987 & busybox sleep 987",
        "timeout_seconds": 200,
        **({"packages": "some"} if phase == "installing" else {}),
    }
    async with streaming(server, *bare("run_code", arguments, era)) as lines:
        await heard(lines, phase)
        assert server.directories() != []
    await until(lambda: server.remains() == {}, what="the machine is gone")


async def test_the_machine_of_a_program_that_times_out_is_removed(server: Waggle) -> None:
    arguments = {"runtime": "shell", "code": "busybox sleep 987", "timeout_seconds": 1}
    async with connected(server) as client:
        result = await client.call_tool("run_code", arguments)
    assert result.is_error
    assert server.remains() == {}


async def test_an_exposed_server_in_the_guest_is_reached_by_its_url(server: Waggle) -> None:
    async with connected(server) as client:
        environment = await create(client, "shell", network="none")
        command = "mkdir -p www; echo hello > www/index.html; busybox httpd -f -p 8000 -h www"
        await call(
            client,
            "run_command",
            environment_id=environment,
            command=["/bin/busybox", "sh", "-c", command],
            background=True,
        )
        opened = await call(client, "expose_port", environment_id=environment, port=8000)
        assert opened["listening"]
        async with httpx2.AsyncClient() as http:
            answer = await http.get(opened["url"])
            assert (answer.status_code, answer.text) == (200, "hello\n")
        state = await call(client, "get_environment", environment_id=environment)
        assert state["ports"] == [{"port": 8000, "url": opened["url"]}]
        assert state["running_jobs"] == 1
        assert state["cpu_seconds_used"] > 0
        assert state["memory_bytes_used"] > 16 << 20
        with anyio.fail_after(60):
            await call(client, "destroy_environment", environment_id=environment)
        async with httpx2.AsyncClient() as http:
            with pytest.raises(httpx2.ConnectError):
                await http.get(opened["url"])
    assert server.remains() == {}
