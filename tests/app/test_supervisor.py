# SPDX-License-Identifier: Apache-2.0
"""The messages to the service manager, received as it receives them: on a datagram socket."""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from structlog.testing import capture_logs

from waggle.app.supervisor import Supervisor

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["file", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "n") if request.param == "file" else f"@waggle-{secrets.token_hex(8)}"


@pytest.fixture
def manager(address: str) -> Generator[socket.socket]:
    with closing(listening(address)) as receiver:
        yield receiver


def listening(address: str) -> socket.socket:
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.bind("\0" + address[1:] if address.startswith("@") else address)
    receiver.setblocking(False)
    return receiver


def messages(receiver: socket.socket) -> list[list[str]]:
    found: list[list[str]] = []
    while True:
        try:
            found.append(receiver.recv(4096).decode().splitlines())
        except BlockingIOError:
            return found


def of(address: str, **more: str) -> Supervisor:
    return Supervisor.of({"NOTIFY_SOCKET": address, **more}, os.getpid())


async def test_the_life_of_a_server(address: str, manager: socket.socket) -> None:
    notifier = of(address)
    before = time.monotonic_ns() // 1_000
    await notifier.ready("listening on http://[::1]:1")
    await notifier.reloading()
    await notifier.ready("again\nREADY=0\x1b")
    await notifier.stopping()
    ready, reloading, again, stopping = messages(manager)
    assert ready == ["READY=1", "STATUS=listening on http://[::1]:1"]
    assert reloading[0] == "RELOADING=1"
    name, _, microseconds = reloading[1].partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(microseconds) <= time.monotonic_ns() // 1_000
    assert again == ["READY=1", "STATUS=again READY=0 "]
    assert stopping[0] == "STOPPING=1"


async def test_the_watchdog_hears_twice_in_its_time(address: str, manager: socket.socket) -> None:
    notifier = of(address, WATCHDOG_USEC="400000", WATCHDOG_PID=str(os.getpid()))
    heard: list[float] = []
    async with anyio.create_task_group() as group:
        group.start_soon(notifier.beat)
        while len(heard) < 5:
            await anyio.wait_readable(manager)
            heard += [
                time.monotonic() for message in messages(manager) if message == ["WATCHDOG=1"]
            ]
        group.cancel_scope.cancel()
    assert 0.75 < heard[4] - heard[0] < 3.0, "four intervals of 0.2 s"


@pytest.mark.parametrize("address", ["", "@", "/", "relative", "vsock:2:1"])
async def test_without_an_address_nobody_is_notified(address: str) -> None:
    notifier = of(address, WATCHDOG_USEC="1000000")
    assert notifier == Supervisor()
    with capture_logs() as logs:
        await notifier.ready("here")
        await notifier.stopping()
        await notifier.beat()
    assert logs == []


@pytest.mark.parametrize(
    "variables, seconds",
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "1500000"}, 1.5),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "7"}, 2),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "8"}, 0),
        ({"WATCHDOG_USEC": "0"}, 0),
        ({"WATCHDOG_USEC": "-1"}, 0),
        ({"WATCHDOG_USEC": "soon"}, 0),
        ({"WATCHDOG_USEC": "9" * 400}, 0),
    ],
)
def test_the_watchdog_is_the_one_for_this_process(
    variables: dict[str, str], seconds: float
) -> None:
    assert Supervisor.of({"NOTIFY_SOCKET": "/run/n", **variables}, 7).watchdog == seconds


@pytest.mark.parametrize(
    "watchdog, seconds", [(0, 300), (300, 240), (60, 48), (0.5, 1), (900, 300)]
)
def test_the_process_ends_itself_before_its_manager_does(watchdog: float, seconds: int) -> None:
    assert Supervisor("/run/n", watchdog).dead_after(300) == seconds


async def test_a_manager_that_is_gone_does_not_stop_a_server(address: str) -> None:
    with capture_logs() as logs:
        await of(address).ready("here")
    assert [line["event"] for line in logs] == ["supervisor_not_notified"]


async def test_a_manager_that_is_busy_is_waited_for_and_not_for_ever(
    address: str, manager: socket.socket
) -> None:
    hasty = replace(of(address), patience=0.2)
    with capture_logs() as logs:
        while not logs:
            await hasty.ready("here")
    assert logs[0]["event"] == "supervisor_not_notified"
    notifier = replace(hasty, patience=30.0)
    heard: list[list[str]] = []
    async with anyio.create_task_group() as group:
        group.start_soon(notifier.stopping)
        while ["STOPPING=1", "STATUS=stopping"] not in heard:
            await anyio.wait_readable(manager)
            heard += messages(manager)
    assert len(heard) > 1
