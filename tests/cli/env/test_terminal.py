# SPDX-License-Identifier: Apache-2.0
"""`waggle shell` on a real pseudo-terminal, beside a server with a fake guest."""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.cli.beside import Commands
from tests.support.fakes import FakeHost
from tests.support.keyboard import Keyboard, keyboard
from tests.support.owners import ANN, guarded
from tests.support.server import Rig, Setup, serving
from tests.support.terminal import FakeShell, environment
from tests.support.waiting import until

from waggle.cli.env.terminal import Attached, Place
from waggle.cli.env.tty import Escape
from waggle.config import load
from waggle.domain.errors import SetupIncomplete
from waggle.domain.programs.guest_job import Terminal

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def shell(
    tmp_path: Path, *words: str, setup: Setup | None = None
) -> AsyncGenerator[tuple[Rig, Keyboard, str]]:
    """Run `waggle shell` in the only environment of a server."""
    setup = setup or Setup(host=FakeHost(prepare=FakeShell().prepare))
    async with serving(setup) as rig:
        made = await environment(rig)
        settings = Commands(rig, tmp_path).settings
        async with keyboard("shell", made, *words, data=tmp_path, settings=settings) as keys:
            await keys.shows("$ ")
            yield rig, keys, made


def break_connections(rig: Rig) -> None:
    for line in [*rig.server._connections._group]:
        line.transport.abort()


async def test_a_shell_is_typed_into_resized_and_exits_with_its_code(tmp_path: Path) -> None:
    async with shell(tmp_path) as (rig, keys, _):
        assert b"This is job 1. Enter ~ . leaves it running." in keys.shown
        (kept,) = rig.host.only.kept.values()
        assert kept.job.attributes.terminal == Terminal(30, 100)
        assert keys.is_raw
        keys.type("hello\r")
        await keys.shows("hello\r\n$ ")
        keys.type("\x03")
        await keys.shows("^C")
        keys.resize(50, 120)
        await until(lambda: Terminal(50, 120) in rig.host.only.sizes)
        keys.type("\rexit 7\r")
        assert await keys.ended() == 7
        assert not keys.is_raw


async def test_a_signal_that_ends_the_shell_is_the_exit_code(tmp_path: Path) -> None:
    async with shell(tmp_path) as (_, keys, _made):
        keys.type("kill SIGTERM\r")
        assert await keys.ended() == 128 + signal.SIGTERM


async def test_a_shell_is_left_and_attached_to_again(tmp_path: Path) -> None:
    async with shell(tmp_path) as (rig, keys, made):
        keys.type("first\r")
        await keys.shows("first\r\n$ ")
        keys.type("~.")
        assert await keys.ended() == 0
        assert f"'waggle shell {made} --job 1' attaches to it again".encode() in keys.shown
        assert rig.services.jobs.running(made) == 1
        settings = Commands(rig, tmp_path).settings
        async with keyboard("shell", made, "--job", "1", data=tmp_path, settings=settings) as again:
            await again.shows("first\r\n$ ")
            again.type("exit 0\r")
            assert await again.ended() == 0


async def test_a_broken_connection_is_made_again_where_it_was(tmp_path: Path) -> None:
    async with shell(tmp_path) as (rig, keys, _):
        keys.type("before\r")
        await keys.shows("before\r\n$ ")
        for number in range(3):
            break_connections(rig)
            await keys.shows("The connection broke")
            await keys.shows("Attached again.")
            keys.type(f"again{number}\r")
            await keys.shows(f"again{number}\r\n$ ")
        assert keys.shown.count(b"before") == 1
        keys.type("exit 0\r")
        assert await keys.ended() == 0
        assert rig.services.jobs.running(next(iter(rig.host.guests))) == 0


async def test_ctrl_c_gives_up_a_server_that_is_gone(tmp_path: Path) -> None:
    async with shell(tmp_path) as (rig, keys, _):
        rig.server.stop()
        await keys.shows("The connection broke")
        keys.type("\x03")
        assert await keys.ended() == 130
        assert not keys.is_raw


