# SPDX-License-Identifier: Apache-2.0
"""A machine on a pretended Firecracker: boots, freezes, copies, faults of its API, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import time
from collections.abc import Generator
from pathlib import Path

import anyio
import pytest
from tests.infra.firecracker.pretended import NAME, Pretended, pretended
from tests.infra.vmm.pretended import BANNER, MIB, PAGE
from tests.support.leaks import Leaks
from tests.support.pretend_firecracker import STATE
from tests.support.vmm_server import Reply, fault
from tests.support.waiting import until

from waggle.domain.errors import BootFailed, GuestLost
from waggle.infra.guest.frozen import FrozenFiles, Origin
from waggle.infra.guest.vsock import AGENT_PORT, RENEWAL_PORT
from waggle.infra.vmm import firecracker as api
from waggle.infra.vmm.starter import SAYS
from waggle.tasks import end

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]
BROKEN = {
    "500": fault("the device is on fire", 500),
    "no body": Reply(400),
    "no JSON": Reply(400, b"\xff{{{"),
    "huge": Reply(400, b"x" * (4 << 20)),
    "control characters": fault("a\x1b[2Jb\n" * 10_000),
}


async def banner(made: Pretended) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", made.spec.ssh_port)
    try:
        return await reader.readline()
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture
def frozen() -> Generator[FrozenFiles]:
    """A frozen machine whose memory begins with a page of `a`."""
    with contextlib.closing(FrozenFiles(NAME, mib=MIB)) as made:
        os.pwrite(made.ram, b"a" * PAGE, 0)
        os.pwrite(made.state, STATE, 0)
        made.seal()
        yield made


async def test_a_boot_needs_no_call_and_reaches_the_guest(tmp_path: Path) -> None:
    leaks = Leaks()
    async with pretended(tmp_path) as made:
        assert await made.boot() is None
        assert made.server.names == []
        assert made.vmm.asked == [RENEWAL_PORT, AGENT_PORT]
        assert made.machine.is_alive
        assert await banner(made) == BANNER
        await made.machine.agent.ping()
        await made.machine.renew({"hostname": b"other"})
        assert made.vmm.renewed[:2] == ["hostname", "clock"]
        assert "waggle: ready" in made.machine.console_tail()
    await leaks.settle()


async def test_a_copy_is_loaded_from_its_state_and_nothing_of_it_stays_in_run(
    tmp_path: Path, frozen: FrozenFiles
) -> None:
    async with pretended(tmp_path, Origin(frozen.ram, frozen.state)) as made:
        assert await made.boot() is None
        assert made.server.names == ["loadSnapshot", "patchGuestDriveByID"]
        assert not (made.vmm.directory / "state").exists()
        assert await banner(made) == BANNER


@pytest.mark.parametrize("io_mib, bucket", [(8, (8 << 20, 1000)), (0, (0, 0))])
async def test_a_copy_has_the_disk_limits_of_now_and_not_of_its_origins_boot(
    tmp_path: Path, frozen: FrozenFiles, io_mib: int, bucket: tuple[int, int]
) -> None:
    """An empty bucket takes away a limit that the state has."""
    async with pretended(tmp_path, Origin(frozen.ram, frozen.state), io_mib=io_mib) as made:
        assert await made.boot() is None
        asked = made.vmm.set["patchGuestDriveByID", "scratch"]
    assert isinstance(asked, api.PartialDrive)
    assert asked.path_on_host is None
    assert asked.rate_limiter is not None
    for limit in (asked.rate_limiter.bandwidth, asked.rate_limiter.ops):
        assert limit is not None
    assert asked.rate_limiter.bandwidth is not None
    assert (asked.rate_limiter.bandwidth.size, asked.rate_limiter.bandwidth.refill_time) == bucket


async def test_pause_and_unpause_are_calls_and_set_the_clock(tmp_path: Path) -> None:
    async with pretended(tmp_path) as made:
        await made.boot()
        for _ in range(2):
            await made.machine.pause()
        assert made.vmm.state == "Paused"
        await made.machine.unpause()
        assert made.vmm.state == "Running"
        assert made.vmm.renewed == ["clock"]


async def test_a_booted_machine_is_frozen_whole(tmp_path: Path) -> None:
    async with pretended(tmp_path) as made:
        await made.boot()
        made.vmm.writes[PAGE] = b"w" * PAGE
        with contextlib.closing(await made.machine.freeze(made.spec.disks)) as copy:
            assert os.pread(copy.ram, 2 * PAGE, 0) == bytes(PAGE) + b"w" * PAGE
            assert os.pread(copy.state, 100, 0) == STATE
            assert copy.vmm == NAME
        assert made.vmm.state == "Paused"
        (request,) = [c.request for c in made.server.calls if c.endpoint.name == "createSnapshot"]
        assert request is not None
        assert request.model_dump()["snapshot_type"] == "Full"
        assert {path.name for path in made.vmm.directory.iterdir()} == {
            *("api.sock", "vsock", "vsock_1"),
        }


def is_open(inode: int) -> bool:
    """Whether this process still has that file open."""
    found: set[int] = set()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of the directory itself
            found.add(path.stat().st_ino)
    return inode in found


async def test_a_copy_writes_only_what_changed_the_first_time_and_keeps_nothing_of_it(
    tmp_path: Path, frozen: FrozenFiles
) -> None:
    """The memory that is written next time is not kept for that: no limit counts it."""
    async with pretended(tmp_path, Origin(frozen.ram, frozen.state)) as made:
        await made.boot()
        wanted = {0: b"a" * PAGE}
        for at, letter in ((PAGE, b"1"), (2 * PAGE, b"2"), (0, b"3")):
            wanted[at] = letter * PAGE
            made.vmm.writes |= {at: letter * PAGE} if at == PAGE else wanted
            with contextlib.closing(await made.machine.freeze(made.spec.disks)) as copy:
                for place, page in wanted.items():
                    assert os.pread(copy.ram, PAGE, place) == page
                memory = os.fstat(copy.ram).st_ino
                assert is_open(memory)
            await until(lambda memory=memory: not is_open(memory))
            await made.machine.unpause()
        kinds = [c.request for c in made.server.calls if c.endpoint.name == "createSnapshot"]
        types = [one.model_dump()["snapshot_type"] for one in kinds if one]
        assert types == ["Diff", "Full", "Full"]


async def test_a_machine_that_maps_a_file_adds_its_changes_to_that_once(
    tmp_path: Path, frozen: FrozenFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a freeze nobody keeps what had changed, so the next one writes a new file."""

    def little(*_: object) -> bool:
        return True  # this process stands for the VMM, and has changed much

    monkeypatch.setattr("waggle.infra.firecracker.frozen._changed_little", little)
    disk = tmp_path / "disk"
    disk.mkdir()
    frozen.save(disk)
    mapped = FrozenFiles.load(disk, NAME, on_disk=True)
    (disk / "state").unlink()
    with contextlib.closing(mapped):
        its = os.fstat(mapped.ram)
        await _frozen_twice(tmp_path, disk, its, Origin(mapped.ram, mapped.state))


