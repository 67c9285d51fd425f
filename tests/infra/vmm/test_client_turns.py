# SPDX-License-Identifier: Apache-2.0
"""The client's calls one after the other: cancelled, late, closed; and sockets that are none."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from types import NoneType

import pytest
from tests.support.vmm_samples import sample
from tests.support.vmm_server import Call, Reply, heard, says, serving, speaking
from tests.support.waiting import cancelled, until

from waggle.domain.errors import Busy, WaggleError
from waggle.infra.vmm import firecracker
from waggle.infra.vmm.client import VmmClient
from waggle.infra.vmm.errors import VmmLost
from waggle.infra.vmm.version import Version, Vmm

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("nothing_left")]
NEWEST = Version(99)


def answer(call: Call) -> Reply:
    kind = call.endpoint.answer
    return Reply() if kind is NoneType else says(sample(kind))


async def test_calls_are_one_after_the_other(tmp_path: Path) -> None:
    under_way = most = 0

    async def slowly(call: Call) -> Reply:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(5):
            await asyncio.sleep(0)
        under_way -= 1
        return answer(call)

    async with serving(tmp_path, firecracker.ENDPOINTS, slowly) as server:
        client = VmmClient(server.dial, Vmm.FIRECRACKER, NEWEST)
        calls = [client.call(firecracker.DESCRIBE_INSTANCE) for _ in range(8)]
        assert len(await asyncio.gather(*calls)) == 8
        assert most == 1


async def test_a_late_answer_is_not_that_of_the_next_call(tmp_path: Path) -> None:
    late = asyncio.Event()
    gone = asyncio.Event()

    async def respond(call: Call) -> Reply:
        if call.endpoint is firecracker.GET_FIRECRACKER_VERSION:
            await late.wait()
            gone.set()
        return answer(call)

    async with serving(tmp_path, firecracker.ENDPOINTS, respond) as server:
        client = VmmClient(server.dial, Vmm.FIRECRACKER, NEWEST)
        task = asyncio.create_task(client.call(firecracker.GET_FIRECRACKER_VERSION))
        await until(lambda: len(server.calls) == 1)
        await cancelled(task)
        late.set()
        info = await client.call(firecracker.DESCRIBE_INSTANCE)
        assert info.state == "Not started"
        await asyncio.wait_for(gone.wait(), 5)


async def test_a_call_that_is_cancelled_while_it_waits_sends_nothing(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def respond(call: Call) -> Reply:
        await go.wait()
        return answer(call)

    async with serving(tmp_path, firecracker.ENDPOINTS, respond) as server:
        client = VmmClient(server.dial, Vmm.FIRECRACKER, NEWEST)
        first = asyncio.create_task(client.call(firecracker.DESCRIBE_INSTANCE))
        await until(lambda: len(server.calls) == 1)
        second = asyncio.create_task(client.call(firecracker.GET_MMDS))
        await asyncio.sleep(0)
        await cancelled(second)
        with pytest.raises(VmmLost, match=r"took more than 0\.01 s"):
            await client.call(firecracker.GET_MMDS, seconds=0.01)
        go.set()
        await first
        assert server.names == ["describeInstance"]


async def test_closing_ends_calls_and_refuses_others(tmp_path: Path) -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await heard(reader)
        has_asked.set()
        await asyncio.Event().wait()

    has_asked = asyncio.Event()
    async with speaking(tmp_path, silent) as dial:
        client = VmmClient(dial, Vmm.FIRECRACKER, NEWEST, seconds=60)
        calls = [asyncio.create_task(client.call(firecracker.DESCRIBE_INSTANCE)) for _ in range(3)]
        await has_asked.wait()
        await client.aclose()
        await client.aclose()
        for call in calls:
            with pytest.raises(VmmLost):
                await call
        with pytest.raises(VmmLost, match="the client is closed"):
            await client.call(firecracker.DESCRIBE_INSTANCE)


async def test_sockets_that_cannot_be_used(tmp_path: Path) -> None:
    def dialing(path: Path) -> VmmClient:
        async def dial() -> socket.socket:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.setblocking(False)
                connection.connect(str(path))
            except BaseException:
                connection.close()
                raise
            return connection

        return VmmClient(dial, Vmm.FIRECRACKER, NEWEST)

    missing, old, long = tmp_path / "missing", tmp_path / "old", tmp_path / ("x" * 120)
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.bind(str(old))
    for path, said in ((missing, "No such file"), (old, "refused"), (long, "cannot be used")):
        with pytest.raises(VmmLost, match=said) as raised:
            await dialing(path).call(firecracker.DESCRIBE_INSTANCE)
        assert raised.value.status is None


async def test_what_a_dial_says_of_a_foreign_socket_is_shown() -> None:
    async def dial() -> socket.socket:
        raise Busy("This socket is another's.")

    with pytest.raises(WaggleError, match="another's"):
        await VmmClient(dial, Vmm.FIRECRACKER, NEWEST).call(firecracker.DESCRIBE_INSTANCE)


async def test_a_dial_has_the_calls_time_only() -> None:
    async def dial() -> socket.socket:
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(VmmLost, match="took more than"):
        await VmmClient(dial, Vmm.FIRECRACKER, NEWEST, seconds=0.01).call(
            firecracker.DESCRIBE_INSTANCE
        )
