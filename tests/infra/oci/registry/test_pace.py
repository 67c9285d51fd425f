# SPDX-License-Identifier: Apache-2.0
"""A transfer that crawls is detected although bytes keep arriving."""

from __future__ import annotations

import pytest

from waggle.infra.oci.registry.blobs import Pace
from waggle.infra.oci.registry.endpoints import Transient


def test_a_crawling_transfer_is_detected_and_a_slow_one_is_not() -> None:
    time = 0.0
    pace = Pace(30.0, lambda: time)
    for _ in range(10):
        time += 29.0
        pace.add(16 * 1024, "registry.example")
    pace.add(1, "registry.example")
    time += 29.0
    pace.add(1, "registry.example")
    time += 2.0
    with pytest.raises(Transient, match="hardly sends"):
        pace.add(1, "registry.example")
