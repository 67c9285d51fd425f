# SPDX-License-Identifier: Apache-2.0
"""Settings and fixtures for all tests.

asyncio is the only backend of `@pytest.mark.anyio`. Hypothesis examples have no deadline, since a
busy machine would break it without a fault of the code. Collected tests live to the end, so the
garbage collector never walks through them. A script's background jobs and their children ignore
SIGINT, so tests that run there restore it. Logged tracebacks are plain: pretty ones with all locals
take seconds.
"""

from __future__ import annotations

import gc
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import settings
from tests.support.in_memory import IN_MEMORY

TESTS = Path(__file__).parent
LONG = ("endurance", "fresh", "packages", "debian", "e2e", "vm")

structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper("%Y-%m-%d %H:%M:%S", utc=True),
        structlog.dev.ConsoleRenderer(
            colors=False, exception_formatter=structlog.dev.plain_traceback
        ),
    ]
)
settings.register_profile("waggle", deadline=None)
settings.load_profile("waggle")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add numbers of repetitions: those of `./task endurance`, and those that the lab reduces."""
    group = parser.getgroup("repetitions")
    group.addoption("--kills", type=int, default=100, help="how often a server is killed")
    group.addoption("--cycles", type=int, default=1000, help="how often one is made and destroyed")
    group.addoption("--turns", type=int, default=20, help="how many machines use one port in turn")
    group.addoption("--copies", type=int, default=100, help="how many resume from one template")
    group.addoption("--seed", type=int, default=None, help="of the random times; it is printed")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the directories whose modules take minutes."""
    items.sort(key=lambda item: item.path.relative_to(TESTS).parts[0] not in LONG)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A directory where syncing a file costs nothing."""
    with tempfile.TemporaryDirectory(prefix="waggle-test-", dir=IN_MEMORY) as name:
        yield Path(name)
