# SPDX-License-Identifier: Apache-2.0
"""What an agent says at its start, and of the requests that it has: its host knows what is lost."""

from __future__ import annotations

import fcntl
import json
import socket
import struct
import termios
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.support.agent_places import SILENT, mounting, needs_root
from tests.support.agent_program import ALL, Agent, children_of, running_agent
from tests.support.waiting import until_sync

from waggle import __version__
from waggle.infra.guest.protocol import ErrorCode

STARTED = {"jsonrpc": "2.0", "method": "agent_started", "params": {"version": __version__}}
FEW = {**ALL, "limits": {"requests": 1, "processes": 3}}
SLEEP = ["/bin/sleep", "600"]


@pytest.fixture
def agent(agent_program: Path, tmp_path: Path) -> Generator[Agent]:
    with running_agent(agent_program, tmp_path, has_successors=True) as running:
        yield running


def pending(agent: Agent) -> set[object]:
    return {*agent.result("get_agent_info")["pending"]}


def test_it_begins_with_a_line_of_its_own(agent: Agent) -> None:
    assert agent.line() == b""
    assert agent.any_message() == STARTED


def test_requests_that_wait_are_pending_until_their_answer(agent: Agent) -> None:
    assert pending(agent) == set()
    first = agent.request("exec_command", argv=SLEEP)
    other = {"jsonrpc": "2.0", "id": '€"a', "method": "exec_command", "params": {"argv": SLEEP}}
    agent.send(json.dumps(other).encode() + b"\n")
    assert pending(agent) == {first, '€"a'}
    kill = agent.request("kill_process", process=2)
    assert {agent.message()["id"], agent.message()["id"]} == {kill, '€"a'}
    assert pending(agent) == {first}
    kill = agent.request("kill_process", process=1)
    assert {agent.message()["id"], agent.message()["id"]} == {kill, first}
    assert pending(agent) == set()


def test_what_nobody_waits_for_is_not_pending(agent: Agent) -> None:
    agent.result("exec_command", argv=SLEEP, wait=False)
    agent.send(b'{"jsonrpc":"2.0","method":"exec_command","params":{"argv":["/bin/sleep","9"]}}\n')
    assert pending(agent) == set()


@needs_root
def test_what_is_pending_is_told_though_nothing_more_may_be_begun(
    agent_program: Path, tmp_path: Path
) -> None:
    prefix = mounting(SILENT % (tmp_path / "silent"))
    with running_agent(agent_program, tmp_path, FEW, prefix=prefix) as agent:
        slow = agent.request("list_directory", path=str(tmp_path / "silent"))
        assert agent.error("list_directory", path="/")["code"] == ErrorCode.BUSY
        assert pending(agent) == {slow}


def test_the_next_agent_has_nothing_of_what_a_killed_one_had(agent: Agent) -> None:
    agent.request("exec_command", argv=SLEEP)
    [child] = until_sync(lambda: children_of(agent.process.pid), seconds=10)
    assert agent.any_message() == STARTED
    agent.succeed()
    assert agent.any_message() == STARTED
    assert pending(agent) == set()
    until_sync(lambda: not Path(f"/proc/{child}").exists(), seconds=10)


def test_the_rest_of_a_request_that_a_killed_one_had_begun_to_read_is_an_error(
    agent: Agent,
) -> None:
    agent.send(b'{"jsonrpc":"2.0","id":3,"method":')
    assert agent.any_message() == STARTED
    until_sync(lambda: unread(agent.wire) == 0, seconds=10)
    agent.succeed()
    agent.send(b'"ping"}\n')
    assert agent.any_message() == STARTED
    answer = agent.message()
    assert (answer["id"], answer["error"]["code"]) == (None, ErrorCode.PARSE_ERROR)
    assert pending(agent) == set()


def unread(wire: socket.socket) -> int:
    """Return how much the agent has not read yet, in bytes of the kernel's."""
    return int(struct.unpack("i", fcntl.ioctl(wire, termios.TIOCOUTQ, bytes(4)))[0])
