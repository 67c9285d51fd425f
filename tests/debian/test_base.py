# SPDX-License-Identifier: Apache-2.0
"""A base that is not there is made, kept, and boots; with Debian 12, where the .deb works, too."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab.store import Store
from tests.support.agent_packages import AgentPackages
from tests.support.debian_agent import UNIT, client
from tests.support.debian_base import ensure
from tests.support.debian_machine import booted

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.slow,
    pytest.mark.net,
    pytest.mark.timeout(900),
]


async def test_a_base_is_made_once_and_debian_12_runs_the_agent(
    mirror: str, agent_packages: AgentPackages, tmp_path: Path
) -> None:
    lines: list[str] = []
    store = Store(tmp_path)
    base = await ensure(store, mirror, lines.append, "bookworm")
    assert lines
    assert await ensure(store, "file:/nowhere", pytest.fail, "bookworm") == base
    with booted(base, agent_packages.files) as machine:
        machine.sh("dpkg -i /test/agent.deb", 120)
        assert machine.sh(f"systemctl is-active {UNIT}") == "active"
        async with client(machine) as agent:
            about = await agent.system_info()
            await agent.write_file("/tmp/file", b"bytes")
            assert await agent.read_file("/tmp/file") == b"bytes"
    assert (about.os.id, about.os.version) == ("debian", "12 (bookworm)")