async def _frozen_twice(tmp_path: Path, disk: Path, its: os.stat_result, origin: Origin) -> None:
    async with pretended(tmp_path, origin) as made:
        await made.boot()
        for is_same, letter in ((True, b"1"), (False, b"2")):
            made.vmm.writes |= {0: b"a" * PAGE, PAGE: letter * PAGE}
            with contextlib.closing(await made.machine.freeze(made.spec.disks, disk)) as copy:
                assert copy.is_on_disk
                assert os.path.samestat(os.fstat(copy.ram), its) is is_same
                assert os.pread(copy.ram, 2 * PAGE, 0) == b"a" * PAGE + letter * PAGE
            await made.machine.unpause()


async def test_a_full_disk_is_no_error_of_the_vmm_and_the_machine_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pretended(tmp_path) as made:
        await made.boot()
        made.vmm.writes[0] = b"b" * PAGE

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(OSError, match="No space"):
                await made.machine.freeze(made.spec.disks, tmp_path)
        await made.machine.unpause()
        assert await banner(made) == BANNER


@pytest.mark.parametrize(
    "broken, blamed",
    [("pread", "the memory file of the frozen machine"), ("posix_fallocate", "Firecracker's /run")],
)
async def test_a_copy_that_changed_much_blames_what_fails(
    tmp_path: Path,
    frozen: FrozenFiles,
    monkeypatch: pytest.MonkeyPatch,
    broken: str,
    blamed: str,
) -> None:
    async with pretended(tmp_path, Origin(frozen.ram, frozen.state)) as made:
        await made.boot()

        def fails(*_: object) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr("waggle.infra.firecracker.frozen._SPARE_KIB", -1)
            patch.setattr(os, broken, fails)
            with pytest.raises(BootFailed, match=f"{blamed}.* cannot be used: Input/output error"):
                await made.machine.freeze(made.spec.disks)
        await made.machine.unpause()
        assert await banner(made) == BANNER


