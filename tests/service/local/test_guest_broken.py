# SPDX-License-Identifier: Apache-2.0
"""Calls to a guest whose connection breaks before the answer, as a freeze may break it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import asyncssh
import pytest
from tests.infra.ssh.peer import Peer, peer
from tests.service.local.pretended import UNABLE, PretendMachine
from tests.support.vm import environment

from waggle.domain.errors import GuestLost
from waggle.domain.files.search import Searched, SearchQuery
from waggle.domain.image import BootImage
from waggle.domain.machine import Resources
from waggle.domain.programs import HOME, Left, Program
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.net.ports import PortLease
from waggle.infra.ssh import SshConnection, new_keys
from waggle.infra.ssh.run.launcher import OutputCollector
from waggle.service.local.blueprint import Blueprint, MachineParts, StartedMachine
from waggle.service.local.guest import LocalGuest

pytestmark = pytest.mark.anyio
RUN = "00000000-1111-2222-3333-444444444444"
LEFT = Left((Program(12, "sleep 9", RUN),), 1)


class PretendLock:
    def close(self) -> None:
        pass


class Collector(OutputCollector):
    """A collector that says when something has come."""

    def __init__(self) -> None:
        super().__init__(1_000)
        self.came = anyio.Event()

    def feed(self, data: bytes) -> None:
        super().feed(data)
        self.came.set()


async def packed(guest: LocalGuest, into: Collector | None = None) -> bytes:
    into = into or Collector()
    await guest.pack_tree("/home", (), into)
    return into.output().head


def search(guest: LocalGuest) -> Awaitable[Searched]:
    return guest.search(SearchQuery("/home", name="*"))


Ask = Callable[[LocalGuest], Awaitable[object]]
Run = Callable[[asyncssh.SSHServerProcess[bytes]], Awaitable[None]]
READS: dict[str, tuple[Ask, bytes, object]] = {
    "home": (LocalGuest.home, b"/home/ann\n", "/home/ann"),
    "search": (search, b"e\0\x000\x000\x000\x000\x000\0", Searched("/home", (), "", 0, 0, 0, 0, 0)),
    "left": (LocalGuest.left_running, f"{RUN} 12 sleep 9\nall 1\n".encode(), LEFT),
    "jobs": (LocalGuest.jobs, b"all 0\n", ()),
    "pack": (packed, b"records", b"records"),
}
CHANGES: dict[str, Ask] = {
    "end": lambda guest: guest.end_program(12),
    "signal": lambda guest: guest.signal(RUN, 2),
    "input": lambda guest: guest.write_input(RUN, b"x", close=False),
    "unpack": lambda guest: guest.unpack_tree("/home", b""),
}


@asynccontextmanager
async def breaking(
    place: Path, answer: bytes, times: int, *, part: Collector | None = None
) -> AsyncGenerator[tuple[LocalGuest, Peer]]:
    """Yield a guest whose connection breaks so often, instead of its answer.

    With `part`, it breaks once a part of the answer has come there.
    """
    left = times

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            process.stdout.write(answer)
            process.exit(0)
            return
        await process.stdin.read()  # the question is whole
        if part is not None:
            process.stdout.write(answer[:3])
            await part.came.wait()
        process.channel.get_connection().abort()

    async with guest_of(place, run) as (guest, made):
        yield guest, made


@asynccontextmanager
async def guest_of(place: Path, run: Run) -> AsyncGenerator[tuple[LocalGuest, Peer]]:
    """Yield a guest whose commands `run` carries out."""
    async with peer(run) as made:
        parts = MachineParts(
            RuntimeName.SHELL,
            BootImage("x", "sha256:0", place / "image", {}),
            place / "kernel",
            place / "kit",
            Resources(1, 64, 1),
        )
        lease = PortLease(1, PretendLock(), lambda _port: None)
        guest = LocalGuest(
            StartedMachine(Blueprint(parts, {}, place), PretendMachine([]), lease),
            SshConnection(made.port, made.keys),
            None,
            keys=new_keys(),
            environment=environment(),
            directory="/home/sandbox",
            booted_from={},
            freezing=UNABLE,
        )
        try:
            yield guest, made
        finally:
            await guest.destroy()


def asked(made: Peer) -> int:
    return sum(not words.startswith("kill ") for words in made.commands)


@pytest.mark.parametrize("name", READS)
async def test_what_changes_nothing_is_asked_once_more(tmp_path: Path, name: str) -> None:
    ask, answer, meaning = READS[name]
    async with breaking(tmp_path, answer, 1) as (guest, made):
        assert await ask(guest) == meaning
        assert asked(made) == 2


@pytest.mark.parametrize("name", READS)
async def test_it_is_not_asked_again_and_again(tmp_path: Path, name: str) -> None:
    ask, answer, _ = READS[name]
    async with breaking(tmp_path, answer, 9) as (guest, made):
        with pytest.raises(GuestLost, match="connection to the guest broke"):
            await ask(guest)
        assert asked(made) == 2


@pytest.mark.parametrize("name", CHANGES)
async def test_what_may_have_changed_something_is_not_repeated_and_not_denied(
    tmp_path: Path, name: str
) -> None:
    async with breaking(tmp_path, b"", 1) as (guest, made):
        with pytest.raises(GuestLost, match="connection to the guest broke"):
            await CHANGES[name](guest)
        assert asked(made) == 1


async def test_a_tree_of_which_a_part_has_come_is_not_packed_once_more(tmp_path: Path) -> None:
    """Its reader would have that part twice."""
    into = Collector()
    async with breaking(tmp_path, b"records", 1, part=into) as (guest, made):
        with pytest.raises(GuestLost, match="connection to the guest broke"):
            await packed(guest, into)
        assert asked(made) == 1


async def test_a_home_directory_that_was_not_said_is_asked_for_again(tmp_path: Path) -> None:
    """The usual one would be a guess: files would go to the wrong place, also later."""
    answers: list[bytes | None] = [None, b"/home/ann\n"]

    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        if process.command is None or process.command.startswith("kill "):
            process.exit(0)
        elif (answer := answers.pop(0)) is None:
            process.exit_with_signal("KILL")
        else:
            process.stdout.write(answer)
            process.exit(0)

    async with guest_of(tmp_path, run) as (guest, _):
        with pytest.raises(GuestLost, match="does not say which its home") as raised:
            await guest.home()
        assert raised.value.hint.startswith("Call again.")
        for _ in range(2):
            assert await guest.home() == "/home/ann"
    assert not answers


async def test_a_guest_without_a_home_directory_has_the_usual_one(tmp_path: Path) -> None:
    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        process.exit(1)

    async with guest_of(tmp_path, run) as (guest, _):
        assert await guest.home() == HOME
