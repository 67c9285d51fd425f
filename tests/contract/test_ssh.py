# SPDX-License-Identifier: Apache-2.0
"""SSH on every hypervisor while the server is slow: all bytes come, and each once."""

from __future__ import annotations

import asyncio
import hashlib
import time

import pytest
from tests.contract.subjects import Running

from waggle.infra.ssh import SshConnection
from waggle.infra.ssh.sftp import Files

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]
SIZE = 2 << 20
HELD = 0.2


async def test_a_busy_server_gets_all_that_the_guest_sends(running: Running) -> None:
    """Firecracker before 1.14 spoils large packets for a host that lets its socket fill up."""
    case, loop = running.case, asyncio.get_running_loop()
    said = await case.root(
        f"head -c {SIZE} /dev/urandom >/tmp/random; chmod 644 /tmp/random; sha256sum /tmp/random"
    )
    connection = SshConnection(case.spec.ssh_port, case.keys)
    try:
        reading = asyncio.create_task(
            Files(connection, deadline=300).read("/tmp/random", limit=SIZE)
        )
        while not reading.done():
            loop.call_soon(time.sleep, HELD)  # nobody reads what the guest sends meanwhile
            await asyncio.wait({reading}, timeout=HELD)
        data = (await reading).data
    finally:
        await connection.aclose()
        await case.root("rm /tmp/random")
    assert hashlib.sha256(data).hexdigest() == said.split()[0]
