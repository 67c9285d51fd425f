# SPDX-License-Identifier: Apache-2.0
"""An agent whose channels come one after the other, from PID 1 of a machine that has vsock."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.support.agent_program import ALL, SECONDS, Agent, children_of
from tests.support.waiting import until_sync

SLEEP = ["/bin/sleep", "600"]


class First:
    """Stands for PID 1, which hands connections over."""

    def __init__(self, process: subprocess.Popen[bytes], source: socket.socket) -> None:
        self.process = process
        self.source = source
        self._rest = contextlib.ExitStack()

    def give(self) -> Agent:
        """Return the agent as the host of a new connection has it."""
        ours, theirs = socket.socketpair()
        self._rest.enter_context(ours)
        ours.settimeout(SECONDS)
        with theirs:
            socket.send_fds(self.source, [b"."], [theirs.fileno()])
        return Agent(self.process, ours)

    def close(self) -> int:
        self._rest.close()
        self.source.close()
        return self.process.wait(SECONDS)


def has_ended(agent: Agent) -> None:
    """Read to the end of its channel."""
    while agent.wire.recv(1 << 16):
        pass


@pytest.fixture
def first(agent_program: Path, tmp_path: Path) -> Generator[First]:
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps(ALL))
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    argv = [str(agent_program), "--channels", str(theirs.fileno()), "--policy", str(policy)]
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    with theirs:
        process = subprocess.Popen(argv, pass_fds=[theirs.fileno()], env=environment)
    made = First(process, ours)
    try:
        yield made
    finally:
        assert made.close() == 0


def test_it_waits_for_the_first_channel_and_begins_with_a_line(first: First) -> None:
    agent = first.give()
    assert agent.any_message()["method"] == "agent_started"
    agent.result("ping")


def test_it_goes_on_with_the_next_one_once_the_last_has_ended(first: First) -> None:
    before = first.give()
    before.result("ping")
    before.wire.close()
    for _ in range(3):
        agent = first.give()
        assert agent.any_message()["method"] == "agent_started"
        agent.result("ping")


def test_a_new_one_ends_the_old(first: First) -> None:
    before = first.give()
    before.result("ping")
    agent = first.give()
    agent.result("ping")
    has_ended(before)


def test_of_several_at_once_the_last_counts(first: First) -> None:
    before = [first.give() for _ in range(20)]
    agent = first.give()
    agent.result("ping")
    for old in before:
        has_ended(old)


def test_what_the_last_host_asked_is_not_answered_to_the_next(first: First) -> None:
    before = first.give()
    before.request("exec_command", argv=SLEEP)
    until_sync(lambda: children_of(first.process.pid), seconds=10)
    agent = first.give()
    assert agent.result("get_agent_info")["pending"] == []
    kill = agent.request("kill_process", process=1)
    assert agent.message()["id"] == kill


def test_what_the_last_host_had_begun_to_ask_does_not_spoil_the_next(first: First) -> None:
    before = first.give()
    assert before.any_message()["method"] == "agent_started"
    before.send(b'{"jsonrpc":"2.0","id":3,"method":')
    agent = first.give()
    agent.send(b'{"jsonrpc":"2.0","id":7,"method":"ping"}\n')
    assert agent.message()["id"] == 7


def test_an_answer_that_was_under_way_is_cut_and_the_next_host_has_whole_lines(
    first: First, tmp_path: Path
) -> None:
    (tmp_path / "much").write_bytes(os.urandom(1 << 18))
    before = first.give()
    before.request("file_read", path=str(tmp_path / "much"), length=1 << 18)
    assert before.wire.recv(1)
    agent = first.give()
    assert agent.any_message()["method"] == "agent_started"
    agent.result("ping")
    found = agent.result("file_read", path=str(tmp_path / "much"), length=1 << 18)["data"]
    assert base64.b64decode(found) == (tmp_path / "much").read_bytes()


def test_programs_go_on_without_a_host(first: First) -> None:
    before = first.give()
    number = before.result("exec_command", argv=SLEEP, wait=False)["process"]
    before.wire.close()
    assert first.give().result("get_process", process=number)["status"] == "running"


def test_a_message_without_a_channel_is_none(first: First) -> None:
    first.source.send(b".")
    first.give().result("ping")
