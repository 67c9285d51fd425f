# SPDX-License-Identifier: Apache-2.0
"""Harm that code in a guest does to its SSH access, and how access recovers. One shared machine."""

from __future__ import annotations

import asyncio
import socket

import anyio
import pytest
from tests.support.jobs import job
from tests.support.vm import Lab, command, lines, root, sh
from tests.support.waiting import until

from waggle.domain.errors import GuestLost, WaggleError
from waggle.domain.programs import GuestUser
from waggle.infra.ssh import SshConnection, new_keys
from waggle.service.local.guest import LocalGuest
from waggle.tasks import end

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.timeout(300),
    pytest.mark.usefixtures("leaks"),
]
DROPBEARS = "grep -l dropbear /proc/[0-9]*/comm | cut -d/ -f3"


async def works(guest: LocalGuest) -> bool:
    return lines(await guest.run(sh("echo works"))) == ["works"]


async def test_killing_everything_as_the_sandbox_user_ends_only_that_run(
    guest: LocalGuest,
) -> None:
    result = await guest.run(sh("(sleep 100 & kill -9 -1); kill -9 -1; sleep 100"))
    assert result.signal == "SIGKILL" or result.exit_code is not None
    assert await works(guest)


async def test_killing_everything_as_root_breaks_the_call_but_not_the_machine(
    guest: LocalGuest,
) -> None:
    with pytest.raises(GuestLost, match="does not know how the program ended"):
        await guest.run(sh("kill -9 -1", user=GuestUser.ROOT))
    assert await works(guest)
    await guest.write_file("/home/sandbox/f", b"1", 0o644)


async def test_a_killed_ssh_server_is_replaced_and_the_jobs_continue(guest: LocalGuest) -> None:
    assert await root(guest, f"kill -9 $({DROPBEARS}); sleep 0.5; echo over") == "over\n"
    assert await works(guest)
    with anyio.fail_after(60):
        while int(await root(guest, "ps | grep -c '[s]ession -c start'")) > 2:  # but this one's
            pass


async def test_a_stopped_ssh_server_ends_the_call_by_its_deadline(guest: LocalGuest) -> None:
    """The kill uses a new connection, whose server process is not stopped."""
    result = await guest.run(sh(f"kill -STOP $({DROPBEARS}); sleep 100", timeout=3.0,
                                user=GuestUser.ROOT))  # fmt: skip
    assert result.timed_out
    assert await works(guest)
    await root(guest, f"kill -CONT $({DROPBEARS})")


async def test_the_key_of_another_machine_is_refused(guest: LocalGuest) -> None:
    connection = SshConnection(guest.ssh_port, new_keys())
    with pytest.raises(GuestLost, match="host key that is not its own"):
        await connection.get()
    await connection.aclose()


async def test_code_in_the_guest_cannot_reach_the_ssh_server(guest: LocalGuest) -> None:
    for address in ("127.0.0.1", "10.0.2.15", "localhost"):
        result = await guest.run(sh(f"nc -w 3 {address} 22 </dev/null", timeout=20))
        assert result.stdout.head == b""  # no banner
    card = "nsenter --net=/proc/2/ns/net -- /.waggle/bin/busybox nc -w 3 10.0.2.15 22 < /dev/null"
    result = await guest.run(sh(card, timeout=20, user=GuestUser.ROOT))
    assert result.stdout.head == b"", "nor where QEMU's network card is"


async def test_a_tampered_kit_breaks_only_this_machine(quick: Lab) -> None:
    """Root in the guest may break its own SSH access; the server reports that and cleans up."""
    guest = await quick.guest()
    await root(guest, "echo 'not a key' > /.waggle/run/identity/authorized_keys")
    await root(guest, "mount -o remount,rw /.waggle; echo x > /.waggle/init; true")
    assert await works(guest)
    with pytest.raises(GuestLost):
        await guest.run(sh("umount -l /.waggle; kill -9 -1", user=GuestUser.ROOT))
    with pytest.raises(WaggleError):
        await guest.run(sh("true", timeout=10))
    with pytest.raises(WaggleError):
        await guest.list_files("/")
    await guest.destroy()


async def test_programs_see_no_variables_of_the_host(guest: LocalGuest) -> None:
    names = {line.partition("=")[0] for line in lines(await guest.run(sh("env")))}
    assert "HOME" in names
    assert not {name for name in names if name.startswith(("WAGGLE", "SSH", "VIRTUAL_ENV"))}


async def test_the_guest_knows_the_time_and_its_name(guest: LocalGuest) -> None:
    shown = lines(await guest.run(command("/.waggle/bin/busybox", "hostname")))
    assert shown == ["test-1"]
    (year,) = lines(await guest.run(sh("date +%Y")))
    assert int(year) >= 2026


async def test_the_forwarded_port_listens_on_loopback_only(guest: LocalGuest) -> None:
    def connects(address: str) -> bool:
        with socket.socket() as probe:
            probe.settimeout(2)
            return probe.connect_ex((address, guest.ssh_port)) == 0

    await until(lambda: connects("127.0.0.1"))
    own = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    assert not any(connects(str(address)) for address in own if not str(address).startswith("127."))


async def test_code_of_a_killed_shim_is_removed_by_the_next_job(guest: LocalGuest) -> None:
    code = b"echo $PPID; exec sleep 600"
    script = command("/.waggle/bin/busybox", "sh", "{file}", code=code, extension=".sh", apart=True)
    lost, living = job(script), job(script)
    tasks = [asyncio.ensure_future(guest.attend(one)) for one in (lost, living)]
    await until(lambda: lost.offsets[0] > 0 < living.offsets[0], 60)
    places = [f"/run/code/{one.id[:8]}" for one in (lost, living)]
    pid = lost.streams.stdout.output().text().strip()
    await root(guest, f"kill -9 {pid}; touch -d 2020-01-01 {' '.join(places)}")
    await asyncio.wait(tasks[:1])
    await guest.attend(job(sh("true")))
    assert await root(guest, "ls -d /run/code/*") == f"{places[1]}\n"
    await end(*tasks)
