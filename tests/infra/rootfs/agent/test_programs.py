# SPDX-License-Identifier: Apache-2.0
"""Programs that the agent runs: as whom, with what, and what is told of them."""

from __future__ import annotations

import base64
import json
import os
import pwd
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.support.agent_program import ALL, Agent, running_agent

from waggle.infra.guest.protocol import ErrorCode
from waggle.infra.guest.protocol.fields import MAX_READ, MAX_WRITE
from waggle.infra.guest.protocol.programs import ProcessInfo, Status

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
SH = "/bin/sh"


def ran(agent: Agent, *argv: str, **params: object) -> ProcessInfo:
    """Run a program to its end."""
    result = agent.result("exec_command", argv=list(argv), **params)
    assert set(result) == set(ProcessInfo.model_fields)
    info = ProcessInfo.model_validate_json(json.dumps(result))
    assert (info.exit_code is not None) == (info.status is Status.EXITED)
    return info


def printed(agent: Agent, *argv: str, **params: object) -> str:
    """Return what a program prints that exits with 0 and says nothing of errors."""
    info = ran(agent, *argv, **params)
    assert (info.status, info.exit_code, info.stderr) == (Status.EXITED, 0, b""), info
    return info.stdout.decode()


@pytest.mark.parametrize("code", [0, 1, 7, 126, 127, 255])
def test_exit_codes(agent: Agent, code: int) -> None:
    info = ran(agent, SH, "-c", f"echo out; echo error >&2; exit {code}")
    assert (info.status, info.exit_code, info.signal) == (Status.EXITED, code, None)
    assert (info.stdout, info.stderr) == (b"out\n", b"error\n")
    assert (info.stdout_bytes, info.stderr_bytes) == (4, 6)
    assert 0 < info.seconds < 20


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, 64])
def test_signals(agent: Agent, number: int) -> None:
    info = ran(agent, SH, "-c", f"kill -{int(number)} $$")
    assert (info.status, info.exit_code, info.signal) == (Status.SIGNALED, None, number)


def test_no_shell_expands_anything(agent: Agent) -> None:
    words = ["$HOME", "*", "~", "`id`", "$(id)", "a b", "", ";", "|", "\n", "'", '"', "\\", "€\x01"]
    assert printed(agent, "/usr/bin/printf", "%s\\0", *words).split("\0")[:-1] == words


@pytest.mark.parametrize(
    "program, code, name",
    [
        ("/none", ErrorCode.NOT_FOUND, "ENOENT"),
        ("/bin/none/below", ErrorCode.NOT_FOUND, "ENOENT"),
        ("/bin/sh/below", ErrorCode.FAILED, "ENOTDIR"),
        ("/etc/passwd", ErrorCode.FAILED, "EACCES"),
        ("/etc", ErrorCode.FAILED, "EACCES"),
    ],
)
@pytest.mark.parametrize("wait", [True, False])
def test_programs_that_cannot_be_run(
    agent: Agent, program: str, code: ErrorCode, name: str, wait: bool
) -> None:
    error = agent.error("exec_command", argv=[program], wait=wait)
    assert (error["code"], error["data"]) == (code, {"errno": name})


