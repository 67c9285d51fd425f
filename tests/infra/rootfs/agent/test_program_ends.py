# SPDX-License-Identifier: Apache-2.0
"""The ends of programs: late, killed, flooding, daemons left and taken; nothing is left of them."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from tests.support.agent_program import ALL, Agent, resident, running_agent
from tests.support.programs import program
from tests.support.waiting import until_sync

from waggle.infra.guest.protocol import ErrorCode
from waggle.infra.guest.protocol.programs import ProcessInfo, Status

SH = "/bin/sh"
RUNS = 100
PIPE = 65_536
BOMB = 'print "$$\\n"; close STDOUT; while (1) { fork }'
PROCESSES = "400"
OF_A_KEEPER = 384 << 10
"""Bytes of memory that the process of a program takes besides the outputs that it keeps."""
# Three that ignore what can be ignored, each with a session and with one that it has left behind.
TREE = """
import os, signal, time
for number in range(3):
    if os.fork() == 0:
        os.setsid()
        for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
            signal.signal(ignored, signal.SIG_IGN)
        if os.fork() == 0:
            os.setsid()
            os.write(1, b"%d\\n" % os.getpid())
            time.sleep(600)
        if number == 1:
            os._exit(0)
        os.write(1, b"%d\\n" % os.getpid())
        time.sleep(600)
time.sleep(600)
"""


def started(agent: Agent, *argv: str, **params: object) -> int:
    """Start a program and return the agent's number of it."""
    result = agent.result("exec_command", argv=list(argv), wait=False, **params)
    assert result["status"] == "running"
    return int(result["process"])


def asked(agent: Agent, method: str, process: int) -> ProcessInfo:
    return ProcessInfo.model_validate_json(json.dumps(agent.result(method, process=process)))


def ended(agent: Agent, process: int) -> ProcessInfo:
    """Ask until the process has ended."""

    def ask() -> ProcessInfo | None:
        info = asked(agent, "get_process", process)
        return None if info.status is Status.RUNNING else info

    return until_sync(ask)


def pids(info: ProcessInfo) -> list[int]:
    return [int(word) for word in info.stdout.split()]


def are_gone(numbers: list[int]) -> bool:
    return not any(Path(f"/proc/{number}").exists() for number in numbers)


def test_a_tree_with_sessions_of_its_own_ends_with_its_time(agent: Agent) -> None:
    late = agent.request("exec_command", argv=[sys.executable, "-c", TREE], timeout=3)
    info = ProcessInfo.model_validate_json(json.dumps(agent.answer(late)["result"]))
    assert (info.status, info.exit_code, info.signal) == (Status.TIMED_OUT, None, 9)
    assert 3 <= info.seconds < 10
    assert len(pids(info)) == 5
    assert are_gone(pids(info))


def test_a_tree_is_killed(agent: Agent) -> None:
    process = started(agent, sys.executable, "-c", TREE)
    until_sync(lambda: len(pids(asked(agent, "get_process", process))) == 5)
    info = asked(agent, "kill_process", process)
    assert (info.status, info.exit_code, info.signal) == (Status.KILLED, None, 9)
    assert are_gone(pids(info))
    assert asked(agent, "kill_process", process) == info
    assert asked(agent, "get_process", process) == info
    assert agent.error("get_process", process=process)["code"] == ErrorCode.NOT_FOUND


def test_a_program_that_is_waited_for_is_killed(agent: Agent) -> None:
    wanted = agent.request("exec_command", argv=["/bin/sleep", "60"])
    kill = agent.request("kill_process", process=1)
    answers = {message["id"]: message["result"] for message in (agent.message(), agent.message())}
    assert answers[wanted] == answers[kill]
    assert answers[kill]["status"] == "killed"
    assert agent.error("get_process", process=1)["code"] == ErrorCode.NOT_FOUND


def test_a_stopped_program_ends_too(agent: Agent) -> None:
    process = started(agent, SH, "-c", "kill -STOP $$")
    assert asked(agent, "kill_process", process).status is Status.KILLED
    late = agent.result("exec_command", argv=[SH, "-c", "kill -STOP $$"], timeout=1)
    assert late["status"] == "timed_out"


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can limit another user")
def test_a_program_that_forks_without_end_is_ended_as_a_whole(agent: Agent) -> None:
    limited = [program("prlimit"), f"--nproc={PROCESSES}", "--"]
    argv = [*limited, program("perl"), "-e", BOMB]
    late = agent.result("exec_command", argv=argv, timeout=1, user="nobody")
    info = ProcessInfo.model_validate_json(json.dumps(late))
    assert info.status is Status.TIMED_OUT
    assert not _of_session(pids(info)[0])


