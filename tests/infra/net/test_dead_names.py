# SPDX-License-Identifier: Apache-2.0
"""The C library's resolver and a name server in their own network: dead names delay no others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.infra.net import dead_names

pytestmark = pytest.mark.slow
DEADLINE = 5.0


def test_four_guests_with_eight_dead_names_leave_a_fifth_ten_of_ten(tmp_path: Path) -> None:
    """The fifth guest used to get 2 of 10."""
    apart = ["unshare", "--map-root-user", "--mount", "--net"]
    ran = subprocess.run(
        [*apart, sys.executable, "-m", dead_names.__name__, str(tmp_path)],
        capture_output=True,
        check=False,
        timeout=120,
        cwd=Path(__file__).parents[3],
    )
    assert ran.returncode == 0, ran.stderr.decode()
    found = json.loads(ran.stdout)
    assert found["good"] == [["192.0.2.1"]] * 10
    assert found["seconds"] < DEADLINE
    assert found["searched"] == ["192.0.2.1"]
    assert found["hosts"] == ["192.0.2.77"]
    assert found["dead"] == ["OSError"], "the C library gives up before its callers do"
    assert found["freed"] < 2 * DEADLINE
