# SPDX-License-Identifier: Apache-2.0
"""The SSH keys that `waggle shell` uses: whose they are, and where they come from."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from waggle.cli.env.shell import keys
from waggle.config import Settings, load
from waggle.config.places import Places
from waggle.domain.errors import SetupIncomplete
from waggle.infra.shared.files import FileLock

ME = os.geteuid()
KNOWN = "[127.0.0.1]:10042 ssh-ed25519 AAAA\n"


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Settings of a shell that knows a server by its address only: this process listens there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        yield load({"WAGGLE_DATA_DIR": str(tmp_path / "here"), "WAGGLE_LISTEN_ADDR": address})


def environment(data: Path, known: str = KNOWN) -> Path:
    directory = data / "environments/x"
    directory.mkdir(parents=True)
    (directory / "known_hosts").write_text(known)
    return directory


def test_the_data_directory_of_the_settings_comes_first(settings: Settings) -> None:
    directory = environment(settings.data_dir)
    assert keys(settings, "x", ME) == (directory, "10042")


def test_the_directory_of_the_users_own_server(settings: Settings, tmp_path: Path) -> None:
    directory = environment(tmp_path / "there")
    with pytest.raises(SetupIncomplete, match="cannot be read"):
        keys(settings, "x", ME)
    with FileLock(tmp_path / "there" / Places.of(settings).lock.name):
        assert keys(settings, "x", ME) == (directory, "10042")


def test_the_keys_of_another_users_server_are_not_used(settings: Settings, tmp_path: Path) -> None:
    environment(tmp_path / "there")
    lock = FileLock(tmp_path / "there" / Places.of(settings).lock.name)
    with lock, pytest.raises(SetupIncomplete) as refused:
        keys(settings, "x", ME + 1)
    assert "WAGGLE_DATA_DIR" in refused.value.hint


@pytest.mark.parametrize("known", ["", "[127.0.0.1", "[127.0.0.1]:100", KNOWN[:30], "\xff"])
def test_incomplete_known_hosts_are_refused(settings: Settings, known: str) -> None:
    environment(settings.data_dir, known)
    with pytest.raises(SetupIncomplete, match="cannot be read"):
        keys(settings, "x", ME)
