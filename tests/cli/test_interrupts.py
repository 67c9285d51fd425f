# SPDX-License-Identifier: Apache-2.0
"""Signals to the command line: which of them end the work, and answers that are still awaited."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import anyio
import anyio.lowlevel
import pytest
from tests.support.waiting import until

from waggle.cli.progress import answered, interruptible

pytestmark = pytest.mark.anyio


@pytest.fixture
def hang_up() -> Iterator[None]:
    """Ignore SIGHUP, as nohup does."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGHUP, before)


async def receive(number: signal.Signals) -> None:
    """Send this process a signal once something handles it, and give the handler time to run."""
    await until(lambda: signal.getsignal(number) is not signal.SIG_DFL)
    os.kill(os.getpid(), number)
    for _ in range(10):
        await anyio.lowlevel.checkpoint()


@pytest.mark.usefixtures("hang_up")
async def test_an_ignored_signal_stays_ignored() -> None:
    async def work() -> str:
        await receive(signal.SIGHUP)
        return "done"

    assert await interruptible(work) == "done"
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.usefixtures("hang_up")
async def test_other_signals_end_the_work_and_let_it_clean_up() -> None:
    cleaned: list[str] = []

    async def work() -> None:
        try:
            await receive(signal.SIGTERM)
            await anyio.sleep_forever()
        finally:
            cleaned.append("up")

    with pytest.raises(KeyboardInterrupt):
        await interruptible(work)
    assert cleaned == ["up"]


class Server:
    """A server that answers when `may_answer` is set, and records whether its caller gave up."""

    def __init__(self) -> None:
        self.called, self.may_answer = anyio.Event(), anyio.Event()
        self.left = False

    async def call(self) -> str:
        self.called.set()
        try:
            await self.may_answer.wait()
        except anyio.get_cancelled_exc_class():
            self.left = True
            raise
        return "made"


async def test_an_answer_after_the_cancellation_is_received() -> None:
    server, heard = Server(), list[str]()

    async def caller() -> None:
        heard.append(await answered(server.call))
        await anyio.lowlevel.checkpoint()
        heard.append("not cancelled")

    async with anyio.create_task_group() as group:
        group.start_soon(caller)
        await server.called.wait()
        group.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()
            server.may_answer.set()
    assert heard == ["made"]


async def test_the_wait_for_an_answer_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    server, heard = Server(), list[str]()

    async def caller() -> None:
        heard.append(await answered(server.call, seconds=0.01))

    async with anyio.create_task_group() as group:
        group.start_soon(caller)
        await server.called.wait()
        group.cancel_scope.cancel()
    assert (heard, server.left) == ([], True)
    assert "has not answered within 0.01 s" in capsys.readouterr().err


async def test_an_uncancelled_wait_is_unbounded(capsys: pytest.CaptureFixture[str]) -> None:
    server = Server()
    async with anyio.create_task_group() as group:
        with anyio.move_on_after(5):
            group.start_soon(_answer_late, server)
            assert await answered(server.call, seconds=0) == "made"
    assert capsys.readouterr().err == ""


async def _answer_late(server: Server) -> None:
    await server.called.wait()
    await anyio.lowlevel.checkpoint()
    server.may_answer.set()


async def test_a_failure_of_the_call_is_raised() -> None:
    async def fails() -> str:
        raise LookupError("no")

    with pytest.raises(LookupError):
        await answered(fails)