def test_a_script_needs_its_first_line(agent: Agent, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("echo no\n")
    script.chmod(0o755)
    error = agent.error("exec_command", argv=[str(script)])
    assert (error["code"], error["data"]) == (ErrorCode.FAILED, {"errno": "ENOEXEC"})
    script.write_text(f"#!{SH}\necho yes\n")
    assert printed(agent, str(script)) == "yes\n"


def test_the_environment_is_small_or_the_requests(agent: Agent) -> None:
    home = pwd.getpwuid(os.geteuid())
    assert set(printed(agent, "/usr/bin/env").splitlines()) == {
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG=C.UTF-8",
        f"HOME={home.pw_dir}",
        f"USER={home.pw_name}",
    }
    given = {"A": "1", "b": "x=y z", "EMPTY": ""}
    lines = printed(agent, "/usr/bin/env", environment=given).splitlines()
    assert dict(line.split("=", 1) for line in lines) == given
    assert printed(agent, "/usr/bin/env", environment={}) == ""
    many = {f"NAME{number}": str(number) for number in range(64)}
    assert len(printed(agent, "/usr/bin/env", environment=many).splitlines()) == 64


@pytest.mark.parametrize("name", ["", "A=B"])
def test_wrong_names_of_variables(agent: Agent, name: str) -> None:
    error = agent.error("exec_command", argv=["/bin/true"], environment={name: ""})
    assert (error["code"], error["data"]["parameter"]) == (
        ErrorCode.INVALID_PARAMS,
        "environment",
    )


def test_the_directory(agent: Agent, tmp_path: Path) -> None:
    assert printed(agent, "/bin/pwd") == "/\n"
    assert printed(agent, "/bin/pwd", directory=str(tmp_path)) == f"{tmp_path}\n"
    error = agent.error("exec_command", argv=["/bin/pwd"], directory=str(tmp_path / "none"))
    assert error["code"] == ErrorCode.NOT_FOUND
    error = agent.error("exec_command", argv=["/bin/pwd"], directory=f"{tmp_path}/..")
    assert (error["code"], error["data"]) == (
        ErrorCode.INVALID_PARAMS,
        {"parameter": "directory"},
    )


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, MAX_WRITE])
def test_the_standard_input_arrives_whole(agent: Agent, size: int) -> None:
    data = os.urandom(size)
    info = ran(agent, "/bin/cat", input=base64.b64encode(data).decode(), output_bytes=MAX_READ)
    assert info.stdout == data


def test_an_input_that_nobody_reads_holds_up_nothing(agent: Agent) -> None:
    data = base64.b64encode(bytes(MAX_WRITE)).decode()
    assert ran(agent, "/bin/true", input=data).exit_code == 0
    assert printed(agent, "/bin/cat") == ""


def test_a_program_has_a_session_and_nothing_else_of_the_agent(agent: Agent) -> None:
    assert printed(agent, "/bin/ls", "/proc/self/fd").split() == ["0", "1", "2", "3"]  # ls's own
    status = printed(agent, "/bin/cat", "/proc/self/status")
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(facts["SigIgn"], 16) == int(facts["SigBlk"], 16) == 0
    assert facts["Umask"] == "0022"
    pid, group, session = printed(agent, SH, "-c", "cut -d' ' -f1,5,6 < /proc/$$/stat").split()
    assert pid == group == session


