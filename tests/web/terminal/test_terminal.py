# SPDX-License-Identifier: Apache-2.0
"""A terminal over a real websocket: typing, resizing, its end, attaching again, pauses."""

from __future__ import annotations

import signal

import pytest
from tests.support.fakes import FakeHost
from tests.support.server import Setup, serving
from tests.support.terminal import FakeShell, attached, environment
from tests.support.waiting import until

from waggle.domain.errors import GuestLost
from waggle.domain.observer import OK, Call, Observer
from waggle.domain.programs import GuestUser
from waggle.domain.programs.guest_job import Terminal
from waggle.domain.programs.job import JobKind, JobState

pytestmark = pytest.mark.anyio


def with_shell(shell: FakeShell | None = None) -> Setup:
    return Setup(host=FakeHost(prepare=(shell or FakeShell()).prepare))


async def test_a_shell_runs_in_a_terminal_of_the_clients_size_until_it_exits() -> None:
    shell = FakeShell()
    async with serving(with_shell(shell)) as rig:
        made = await environment(rig)
        async with attached(rig, made, rows=40, columns=132) as screen:
            assert screen.texts[0] == {"job": 1, "offset": 0}
            await screen.type("hello\r")
            await screen.shows("hello\r\n$ ")
            (kept,) = rig.host.only.kept.values()
            assert kept.job.attributes.terminal == Terminal(40, 132)
            await screen.type("exit 7\r")
            assert await screen.closed() == 1000
        assert screen.texts[-1] == {"exit": 7}
        (command,) = shell.commands
        assert command.argv == ("{login}", "-l")
        assert command.user is GuestUser.SANDBOX
        assert command.env["TERM"] == "xterm-256color"


async def test_root_has_a_shell_as_well() -> None:
    shell = FakeShell()
    async with serving(with_shell(shell)) as rig:
        async with attached(rig, await environment(rig), user="root") as screen:
            await screen.shows("$ ")
        assert shell.commands[0].user is GuestUser.ROOT


async def test_a_shell_that_a_signal_ends_is_reported_by_its_name() -> None:
    async with serving(with_shell()) as rig:
        async with attached(rig, await environment(rig)) as screen:
            await screen.shows("$ ")
            await screen.type("kill SIGHUP\r")
            assert await screen.closed() == 1000
        assert screen.texts[-1] == {"signal": "SIGHUP"}


async def test_sizes_and_signals_reach_the_guest() -> None:
    async with serving(with_shell()) as rig:
        async with attached(rig, await environment(rig)) as screen:
            await screen.shows("$ ")
            await screen.control(resize=[50, 200])
            await screen.control(signal="INT")
            await screen.type("\x03")
            await screen.shows("^C")
        guest = rig.host.only
        assert guest.sizes == [Terminal(50, 200)]
        assert [number for _, number in guest.signals] == [signal.SIGINT]


async def test_a_terminal_goes_on_without_clients_and_is_attached_to_again() -> None:
    async with serving(with_shell()) as rig:
        made = await environment(rig)
        async with attached(rig, made) as screen:
            await screen.type("one\r")
            await screen.shows("one\r\n$ ")
            screen.socket.transport.abort()  # the connection breaks
        seen = len(screen.data)
        async with attached(rig, made, job=screen.job, offset=seen) as again:
            assert again.texts[0] == {"job": screen.job, "offset": seen}
            await again.type("two\r")
            await again.shows("two\r\n$ ")
            assert b"one" not in again.data
            async with attached(rig, made, job=screen.job, rows=9, columns=9) as third:
                await third.shows("one\r\n$ two\r\n$ ")
                await again.type("three\r")
                await third.shows("three")
            await again.shows("three")
        assert rig.host.only.sizes == [Terminal(9, 9)]


async def test_an_ended_terminal_shows_its_output_and_end_again() -> None:
    async with serving(with_shell()) as rig:
        made = await environment(rig)
        async with attached(rig, made) as screen:
            await screen.type("exit 3\r")
            await screen.closed()
        async with attached(rig, made, job=1, offset=0) as again:
            assert await again.closed() == 1000
            assert again.data == screen.data
            assert again.texts[-1] == {"exit": 3}


