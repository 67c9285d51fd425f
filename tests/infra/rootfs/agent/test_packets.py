# SPDX-License-Identifier: Apache-2.0
"""How much the agent writes at once: little over vsock, where some VMMs spoil more."""

from __future__ import annotations

import json
import os
import select
import socket
import time
from pathlib import Path

import pytest
from tests.support.agent_program import SECONDS, Agent, build_agent, running_agent

from waggle.infra.guest.protocol.files import FileData

PACKET = 16384
PRETENCE = "#include <sys/socket.h>\n#undef AF_VSOCK\n#define AF_VSOCK AF_UNIX\n"


@pytest.fixture
def agent_over_vsock(tmp_path: Path) -> Path:
    """Compile an agent that takes the sockets of this host for vsock, which it may not have."""
    header = tmp_path / "vsock.h"
    header.write_text(PRETENCE)
    return build_agent(tmp_path, "-Os", "-include", str(header))


def until_full(agent: Agent) -> None:
    """Wait until the agent waits for the host to read, with all that it can hold to be written."""
    until = time.monotonic() + SECONDS
    stat = Path(f"/proc/{agent.process.pid}/stat")
    while not (is_readable(agent.wire) and stat.read_text().rpartition(")")[2].split()[0] == "S"):
        assert time.monotonic() < until, stat.read_text()


def is_readable(wire: socket.socket) -> bool:
    """Return whether the agent has written, waiting a little for it."""
    return bool(select.select([wire], [], [], 0.01)[0])


def writes(program: Path, directory: Path, data: bytes) -> list[int]:
    """Have a file read, and return the sizes of what the agent wrote; its bytes must be right."""
    (directory / "file").write_bytes(data)
    with running_agent(program, directory, kind=socket.SOCK_SEQPACKET) as agent:
        wanted = agent.request("file_read", path=str(directory / "file"))
        until_full(agent)
        lines, sizes = b"", list[int]()
        while f'"id":{wanted}'.encode() not in lines or not lines.endswith(b"\n"):
            lines += agent.wire.recv(1 << 20)
            sizes.append(len(lines) - sum(sizes))
    answer = json.loads(lines.splitlines()[-1])
    assert FileData.model_validate(answer["result"]).data == data
    return sizes


def test_over_vsock_nothing_is_larger_than_a_packet(agent_over_vsock: Path, tmp_path: Path) -> None:
    sizes = writes(agent_over_vsock, tmp_path, os.urandom(200_000))
    assert max(sizes) == PACKET


def test_elsewhere_it_writes_all_that_it_has(agent_program: Path, tmp_path: Path) -> None:
    assert max(writes(agent_program, tmp_path, os.urandom(200_000))) > 2 * PACKET
