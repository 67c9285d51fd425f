# SPDX-License-Identifier: Apache-2.0
"""An agent at a socket, served by another thread, and the command line in this one."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import anyio.from_thread
import pytest
from tests.cli.agent.ended import Ended, Run
from tests.support.agent_peer import Peer, listening

from waggle.cli import main


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "agent.sock"


@pytest.fixture
def peer(socket: Path) -> Generator[Peer]:
    """An agent that answers well, unless the test gives it another `reply`."""
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(listening(socket)) as made,
    ):
        yield made


@pytest.fixture
def waggle(capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run a command line."""

    def run(*words: str | Path) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main.main([str(word) for word in words])
        out, err = capfdbinary.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, out, err.decode())

    return run


@pytest.fixture
def ask(socket: Path, waggle: Run) -> Run:
    """Run `waggle agent` with the socket."""
    return lambda *words: waggle("agent", "--socket", socket, *words)
