# SPDX-License-Identifier: Apache-2.0
"""The filter on a runner's system calls, tried by a process that has it."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from waggle.infra.krun.seccomp import DENIED, program

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="NOT TESTED: the list is for x86-64"
)
INSTALL = """
import ctypes, os, socket, sys, threading
from waggle.infra.krun import seccomp
from waggle.infra.krun._abi import ffi
libc = ctypes.CDLL(None, use_errno=True)
assert seccomp.install(ffi.dlopen(None))
"""


def confined(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process that has the filter."""
    return subprocess.run(
        [sys.executable, "-c", INSTALL + code],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "code",
    [
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.pidfd_open(os.getpid())",
    ],
)
def test_no_process_and_no_program_is_started(code: str) -> None:
    done = confined(code)
    assert "PermissionError: [Errno 1]" in done.stderr, done.stderr


def test_each_denied_call_says_that_it_is_not_permitted() -> None:
    numbers = sorted(number for group in DENIED.values() for number in group)
    done = confined(
        f"""
for number in {numbers}:
    assert libc.syscall(number, -1, -1, -1, -1, -1) == -1, number
    assert ctypes.get_errno() == 1, (number, ctypes.get_errno())
print("all")
"""
    )
    assert done.stdout == "all\n", done.stderr


def test_calls_of_the_other_abi_are_denied() -> None:
    done = confined(
        "assert libc.syscall(0x40000000 + 39) == -1; print(ctypes.get_errno())"  # x32 getpid
    )
    assert done.stdout == "1\n", done.stderr


def test_threads_files_and_sockets_work_as_before() -> None:
    done = confined(
        """
thread = threading.Thread(target=print, args=("thread",))
thread.start()
thread.join()
left, right = socket.socketpair()
left.send(b"x")
print(right.recv(1), open("/dev/null").read() == "")
"""
    )
    assert done.stdout == "thread\nb'x' True\n", done.stderr


def test_the_filter_is_there_for_good() -> None:
    done = confined("print(open('/proc/self/status').read())")
    assert "NoNewPrivs:\t1" in done.stdout
    assert "Seccomp:\t2" in done.stdout


def test_every_jump_stays_inside() -> None:
    instructions = program()
    for at, (_, yes, no, _) in enumerate(instructions):
        assert at + 1 + max(yes, no) <= len(instructions)
    assert len(instructions) < 4096
