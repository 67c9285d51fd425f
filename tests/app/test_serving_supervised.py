# SPDX-License-Identifier: Apache-2.0
"""A real server under a service manager: what it hears, and what SIGHUP does."""

from __future__ import annotations

import signal
import socket
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import httpx2
import pytest
from tests.support.waggle_client import until
from tests.support.waggle_process import Waggle, running

from waggle.infra.access.tokens_file import digest

SECONDS = 30.0
ANN, BOB = "wgl_" + "a" * 43, "wgl_" + "b" * 43


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[socket.socket]:
    """The socket of a service manager, which the server inherits."""
    address = str(tmp_path / "notify")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as receiver:
        receiver.bind(address)
        receiver.settimeout(SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        yield receiver


def received(manager: socket.socket) -> dict[str, str]:
    lines = manager.recv(4096).decode().splitlines()
    return dict(line.split("=", 1) for line in lines)


def tokens(path: Path, *given: str) -> None:
    lines = [f"ann sha256:{digest(token)}\n" for token in given]
    path.touch(0o600)
    path.write_text("".join(lines))


def answer(server: Waggle, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx2.get(server.mcp, headers=headers).status_code


def test_a_manager_hears_of_the_start_of_reloads_and_of_the_end(
    tmp_path: Path, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "3600000000")
    file = tmp_path / "tokens"
    tokens(file, ANN)
    audit = tmp_path / "audit"
    settings = {
        "image_cache_dir": str(tmp_path / "cache"),
        "auth_tokens_file": str(file),
        "audit_log": str(audit),
    }
    expected = ("tokens_not_reloaded",)
    with running(tmp_path / "server", settings, expected=expected) as server:
        assert received(manager) == {"WATCHDOG": "1"}
        ready = received(manager)
        assert ready["READY"] == "1"
        assert ready["STATUS"].startswith(f"listening on {server.url}; not ready: ")
        assert answer(server, ANN) != 401
        assert answer(server, BOB) == 401

        tokens(file, BOB)
        audit.rename(tmp_path / "audit.1")
        assert reloaded(server, manager) == ready
        assert answer(server, ANN) == 401
        assert answer(server, BOB) != 401
        assert audit.exists()

        file.write_text("nonsense\n")
        assert "Line 1 of the tokens file" in reloaded(server, manager)["STATUS"]
        assert answer(server, BOB) != 401, "the last good tokens stay"

        tokens(file, ANN)
        assert reloaded(server, manager) == ready
        server.send(signal.SIGTERM)
        assert received(manager)["STOPPING"] == "1"


def reloaded(server: Waggle, manager: socket.socket) -> dict[str, str]:
    server.send(signal.SIGHUP)
    assert received(manager)["RELOADING"] == "1"
    return received(manager)


@pytest.mark.anyio
async def test_sighup_does_not_end_a_server_that_nobody_supervises(tmp_path: Path) -> None:
    with running(tmp_path, {"image_cache_dir": str(tmp_path / "cache")}) as server:
        before = server.process.pid
        server.send(signal.SIGHUP)
        await until(lambda: server.events("reloaded"))
        assert httpx2.get(f"{server.url}/healthz").status_code == 200
        assert server.process.pid == before
