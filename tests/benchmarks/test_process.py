# SPDX-License-Identifier: Apache-2.0
"""The counts of a server's resources, checked here on this process and its children."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

from benchmarks.process import (
    descendants,
    difference,
    holdings,
    own_bytes,
    resident_bytes,
    users_of,
)

ME = os.getpid()


def test_memory_is_that_of_the_process() -> None:
    before = resident_bytes(ME)
    ballast = bytearray(64 << 20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    assert resident_bytes(ME) - before > 48 << 20


def test_guest_memory_does_not_count_as_memory_of_its_vmm() -> None:
    guest = 256 << 20
    before = own_bytes(ME, guest)
    with mmap.mmap(-1, guest, mmap.MAP_PRIVATE) as memory, mmap.mmap(-1, 8 << 20) as shared:
        memory[: 32 << 20] = b"x" * (32 << 20)
        shared[:] = b"x" * (8 << 20)
        assert abs(own_bytes(ME, guest) - before) < 16 << 20
        assert own_bytes(ME, guest * 4) - before > 24 << 20


def test_every_kind_is_counted_while_it_exists(tmp_path: Path) -> None:
    before = holdings(ME, tmp_path)
    read_end, write_end = os.pipe()
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    lock.bind(f"\0waggle-port-of-test-{ME}")
    file = (tmp_path / "left").open("w")
    with socket.create_server(("127.0.0.1", 0)), lock, file:
        changes = difference(before, holdings(ME, tmp_path))
    changes.pop("mounts", None)  # other tests mount disks at the same time
    os.close(read_end)
    os.close(write_end)
    assert changes == {
        "files": 1,
        "listening ports": 1,
        "open files": 1,
        "other descriptors": 2,
        "port locks": 1,
        "sockets": 2,
    }
    after = difference(before, holdings(ME, tmp_path))
    assert {kind: count for kind, count in after.items() if kind != "mounts"} == {"files": 1}


def test_children_and_orphans_that_hold_our_files_count(tmp_path: Path) -> None:
    before = holdings(ME, tmp_path)
    orphan = (
        "import os, sys\n"
        "file = open(sys.argv[1], 'w'); os.unlink(sys.argv[1])\n"
        "child = os.fork()\n"
        "if child: print(child, flush=True); os._exit(0)\n"
        "os.close(1); os.read(0, 1)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", orphan, str(tmp_path / "held")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        left = int(process.stdout.readline())
        assert process.pid in descendants(ME)
        process.wait()
        assert left in users_of((tmp_path,))
        assert holdings(ME, tmp_path)["processes"] == before["processes"] + 1


def test_a_difference_names_only_what_changed() -> None:
    before, after = Counter(files=2, sockets=1), Counter(files=2, sockets=3, ports=1)
    assert difference(before, after) == {"ports": 1, "sockets": 2}
    assert difference(after, before) == {"ports": -1, "sockets": -2}
    assert difference(before, before) == {}
