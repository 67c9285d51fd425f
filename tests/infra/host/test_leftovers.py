# SPDX-License-Identifier: Apache-2.0
"""VMMs that lost their server and their guard; a sleep in a namespace of its own stands for one."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.support.waiting import until_sync

from waggle.infra.host.leftovers import end_leftovers
from waggle.infra.shared.confined import identify

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="NOT TESTED: only root gives a process another user"
)
BASE, PORT = 1_900_000_000, 23_999
NAMESPACE = ("unshare", "--pid", "--fork")
PLAIN = ("sh", "-c", '"$@"; true', "sh")


def nobody(_port: int) -> bool:
    """Tell that nobody holds the lock of a port."""
    return False


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@contextlib.contextmanager
def machine(*, guard: bool, parent: tuple[str, ...] = NAMESPACE) -> Generator[int]:
    """Run one below its guard, which is killed unless it is to have one; yield its number."""
    become = ("setpriv", f"--reuid={BASE + PORT}", f"--regid={BASE + PORT}", "--clear-groups")
    with subprocess.Popen((*parent, *become, "sleep", "1000")) as started:
        pid = until_sync(lambda: child_of(started.pid))
        try:
            if not guard:
                started.kill()
                started.wait()
            yield pid
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            started.kill()
    until_sync(lambda: identify(pid) is None)


def child_of(pid: int) -> int | None:
    """Return the child of a process once it is what it is to become."""
    for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{number}/comm").read_text() == "sleep\n":
                return int(number)
    return None


def test_one_without_a_guard_whose_port_nobody_holds_is_ended() -> None:
    with machine(guard=False) as pid:
        adopter = parent_of(pid)
        assert end_leftovers(BASE, range(PORT + 1, PORT + 9), nobody, adopter=adopter) == []
        assert end_leftovers(BASE, [PORT], lambda port: port == PORT, adopter=adopter) == []
        assert identify(pid)
        assert end_leftovers(BASE, [PORT], nobody, adopter=adopter) == [pid]
        assert identify(pid) is None


def test_names_of_other_programs_are_any_bytes() -> None:
    """Every user of the host may give one to a process, also a container's."""
    named = "import ctypes, sys; ctypes.CDLL(None).prctl(15, b'\\xff'); print(flush=True); input()"
    with subprocess.Popen(
        (sys.executable, "-c", named), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == b"\n"
        assert Path(f"/proc/{other.pid}/comm").read_bytes() == b"\xff\n"
        assert end_leftovers(BASE, [PORT], nobody) == []
        other.communicate(b"\n")


def test_one_with_its_guard_is_left_alone() -> None:
    with machine(guard=True) as pid:
        assert end_leftovers(BASE, [PORT], nobody) == []
        assert identify(pid)


def test_a_program_that_is_no_vmm_is_left_alone() -> None:
    with machine(guard=False, parent=PLAIN) as pid:
        adopter = parent_of(pid)
        assert end_leftovers(BASE, [PORT], nobody, adopter=adopter) == []
        assert identify(pid)
