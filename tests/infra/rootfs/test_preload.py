# SPDX-License-Identifier: Apache-2.0
"""What dropbear writes at once to its connection (kit/guest/preload.c), on this host.

A Python process has it preloaded instead of dropbear, and is given its connection as by PID 1.
"""

from __future__ import annotations

import json
import platform
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests.support.programs import program

from waggle.infra.rootfs.kit import GUEST_SOURCES

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="its system calls")
PACKET = 16384
SECONDS = 20.0
ALL = [[5], [PACKET], [PACKET + 1], [10_000, 0, 10_000], [0, 40_000], [40_000, 1], [1] * 50, [0]]
CHILD = """
import json, os, sys
fd, wanted = int(sys.argv[1]), json.loads(sys.argv[2])
for sizes in wanted:
    parts = [bytes([65 + at % 26]) * size for at, size in enumerate(sizes)]
    print("", os.writev(fd, parts), file=sys.stderr)
"""
Written = tuple[list[int], bytes]
Writer = Callable[..., Written]


def written(library: Path, fd: int, wanted: list[list[int]], *, unread: bool = False) -> Written:
    """Return what each writev of a process returned, and all that its connection got.

    `unread`: PID 1 has not read that it is ready, and has closed its end before it goes on.
    """
    ours, theirs = socket.socketpair()
    pid1, spare = socket.socketpair(type=socket.SOCK_SEQPACKET)
    argv = [sys.executable, "-I", "-S", "-c", CHILD, str(fd), json.dumps(wanted)]
    environment = {"LD_PRELOAD": str(library)}
    with ours, pid1:
        ours.settimeout(SECONDS)
        pid1.settimeout(SECONDS)
        with spare, theirs:
            process = subprocess.Popen(
                argv, stdin=spare.fileno(), env=environment, stderr=subprocess.PIPE
            )
            assert pid1.recv(1, socket.MSG_PEEK if unread else 0) == b"\0"  # it is ready
            if unread:
                process.send_signal(signal.SIGSTOP)
            socket.send_fds(pid1, [b"\0"], [theirs.fileno()])
        pid1.close()
        process.send_signal(signal.SIGCONT)
        got = b""
        while data := ours.recv(1 << 16):
            got += data
        said = process.communicate(timeout=SECONDS)[1]
    assert process.returncode == 0, said
    return [int(word) for word in said.split() if word.isdigit()], got


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Writer]:
    """A function that compiles it with another family of sockets for vsock's."""

    def make(family: int) -> Writer:
        directory = tmp_path_factory.mktemp("preload")
        source, library = directory / "preload.c", directory / "preload.so"
        text = (GUEST_SOURCES / "preload.c").read_text()
        changed = text.replace("#define AF_VSOCK 40\n", f"#define AF_VSOCK {family}\n")
        assert "AF_VSOCK 40" in text
        source.write_text(changed)
        flags = ["-shared", "-fPIC", "-nostdlib", "-fno-builtin", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([program("cc"), *flags, "-o", str(library), source], check=True)
        return partial(written, library)

    return make


@pytest.mark.parametrize("fd", [0, 1])
def test_over_vsock_a_write_is_cut_after_a_packet(build: Callable[[int], Writer], fd: int) -> None:
    counts, got = build(socket.AF_UNIX)(fd, ALL)
    assert counts == [5, PACKET, PACKET, PACKET, PACKET, PACKET, 50, 0]
    third = b"A" * 10_000 + b"C" * (PACKET - 10_000)
    assert got[5 + 2 * PACKET :][:PACKET] == third
    assert len(got) == sum(counts)


def test_other_connections_and_descriptors_get_all_at_once(build: Callable[[int], Writer]) -> None:
    assert build(40)(0, ALL)[0] == [sum(sizes) for sizes in ALL]
    standard_error = 2
    assert build(socket.AF_UNIX)(standard_error, [[40_000]])[0] == [40_000]


def test_a_connection_is_taken_although_pid_1_has_gone_on(build: Callable[[int], Writer]) -> None:
    """The kernel says first that what was sent to PID 1 was not read."""
    assert build(40)(1, [[5]], unread=True) == ([5], b"A" * 5)
