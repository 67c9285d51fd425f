# SPDX-License-Identifier: Apache-2.0
"""The changes that `waggle serve` makes to its own process before it serves."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

from waggle.infra.host.process import reachable

SERVE = """
import resource, sys
from waggle.app import process, serving
from waggle.config import load

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), hard))
process.run = lambda *_, **_named: print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
serving.serve(load({"WAGGLE_DATA_DIR": sys.argv[2]}))
"""
"""Prints the limit in the place of serving. Needs no port, parts or machine."""


def test_a_server_may_open_as_many_files_as_its_system_allows(tmp_path: Path) -> None:
    """A shell gives 1,024 and allows more; 1,000 connections alone would use those up."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = hard if 0 <= hard < 400 else 400
    argv = [sys.executable, "-c", SERVE, str(low), str(tmp_path)]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == (f"{reachable(low, hard)}\n", "")
