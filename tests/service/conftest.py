# SPDX-License-Identifier: Apache-2.0
"""Keep what the services log: it can be asserted, and no traceback is drawn for nobody."""

from collections.abc import Generator, MutableMapping

import pytest
import structlog.testing


@pytest.fixture(autouse=True)
def logged() -> Generator[list[MutableMapping[str, object]]]:
    with structlog.testing.capture_logs() as entries:
        yield entries
