# SPDX-License-Identifier: Apache-2.0
"""How the agent starts, and what stops it: wrong options and policies, with a line of why."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.support.agent_program import running_agent

from waggle import __version__

RULE = '{"exec":[{"path":"/a","arguments":[%s]}]}'


def run(program: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0"}
    argv = [program, *options]
    return subprocess.run(
        argv, check=False, capture_output=True, text=True, timeout=20, env=environment
    )


def checked(program: Path, directory: Path, policy: bytes) -> subprocess.CompletedProcess[str]:
    (directory / "policy").write_bytes(policy)
    return run(program, "--check", "--policy", str(directory / "policy"))


@pytest.mark.parametrize(
    "policy, place",
    [
        ("", "line 1, column 0"),
        ("{", "line 1, column 1"),
        ("[]", ".: must be an object"),
        ("{}x", "line 1, column 3"),
        ("{}\0", "NUL"),
        ('{"methods":{"deny":[]}}\0{"methods":{"deny":["*"]}}', "NUL"),
        ("{}" + " " * 65_536, "size"),
        ('{"a":1}', "a: no such member"),
        ('{"users":["a"],"users":["root"]}', "line 1"),
        ('{"methods":{"allow":"*"}}', "methods.allow"),
        ('{"methods":{"deny":["Ping"]}}', "methods.deny[0]: no such method"),
        ('{"read":null}', "read: must be an object"),
        ('{"read":{"deny":["tmp"]}}', "read.deny[0]"),
        ('{"read":{"allow":["/tmp/"]}}', "read.allow[0]"),
        ('{"write":{"allow":["/tmp","/a/../b"]}}', "write.allow[1]"),
        ('{"write":{"allow":["/a//b"]}}', "write.allow[0]"),
        ('{"write":{"allow":["/%s"]}}' % ("x" * 512), "write.allow[0]"),
        ('{"exec":{}}', "exec: must be"),
        ('{"exec":[{"path":"a","arguments":[]}]}', "exec[0].path"),
        ('{"exec":[{"path":"/a"}]}', "exec[0].arguments"),
        (RULE % '"a","b",1', "exec[0].arguments[2]"),
        ('{"exec":[{"path":"/a","arguments":[],"user":"x"}]}', "exec[0].user: no such member"),
        ('{"users":[]}', "users: must name one"),
        ('{"limits":{"requests":0}}', "limits.requests: must be 1 to 32"),
        ('{"limits":{"requests":33}}', "limits.requests: must be 1 to 32"),
        ('{"limits":{"requests":1.0}}', "limits.requests: must be 1 to 32"),
        ('{"limits":{"requests":null}}', "limits.requests: must be 1 to 32"),
        ('{"limits":{"timeout_seconds":18446744073709551617}}', "line 1"),
        ('{"audit":["file"]}', "audit[0]: must be syslog, kmsg or port"),
    ],
)
def test_a_wrong_policy_stops_the_start_with_its_place(
    agent_program: Path, tmp_path: Path, policy: str, place: str
) -> None:
    done = checked(agent_program, tmp_path, policy.encode())
    assert (done.returncode, done.stdout) == (os.EX_CONFIG, "")
    assert done.stderr.startswith(f"waggle-agent: {tmp_path}/policy: ")
    assert place in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("policy", ["{}", '{"exec":null}\n', RULE % '"**"', '{"audit":[]}'])
def test_a_right_policy_is_checked_without_a_word(
    agent_program: Path, tmp_path: Path, policy: str
) -> None:
    done = checked(agent_program, tmp_path, policy.encode())
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_version(agent_program: Path) -> None:
    assert run(agent_program, "--version").stdout == f"waggle-agent {__version__}, protocol 1.0\n"


@pytest.mark.parametrize(
    "options, code, why",
    [
        (["--fd", "x"], 2, "no such descriptor: x"),
        (["--fd", ""], 2, "no such descriptor: "),
        (["--fd", "-1"], 2, "no such descriptor: -1"),
        (["--fd", "99"], 2, "no such descriptor: 99"),
        (["--init", "upstart"], 2, "no such init: upstart"),
        (["--wrong"], 2, "wrong option"),
        (["more"], 2, "unexpected argument: more"),
        (["--policy", "/none"], os.EX_CONFIG, "/none: cannot be read: No such file or directory"),
        (["--policy", "{}", "--port", "/none"], 1, "/none: No such file or directory"),
    ],
)
def test_wrong_options_are_told(
    agent_program: Path, tmp_path: Path, options: list[str], code: int, why: str
) -> None:
    (tmp_path / "policy").write_text("{}")
    words = [str(tmp_path / "policy") if word == "{}" else word for word in options]
    done = run(agent_program, *words)
    assert (done.returncode, done.stdout) == (code, "")
    assert why in done.stderr


def test_nothing_of_the_agents_becomes_its_standard_output(
    agent_program: Path, tmp_path: Path
) -> None:
    prefix = ("/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh")
    with running_agent(agent_program, tmp_path, prefix=prefix) as agent:
        assert agent.result("ping") == {}
        for number in range(3):
            opened = Path(f"/proc/{agent.process.pid}/fd/{number}")
            assert opened.readlink() == Path("/dev/null")
