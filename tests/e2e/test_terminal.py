# SPDX-License-Identifier: Apache-2.0
"""`waggle shell` and its websocket in a real machine: bash, job control, whole screens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.support.keyboard import Keyboard, keyboard
from tests.support.waggle_client import call, connected, create, execute
from tests.support.waggle_process import Waggle, beside, running

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]

BUSYBOX = "/.waggle/bin/busybox"
PROMPT = "READY> "


def settings(server: Waggle) -> dict[str, str]:
    return {**server.settings, "listen_addr": server.url.removeprefix("http://")}


async def line(keys: Keyboard, text: str) -> str:
    """Type a line, and return what is shown until the next prompt."""
    before = keys.seen
    keys.type(text + "\r")
    await keys.shows(PROMPT, 60)
    return keys.shown[before : keys.seen].decode(errors="replace")


async def test_a_shell_in_a_machine_is_a_terminal(tmp_path: Path) -> None:
    with running(tmp_path, {"max_environments": "2"}) as server:
        async with connected(server) as client:
            made = await create(client, "python", name="box")
        async with keyboard("shell", "box", data=server.data, settings=settings(server)) as keys:
            await keys.shows("Enter ~ . leaves it running.", 60)
            keys.type("bind 'set enable-bracketed-paste off'\r")
            keys.type(f"PS1='{PROMPT[:3]}''{PROMPT[3:]}'\r")
            await keys.shows(PROMPT)
            await check_the_terminal(keys)
            await check_signals_and_job_control(keys)
            await check_a_full_screen_program(keys)
            await check_a_pause(server, made, keys)
            keys.type("~.")
            assert await keys.ended() == 0
        async with keyboard(
            "shell", "box", "--job", "1", data=server.data, settings=settings(server)
        ) as keys:
            keys.type("echo a''gain $kept; exit 9\r")
            await keys.shows("again here")
            assert await keys.ended() == 9
        async with connected(server) as client:
            shown = await call(client, "read_job", environment_id=made, job_id=1, wait_seconds=5)
            assert (shown["status"], shown["exit_code"]) == ("exited", 9)
        code = "import sys, os; print(sys.stdin.isatty(), os.get_terminal_size(), input())"
        words = ("exec", "-t", "box", "--", "python3", "-c", code)
        async with keyboard(*words, data=server.data, settings=settings(server)) as keys:
            await keys.shows("leaves it running", 60)
            keys.type("typed\r")
            await keys.shows("True os.terminal_size(columns=100, lines=30) typed", 60)
            assert await keys.ended() == 0
        said = beside(server, "logs", "box", "1").stdout
        assert "again here" in said


async def check_the_terminal(keys: Keyboard) -> None:
    said = await line(keys, "tty; stty size; echo $TERM $COLORTERM; id -un; kept=here")
    assert re.search(r"/dev/pts/\d+\r\n30 100\r\nxterm-256color truecolor\r\nsandbox\r\n", said), (
        said
    )
    keys.resize(44, 132)
    keys.type("until stty size | grep -q '44 132'; do :; done; stty size\r")
    await keys.shows("\n44 132\r\n")
    await keys.shows(PROMPT)


async def check_signals_and_job_control(keys: Keyboard) -> None:
    keys.type("echo started; sleep 100\r")
    await keys.shows("\nstarted\r\n")
    keys.type("\x03")
    await keys.shows("^C")
    await keys.shows(PROMPT)
    assert "\n130\r\n" in await line(keys, "echo $?")
    keys.type("echo begun; sleep 100\r")
    await keys.shows("\nbegun\r\n")
    keys.type("\x1a")
    await keys.shows("Stopped")
    await keys.shows(PROMPT)
    assert "sleep 100" in await line(keys, "jobs")
    keys.type("fg\r")
    await keys.shows("sleep 100\r\n")
    keys.type("\x03")
    await keys.shows(PROMPT)


async def check_a_full_screen_program(keys: Keyboard) -> None:
    keys.type(f"{BUSYBOX} vi /tmp/written\r")
    await keys.shows("~\x1b")  # an empty line of the screen
    keys.type("ityped in vi")
    await keys.shows("typed in vi")
    keys.type("\x1b")
    await keys.shows("- /tmp/written")  # it has left its mode of inserting
    keys.type(":wq\r")
    await keys.shows(PROMPT)
    assert "\ntyped in vi\r\n" in await line(keys, "cat /tmp/written")
    keys.type(f"seq 1000 | {BUSYBOX} less\r")
    await keys.shows("40\r\n")
    keys.type("G")
    await keys.shows("1000")
    keys.type("q")
    await keys.shows(PROMPT)


async def check_a_pause(server: Waggle, made: str, keys: Keyboard) -> None:
    async with connected(server) as client:
        for to_disk in (False, True):
            await call(client, "pause_environment", environment_id=made, to_disk=to_disk)
            await keys.shows("typing resumes it")
            assert "\nhere\r\n" in await line(keys, "echo $kept")
        assert (
            await execute(client, made, "print(open('/tmp/written').read())") == "typed in vi\n\n"
        )
