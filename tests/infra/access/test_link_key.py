# SPDX-License-Identifier: Apache-2.0
"""The key for links: made once, for the server's user alone, and refused when it is unsafe."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from waggle.domain.errors import SettingsInvalid
from waggle.infra.access.link_key import load_link_key


def test_it_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "link.key"
    key = load_link_key(path)
    assert len(key) == 32
    assert load_link_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    assert load_link_key(path) != key


def test_an_unsafe_or_damaged_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "link.key"
    load_link_key(path)
    path.chmod(0o640)
    with pytest.raises(SettingsInvalid, match="open to others"):
        load_link_key(path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(SettingsInvalid, match="damaged"):
        load_link_key(path)
    path.unlink()
    (tmp_path / "real").write_bytes(bytes(32))
    path.symlink_to(tmp_path / "real")
    with pytest.raises(SettingsInvalid, match="cannot be used"):
        load_link_key(path)


def test_a_directory_that_cannot_be_used_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid, match="cannot be used"):
        load_link_key(tmp_path / "missing" / "link.key")
