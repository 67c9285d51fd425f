# SPDX-License-Identifier: Apache-2.0
"""What the agent says of the system it runs on, against what Python sees of the same one."""

from __future__ import annotations

import json
import os
import platform
import socket
import time
from pathlib import Path

import pytest
from tests.support.agent_places import needs_root, with_directory
from tests.support.agent_program import Agent, running_agent

from waggle.infra.guest.protocol import METHODS, system


def told(agent: Agent) -> system.SystemInfo:
    result = json.dumps(agent.result("get_system_info"))
    info = METHODS["get_system_info"].result.model_validate_json(result)
    assert isinstance(info, system.SystemInfo)
    return info


def test_it_says_which_system_this_is(agent: Agent) -> None:
    before, info, after = time.time_ns(), told(agent), time.time_ns()
    release = platform.freedesktop_os_release()
    assert info.os.id == release["ID"]
    assert info.os.name == release["NAME"]
    assert info.os.version == release.get("VERSION", release.get("VERSION_ID", ""))
    assert info.os.pretty_name == release["PRETTY_NAME"]
    assert info.kernel == os.uname().release
    assert info.architecture == os.uname().machine
    assert info.hostname == socket.gethostname()
    assert info.cpus == os.cpu_count()
    assert info.memory_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert abs(info.uptime - float(Path("/proc/uptime").read_text().split()[0])) < 5
    assert info.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert before <= info.time <= after


def test_ping_says_nothing(agent: Agent) -> None:
    assert agent.result("ping") == {}


@needs_root
@pytest.mark.parametrize(
    "lines, expected",
    [
        (b"", ("", "", "", "")),
        (b"ID=a\nNAME='b c'\nVERSION_ID=\"1.0\"\n", ("a", "b c", "1.0", "")),
        (b'PRETTY_NAME="say \\"hi\\" \\\\ \\$5"', ("", "", "", 'say "hi" \\ $5')),
        (b"ID=first\nID=last\n#NAME=no\n XNAME=no\nNAMES=no", ("last", "", "", "")),
        (b"ID=\xff\xfe\nNAME=\xc3\xa9", ("\ufffd\ufffd", "\u00e9", "", "")),
        (b"ID='open\nNAME=closed", ("open", "closed", "", "")),
        (b"NAME=" + b"x" * 9000, ("", "x" * 512, "", "")),
    ],
    ids=["empty", "quotes", "escapes", "twice", "not UTF-8", "open quote", "long"],
)
def test_os_release_is_read_as_a_shell_would(
    agent_program: Path, tmp_path: Path, lines: bytes, expected: tuple[str, ...]
) -> None:
    (tmp_path / "os-release").write_bytes(lines)
    prefix = with_directory(tmp_path / "os-release", Path("/etc/os-release"))
    with running_agent(agent_program, tmp_path, prefix=prefix) as agent:
        shown = told(agent).os
    assert (shown.id, shown.name, shown.version, shown.pretty_name) == expected
