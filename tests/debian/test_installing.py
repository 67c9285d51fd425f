# SPDX-License-Identifier: Apache-2.0
"""The guest agent's packages on a running Debian: upgrade, removal, purge; by dpkg, apt and rpm."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from tests.support.agent_packages import LATER
from tests.support.debian_agent import CONFIG, UNIT, client, put, use_default
from tests.support.debian_machine import Machine

from waggle.infra.guest.answers import AgentRefused

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.slow,
    pytest.mark.net,
    pytest.mark.timeout(900),
]
RPM = "rpm --nodeps --dbpath /var/lib/rpm"
POLICY = '{"read": {"allow": ["/var/log"]}}'
LEFT = (
    "find / -xdev -path /proc -prune -o -path /test -prune -o -path /var/log -prune -o "
    "-path /var/lib/dpkg -prune -o -path /var/lib/rpm -prune -o -name '*waggle-agent*' -print; "
    "pgrep -x waggle-agent; ls -d /etc/waggle-agent 2>/dev/null || true"
)
"""What is left of the package."""


async def _reads_logs_only(machine: Machine) -> None:
    async with client(machine) as agent:
        machine.sh("echo line >/var/log/test")
        assert await agent.read_file("/var/log/test") == b"line\n"
        with pytest.raises(AgentRefused):
            await agent.read_file("/tmp/any")


@pytest.fixture
def restored(machine: Machine) -> Generator[Machine]:
    """Install the .deb again at the end."""
    use_default(machine)
    machine.sh(f"mv {CONFIG}.dpkg-test /run/kept; rm -f {CONFIG}.new")
    yield machine
    machine.run("dpkg -P waggle-agent; rm -rf /etc/waggle-agent; dpkg -i /test/agent.deb", 120)
    machine.sh(f"cp /run/kept {CONFIG}; cp /run/kept {CONFIG}.dpkg-test")


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