async def test_a_terminal_that_hangs_up_hangs_up_the_shell(tmp_path: Path) -> None:
    async with shell(tmp_path) as (rig, keys, _):
        keys.process.send_signal(signal.SIGHUP)
        assert await keys.ended() == 128 + signal.SIGHUP
        assert [number for _, number in rig.host.only.signals] == [signal.SIGHUP]


async def test_a_server_that_does_not_come_back_is_given_up(tmp_path: Path) -> None:
    async with serving(Setup(host=FakeHost(prepare=FakeShell().prepare))) as rig:
        made = await environment(rig)
        address = rig.url.removeprefix("http://")
    settings = load({"WAGGLE_LISTEN_ADDR": address, "WAGGLE_DATA_DIR": str(tmp_path)})
    attached = Attached(settings, Place(made, "box", job=1, offset=5), again_seconds=0.3)
    with pytest.raises(SetupIncomplete, match="connection is lost") as refused:
        await attached._reconnect()
    assert "'waggle shell box --job 1' attaches again" in refused.value.hint


async def test_what_is_piped_in_is_typed_and_then_the_end(tmp_path: Path) -> None:
    async with serving(Setup(host=FakeHost(prepare=FakeShell().prepare))) as rig:
        made = await environment(rig)
        commands = Commands(rig, tmp_path)
        status, out, err = await commands("shell", made, stdin="hi\rexit 3\r")
        assert (status, err) == (3, "")
        assert out.startswith("$ hi")


async def test_a_program_may_have_this_terminal(tmp_path: Path) -> None:
    async with serving(Setup(host=FakeHost(prepare=FakeShell().prepare))) as rig:
        made = await environment(rig)
        commands = Commands(rig, tmp_path)
        words = ("exec", "-t", "--env", "TERM=vt100", made, "--", "app", "-x")
        async with keyboard(*words, data=tmp_path, settings=commands.settings) as keys:
            await keys.shows("$ ")
            keys.type("typed\r")
            await keys.shows("typed\r\n$ ")
            keys.type("exit 4\r")
            assert await keys.ended() == 4
        (command,) = rig.host.only.commands
        assert command.argv == ("app", "-x")
        assert command.env == {"TERM": "vt100", "COLORTERM": "truecolor"}
        assert rig.host.only.sizes == [Terminal(30, 100)]
        status, _, err = await commands("exec", "-t", made, "--", "app")
        assert (status, "must be a terminal" in err) == (2, True)


async def test_refusals_are_shown_as_those_of_other_commands(tmp_path: Path) -> None:
    setup = guarded()
    setup.host = FakeHost(prepare=FakeShell().prepare)
    async with serving(setup) as rig:
        made = await environment(rig, ANN)
        with_token = Commands(rig, tmp_path, token=ANN)
        assert await with_token("shell", made, "--job", "9") == (
            1,
            "",
            f"waggle: There is no job 9 in environment {made}.\n",
        )
        status, _, err = await Commands(rig, tmp_path)("shell", made)
        assert (status, "requires a token" in err) == (1, True)
        status, _, err = await with_token("shell", "nobody")
        assert (status, "There is no environment 'nobody'" in err) == (1, True)
        status, out, _ = await with_token("shell", made, stdin="exit 0\r")
        assert (status, out[:2]) == (0, "$ ")


@pytest.mark.parametrize(
    "typed, passed, detached",
    [
        ([b"~."], b"", True),
        ([b"ls\r~.", b"x"], b"ls\r", True),
        ([b"ls\n", b"~", b"."], b"ls\n", True),
        ([b"ls ~."], b"ls ~.", False),
        ([b"~", b"~."], b"~.", False),
        ([b"~a", b"~."], b"~a~.", False),
        ([b"~\r~."], b"~\r", True),
        ([b"", b"~"], b"", False),
        ([bytes(range(127))], bytes(range(127)), False),
    ],
)
def test_the_escape_is_at_the_beginning_of_a_line(
    typed: list[bytes], passed: bytes, detached: bool
) -> None:
    escape, got, found = Escape(), b"", False
    for piece in typed:
        if not found:
            more, found = escape.feed(piece)
            got += more
    assert (got, found) == (passed, detached)
