# SPDX-License-Identifier: Apache-2.0
"""Finding a lock file by the port on which its holder listens."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from waggle.infra.host.process import held_by_listeners
from waggle.infra.shared.files import FileLock

PROGRAM = """\
import socket, sys
held = open(sys.argv[1], "w")
with socket.create_server((sys.argv[2], 0), family=int(sys.argv[3])) as listener:
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()
"""


def test_a_lock_of_this_process_is_found(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "some.lock")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert held_by_listeners(port, "some.lock") == [], "nobody has it open"
        with lock:
            assert held_by_listeners(port, "some.lock") == [tmp_path / "some.lock"]
            assert held_by_listeners(port, "other.lock") == []
    with lock:
        assert held_by_listeners(port, "some.lock") == [], "nobody listens"


def test_a_lock_of_another_process_is_found(tmp_path: Path) -> None:
    families = [("127.0.0.1", socket.AF_INET)]
    if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
        families.append(("::1", socket.AF_INET6))
    for number, (host, family) in enumerate(families):
        place = tmp_path / str(number) / "some.lock"
        place.parent.mkdir()
        words = [sys.executable, "-c", PROGRAM, str(place), host, str(int(family))]
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            assert held_by_listeners(port, "some.lock") == [place]
            process.communicate("")


def test_without_proc_nothing_is_found(tmp_path: Path) -> None:
    assert held_by_listeners(80, "some.lock", tmp_path) == []
