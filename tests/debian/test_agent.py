# SPDX-License-Identifier: Apache-2.0
"""The guest agent as its .deb installs it in a Debian machine: service, policy, methods, reboot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
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

from waggle import __version__
from waggle.infra.guest.answers import AgentRefused
from waggle.infra.guest.client import AgentClient
from waggle.infra.guest.protocol import METHODS, VERSION, files, power, programs, system

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.slow,
    pytest.mark.net,
    pytest.mark.timeout(900),
]
SECOND = 10**9
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


@dataclass(frozen=True)
class Refused:
    call: Callable[[AgentClient], Awaitable[object]]
    policy: str


REFUSALS = {
    "exec": Refused(lambda agent: agent.run(["/usr/bin/id"]), "methods"),
    "reboot": Refused(lambda agent: agent.reboot(), "methods"),
    "shutdown": Refused(lambda agent: agent.shutdown(), "methods"),
    "set_time": Refused(lambda agent: agent.set_time(SECOND), "methods"),
    "freeze": Refused(lambda agent: agent.freeze(1), "methods"),
    "read": Refused(lambda agent: agent.read_part("/etc/shadow", 0), "read.allow"),
    "link": Refused(lambda agent: agent.read_part("/tmp/link", 0), "read.allow"),
    "directory": Refused(lambda agent: agent.read_part("/tmp/etc/shadow", 0), "read.allow"),
    "proc": Refused(lambda agent: agent.read_part("/tmp/proc/1/environ", 0), "read.allow"),
    "list": Refused(lambda agent: agent.list_directory("/root"), "read.allow"),
    "write": Refused(lambda agent: agent.write_file("/etc/cron.d/x", b"x"), "write.allow"),
    "write below a link": Refused(
        lambda agent: agent.write_file("/tmp/etc/x", b"x"), "write.allow"
    ),
}


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
