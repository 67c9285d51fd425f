# SPDX-License-Identifier: Apache-2.0
"""env new, exec, run and shell with a real server and real machines, as a newcomer types them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.waggle_process import Waggle, beside, command_line, environ, running, small

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]
PROGRAM = """\
echo "$# $2"
cat
echo oops >&2
exit 7
"""


def test_a_newcomers_commands_work(tmp_path: Path) -> None:
    with running(tmp_path / "server", small(tmp_path)) as server:
        made = beside(server, "env", "new", "shell", "--name", "box", "--network", "none")
        assert made.returncode == 0, made.stderr
        identity = made.stdout.strip()
        assert server.directories() == [identity]
        check_exec(server)
        check_interrupt(server)
        check_shell(server, tmp_path / "elsewhere")
        check_run(server, tmp_path, identity)
        assert beside(server, "env", "rm", "box").stdout == made.stdout
        assert server.remains() == {}


def check_exec(server: Waggle) -> None:
    ended = beside(
        server, "exec", "box", "--", "/bin/busybox", "sh", "-c", "echo $0; exit 3", "a b"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (3, "a b\n", "")

    words = ("exec", "box", "--", "/bin/busybox", "head", "-c", "5000000", "/dev/urandom")
    saved = ("exec", "box", "--", "/bin/busybox", "sh", "-c", _SUM)
    first = binary(server, *saved)
    assert first.returncode == 0
    assert len(first.stdout) == 5_000_000
    assert binary(server, *words).stdout != first.stdout
    again = binary(server, "exec", "box", "--", "/bin/busybox", "cat", "/tmp/large")
    assert again.stdout == first.stdout

    missing = beside(server, "exec", "box", "--", "ls -l")
    assert missing.returncode == 127
    assert "sh -c 'ls -l'" in missing.stderr


_SUM = "busybox head -c 5000000 /dev/urandom | busybox tee /tmp/large"


def binary(server: Waggle, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "waggle", *words],
        env=environment(server),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )


def environment(server: Waggle) -> dict[str, str]:
    address = {"listen_addr": server.url.removeprefix("http://")}
    return environ(server.data, {**server.settings, **address})


def check_interrupt(server: Waggle) -> None:
    """Ctrl-C during a run also ends the program in the machine."""
    code = interrupted(server, "exec", "box", "--", "/bin/busybox", "sh", "-c", _HANG)
    assert code == 130
    looked = beside(server, "exec", "box", "--", "/bin/busybox", "sh", "-c", _LOOK)
    assert looked.stdout == "looked\n"


_LOOK = "busybox grep -ls 'sleep.432[1]' /proc/[0-9]*/cmdline; echo looked"
_HANG = "echo up; exec busybox sleep 4321"


def interrupted(server: Waggle, *words: str) -> int:
    with subprocess.Popen(
        [sys.executable, "-m", "waggle", *words],
        env=environment(server),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        os.kill(process.pid, signal.SIGINT)
        return process.wait(60)


def check_shell(server: Waggle, elsewhere: Path) -> None:
    """The data directory is the server's, whatever the shell's settings name."""
    address = {"listen_addr": server.url.removeprefix("http://")}
    ended = command_line("shell", "box", data=elsewhere, settings=address, stdin="exit 5\n")
    assert ended.returncode == 5, ended.stderr
    ended = command_line("shell", "box", data=elsewhere, settings=address, stdin="")
    assert ended.returncode == 0, ended.stderr


def check_run(server: Waggle, directory: Path, box: str) -> None:
    file = directory / "some thing.sh"
    file.write_text(PROGRAM)
    address = {"listen_addr": server.url.removeprefix("http://")}
    ended = command_line(
        *("run", "-i", str(file), "one", "--", "--two"),
        data=server.data,
        settings={**server.settings, **address},
        stdin="input\n",
    )
    assert (ended.returncode, ended.stdout) == (7, "2 --two\ninput\n"), ended.stderr
    assert ended.stderr.endswith("oops\n")
    assert server.directories() == [box]

    file.write_text(_HANG)
    assert interrupted(server, "run", str(file)) == 130
    assert server.directories() == [box]
