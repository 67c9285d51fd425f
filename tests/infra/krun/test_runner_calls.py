# SPDX-License-Identifier: Apache-2.0
"""The filter on a runner's system calls, tried from a filtered process, as if taken over."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from waggle.infra.krun.runner import ALLOWED, runner_filter

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="NOT TESTED: the list is for x86-64"
)
INSTALL = """
import ctypes, os, signal, socket, sys, threading
from waggle.infra.shared import seccomp
from waggle.infra.shared._abi import ffi
from waggle.infra.krun.runner import runner_filter
libc = ctypes.CDLL(None, use_errno=True)
assert seccomp.install(ffi.dlopen(None), runner_filter(os.getpid()))
"""
LAST = 470
"""A number beyond the last system call of any kernel when this was written."""
FROM_PROBES = {335, 336}
"""uretprobe and uprobe: the kernel ends callers from elsewhere before any filter."""
WITH_RULES = {41, 53, 56, 62, 234, 302, 435}
_HEADERS = (
    Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    Path("/usr/include/asm/unistd_64.h"),
)


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
        "os.kill(os.getppid(), 0)",
        "signal.pthread_kill(threading.get_ident(), 0); os.kill(-1, 0)",
        "os.killpg(os.getpgid(0), 0)",
        "os.setuid(0)",
        "os.mkdir('/tmp/waggle-never')",
        "os.chmod('/tmp', 0o777)",
    ],
)
def test_an_escape_cannot_start_signal_or_change_anything(code: str) -> None:
    done = confined(code)
    assert "PermissionError: [Errno 1]" in done.stderr, done.stderr


def test_only_unix_sockets_can_be_made() -> None:
    """AF_VSOCK and AF_ALG are 40 and 38: they would reach the host's kernel from any network."""
    done = confined(
        """
for family in set(range(64)) - {socket.AF_UNIX}:
    for kind in range(1, 6):
        for call in (libc.socket, lambda *given: libc.socketpair(*given, None)):
            assert call(family, kind, 0) == -1, (family, kind)
            assert ctypes.get_errno() == 1, (family, kind, ctypes.get_errno())
assert libc.syscall(41, (1 << 32) | 40, 1, 0) == -1  # of which the kernel takes the lower half
socket.socket(socket.AF_UNIX).close()
print("all")
"""
    )
    assert done.stdout == "all\n", done.stderr


def test_every_call_off_the_list_is_denied() -> None:
    allowed = {number for group in ALLOWED.values() for number in group.values()}
    others = sorted(set(range(LAST)) - allowed - WITH_RULES - FROM_PROBES)
    assert len(others) > 300
    done = confined(
        f"""
for number in {others}:
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


def test_threads_files_and_unix_sockets_work_as_before() -> None:
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


def test_the_filter_is_permanent() -> None:
    done = confined("print(open('/proc/self/status').read())")
    assert "NoNewPrivs:\t1" in done.stdout
    assert "Seccomp:\t2" in done.stdout


def test_the_list_has_no_dangerous_call() -> None:
    names = {name for group in ALLOWED.values() for name in group}
    assert not names & {
        *("socket", "socketpair", "clone", "clone3", "fork", "vfork", "execve", "execveat"),
        *("kill", "tkill", "tgkill", "ptrace", "process_vm_readv", "process_vm_writev"),
        *("mount", "unshare", "setns", "pivot_root", "chroot", "open_by_handle_at", "bpf"),
        *("io_uring_setup", "userfaultfd", "perf_event_open", "keyctl", "add_key", "personality"),
    }


def test_numbers_match_their_names() -> None:
    header = next((path for path in _HEADERS if path.exists()), None)
    if header is None:
        pytest.skip("NOT TESTED: the C library's headers are not installed (libc6-dev)")
    numbers = dict(re.findall(r"#define __NR_(\w+) (\d+)", header.read_text("utf-8")))
    listed = {name: number for group in ALLOWED.values() for name, number in group.items()}
    known = {name: int(numbers[name]) for name in listed if name in numbers}
    assert known == {name: listed[name] for name in known}
    assert len(known) > 100


def test_every_jump_stays_inside_the_filter() -> None:
    instructions = runner_filter(1)
    for at, (_, yes, no, _) in enumerate(instructions):
        assert at + 1 + max(yes, no) <= len(instructions)
        assert max(yes, no) < 256
    assert len(instructions) < 4096
