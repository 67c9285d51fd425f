# SPDX-License-Identifier: Apache-2.0
"""A guest of this host whose machine or SSH server fails, or is silent."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from tests.infra.ssh.peer import peer
from tests.service.local.pretended import UNABLE, PretendMachine, PretendProxy
from tests.support.guest import FakeTurn
from tests.support.hostile_ssh import hostile
from tests.support.in_turn import pause_to_disk
from tests.support.vm import environment
from tests.support.waiting import until

from waggle.domain.errors import BootFailed, Busy, GuestLost, GuestMisbehaves, TimedOut, WaggleError
from waggle.domain.host import NoMemory, Turn
from waggle.domain.image import BootImage
from waggle.domain.machine import Resources
from waggle.domain.programs import Command
from waggle.domain.programs.runtime import RuntimeName
from waggle.infra.net.ports import PortLease
from waggle.infra.ssh import SshConnection, new_keys
from waggle.infra.ssh.asyncssh_internals import open_exec
from waggle.infra.ssh.run.launcher import CommandSession
from waggle.service.local.blueprint import Blueprint, MachineParts, StartedMachine
from waggle.service.local.frozen import Freezing
from waggle.service.local.guest import LocalGuest

pytestmark = pytest.mark.anyio


class PretendLock:
    def close(self) -> None:
        pass


class AtOnce:
    """A way to freeze machines whose turn is always at once."""

    keeps_connections = True

    @contextlib.asynccontextmanager
    async def turn(self, _started: StartedMachine) -> AsyncGenerator[FakeTurn]:
        yield FakeTurn()


class TestGuest:
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.directory = tmp_path

    def make(
        self,
        machine: PretendMachine,
        log: list[str],
        connection: SshConnection | None = None,
        freezing: Freezing = UNABLE,
    ) -> LocalGuest:
        files = Path(tempfile.mkdtemp(dir=self.directory))
        resources = Resources(1, 64, 1)
        image = BootImage("x", "sha256:0", files / "image", {})
        parts = MachineParts(RuntimeName.SHELL, image, files / "kernel", files / "kit", resources)
        blueprint = Blueprint(parts, {}, files)

        def forget(_port: int) -> None:
            log.append("port, files remain" if files.exists() else "files and port")

        return LocalGuest(
            StartedMachine(blueprint, machine, PortLease(1, PretendLock(), forget)),
            connection or SshConnection(1, new_keys()),
            PretendProxy(log),
            keys=new_keys(),
            environment=environment(),
            directory="/home/sandbox",
            booted_from={},
            freezing=freezing,
        )

    async def test_the_agent_of_a_paused_machine_is_not_lost(self) -> None:
        class Fails(AtOnce):
            async def pause_to_disk(
                self, _started: StartedMachine, hang_up: Any, _turn: Turn
            ) -> None:
                await hang_up()
                raise BootFailed("The machine could not be frozen.")

        guest = self.make(PretendMachine([]), [], freezing=cast("Freezing", Fails()))
        for pause in (guest.pause, partial(guest.pause_to_disk, FakeTurn())):
            with pytest.raises(WaggleError):
                await pause()
            assert (await guest.report(), await guest.load()) == (None, None)
            with pytest.raises(GuestLost):
                await guest.unpause()  # it runs in any case
            for ask in (guest.report, guest.load):
                with pytest.raises(GuestLost):
                    await ask()

    async def test_a_guest_without_memory_to_freeze_it_is_asked_as_before(self) -> None:
        class Refuses(AtOnce):
            async def pause_to_disk(
                self, _started: StartedMachine, hang_up: Any, _turn: Turn
            ) -> None:
                raise NoMemory("0 MiB are available.")

        guest = self.make(PretendMachine([]), [], freezing=cast("Freezing", Refuses()))
        with pytest.raises(NoMemory):
            await guest.pause_to_disk(FakeTurn())
        with pytest.raises(GuestLost, match="agent does not answer"):
            await guest.report()

    async def test_the_agent_of_a_machine_that_is_copied_is_not_lost(self) -> None:
        class Slow(AtOnce):
            @contextlib.asynccontextmanager
            async def freeze(self, _started: StartedMachine, _turn: Turn) -> AsyncGenerator[str]:
                said.append(await guest.report())
                yield "frozen"

        said: list[object] = []
        guest = self.make(PretendMachine([]), [], freezing=cast("Freezing", Slow()))
        async with guest.freeze(FakeTurn()):
            assert said == [None]
            with pytest.raises(GuestLost):
                await guest.report()  # its machine goes on while the copy is kept

    @pytest.mark.parametrize("fails", [False, True])
    async def test_a_guest_whose_freeze_breaks_its_connection_has_its_network_again(
        self, fails: bool
    ) -> None:
        """Nobody calls it: its programs use the proxy."""

        class Breaking(AtOnce):
            keeps_connections = False

            @contextlib.asynccontextmanager
            async def freeze(self, _started: StartedMachine, _turn: Turn) -> AsyncGenerator[str]:
                first.abort()
                await first.wait_closed()
                if fails:
                    raise BootFailed("The machine could not be frozen.")
                yield "frozen"

        async with peer(forwards=True) as made:
            connection = SshConnection(made.port, made.keys, proxy=PretendProxy([]).serve)
            freezing = cast("Freezing", Breaking())
            guest = self.make(PretendMachine([]), [], connection, freezing)
            first = await connection.get()
            with pytest.raises(BootFailed) if fails else contextlib.nullcontext():
                async with guest.freeze(FakeTurn()):
                    pass
            await until(lambda: made.connections == 2)
            await guest.destroy()
            connection.reconnect()
            with pytest.raises(GuestLost, match="is being destroyed"):
                await connection.get()
        assert made.connections == 2

    @pytest.mark.parametrize("how", ["freeze", "pause", "pause_to_disk"])
    @pytest.mark.parametrize("dies", [False, True])
    async def test_a_guest_that_is_late_is_not_said_to_have_lost_its_files(
        self, how: str, dies: bool
    ) -> None:
        """Unless its machine died of it."""

        class Late(PretendMachine):
            async def pause(self) -> None:
                if dies:
                    self.dead.set()
                raise GuestLost("The guest does not answer within 30 s.")

        class Freezes(AtOnce):
            async def pause_to_disk(
                self, started: StartedMachine, hang_up: Any, _turn: Turn
            ) -> None:
                await hang_up()
                await started.machine.pause()

            @contextlib.asynccontextmanager
            async def freeze(self, started: StartedMachine, _turn: Turn) -> AsyncGenerator[str]:
                await started.machine.pause()
                yield "frozen"

        guest = self.make(Late([]), [], freezing=cast("Freezing", Freezes()))

        async def frozen() -> None:
            async with guest.freeze(FakeTurn()):
                pass

        to_disk = partial(guest.pause_to_disk, FakeTurn())
        work = {"freeze": frozen, "pause": guest.pause, "pause_to_disk": to_disk}
        with pytest.raises(GuestLost, match="died" if dies else "within 30 s") as raised:
            await work[how]()
        said = "create a new environment" if dies else "restart_environment boots it again with its"
        assert said in raised.value.hint

    async def test_nothing_is_sent_to_a_machine_that_is_copied(self) -> None:
        """Its copy would have it, too, and answer that when it is given its identity."""

        class Held(AtOnce):
            @contextlib.asynccontextmanager
            async def freeze(self, _started: StartedMachine, _turn: Turn) -> AsyncGenerator[str]:
                began.set()
                await goes_on.wait()
                yield "frozen"

        class Renewed(PretendMachine):
            async def renew(self, records: Mapping[str, bytes]) -> None:
                self.log.extend(records)

        began, goes_on = anyio.Event(), anyio.Event()
        sent: list[str] = []
        guest = self.make(Renewed(sent), [], freezing=cast("Freezing", Held()))

        async def copy() -> None:
            async with guest.freeze(FakeTurn()):
                pass

        copying = asyncio.create_task(copy())
        await began.wait()
        telling = asyncio.create_task(guest.renew_network())
        await anyio.wait_all_tasks_blocked()
        assert sent == []
        goes_on.set()
        await asyncio.gather(telling, copying)
        assert sent == ["network"]

    async def test_a_machine_that_has_its_turn_does_not_wait_for_a_silent_guest(self) -> None:
        """Few have a turn at once, and a guest may be asked again and again."""

        class Silent(PretendMachine):
            async def renew(self, records: Mapping[str, bytes]) -> None:
                asked.set()
                await anyio.sleep_forever()

        asked = anyio.Event()
        guest = self.make(Silent([]), [], freezing=cast("Freezing", AtOnce()))
        telling = [asyncio.create_task(guest.renew_network()) for _ in range(3)]
        await asked.wait()
        with anyio.fail_after(10), pytest.raises(Busy, match="given its network") as refused:
            async with guest.freeze(FakeTurn()):
                pytest.fail("it is asked something")
        assert "Nothing was disturbed" in refused.value.hint
        for task in telling:
            task.cancel()
        await asyncio.gather(*telling, return_exceptions=True)

    async def test_a_machine_that_waits_for_its_turn_is_used_as_before(self) -> None:
        """Others freeze theirs meanwhile, for seconds."""

        class Waits(AtOnce):
            @contextlib.asynccontextmanager
            async def turn(self, _started: StartedMachine) -> AsyncGenerator[FakeTurn]:
                waits.set()
                await anyio.sleep_forever()
                yield FakeTurn()

        class Renewed(PretendMachine):
            async def renew(self, records: Mapping[str, bytes]) -> None:
                self.log.extend(records)

        sent: list[str] = []
        guest = self.make(Renewed(sent), [], freezing=cast("Freezing", Waits()))

        waits = anyio.Event()
        waiting = asyncio.create_task(pause_to_disk(guest))
        await waits.wait()
        with anyio.fail_after(10):
            await guest.renew_network()
            with pytest.raises(GuestLost, match="agent does not answer"):
                await guest.report()  # it is asked
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert sent.count("network") == 1

    async def test_a_destroy_releases_everything_once_the_machine_is_dead(self) -> None:
        log: list[str] = []
        guest = self.make(PretendMachine(log), log)
        for _ in range(2):
            await guest.destroy()
        assert log == ["machine", "proxy", "files and port", "machine", "proxy"]

    async def test_a_machine_that_does_not_die_keeps_its_port_for_a_retry(self) -> None:
        log: list[str] = []
        guest = self.make(PretendMachine(log, stubborn=2), log)
        for _ in range(2):
            with pytest.raises(TimedOut):
                await guest.destroy()
        assert not any("port" in entry for entry in log)
        await guest.destroy()
        assert log[-3:] == ["machine", "proxy", "files and port"]

    async def test_a_cancelled_destroy_still_finishes(self) -> None:
        log: list[str] = []
        guest = self.make(PretendMachine(log), log)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await guest.destroy()
        assert log == ["machine", "proxy", "files and port"]

    async def test_a_guest_whose_ssh_server_floods_is_reported_until_it_is_destroyed(self) -> None:
        log: list[str] = []
        async with hostile() as (port, keys):
            connection = SshConnection(port, keys)
            guest = self.make(PretendMachine(log), log, connection)
            errors: list[GuestMisbehaves] = []
            guest.when_misbehaves(errors.append)
            session = CommandSession(100)
            await open_exec(await connection.get(), session, "attack debug", window=100_000)
            await session.ended.wait()
            for _ in range(2):
                with pytest.raises(GuestMisbehaves, match="over 1,000 control packets") as raised:
                    await guest.run(Command(("true",), 5.0, 100))
                assert raised.value.code == "guest_misbehaves"
                assert "Destroy it" in raised.value.hint
            assert ["over 1,000 control packets" in error.message for error in errors] == [True]
            await guest.destroy()
        assert log[0] == "machine"

    async def test_a_call_interrupted_by_a_destroy_says_so(self) -> None:
        log: list[str] = []
        async with hostile() as (port, keys):
            connection = SshConnection(port, keys)
            guest = self.make(PretendMachine(log), log, connection)
            await connection.get()
            calls = [
                asyncio.create_task(guest.list_files("/")),
                asyncio.create_task(guest.report()),
            ]
            for _ in range(2):
                await guest.destroy()
            for call in calls:
                with pytest.raises(GuestLost) as raised:
                    await call
                assert raised.value.message == "The environment is being destroyed."
                assert raised.value.hint == "Its files are gone: create a new environment."

    async def test_a_dead_machine_is_cleared_away_and_its_death_still_reported(self) -> None:
        log: list[str] = []
        machine = PretendMachine(log)
        guest = self.make(machine, log)
        machine.dead.set()
        await guest.destroy()
        with pytest.raises(GuestLost, match="The machine died: it was unplugged"):
            await guest.connect()

    async def test_an_interrupted_call_reports_the_death_of_the_machine(self) -> None:
        log: list[str] = []
        machine = PretendMachine(log)
        guest = self.make(machine, log)
        machine.dead.set()
        with pytest.raises(GuestLost, match="The machine died: it was unplugged") as raised:
            await guest.connect()
        assert "create a new environment" in raised.value.hint
