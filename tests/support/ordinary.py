# SPDX-License-Identifier: Apache-2.0
"""An ordinary user of the host, for tests that run as root: a user id that owns nothing."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from pathlib import Path

import pytest

USER = 12345


@contextlib.contextmanager
def place() -> Generator[Path]:
    """Make a directory that the user can reach, for the length of the block.

    pytest's directories do not work: every session that starts closes their parent to others.
    """
    with tempfile.TemporaryDirectory(prefix="waggle-ordinary-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def owned(directory: Path) -> Path:
    """Make a directory that the user owns."""
    directory.mkdir()
    os.chown(directory, USER, USER)
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


@functools.cache
def _hindrance() -> str:
    if os.geteuid() != 0:
        return "NOT COMPARED WITH ROOT: run these tests as root too"
    try:
        tried = as_user(sys.executable, "-c", "import waggle.cli.main")
    except PermissionError:
        return f"NOT TESTED AS ANOTHER USER, who cannot run {sys.executable}"
    if tried.returncode:
        return f"NOT TESTED AS ANOTHER USER, who cannot read waggle: {tried.stderr[-300:]}"
    return ""


def needs_two_users() -> None:
    """Skip the test, with a message, unless this is root and the user can read waggle's files."""
    if reason := _hindrance():
        pytest.skip(reason)
