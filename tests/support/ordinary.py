# SPDX-License-Identifier: Apache-2.0
"""An ordinary user of the host, for tests that run as root: a user id that owns nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

USER = 12345


def owned(directory: Path) -> Path:
    """Make a directory that is the user's and that it can get to."""
    directory.mkdir()
    os.chown(directory, USER, USER)
    for above in directory.parents[:3]:
        above.chmod(above.stat().st_mode | 0o111)
    return directory


def as_user(
    *argv: str | Path, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end as that user, without groups and without root's home."""
    return subprocess.run(
        argv,
        env={**(env or os.environ), "HOME": "/nonexistent"},
        user=USER,
        group=USER,
        extra_groups=[],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def needs_two_users() -> None:
    """Skip the test, loudly, unless this is root and the user can read waggle's files."""
    if os.geteuid() != 0:
        pytest.skip("NOT COMPARED WITH ROOT: run these tests as root too")
    if (tried := as_user(sys.executable, "-c", "import waggle.cli.main")).returncode:
        pytest.skip(f"NOT TESTED AS ANOTHER USER, who cannot read waggle: {tried.stderr[-300:]}")
