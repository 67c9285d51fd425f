# SPDX-License-Identifier: Apache-2.0
"""The composition root without machines: the data directory's lock, the start, and the end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.lowlevel
import httpx2
import pytest
from structlog.testing import capture_logs
from tests.support.leaks import Leaks
from tests.support.server import NO_TLS
from tests.support.settings import settings_in
from tests.support.vm import environment

from waggle.app.process import Signals
from waggle.app.root import open_app
from waggle.app.serving import serve_http
from waggle.config import Settings
from waggle.config.places import Places
from waggle.domain.environment import State
from waggle.domain.errors import DataDirBusy, MaxEnvironments, SettingsInvalid
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.shared.confined import identify
from waggle.infra.store.environments import SqliteStore
from waggle.service.environments.service import CreateRequest

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


@pytest.fixture
async def leaks() -> Leaks:
    return Leaks()


async def test_only_one_app_may_open_a_data_directory(settings: Settings, leaks: Leaks) -> None:
    async with open_app(settings) as app:
        assert "waggle setup" in str(await app.environments.not_ready())
        with pytest.raises(DataDirBusy, match=f"process {os.getpid()}") as raised:
            async with open_app(settings):
                pytest.fail("two at once")
        assert "WAGGLE_DATA_DIR" in raised.value.hint
        data = Places.of(settings).data
        assert data.stat().st_mode & 0o777 == 0o700
    async with open_app(settings):
        pass
    await leaks.settle()


async def test_leftovers_of_an_earlier_server_are_removed(settings: Settings) -> None:
    """The start ends a machine that is still the same process, and removes files and records."""
    places = Places.of(settings)
    left = [replace(environment(), state=State.RUNNING) for _ in range(2)]
    with _program() as machine:
        identity = identify(machine.pid)
        assert identity is not None
        left[0] = replace(left[0], machine=identity, ssh_port=10_001)
        # The pid is in use, but by another process, which must survive.
        other = replace(identity, pid=os.getpid())
        left[1] = replace(left[1], machine=other, ssh_port=10_002)
        for name in (*(leftover.id for leftover in left), "unknown"):
            (places.environments / name).mkdir(parents=True)
        store = await SqliteStore.open(places.state)
        for leftover in left:
            await store.save(leftover)
        await store.aclose()

        async with open_app(settings) as app:
            assert machine.wait(10) == -signal.SIGKILL
            assert app.environments.all() == []
            assert list(places.environments.iterdir()) == []
            for leftover in left:
                gone = await app.environments.destroy(leftover.id, owner=leftover.owner)
                assert (gone.state, gone.error) == (State.DESTROYED, "The server was restarted.")


def _program() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "1000"], start_new_session=True)


async def test_an_error_inside_is_raised_and_everything_is_released(
    settings: Settings, leaks: Leaks
) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_app(settings):
            raise ZeroDivisionError
    async with open_app(settings):
        pass
    await leaks.settle()


async def test_create_is_refused_after_the_app_has_ended(settings: Settings) -> None:
    async with open_app(settings) as app:
        environments = app.environments
    assert await environments.not_ready() == "The server is shutting down."
    with pytest.raises(MaxEnvironments, match="shutting down"):
        await environments.create(CreateRequest(RuntimeName.PYTHON), owner="local")


async def test_unreadable_certificates_refuse_the_start(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, ca_bundle=str(tmp_path / "none.pem"))
    with pytest.raises(SettingsInvalid, match="WAGGLE_CA_BUNDLE"):
        async with open_app(settings):
            pytest.fail("it started")
    assert list((tmp_path / "data" / "environments").iterdir()) == []


@pytest.fixture
def handlers() -> Generator[None]:
    """Assert that the test restores the signal handlers."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_serve_runs_until_a_signal(
    settings: Settings, leaks: Leaks, number: signal.Signals, handlers: None
) -> None:
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            url = await group.start(serve_http, settings)
            async with httpx2.AsyncClient(verify=NO_TLS) as http:
                assert (await http.get(f"{url}/healthz")).status_code == 200
            os.kill(os.getpid(), number)
    async with open_app(settings):
        pass  # the data directory is free
    await leaks.settle()


async def test_the_first_signal_stops_and_the_second_stops_at_once(handlers: None) -> None:
    said: list[str] = []
    signals = Signals()

    async def receive(number: signal.Signals, count: int) -> None:
        os.kill(os.getpid(), number)
        while len(logged) < count:
            await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()

    with capture_logs() as logged, anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            await group.start(signals.receive)
            await receive(signal.SIGTERM, 1)  # before `control` runs
            group.start_soon(
                signals.control, lambda: said.append("stop"), lambda: said.append("at once")
            )
            await anyio.wait_all_tasks_blocked()
            assert said == ["stop"]
            await receive(signal.SIGINT, 2)
            assert said == ["stop", "at once"]
            await receive(signal.SIGTERM, 3)  # a third signal has no meaning
            group.cancel_scope.cancel()
    assert said == ["stop", "at once"]
    assert [event["at_once"] for event in logged] == [False, True, True]
