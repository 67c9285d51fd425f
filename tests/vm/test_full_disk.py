# SPDX-License-Identifier: Apache-2.0
"""Real machines on a full disk: a small disk holds the files of all environments.

In the attack of issue 13, a guest's write succeeded and zeros were read back later.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from tests.support.in_turn import pause_to_disk
from tests.support.small_disk import SmallDisk, needs_root, small_disk
from tests.support.vm import Lab, environment, lines, sh

from waggle.domain.errors import DiskFull
from waggle.domain.host import no_progress
from waggle.domain.programs import ExecutionResult, GuestUser
from waggle.infra.qemu.hypervisor import QemuHypervisor
from waggle.infra.qemu.machine import QemuMachine
from waggle.infra.shared.disk_room import DiskRoom
from waggle.service.local.frozen import frozen_in
from waggle.service.local.guest import LocalGuest

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.usefixtures("leaks"),
    pytest.mark.timeout(1500),
    needs_root,
]
MIB = 1 << 20
WRITE = "/.waggle/bin/busybox seq 1 300000 >/home/sandbox/numbers"
CHECK = "/.waggle/bin/busybox seq 1 300000 | /.waggle/bin/busybox cmp - /home/sandbox/numbers"
DROP = "echo 3 >/proc/sys/vm/drop_caches"


def limit_files_of(pid: int, size: str) -> None:
    """Limit the file size of a process, acting as its user, which needs no privileges."""
    status = Path(f"/proc/{pid}/status").read_text()
    ids = {line[:3]: int(line.split()[1]) for line in status.splitlines() if line[1:4] == "id:"}
    who: dict[str, Any] = {"user": ids["Uid"], "group": ids["Gid"], "extra_groups": []}
    argv = ["prlimit", f"--pid={pid}", f"--fsize={size}:"]
    subprocess.run(argv, check=True, **(who if os.geteuid() == 0 else {}))


async def refuse_writes(guest: LocalGuest, number: int | None) -> None:
    """Make QEMU fail writes to its scratch disk with this errno, or stop that if it is None.

    No test disk can be made to give these errors.
    """
    machine = guest.started.machine  # pyright: ignore[reportPrivateUsage]
    assert isinstance(machine, QemuMachine)
    monitor = machine._monitor  # pyright: ignore[reportPrivateUsage]
    blocks = cast("list[dict[str, Any]]", await monitor.execute("query-block"))
    (device,) = (block["qdev"] for block in blocks if not block["inserted"]["ro"])
    if number is not None:
        broken = {"event": "none", "iotype": "write", "errno": number, "once": False}
        options = {"driver": "blkdebug", "image": "scratch", "inject-error": [broken]}
        await monitor.execute("blockdev-add", {"node-name": "broken", **options})
    node = "scratch" if number is None else "broken"
    await monitor.execute("qom-set", {"path": device, "property": "drive", "value": node})
    if number is None:
        await monitor.execute("blockdev-del", {"node-name": "broken"})


class Stalls:
    """The reports of a guest: a cause when its machine stops, None when it resumes."""

    def __init__(self) -> None:
        self.reports: list[DiskFull | None] = []
        self._events = anyio.Event()

    def notify(self, why: DiskFull | None) -> None:
        self.reports.append(why)
        self._events.set()

    async def next(self) -> None:
        """Wait for a report after those that earlier calls waited for."""
        with anyio.fail_after(400):
            await self._events.wait()
        self._events = anyio.Event()


async def write(guest: LocalGuest, results: list[ExecutionResult]) -> None:
    results.append(await guest.run(sh(f"{WRITE} && sync", timeout=800.0)))


async def kept(guest: LocalGuest) -> bool:
    """Return whether the disk itself holds what `write` wrote."""
    await guest.run(sh(DROP, user=GuestUser.ROOT))
    return lines(await guest.run(sh(CHECK, timeout=600.0))) == []


@pytest.fixture
def disk(lab: Lab) -> Generator[SmallDisk]:
    if not isinstance(lab.hypervisor, QemuHypervisor):
        pytest.skip("NOT TESTED: this hypervisor reports a full disk to the guest")
    with small_disk(lab.environments, 64) as disk:
        lab.hypervisor.room = DiskRoom("the small disk", disk.path, 8 * MIB)
        yield disk


async def test_a_write_that_does_not_fit_waits_and_loses_nothing(lab: Lab, disk: SmallDisk) -> None:
    described, host = environment(), lab.host()
    guest = lab.adopt(await host.create(described, no_progress))
    stalls = Stalls()
    guest.when_stalled(stalls.notify)
    disk.fill(leave=1 * MIB)
    results: list[ExecutionResult] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write, guest, results)
        await stalls.next()
        assert len(stalls.reports) == 1
        assert "machine is stopped" in str(stalls.reports[0])
        assert "the small disk" in str(stalls.reports[0])
        with pytest.raises(DiskFull, match="is stopped"):
            await pause_to_disk(guest)
        assert not frozen_in(lab.environments / described.id).exists()
        assert results == []
        disk.free()
        await stalls.next()
    assert stalls.reports[1:] == [None]
    assert [result.exit_code for result in results] == [0]
    assert await kept(guest)

    # A pause to disk that does not fit leaves the machine running and no files.
    await guest.run(sh("/.waggle/bin/busybox dd if=/dev/urandom of=/dev/shm/x bs=1M count=60"))
    disk.fill(leave=20 * MIB)
    with pytest.raises(DiskFull, match="no room"):
        await pause_to_disk(guest)
    await guest.unpause()
    assert not frozen_in(lab.environments / described.id).exists()
    assert not list((lab.environments / described.id).glob(".tmp-*"))
    assert lines(await guest.run(sh("echo works"))) == ["works"]


async def test_a_create_on_a_full_disk_says_so_and_leaves_nothing(
    lab: Lab, disk: SmallDisk
) -> None:
    host = lab.host()
    disk.fill()
    with pytest.raises(DiskFull):
        lab.adopt(await host.create(environment(), no_progress))
    assert [path.name for path in lab.environments.iterdir()] == ["ballast"]
    assert not lab.ports.leased
    disk.free()
    guest = lab.adopt(await host.create(environment(), no_progress))
    assert lines(await guest.run(sh("echo works"))) == ["works"]


async def test_a_write_over_the_file_size_limit_waits(lab: Lab) -> None:
    """An unprivileged user may lower and raise the file size limit of their own running QEMU."""
    if not lab.hypervisor.capabilities.stops_when_full:
        pytest.skip("NOT TESTED: this hypervisor reports what the disk refuses to the guest")
    guest = lab.adopt(await lab.host().create(environment(), no_progress))
    stalls = Stalls()
    guest.when_stalled(stalls.notify)
    limit_files_of(guest.machine.pid, "4096")
    results: list[ExecutionResult] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write, guest, results)
        await stalls.next()
        assert "would be larger than it may be" in str(stalls.reports[0])
        with pytest.raises(DiskFull, match="ulimit -f"):
            await pause_to_disk(guest)
        with anyio.move_on_after(8):  # several retries, which are not reported
            await stalls.next()
        assert len(stalls.reports) == 1
        assert results == []
        limit_files_of(guest.machine.pid, "unlimited")
        await stalls.next()
    assert stalls.reports[1:] == [None]
    assert [result.exit_code for result in results] == [0]
    assert await kept(guest)


async def test_a_write_that_fails_or_exceeds_a_quota_waits(lab: Lab) -> None:
    if not lab.hypervisor.capabilities.stops_when_full:
        pytest.skip("NOT TESTED: this hypervisor reports what the disk refuses to the guest")
    guest = lab.adopt(await lab.host().create(environment(), no_progress))
    causes = {errno.EIO: "(Input/output error)", errno.EDQUOT: "the quota of its user is used up"}
    for number, words in causes.items():
        stalls, results = Stalls(), list[ExecutionResult]()
        guest.when_stalled(stalls.notify)
        await refuse_writes(guest, number)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write, guest, results)
            await stalls.next()
            assert words in str(stalls.reports[0])
            with anyio.move_on_after(3):  # several retries, which are not reported
                await stalls.next()
            assert len(stalls.reports) == 1
            assert results == []
            await refuse_writes(guest, None)
            await stalls.next()
        assert stalls.reports[1:] == [None]
        assert [result.exit_code for result in results] == [0]
    assert await kept(guest)