async def test_after_a_failed_freeze_a_copy_is_written_whole(
    tmp_path: Path, frozen: FrozenFiles
) -> None:
    """Nobody knows then which changes Firecracker still counts."""
    async with pretended(tmp_path, Origin(frozen.ram, frozen.state)) as made:
        await made.boot()
        made.vmm.answers["createSnapshot"] = fault("no room")
        with pytest.raises(BootFailed, match=r"could not be frozen: .*no room"):
            await made.machine.freeze(made.spec.disks)
        del made.vmm.answers["createSnapshot"]
        made.vmm.writes[0] = b"b" * PAGE
        (await made.machine.freeze(made.spec.disks)).close()
        last = made.server.calls[-1].request
        assert last is not None
        assert last.model_dump()["snapshot_type"] == "Full"
        await made.machine.unpause()
        assert await banner(made) == BANNER


async def test_connections_are_made_anew_when_a_frozen_machine_runs_on(tmp_path: Path) -> None:
    async with pretended(tmp_path) as made:
        await made.boot()
        reader, writer = await asyncio.open_connection("127.0.0.1", made.spec.ssh_port)
        assert await reader.readline() == BANNER
        (await made.machine.freeze(made.spec.disks)).close()
        assert await reader.read() == b"", "the client learns of it at once"
        writer.close()
        made.vmm.asked.clear()
        await made.machine.unpause()
        assert made.vmm.asked == [RENEWAL_PORT, AGENT_PORT]
        assert await banner(made) == BANNER
        await made.machine.agent.ping()


async def test_a_guest_that_answers_too_late_after_a_freeze_can_be_reached_once_it_does(
    tmp_path: Path,
) -> None:
    async with pretended(tmp_path) as made:
        await made.boot()
        (await made.machine.freeze(made.spec.disks)).close()
        await end(await unpaused_in_vain(made))
        made.vmm.is_deaf = False
        assert await banner(made) == BANNER
        await made.machine.renew({})
        await made.machine.agent.ping()
        await made.machine.unpause()
        assert await banner(made) == BANNER


@pytest.mark.parametrize("is_frozen", [False, True])
async def test_a_guest_that_answers_too_late_has_its_clock_set_once_it_does(
    tmp_path: Path, is_frozen: bool
) -> None:
    leaks = Leaks()
    async with pretended(tmp_path) as made:
        await made.boot()
        await late(made, is_frozen=is_frozen)
        assert made.vmm.renewed == []
        made.vmm.is_deaf = False
        await until(lambda: made.vmm.renewed[:1] == ["clock"])
        assert await banner(made) == BANNER
        await late(made, is_frozen=is_frozen)
        await made.machine.pause()
        assert not [task for task in asyncio.all_tasks() if "_until_set" in repr(task)]
        made.vmm.is_deaf = False
        await made.machine.unpause()
        assert made.vmm.renewed.count("clock") == 2  # a slow answer is followed by a step
        await late(made, is_frozen=is_frozen)
    await leaks.settle()


async def test_a_machine_that_is_paused_while_it_is_resumed_has_no_clock_set(
    tmp_path: Path,
) -> None:
    leaks = Leaks()
    async with pretended(tmp_path) as made:
        await made.boot()
        await pause_and_hang_up(made)
        unpausing = await unpaused_in_vain(made)
        await made.machine.pause()
        await end(unpausing)
        assert not [task for task in asyncio.all_tasks() if "_until_set" in repr(task)]
        made.vmm.is_deaf = False
        await made.machine.unpause()
        assert made.vmm.renewed[:1] == ["clock"]
    await leaks.settle()


async def pause_and_hang_up(made: Pretended) -> None:
    await made.machine.pause()
    for connection in made.vmm.connections:
        connection.close()


async def unpaused_in_vain(made: Pretended) -> asyncio.Task[None]:
    """Have its guest answer nothing from now on, and resume it; return what waits for an answer."""
    made.vmm.asked.clear()
    made.vmm.is_deaf = True
    unpausing = asyncio.create_task(made.machine.unpause())
    await until(lambda: bool(made.vmm.asked))
    return unpausing


async def late(made: Pretended, *, is_frozen: bool) -> None:
    """Have it run on while its guest answers nothing, until the clock is tried again."""
    if is_frozen:
        (await made.machine.freeze(made.spec.disks)).close()
    else:
        await pause_and_hang_up(made)
    await end(await unpaused_in_vain(made))
    before = len(made.vmm.asked)
    await until(lambda: len(made.vmm.asked) > before)


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("call", ["loadSnapshot", "patchGuestDriveByID"])
async def test_what_the_api_answers_instead_fails_a_copy(
    tmp_path: Path, frozen: FrozenFiles, name: str, call: str
) -> None:
    async with pretended(tmp_path, Origin(frozen.ram, frozen.state)) as made:
        made.vmm.answers[call] = BROKEN[name]
        cause = await made.boot()
        assert cause is not None
        assert call in cause
        assert len(cause) < 800
        assert cause.isprintable()


