# SPDX-License-Identifier: Apache-2.0
"""Two environments that grow old while other tests run, for the tests of the reaper."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

import pytest
from tests.support.waggle_process import Waggle

WORKING_SECONDS = 75
"""Longer than the shortest possible idle timeout, a minute."""


@dataclass
class Aging:
    """Two environments with an idle timeout of a minute; `busy` works for longer than that."""

    server: Waggle
    idle: str
    busy: str
    work: subprocess.Popen[str]


def looked_at(items: Iterable[pytest.Item]) -> bool:
    """Return whether one of the tests that will run uses `aging`."""
    return any(isinstance(item, pytest.Function) and "aging" in item.fixturenames for item in items)
