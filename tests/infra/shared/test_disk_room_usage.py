# SPDX-License-Identifier: Apache-2.0
"""The kernel's figures for processes and files."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

from waggle.infra.shared.confined import identify
from waggle.infra.shared.disk_room import ProcessUsage, allocated_bytes, parse_stat, process_usage


def test_a_process_name_may_hold_any_character() -> None:
    fields = [str(n) for n in range(3, 53)]
    fields[0] = "S"
    line = f"42 (a) S 1 (b) {' '.join(fields)}\n"
    assert parse_stat(line, ticks=100, page=4096) == ProcessUsage(0.29, 24 * 4096)


def test_a_living_process_is_measured() -> None:
    own = identify(os.getpid())
    assert own is not None
    used = process_usage(own)
    assert used is not None
    assert used.memory_bytes > 1 << 20
    assert 0 < used.cpu_seconds <= sum(os.times()[:2]) + 0.1


def test_an_ended_process_is_not_confused_with_another_of_its_pid() -> None:
    own = identify(os.getpid())
    assert own is not None
    assert process_usage(replace(own, started=own.started + 1)) is None
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
    identity = identify(child.pid)
    assert identity is not None
    child.communicate()
    assert process_usage(identity) is None


def test_holes_in_a_file_are_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(64 << 20)
        assert allocated_bytes(path) < 1 << 20
        file.write(b"x" * (2 << 20))
    os.sync()
    assert 2 << 20 <= allocated_bytes(path) < 4 << 20
    assert allocated_bytes(tmp_path / "gone") == 0