async def test_a_pause_is_reported_and_typing_ends_it() -> None:
    async with serving(with_shell()) as rig:
        made = await environment(rig)
        async with attached(rig, made) as screen:
            await screen.shows("$ ")
            await rig.services.environments.pause(made, owner="local", to_disk=False)
            await screen.says(paused=True)
            await screen.control(resize=[10, 10])
            async with attached(rig, made, job=1, offset=0) as other:
                await other.says(paused=True)
                await screen.type("up\r")
                await screen.says(paused=False)
                await screen.shows("up\r\n$ ")
                await other.says(paused=False)
        assert rig.host.only.sizes == [], "a window that changes its size resumes nothing"


async def test_a_destroyed_environment_ends_its_terminals() -> None:
    async with serving(with_shell()) as rig:
        made = await environment(rig)
        async with attached(rig, made) as screen:
            await screen.shows("$ ")
            await rig.services.environments.destroy(made, owner="local")
            assert await screen.closed() == 4001
        assert screen.texts[-1] == {"lost": "The environment is being destroyed."}


async def test_a_lost_guest_is_reported_as_such() -> None:
    async with serving(with_shell()) as rig:
        made = await environment(rig)
        async with attached(rig, made) as screen:
            await screen.shows("$ ")
            (job,) = rig.services.jobs.newest(made, 1, owner="local")
            job.lose(GuestLost("It is gone."))
            assert await screen.closed() == 4001
        assert screen.texts[-1] == {"lost": "It is gone."}


async def test_a_program_that_takes_no_input_does_not_end_the_conversation() -> None:
    async with serving(with_shell()) as rig, attached(rig, await environment(rig)) as screen:
        await screen.shows("$ ")
        rig.host.only.write_error = GuestLost("The guest does not answer about its jobs.")
        await screen.type("x")
        await screen.says(error="The guest does not answer about its jobs.")
        rig.host.only.write_error = None
        await screen.type("y\r")
        await screen.shows("y\r\n$ ")


async def test_a_terminal_is_a_job_that_is_no_work() -> None:
    async with serving(with_shell()) as rig:
        made = await environment(rig)
        async with attached(rig, made) as screen:
            await screen.shows("$ ")
            (job,) = rig.services.jobs.newest(made, 1, owner="local")
            assert job.what.kind is JobKind.TERMINAL
            assert not job.is_work
            await rig.services.jobs.kill(job, owner="local")
            assert await screen.closed() == 1000
        assert screen.texts[-1] == {"signal": "SIGKILL"}
        assert job.state is JobState.KILLED


class Heard(Observer):
    def __init__(self) -> None:
        self.calls: list[Call] = []

    def call_ended(self, call: Call) -> None:
        self.calls.append(call)


async def test_opening_is_observed_and_typing_is_not() -> None:
    heard = Heard()
    setup = with_shell()
    setup.observer = heard
    async with serving(setup) as rig:
        made = await environment(rig)
        heard.calls.clear()
        async with attached(rig, made) as screen:
            await screen.type("secret\r")
            await screen.shows("secret")
        (call,) = heard.calls
    assert (call.method, call.outcome, call.environment_id) == ("terminal", OK, made)
    assert (call.owner, call.address, call.program) == ("local", "127.0.0.1", None)


async def test_a_server_that_stops_says_so() -> None:
    async with serving(with_shell()) as rig, attached(rig, await environment(rig)) as screen:
        await screen.shows("$ ")
        rig.server.stop()
        assert await screen.closed() == 1012


async def test_connections_are_counted_while_they_last() -> None:
    async with serving(with_shell()) as rig:
        made = await environment(rig)
        await until(lambda: rig.server.connections == 0)
        async with attached(rig, made):
            assert rig.server.connections == 1
        await until(lambda: rig.server.connections == 0)