async def test_the_vmms_own_reason_is_shown(tmp_path: Path, frozen: FrozenFiles) -> None:
    async with pretended(tmp_path, Origin(frozen.ram, frozen.state)) as made:
        made.vmm.answers["loadSnapshot"] = fault("Load snapshot error: CRC64 validation failed")
        assert "CRC64 validation failed" in str(await made.boot())


async def test_a_vmm_that_refuses_its_machine_is_reported_in_its_words(tmp_path: Path) -> None:
    async with pretended(tmp_path) as made:
        said = "2026-12-01T00:00:00.0 [anonymous-instance:main] RunWithApiError error: No kernel.\n"
        made.process.messages.sendall(f"{said}Error: RunWithApi(NoKernel)\n".encode())
        made.process.ends(152)
        assert await made.boot() == "No kernel"


async def test_a_vmm_that_ends_in_a_call_is_reported_with_its_status(
    tmp_path: Path, frozen: FrozenFiles
) -> None:
    async with pretended(tmp_path, Origin(frozen.ram, frozen.state)) as made:
        made.vmm.answers["loadSnapshot"] = Reply(302)  # no answer that is one
        made.process.ends(148)
        assert await made.boot() == "Firecracker ended with status 148"


async def test_a_vmm_that_ends_in_a_freeze_is_dead_and_cannot_be_frozen_again(
    tmp_path: Path,
) -> None:
    async with pretended(tmp_path) as made:
        await made.boot()
        made.vmm.answers["createSnapshot"] = Reply(302)
        freezing = asyncio.create_task(made.machine.freeze(made.spec.disks))
        await until(lambda: "createSnapshot" in made.server.names)
        made.process.ends(-9)
        with pytest.raises(GuestLost, match="being frozen: Firecracker was killed by SIGKILL"):
            await freezing


async def test_a_guard_that_started_nothing_shows_why(tmp_path: Path) -> None:
    async with pretended(tmp_path) as made:
        made.process.known = False
        made.process.messages.sendall(f"{SAYS}unshare: Operation not permitted\n".encode())
        made.process.ends(3)
        assert await made.boot() == "unshare: Operation not permitted"


@pytest.mark.parametrize(
    "last, cause",
    [
        (b"", "the guest's kernel panicked or rebooted"),
        (b"waggle: ending\nwaggle: ended\n", "the guest shut down"),
    ],
)
async def test_a_reset_is_told_from_an_end_in_order(
    tmp_path: Path, last: bytes, cause: str
) -> None:
    async with pretended(tmp_path) as made:
        await made.boot()
        with socket.socket(socket.AF_UNIX) as console:
            console.connect(str(made.vmm.directory / "vsock_1"))
            console.sendall(last)
        made.process.ends(0)
        assert await made.machine.wait() == cause


async def test_a_guest_that_never_answers_is_not_waited_for_longer(tmp_path: Path) -> None:
    async with pretended(tmp_path) as made:
        made.vmm.is_deaf = True
        began = time.monotonic()
        assert "does not answer within 5 s" in str(await made.boot())
        assert time.monotonic() - began < 10


async def test_a_dead_machine_obeys_nothing(tmp_path: Path) -> None:
    async with pretended(tmp_path) as made:
        await made.boot()
        await made.machine.stop()
        await made.machine.stop()
        for obey in (made.machine.pause, made.machine.unpause, made.machine.settle):
            with pytest.raises(GuestLost):
                await obey()
        with pytest.raises(GuestLost):
            await made.machine.freeze(made.spec.disks)


async def test_an_api_that_is_lost_makes_a_guest_lost(tmp_path: Path) -> None:
    async with pretended(tmp_path) as made:
        await made.boot()
        made.vmm.answers["patchVm"] = Reply(302)
        with pytest.raises(GuestLost, match="patchVm"):
            await made.machine.pause()


async def test_another_process_on_its_socket_is_told_nothing(
    tmp_path: Path, frozen: FrozenFiles
) -> None:
    async with pretended(tmp_path, Origin(frozen.ram, frozen.state)) as made:
        me = made.process.identity
        made.process.identity = type(me)(me.pid + 1, me.started, me.boot_id)
        cause = await made.boot()
        assert "another process answers" in str(cause)
        assert made.server.calls == []


@pytest.mark.parametrize("status, killed", [(-signal.SIGKILL, True), (-11, False), (0, False)])
async def test_its_status_tells_whether_it_was_killed(
    tmp_path: Path, status: int, killed: bool
) -> None:
    async with pretended(tmp_path) as made:
        assert not await made.machine.was_killed()
        soon = asyncio.create_task(made.machine.was_killed(60))
        await anyio.wait_all_tasks_blocked()
        made.process.ends(status)
        assert await made.machine.was_killed() == killed
        assert await soon == killed, "its channels break before it has ended"
