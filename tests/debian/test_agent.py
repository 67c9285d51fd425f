# SPDX-License-Identifier: Apache-2.0
"""The guest agent as its .deb installs it in a Debian machine: service, policy, methods, reboot.

Then agents and hosts that follow one another, where systemd starts agents and the port is closed,
and the packages: upgrade, removal, purge; by dpkg, apt and rpm.
"""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from tests.support.agent_packages import LATER
from tests.support.debian_agent import (
    CONFIG,
    EVERYTHING,
    UNIT,
    answering,
    client,
    pid,
    put,
    use,
    use_default,
)
from tests.support.debian_machine import Machine
from tests.support.debian_refusals import REFUSALS, SECOND

from waggle import __version__
from waggle.infra.guest.answers import AgentRefused, EffectUnknown
from waggle.infra.guest.protocol import METHODS, VERSION, files, power, programs, system

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.slow,
    pytest.mark.net,
    pytest.mark.timeout(900),
]
BEGINS = b'\n{"jsonrpc":"2.0","method":"agent_started","params":{"version":'
RPM = "rpm --nodeps --dbpath /var/lib/rpm"
POLICY = '{"read": {"allow": ["/var/log"]}}'
LEFT = (
    "find / -xdev -path /proc -prune -o -path /test -prune -o -path /var/log -prune -o "
    "-path /var/lib/dpkg -prune -o -path /var/lib/rpm -prune -o -name '*waggle-agent*' -print; "
    "pgrep -x waggle-agent; ls -d /etc/waggle-agent 2>/dev/null || true"
)
"""What is left of the package."""
OFF = {"exec_command", "set_time", "shutdown", "reboot", "freeze_filesystems"}
"""Methods that the policy of the package does not allow."""


async def test_the_service_runs_once_the_package_is_there(machine: Machine) -> None:
    use_default(machine)
    async with client(machine) as agent:
        info = await agent.agent_info()
    assert machine.sh(f"systemctl is-active {UNIT}; systemctl is-enabled {UNIT}").split() == [
        "active",
        "enabled",
    ]
    assert (info.agent, info.version, info.protocol) == ("waggle-agent", __version__, VERSION)
    assert set(METHODS) - set(info.methods) == OFF
    assert info.policy.read.allow == info.policy.write.allow == ["/tmp", "/var/tmp"]
    assert info.policy.exec is None
    assert machine.sh(f"systemctl show -P NRestarts {UNIT}") == "0"


async def test_the_default_policy_refuses_what_harms(machine: Machine) -> None:
    use_default(machine)
    machine.sh("cd /tmp && ln -sfn /etc/shadow link && ln -sfn /etc etc && ln -sfn /proc proc")
    machine.sh("ln -sfn /root/new /tmp/new")
    async with client(machine) as agent:
        for name, case in REFUSALS.items():
            with pytest.raises(AgentRefused) as caught:
                await case.call(agent)
            refusal = caught.value
            assert (refusal.reason, refusal.data.get("policy")) == ("denied", case.policy), name
        with pytest.raises(AgentRefused) as caught:
            await agent.write_file("/tmp/new", b"x")
        assert caught.value.data == {"errno": "ELOOP"}, "no link is followed"
        await agent.write_file("/tmp/mine", b"allowed")
        assert await agent.read_file("/tmp/mine") == b"allowed"
    assert machine.run("ls /root/new /etc/x /etc/cron.d/x")[0] == 2
    noted = machine.sh("journalctl -t waggle-agent -o cat | tail -40")
    for word in ("exec_command", "/etc/shadow"):
        assert word in noted, "each is noted in the journal"


