# SPDX-License-Identifier: Apache-2.0
"""A fixture that keeps what the services log: tests can assert it, and it is not printed."""

from collections.abc import Generator, MutableMapping

import pytest
import structlog.testing


@pytest.fixture(autouse=True)
def logged() -> Generator[list[MutableMapping[str, object]]]:
    with structlog.testing.capture_logs() as entries:
        yield entries
