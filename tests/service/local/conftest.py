# SPDX-License-Identifier: Apache-2.0
"""A host of pretended machines for the tests of this directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.service.local.pretended import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)
