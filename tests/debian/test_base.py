# SPDX-License-Identifier: Apache-2.0
"""A base that is not there is made and kept; Debian 12's boots, and the .deb works there, too.

It is kept for later runs, as that of the other modules is: to make it takes more than its test.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from lab.store import Store
from tests.support.agent_packages import AgentPackages
from tests.support.debian_agent import UNIT, client
from tests.support.debian_base import ensure
from tests.support.debian_machine import booted

from waggle.config import load
from waggle.config.places import Places

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.slow,
    pytest.mark.net,
    pytest.mark.timeout(900),
]


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


@pytest.mark.endurance
async def test_a_base_is_made_once(mirror: str, tmp_path: Path) -> None:
    lines: list[str] = []
    base = await ensure(Store(tmp_path), mirror, lines.append, "bookworm")
    assert lines
    assert await ensure(Store(tmp_path), "file:/nowhere", pytest.fail, "bookworm") == base


async def test_debian_12_runs_the_agent(mirror: str, agent_packages: AgentPackages) -> None:
    store = Store(Places.of(load()).cache / "debian")
    base = await ensure(store, mirror, say, "bookworm")
    assert await ensure(store, "file:/nowhere", pytest.fail, "bookworm") == base
    with booted(base, agent_packages.files) as machine:
        machine.sh("dpkg -i /test/agent.deb", 120)
        assert machine.sh(f"systemctl is-active {UNIT}") == "active"
        async with client(machine) as agent:
            about = await agent.system_info()
            await agent.write_file("/tmp/file", b"bytes")
            assert await agent.read_file("/tmp/file") == b"bytes"
    assert (about.os.id, about.os.version) == ("debian", "12 (bookworm)")