def test_what_a_program_leaves_behind_goes_on_without_output(agent: Agent, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    # It ends by writing into a pipe that nobody reads any more.
    left = f"(read line < {fifo}; echo $line; echo $line > {tmp_path}/after) 2>/dev/null &"
    info = ProcessInfo.model_validate_json(
        json.dumps(agent.result("exec_command", argv=[SH, "-c", f"{left} echo $!"]))
    )
    assert (info.status, info.exit_code) == (Status.EXITED, 0)
    assert not are_gone(pids(info))
    fifo.write_text("go\n")
    until_sync(lambda: are_gone(pids(info)))


def test_what_a_program_leaves_behind_can_be_killed_while_it_is_known(agent: Agent) -> None:
    process = started(agent, SH, "-c", "sleep 600 & echo $!")
    [keeper] = _children(agent.process.pid)
    until_sync(lambda: _names(_children(keeper)) == ["sleep"])
    info = asked(agent, "kill_process", process)
    assert (info.status, info.exit_code) == (Status.EXITED, 0)
    assert are_gone(pids(info))
    assert asked(agent, "get_process", process) == info


def test_a_flood_is_counted_and_costs_little(agent: Agent) -> None:
    process = started(agent, "/usr/bin/yes", output_bytes=10)
    until_sync(lambda: asked(agent, "get_process", process).stdout_bytes > 2_000_000)
    info = asked(agent, "kill_process", process)
    assert info.stdout == b"y\ny\ny\ny\ny\n"
    # 100 times a second one pipe full is read: the flood waits, not the machine.
    assert 2_000_000 < info.stdout_bytes < PIPE * (100 * info.seconds + 10)


def test_results_wait_until_they_are_asked_for_once(agent: Agent) -> None:
    process = started(agent, SH, "-c", "echo out; exit 3")
    info = ended(agent, process)
    assert (info.status, info.exit_code, info.stdout) == (Status.EXITED, 3, b"out\n")
    assert agent.error("get_process", process=process)["code"] == ErrorCode.NOT_FOUND
    assert agent.error("kill_process", process=process)["code"] == ErrorCode.NOT_FOUND


def test_output_so_far(agent: Agent, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    process = started(agent, SH, "-c", f"echo one; read line < {fifo}; echo two")
    until_sync(lambda: asked(agent, "get_process", process).stdout == b"one\n")
    fifo.write_text("go\n")
    assert ended(agent, process).stdout == b"one\ntwo\n"


def test_the_oldest_that_has_ended_makes_room(agent_program: Path, tmp_path: Path) -> None:
    with running_agent(agent_program, tmp_path, {**ALL, "limits": {"processes": 2}}) as agent:
        first, second = (started(agent, "/bin/cat", "/proc/self/stat") for _ in range(2))
        until_sync(lambda: not _programs(agent))
        third = until_sync(lambda: _started_if_room(agent))
        assert agent.error("get_process", process=first)["code"] == ErrorCode.NOT_FOUND
        assert ended(agent, second).exit_code == 0
        assert asked(agent, "kill_process", third).status is Status.KILLED


def test_who_was_started_first_of_those_that_have_ended_is_forgotten_first(
    agent_program: Path, tmp_path: Path
) -> None:
    """Whenever they ended, and whatever still runs stays."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with running_agent(agent_program, tmp_path, {**ALL, "limits": {"processes": 3}}) as agent:
        runs = started(agent, "/bin/sleep", "60")
        ends_late = started(agent, SH, "-c", f"read line < {fifo}")
        ends_early = started(agent, "/bin/true")
        until_sync(lambda: len(_programs(agent)) == 2)
        fifo.write_text("go\n")
        until_sync(lambda: len(_programs(agent)) == 1)
        running = [runs, until_sync(lambda: _started_if_room(agent))]
        assert agent.error("get_process", process=ends_late)["code"] == ErrorCode.NOT_FOUND
        running.append(until_sync(lambda: _started_if_room(agent)))
        assert agent.error("get_process", process=ends_early)["code"] == ErrorCode.NOT_FOUND
        assert agent.error("exec_command", argv=["/bin/true"])["code"] == ErrorCode.BUSY
        for process in running:
            assert asked(agent, "kill_process", process).status is Status.KILLED


def test_outputs_that_are_kept_take_bounded_memory(
    agent_program_as_shipped: Path, tmp_path: Path
) -> None:
    most, bytes_ = 4, 262_144
    policy = {**ALL, "limits": {"processes": most, "output_bytes": bytes_}}
    floods = f"head -c {2 * bytes_} /dev/zero; head -c {2 * bytes_} /dev/zero >&2"
    with running_agent(agent_program_as_shipped, tmp_path, policy) as agent:
        for _ in range(10 * most):
            agent.result("exec_command", argv=[SH, "-c", floods], wait=False)
            until_sync(lambda: not _programs(agent))
        keepers = _children(agent.process.pid)
        assert len(keepers) == most
        taken = [resident(pid, "Pss_Anon") for pid in keepers]
        assert max(taken) < 2 * bytes_ + OF_A_KEEPER
        assert min(taken) > 2 * bytes_, "each keeps what it was told to"
        assert resident(agent.process.pid, "Pss_Anon") < 1 << 20


def test_a_hundred_programs_leave_nothing(agent: Agent) -> None:
    agent.result("exec_command", argv=["/bin/true"])
    until_sync(lambda: not _children(agent.process.pid))
    before = _open_files(agent.process.pid)
    for number in range(RUNS):
        result = agent.result("exec_command", argv=["/bin/sh", "-c", f"exit {number}"])
        assert result["exit_code"] == number
    until_sync(lambda: not _children(agent.process.pid))
    assert _open_files(agent.process.pid) == before


def test_programs_end_with_the_agent(agent: Agent) -> None:
    process = started(agent, sys.executable, "-c", TREE)
    until_sync(lambda: len(pids(asked(agent, "get_process", process))) == 5)
    numbers = pids(asked(agent, "get_process", process))
    agent.process.kill()
    until_sync(lambda: are_gone(numbers))


def _programs(agent: Agent) -> list[int]:
    keepers = _children(agent.process.pid)
    return [pid for keeper in keepers for pid in _children(keeper)]


def _started_if_room(agent: Agent) -> int | None:
    answer = agent.answer(agent.request("exec_command", argv=["/bin/sleep", "60"], wait=False))
    return answer["result"]["process"] if "result" in answer else None


def _names(numbers: list[int]) -> list[str]:
    return [Path(f"/proc/{number}/comm").read_text().strip() for number in numbers]


def _stat(pid: int) -> list[str]:
    """Return the words after the name in /proc/PID/stat: state, parent, and so on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _of_session(session: int) -> list[int]:
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and int(_stat(int(entry.name))[3]) == session:
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    return found
