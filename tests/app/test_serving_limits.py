# SPDX-License-Identifier: Apache-2.0
"""The changes that `waggle serve` makes to its own process before it serves."""

from __future__ import annotations

import resource
from pathlib import Path

from tests.support.waggle_process import running

from waggle.infra.host.process import reachable


def test_a_server_may_open_as_many_files_as_its_system_allows(tmp_path: Path) -> None:
    """A shell gives 1,024 and allows more; 1,000 connections alone would use those up."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = min(400, before[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (low, before[1]))
    try:
        with running(tmp_path / "server", {"image_cache_dir": "/nonexistent"}) as server:
            lines = Path(f"/proc/{server.process.pid}/limits").read_text().splitlines()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    (soft,) = (line.split()[3] for line in lines if line.startswith("Max open files"))
    assert int(soft) == reachable(low, before[1])
