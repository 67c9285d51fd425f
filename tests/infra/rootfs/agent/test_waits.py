# SPDX-License-Identifier: Apache-2.0
"""Hosts that read late or never stop to write, children that stop: nobody else waits for them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import struct
import termios
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.support.agent_program import ALL, Agent, children_of, running_agent
from tests.support.waiting import until_sync

from waggle.infra.guest.protocol import ErrorCode

BIG = 262_144
PIPE = 65_536
SHORT: dict[str, object] = {**ALL, "limits": {"requests": 16, "timeout_seconds": 1}}


@pytest.fixture
def big(tmp_path: Path) -> str:
    (tmp_path / "big").write_bytes(bytes(BIG))
    return str(tmp_path / "big")


def test_an_answer_that_is_there_is_not_late_because_the_host_reads_late(
    agent_program: Path, tmp_path: Path, big: str
) -> None:
    with running_agent(agent_program, tmp_path, SHORT) as agent:
        wanted = {agent.request("file_read", path=big) for _ in range(8)}
        until_sync(lambda: unread(agent) > PIPE, seconds=10)
        late = time.monotonic() + 2
        until_sync(lambda: time.monotonic() > late)  # the limit of 1 s is over
        answers = [agent.message() for _ in wanted]
        assert {answer["id"] for answer in answers} == wanted
        assert not [answer["error"] for answer in answers if "error" in answer]


def test_a_host_that_never_stops_to_write_is_answered(agent: Agent) -> None:
    wanted = agent.request("get_users")
    with flood(agent):
        assert agent.answer(wanted)["result"]["users"]


def test_a_host_that_never_stops_to_write_does_not_keep_the_agent_from_ending(
    agent: Agent,
) -> None:
    assert agent.result("ping") == {}
    with flood(agent):
        agent.process.terminate()
        assert agent.process.wait(10) == 0


def test_a_child_that_stops_within_its_answer_holds_up_others_for_a_while(
    agent: Agent, big: str
) -> None:
    code = f"cat {big}; cat {big} >&2"
    wanted = agent.request("exec_command", argv=["/bin/sh", "-c", code], output_bytes=BIG)
    [child] = until_sync(lambda: children_of(agent.process.pid), seconds=10)
    until_sync(lambda: unread(agent) > PIPE and sleeps(child), seconds=10)  # in its answer
    os.kill(child, signal.SIGSTOP)
    other = agent.request("ping")
    try:
        assert agent.line() == b""
        assert b"agent_started" in agent.line()
        assert len(agent.line()) > PIPE  # what it had sent
        answers = {message["id"]: message for message in (agent.message(), agent.message())}
    finally:
        os.kill(child, signal.SIGKILL)
    assert answers[wanted]["error"]["code"] == ErrorCode.TIMED_OUT
    assert answers[other]["result"] == {}


def test_a_program_that_makes_room_for_another_counts_as_no_request(
    agent_program: Path, tmp_path: Path
) -> None:
    policy = {**ALL, "limits": {"requests": 1, "processes": 1}}
    with running_agent(agent_program, tmp_path, policy) as agent:
        first = agent.result("exec_command", argv=["/bin/sleep", "60"], wait=False)
        agent.result("kill_process", process=first["process"])
        program = request(8, "exec_command", {"argv": ["/bin/true"]})
        agent.send(program + request(9, "list_directory", {"path": "/"}))
        answers = {message["id"]: message for message in (agent.message(), agent.message())}
        assert answers[8]["result"]["exit_code"] == 0
        assert answers[9]["result"]["entries"]


@pytest.mark.parametrize("method", ["get_process", "kill_process"])
def test_who_does_not_tell_of_a_program_in_time_is_given_up_with_it(
    agent_program: Path, tmp_path: Path, method: str
) -> None:
    with running_agent(agent_program, tmp_path, SHORT) as agent:
        process = agent.result("exec_command", argv=["/bin/sleep", "600"], wait=False)["process"]
        [keeper] = children_of(agent.process.pid)
        [program] = children_of(keeper)
        os.kill(keeper, signal.SIGSTOP)
        began = time.monotonic()
        try:
            assert agent.error(method, process=process)["code"] == ErrorCode.TIMED_OUT
            assert 1 <= time.monotonic() - began < 10
            assert agent.error("get_process", process=process)["code"] == ErrorCode.NOT_FOUND
        finally:
            os.kill(keeper, signal.SIGCONT)
        until_sync(lambda: not Path(f"/proc/{program}").exists(), seconds=20)
        until_sync(lambda: not children_of(agent.process.pid), seconds=10)


def request(number: int, method: str, params: object) -> bytes:
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
    return json.dumps(message).encode() + b"\n"


def unread(agent: Agent) -> int:
    """Return how many bytes of the agent wait for the host."""
    count = fcntl.ioctl(agent.wire, termios.FIONREAD, bytes(4))
    return int(struct.unpack("i", count)[0])


def sleeps(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


@contextlib.contextmanager
def flood(agent: Agent) -> Generator[None]:
    """Send empty lines as fast as the agent takes them."""
    is_over = threading.Event()

    def send() -> None:
        with contextlib.suppress(OSError):
            while not is_over.is_set():
                agent.wire.send(b"\n" * PIPE)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