async def test_every_method_answers(machine: Machine) -> None:
    """Over the real port; the client has checked the results with the protocol's models."""
    use(machine, EVERYTHING)
    called: dict[str, object] = {}
    async with client(machine) as agent:

        async def call(method: str, **params: object) -> object:
            called[method] = await agent.call(method, METHODS[method].result, params)
            return called[method]

        for method in METHODS:
            if method.startswith(("get_", "ping", "sync")) and method != "get_process":
                await call(method)
        await call("file_write", path="/root/file", data=b"some bytes", mode=0o640)
        read = await call("file_read", path="/root/file")
        listed = await call("list_directory", path="/root")
        begun = await call("exec_command", argv=["/bin/sleep", "600"], wait=False)
        assert isinstance(begun, programs.ProcessInfo)
        asked = await call("get_process", process=begun.process)
        killed = await call("kill_process", process=begun.process)
        told = await call("set_time", time=1_900_000_000 * SECOND)
        now = int(machine.sh("date +%s"))
        await agent.set_time(time.time_ns())
        frozen = await call("freeze_filesystems", timeout=30)
        thawed = await call("thaw_filesystems")
        ran = await agent.run(["/usr/bin/id", "-un"], user="nobody")
    assert set(METHODS) - set(called) == {"shutdown", "reboot"}, "which have a test of their own"
    about = called["get_system_info"]
    assert isinstance(about, system.SystemInfo)
    assert (about.os.id, about.hostname, about.cpus) == ("debian", "machine", 2)
    assert (about.boot_id, about.kernel) == (machine.boot_id, machine.sh("uname -r"))
    disks = called["get_disk_usage"]
    assert isinstance(disks, system.DiskUsage)
    assert [disk.type for disk in disks.filesystems if disk.mount_point == "/"] == ["ext4"]
    users = called["get_users"]
    assert isinstance(users, system.Users)
    assert {"root", "messagebus"} <= {user.name for user in users.users}
    assert isinstance(read, files.FileData)
    assert (read.data, read.mode) == (b"some bytes", 0o640)
    assert isinstance(listed, files.Listing)
    assert "file" in {entry.name for entry in listed.entries}
    assert isinstance(asked, programs.ProcessInfo)
    assert isinstance(killed, programs.ProcessInfo)
    assert (asked.status, killed.status) == ("running", "killed")
    assert isinstance(told, power.ClockSet)
    assert 0 <= now - 1_900_000_000 < 60, "the clock was set"
    assert isinstance(frozen, power.Frozen)
    assert isinstance(thawed, power.Frozen)
    assert frozen.count == thawed.count > 0
    assert (ran.exit_code, ran.stdout) == (0, b"nobody\n")
    assert machine.sh("cat /root/file") == "some bytes"


async def test_the_root_file_system_is_frozen_and_thawed_by_itself(machine: Machine) -> None:
    use(machine, EVERYTHING)
    async with client(machine) as agent:
        machine.sh("rm -f /run/wrote /root/wrote")
        assert await agent.freeze(3, ["/"]) == 1
        machine.sh("(echo x >/root/wrote; touch /run/wrote) >/dev/null 2>&1 &")
        assert machine.sh("cat /proc/uptime; sleep 1; ls /run/wrote || true").endswith("directory")
        began = time.monotonic()
        await agent.ping()
        assert time.monotonic() - began < 2, "it does not wait for the disk"
        machine.sh("until test -e /run/wrote; do sleep 0.2; done", 30)
        assert await agent.thaw() == 0, "nothing is frozen any more"
    assert machine.sh("cat /root/wrote") == "x"


async def test_an_edited_policy_holds_after_a_restart(machine: Machine) -> None:
    use(
        machine,
        {
            "read": {"allow": ["/var/log"], "deny": ["/var/log/private"]},
            "methods": {"allow": ["ping", "get_agent_info", "exec_command", "file_read"]},
            "exec": [{"path": "/usr/bin/printf", "arguments": ["%s", "[a-z]*"]}],
        },
    )
    machine.sh("echo line >/var/log/test; mkdir -p /var/log/private; touch /var/log/private/x")
    async with client(machine) as agent:
        assert await agent.read_file("/var/log/test") == b"line\n"
        assert (await agent.run(["/usr/bin/printf", "%s", "word"])).stdout == b"word"
        for call, entry in (
            (agent.read_part("/var/log/private/x", 0), "read.deny"),
            (agent.read_part("/tmp/mine", 0), "read.allow"),
            (agent.run(["/usr/bin/printf", "%s", "1"]), "exec"),
            (agent.run(["/usr/bin/printf", "%s", "a", "b"]), "exec"),
            (agent.run(["/usr/bin/id"]), "exec"),
            (agent.metrics(), "methods"),
        ):
            with pytest.raises(AgentRefused) as caught:
                await call
            assert (caught.value.reason, caught.value.data["policy"]) == ("denied", entry)


async def test_a_wrong_policy_stops_the_service_with_a_line_that_names_the_place(
    machine: Machine,
) -> None:
    use_default(machine)
    put(machine, CONFIG, '{"limits": {"requests": 65}}')
    machine.run(f"systemctl restart {UNIT}")
    line = f"waggle-agent: {CONFIG}: limits.requests: must be 1 to "
    said = f'journalctl -t waggle-agent -o cat | grep -qF "{line}"'
    machine.sh(f"until {said}; do sleep 0.2; done", 60)
    assert machine.run(f"systemctl is-active {UNIT}")[1].strip() == "failed", "not tried again"
    use_default(machine)
    async with client(machine) as agent:
        await agent.ping()


