# SPDX-License-Identifier: Apache-2.0
"""An empty store, and a layout directory to load into it.

Every image syncs a dozen files, and no test here checks the effects of a power loss, so everything
is in memory.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.infra.oci.loading import LAYERS, NAME
from tests.support.images import (
    write_layout,
)

from waggle.infra.oci.store import ImageStore


@pytest.fixture
def tmp_path(in_memory: Path) -> Path:
    return in_memory


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    return ImageStore(tmp_path / "images")


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    write_layout(tmp_path / "mine", LAYERS, name=NAME, config={"Env": ["A=1"]})
    return tmp_path / "mine"
