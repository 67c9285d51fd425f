# SPDX-License-Identifier: Apache-2.0
"""Who runs programs and who is logged in, as the agent tells it."""

from __future__ import annotations

import json
import os
import pwd
import struct
import subprocess
from pathlib import Path

import pytest
from tests.support.agent_places import needs_root, with_directory
from tests.support.agent_program import Agent, running_agent

from waggle.infra.guest.protocol import METHODS, system

NOBODY_YET = 54_321
"""A user id without a name."""
NO_PROCESS = 2**22 - 1
LOGIN, ENDED = 7, 8
AT = 1_700_000_000
RUN = Path("/run")


def told(agent: Agent) -> system.Users:
    result = json.dumps(agent.result("get_users"))
    users = METHODS["get_users"].result.model_validate_json(result)
    assert isinstance(users, system.Users)
    return users


def record(pid: int, user: bytes, host: bytes = b"", kind: int = LOGIN) -> bytes:
    """Make a record of utmp as glibc on x86-64 writes it."""
    return struct.pack(
        "<hxxi32s4s32s256shhiii16s20x",
        *(kind, pid, b"pts/1", b"1", user, host),
        *(0, 0, 0, AT, 250_000, b""),
    )


def test_users_are_counted_by_their_processes(agent: Agent) -> None:
    users = told(agent).users
    me = next(user for user in users if user.uid == os.getuid())
    assert me.name == pwd.getpwuid(os.getuid()).pw_name
    assert me.processes >= 2  # this test and the agent
    assert users == sorted(users, key=lambda user: (-user.processes, user.uid))


@needs_root
def test_a_user_without_a_name_is_a_number(agent: Agent) -> None:
    pause = subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=NOBODY_YET)
    try:
        user = next(user for user in told(agent).users if user.uid == NOBODY_YET)
        assert (user.name, user.processes) == (str(NOBODY_YET), 1)
    finally:
        pause.communicate()
    assert NOBODY_YET not in {user.uid for user in told(agent).users}


@needs_root
def test_many_users_are_cut(agent: Agent) -> None:
    pauses = [
        subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=NOBODY_YET + number)
        for number in range(70)
    ]
    try:
        users = told(agent)
    finally:
        for pause in pauses:
            pause.communicate()
    assert len(users.users) == 64
    assert users.truncated


def seen(agent_program: Path, directory: Path) -> system.Users:
    """Return what an agent tells that sees `directory/run` in place of /run."""
    prefix = with_directory(directory / "run", RUN)
    with running_agent(agent_program, directory, prefix=prefix) as agent:
        return told(agent)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    made = tmp_path / "run"
    (made / "systemd/sessions").mkdir(parents=True)
    return made


@needs_root
def test_logins_are_those_of_utmp_that_live(agent_program: Path, run: Path) -> None:
    me = os.getpid()
    records = [
        record(me, b"ann", b"192.0.2.7"),
        record(NO_PROCESS, b"gone"),
        record(me, b"boot", kind=2),
        record(me, b"out", kind=ENDED),
        record(me, b""),
        record(-1, b"all"),
        record(me, b"\xff" * 32, b"\xc3\xa9" * 128),
    ]
    (run / "utmp").write_bytes(b"".join(records) + b"half")
    (run / "systemd/sessions/1").write_text("USER=other\nCLASS=user\n")
    sessions = seen(agent_program, run.parent).sessions
    since = AT * 10**9 + 250_000_000
    ann = system.Session(user="ann", terminal="pts/1", remote_host="192.0.2.7", since=since)
    assert sessions[0] == ann
    assert [(one.user, one.remote_host) for one in sessions[1:]] == [
        ("\ufffd" * 32, "\u00e9" * 128)
    ]


@needs_root
def test_many_logins_are_cut(agent_program: Path, run: Path) -> None:
    (run / "utmp").write_bytes(record(os.getpid(), b"ann") * 100)
    users = seen(agent_program, run.parent)
    assert len(users.sessions) == 64
    assert users.truncated


@needs_root
def test_without_utmp_logind_is_asked(agent_program: Path, run: Path) -> None:
    sessions = run / "systemd/sessions"
    (run / "utmp").write_bytes(b"")
    (sessions / "3").write_text(
        "# This is private data. Do not parse.\nUID=1000\nUSER=ann\nACTIVE=1\nSTATE=active\n"
        f"CLASS=user\nREMOTE_HOST=192.0.2.7\nTTY=pts/0\nREALTIME={AT}000000\n"
    )
    (sessions / "4").write_text("USER=bob\nCLASS=manager\nSTATE=active\n")
    (sessions / "5").write_text("USER=eve\nCLASS=user\nSTATE=closing\n")
    (sessions / "6").write_text("CLASS=user\nSTATE=active\n")
    (sessions / "7").write_text("USER=kim\nCLASS=user\nREALTIME=999999999999999999999\n")
    os.mkfifo(sessions / "3.ref")
    found = sorted(seen(agent_program, run.parent).sessions, key=lambda one: one.user)
    assert found == [
        system.Session(
            user="ann", terminal="pts/0", remote_host="192.0.2.7", since=AT * 1_000_000_000
        ),
        system.Session(user="kim", terminal="", remote_host="", since=None),
    ]
