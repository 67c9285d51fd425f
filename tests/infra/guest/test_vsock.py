# SPDX-License-Identifier: Apache-2.0
"""Both ways of vsock through a VMM that may do anything: to the guest's ports, and its console."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.infra.guest.hybrid import NAME, Vmm, answering
from tests.support.waiting import cancelled, until

from waggle.infra.guest.console import Console
from waggle.infra.guest.vsock import CONSOLE_PORT, ConsoleListener, VsockDoor

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
CALL = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.recv(1)"
LISTEN = """
import socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
connection, _ = listener.accept()
print(connection.recv(100), flush=True)
"""


@pytest.fixture
async def place(nothing_left: None, tmp_path: Path) -> AsyncGenerator[tuple[Path, int]]:
    """A directory whose path is longer than that of a Unix socket can be, and its descriptor."""
    directory = tmp_path / ("long" * 30)
    directory.mkdir()
    short = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    yield Path(f"/proc/self/fd/{short}"), short
    os.close(short)


@pytest.fixture
async def vmm(place: tuple[Path, int]) -> AsyncGenerator[Vmm]:
    made = Vmm(place[0])
    await made.start()
    yield made
    await made.close()


def door(place: tuple[Path, int], seconds: float = 20.0) -> VsockDoor:
    return VsockDoor(place[1], NAME, os.getpid(), seconds=seconds)


class TestDoor:
    """The server calls the guest."""

    async def test_a_port_is_reached_and_what_follows_the_answer_is_the_guests(
        self, vmm: Vmm, place: tuple[Path, int]
    ) -> None:
        vmm.guest[24] = answering(b"OK 1073741824\nSSH-2.0")
        with await door(place).dial(24) as guest:
            assert await asyncio.get_running_loop().sock_recv(guest, 100) == b"SSH-2.0"
        assert vmm.said == [b"CONNECT 24\n"]

    async def test_the_forwarder_gets_the_ssh_server(
        self, vmm: Vmm, place: tuple[Path, int]
    ) -> None:
        vmm.guest[22] = answering(b"OK 5\nx")
        async with door(place).connect() as guest:
            assert await asyncio.get_running_loop().sock_recv(guest, 100) == b"x"
        assert guest.fileno() < 0

    async def test_a_guest_that_does_not_listen_refuses(
        self, vmm: Vmm, place: tuple[Path, int]
    ) -> None:
        with pytest.raises(ConnectionRefusedError, match="does not listen on port 24"):
            await door(place).dial(24)

    @pytest.mark.parametrize(
        "answer",
        [
            b"\n",
            b"OK\n",
            b"OK \n",
            b"OK x\n",
            b"OK -1\n",
            b"ok 1\n",
            b"OK 1 2\n",
            b"OK 1\r\n",
            b"\0" * 32,
            b"OK " + b"1" * 29,
            b"OK " + b"1" * 5000 + b"\n",
            b"OK \xb2\n",
        ],
    )
    async def test_another_answer_is_none(
        self, vmm: Vmm, place: tuple[Path, int], answer: bytes
    ) -> None:
        vmm.guest[24] = answering(answer)
        with pytest.raises(ConnectionAbortedError):
            await door(place).dial(24)

    @pytest.mark.parametrize("part", [b"", b"O", b"OK 1"])
    async def test_a_part_of_an_answer_is_waited_for_until_the_deadline(
        self, vmm: Vmm, place: tuple[Path, int], part: bytes
    ) -> None:
        vmm.guest[24] = answering(part)
        with pytest.raises(TimeoutError):
            await door(place, seconds=0.1).dial(24)

    async def test_a_dial_that_is_cancelled_leaves_nothing(
        self, vmm: Vmm, place: tuple[Path, int]
    ) -> None:
        vmm.guest[24] = answering(b"OK")
        dialling = asyncio.create_task(door(place).dial(24))
        await until(lambda: bool(vmm.said))
        await cancelled(dialling)

    @pytest.mark.parametrize("kind", ["nothing", "file", "fifo", "directory", "loop"])
    async def test_something_else_in_the_sockets_place_is_an_error(
        self, place: tuple[Path, int], kind: str
    ) -> None:
        path = place[0] / NAME
        match kind:
            case "file":
                path.touch()
            case "fifo":
                os.mkfifo(path)
            case "directory":
                path.mkdir()
            case "loop":
                path.symlink_to(NAME)
            case _:
                pass
        with pytest.raises(OSError, match=r"Errno|is no socket"):
            await door(place).dial(24)

    async def test_another_process_behind_the_socket_receives_no_byte(
        self, place: tuple[Path, int], tmp_path: Path
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        stranger = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", LISTEN, str(elsewhere)), stdout=subprocess.PIPE
        )
        assert stranger.stdout is not None
        assert await stranger.stdout.readline() == b"listening\n"
        os.link(elsewhere, place[0] / NAME)  # a path of its own would be too long
        with pytest.raises(ConnectionAbortedError, match="another process"):
            await door(place).dial(24)
        assert await stranger.stdout.readline() == b"b''\n"
        assert await stranger.wait() == 0


class Heard:
    """A console and the listener that feeds it."""

    def __init__(self, place: tuple[Path, int], log: Path) -> None:
        self.listener = ConsoleListener(place[1], NAME)
        self.console = Console(log)

    def start(self) -> None:
        self.listener.follow(self.console, os.getpid())

    async def hears(self, line: str) -> None:
        await until(lambda: line in self.console.tail())

    async def close(self) -> None:
        await self.listener.close()
        self.console.close()


@pytest.fixture
async def heard(place: tuple[Path, int], vmm: Vmm, tmp_path: Path) -> AsyncGenerator[Heard]:
    made = Heard(place, tmp_path / "console.log")
    yield made
    await made.close()


async def is_closed(caller: socket.socket) -> None:
    caller.setblocking(False)
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            assert await asyncio.get_running_loop().sock_recv(caller, 1) == b""


class TestConsole:
    """The guest calls the server."""

    async def test_a_caller_before_the_start_waits_and_is_heard(
        self, heard: Heard, vmm: Vmm
    ) -> None:
        vmm.call().send(b"early\nwaggle: ready\n")
        heard.start()
        await asyncio.wait_for(heard.console.ready.wait(), 10)
        assert heard.console.tail() == ["early", "waggle: ready"]

    async def test_while_one_is_heard_no_other_takes_its_place(
        self, heard: Heard, vmm: Vmm
    ) -> None:
        heard.start()
        first = vmm.call()
        first.send(b"mine\n")
        await heard.hears("mine")
        other = vmm.call()
        other.send(b"Kernel panic - not at all\n")
        await is_closed(other)
        first.send(b"still mine\n")
        await heard.hears("still mine")
        assert heard.console.cause is None

    async def test_a_guest_that_calls_again_goes_on_with_a_new_line(
        self, heard: Heard, vmm: Vmm
    ) -> None:
        heard.start()
        first = vmm.call()
        first.send(b"cut")
        await heard.hears("cut")
        first.close()
        vmm.call().send(b"again\n")
        await heard.hears("again")
        assert heard.console.tail() == ["cut", "again"]

    async def test_after_a_drop_the_next_caller_is_the_console(
        self, heard: Heard, vmm: Vmm
    ) -> None:
        heard.start()
        first = vmm.call()
        first.send(b"before\n")
        await heard.hears("before")
        heard.listener.drop()
        heard.listener.drop()
        vmm.call().send(b"after\n")
        await heard.hears("after")
        await is_closed(first)

    async def test_another_process_is_not_heard(
        self, heard: Heard, vmm: Vmm, place: tuple[Path, int]
    ) -> None:
        heard.start()
        path = place[0].readlink().parent
        (path / "s").symlink_to(place[0].readlink())
        stranger = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", CALL, str(path / "s" / f"{NAME}_{CONSOLE_PORT}"))
        )
        async with asyncio.timeout(20):
            assert await stranger.wait() == 0  # it was closed
        vmm.call().send(b"the guest\n")
        await heard.hears("the guest")

    async def test_callers_without_end_are_closed_slowly_and_cost_the_console_nothing(
        self, heard: Heard, vmm: Vmm
    ) -> None:
        heard.start()
        first = vmm.call()
        first.send(b"first\n")
        await heard.hears("first")
        began = asyncio.get_running_loop().time()
        for _ in range(100):
            (await asyncio.to_thread(vmm.call)).close()
        assert asyncio.get_running_loop().time() - began > 0.5
        first.send(b"undisturbed\n")
        await heard.hears("undisturbed")

    async def test_callers_that_close_at_once_leave_nothing(self, heard: Heard, vmm: Vmm) -> None:
        heard.start()
        for _ in range(30):
            caller = await asyncio.to_thread(vmm.call)
            caller.send(b"x")
            caller.close()
        (await asyncio.to_thread(vmm.call)).send(b"\nlast\n")
        await heard.hears("last")

    async def test_what_a_dead_vmm_left_in_the_queue_is_read(self, heard: Heard, vmm: Vmm) -> None:
        heard.start()
        for line in (b"one\n", b"two\n", b"three"):
            caller = vmm.call()
            caller.send(line)
            caller.close()
        async with asyncio.timeout(10):
            await heard.listener.drain()
            await heard.listener.drain()
        assert heard.console.tail() == ["one", "two", "three"]

    async def test_close_may_come_at_any_time(self, heard: Heard, vmm: Vmm) -> None:
        await heard.listener.close()
        await heard.listener.close()
        await heard.listener.drain()

    async def test_close_drops_a_caller(self, heard: Heard, vmm: Vmm) -> None:
        heard.start()
        caller = vmm.call()
        caller.send(b"here\n")
        await heard.hears("here")
        await heard.listener.close()
        await is_closed(caller)

    async def test_only_the_vmms_user_can_call(self, place: tuple[Path, int]) -> None:
        user = 1_900_000_123 if os.geteuid() == 0 else None
        listener = ConsoleListener(place[1], NAME, user)
        state = (place[0] / f"{NAME}_{CONSOLE_PORT}").stat()
        await listener.close()
        assert stat.S_IMODE(state.st_mode) == 0o600
        assert state.st_uid == (os.geteuid() if user is None else user)

    async def test_a_link_in_the_sockets_place_changes_no_other_file(
        self, place: tuple[Path, int], tmp_path: Path
    ) -> None:
        """A VMM that was taken over may put one there at any instant."""
        other, trap = tmp_path / "other", place[0] / "trap"
        other.touch(0o644)
        own = place[0] / f"{NAME}_{CONSOLE_PORT}"
        over = threading.Event()

        def swap() -> None:
            while not over.is_set():
                trap.unlink(missing_ok=True)
                trap.symlink_to(other)
                while not over.is_set() and not os.path.lexists(own):
                    pass
                trap.replace(own)

        with ThreadPoolExecutor(1) as thread:
            swapping = thread.submit(swap)
            try:
                for _ in range(100):
                    with contextlib.suppress(OSError):
                        await ConsoleListener(place[1], NAME).close()
                    own.unlink(missing_ok=True)
            finally:
                over.set()
            swapping.result()
        assert stat.S_IMODE(other.stat().st_mode) == 0o644

    async def test_a_drain_that_goes_on_while_it_is_closed_listens_no_more(
        self, heard: Heard, vmm: Vmm
    ) -> None:
        heard.start()
        vmm.call().send(b"here\n")
        await heard.hears("here")
        draining = asyncio.create_task(heard.listener.drain())
        await asyncio.sleep(0)
        vmm.call().close()
        errors: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        await heard.listener.close()
        async with asyncio.timeout(10):
            await draining
        passed = asyncio.Event()
        loop.call_later(0.05, passed.set)  # after the pause of an accept
        await passed.wait()
        assert errors == []

    async def test_a_socket_that_exists_is_not_taken_over(self, place: tuple[Path, int]) -> None:
        first = ConsoleListener(place[1], NAME)
        with pytest.raises(OSError, match="in use"):
            ConsoleListener(place[1], NAME)
        await first.close()