async def test_a_second_agent_ends_with_a_message(machine: Machine) -> None:
    use_default(machine)
    async with client(machine) as agent:
        code, said = machine.run("waggle-agent")
        assert (code, said.strip()) == (
            1,
            "waggle-agent: /dev/virtio-ports/org.waggle.agent.0: another agent has this port",
        )
        await agent.ping()


async def test_a_reboot_is_told_and_the_same_client_goes_on(machine: Machine) -> None:
    use(machine, EVERYTHING)
    async with client(machine) as agent:
        before = await agent.system_info()
        await agent.reboot()
        await asyncio.to_thread(machine.wait_up)
        await answering(agent, 60)
        after = await agent.system_info()
    assert after.boot_id == machine.boot_id != before.boot_id
    assert after.uptime < 90
    assert pid(machine) > 0
    assert machine.sh(f"systemctl is-active {UNIT}") == "active", "it starts with the machine"


async def test_calls_of_a_killed_agent_end_when_systemd_has_started_the_next(
    machine: Machine,
) -> None:
    """The kernel drops what is unread in a port that is closed."""
    use(machine, EVERYTHING, "RestartSec=0")
    async with client(machine) as agent:
        slow = [asyncio.create_task(agent.run(["/bin/sleep", "50"], timeout=50)) for _ in range(3)]
        while len((await agent.agent_info()).pending) < len(slow):
            pass
        began = time.monotonic()
        machine.sh("kill -9 $(systemctl show -P MainPID waggle-agent)")
        for one in slow:
            with pytest.raises(EffectUnknown):
                await one
        assert time.monotonic() - began < 20
        assert (await agent.agent_info()).pending == []


async def test_every_host_hears_that_there_is_an_agent(machine: Machine) -> None:
    use_default(machine)
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(30)
            wire.connect(str(machine.agent_socket))
            wire.sendall(b"\n")
            heard = b""
            while BEGINS not in heard:
                heard += wire.recv(4096)
        machine.sh("sleep 1")  # a shorter time without a host is none


async def _reads_logs_only(machine: Machine) -> None:
    async with client(machine) as agent:
        machine.sh("echo line >/var/log/test")
        assert await agent.read_file("/var/log/test") == b"line\n"
        with pytest.raises(AgentRefused):
            await agent.read_file("/tmp/any")


async def test_upgrades_keep_the_policy_and_removals_leave_nothing(restored: Machine) -> None:
    """First with dpkg and apt, then with rpm."""
    machine = restored
    put(machine, CONFIG, POLICY)
    machine.sh("dpkg -i --force-confold /test/later.deb", 120)
    assert LATER in machine.sh("dpkg-query -W waggle-agent")
    assert machine.sh(f"cat {CONFIG}") == POLICY
    await _reads_logs_only(machine)
    machine.sh("dpkg -r waggle-agent", 120)
    assert machine.run(f"systemctl is-active {UNIT}")[0] != 0
    assert machine.run("pgrep -x waggle-agent")[0] == 1
    assert machine.sh(f"cat {CONFIG}") == POLICY
    machine.sh("apt-get purge -y waggle-agent", 120)
    assert machine.sh(LEFT) == ""

    machine.sh(f"{RPM} -i /test/agent.rpm", 120)
    async with client(machine) as agent:
        with pytest.raises(AgentRefused) as caught:
            await agent.run(["/usr/bin/id"])
        assert caught.value.data["policy"] == "methods"
        assert (await agent.system_info()).boot_id == machine.boot_id
    states = machine.sh(f"systemctl is-active {UNIT}; systemctl is-enabled {UNIT}")
    assert states.split() == ["active", "enabled"]
    put(machine, CONFIG, POLICY)
    machine.sh(f"{RPM} -U /test/later.rpm", 120)
    assert LATER in machine.sh("rpm --dbpath /var/lib/rpm -q waggle-agent")
    assert machine.sh(f"cat {CONFIG}") == POLICY
    await _reads_logs_only(machine)
    machine.sh(f"{RPM} -e waggle-agent", 120)
    assert set(machine.sh(LEFT).split()) == {"/etc/waggle-agent"}, "with the edited policy"
    assert machine.sh(f"cat {CONFIG}.rpmsave") == POLICY