@needs_root
def test_users(agent: Agent) -> None:
    assert printed(agent, "/usr/bin/id", "-un") == "root\n"
    found = printed(agent, "/usr/bin/id", user="nobody")
    assert found.startswith(f"uid={pwd.getpwnam('nobody').pw_uid}(nobody)")
    assert "root" not in found
    status = printed(agent, "/bin/cat", "/proc/self/status", user="nobody")
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {int(facts[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {0}
    assert facts["NoNewPrivs"] == "1"
    error = agent.error("exec_command", argv=["/bin/true"], user="daemon")
    assert (error["code"], error["data"]) == (ErrorCode.DENIED, {"policy": "users"})


@needs_root
def test_a_user_enters_no_directory_of_another(agent: Agent, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(0o700)
    error = agent.error(
        "exec_command", argv=["/bin/true"], user="nobody", directory=str(tmp_path / "closed")
    )
    assert (error["code"], error["data"]) == (ErrorCode.FAILED, {"errno": "EACCES"})


RULES: Mapping[str, object] = {
    **ALL,
    "exec": [
        {"path": "/bin/echo", "arguments": ["status", "*.service"]},
        {"path": "/usr/bin/printf", "arguments": ["%s", "**"]},
        {"path": "/bin/true", "arguments": list[str]()},
    ],
}


@pytest.mark.parametrize(
    "argv, is_allowed",
    [
        (["/bin/echo", "status", "a.service"], True),
        (["/bin/echo", "status", ".service"], True),
        (["/bin/echo", "status", "a.services"], False),
        (["/bin/echo", "status", "a.service", ""], False),
        (["/bin/echo", "status"], False),
        (["/bin/echo", "Status", "a.service"], False),
        (["/bin/echo", "status ", "a.service"], False),
        (["/bin/echo"], False),
        (["/bin//echo", "status", "a.service"], False),
        (["/bin/../bin/echo", "status", "a.service"], False),
        (["/usr/bin/printf", "%s"], True),
        (["/usr/bin/printf", "%s", "a", "b"], True),
        (["/usr/bin/printf", "%s%s", "a"], False),
        (["/usr/bin/printf"], False),
        (["/bin/true"], True),
        (["/bin/true", ""], False),
        (["/bin/tru"], False),
        (["/bin/true "], False),
        (["true"], False),
        (["*"], False),
        ([""], False),
    ],
)
def test_arguments_that_nearly_match(
    agent_program: Path, tmp_path: Path, argv: list[str], is_allowed: bool
) -> None:
    with running_agent(agent_program, tmp_path, RULES) as agent:
        if is_allowed:
            assert ran(agent, *argv).exit_code == 0
        else:
            error = agent.error("exec_command", argv=argv)
            assert (error["code"], error["data"]) == (ErrorCode.DENIED, {"policy": "exec"})


@pytest.mark.parametrize("policies", [(RULES,), (ALL, RULES), (RULES, ALL)])
def test_who_may_run_some_programs_brings_no_variables(
    agent_program: Path, tmp_path: Path, policies: tuple[Mapping[str, object], ...]
) -> None:
    """`LD_PRELOAD` and a library in /tmp would make any program of one."""
    with running_agent(agent_program, tmp_path, *policies) as agent:
        for given in ({"LD_PRELOAD": "/tmp/any.so"}, {"A": "1"}):
            error = agent.error("exec_command", argv=["/bin/true"], environment=given)
            assert (error["code"], error["data"]) == (ErrorCode.DENIED, {"policy": "exec"})
        assert ran(agent, "/bin/true", environment={}).exit_code == 0


@needs_root
@pytest.mark.parametrize("user", ["root", "nobody"])
def test_a_program_is_not_spared_when_memory_is_short(
    agent_program: Path, tmp_path: Path, user: str
) -> None:
    prefix = (SH, "-c", 'echo 500 >/proc/self/oom_score_adj; exec "$@"', SH)
    with running_agent(agent_program, tmp_path, prefix=prefix) as agent:
        assert printed(agent, "/bin/cat", "/proc/self/oom_score_adj", user=user) == "0\n"


@pytest.mark.parametrize("kept", [0, 1, 1000, MAX_READ])
def test_the_first_bytes_are_kept_and_the_rest_is_counted(agent: Agent, kept: int) -> None:
    code = "head -c 300000 /dev/zero; head -c 100 /dev/zero >&2"
    info = ran(agent, SH, "-c", code, output_bytes=kept)
    assert (info.stdout, info.stderr) == (bytes(min(kept, 300_000)), bytes(min(kept, 100)))
    assert (info.stdout_bytes, info.stderr_bytes) == (300_000, 100)


def test_the_policy_bounds_output_and_time(agent_program: Path, tmp_path: Path) -> None:
    policy = {**ALL, "limits": {"output_bytes": 10, "timeout_seconds": 1}}
    with running_agent(agent_program, tmp_path, policy) as agent:
        assert ran(agent, "/usr/bin/printf", "%020d", "0", output_bytes=1000).stdout == b"0" * 10
        info = ran(agent, "/bin/sleep", "60", timeout=50)
        assert info.status is Status.TIMED_OUT
        assert info.seconds < 10
