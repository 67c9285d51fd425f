# SPDX-License-Identifier: Apache-2.0
"""The directory of a frozen machine: what completes it, and what is found in it later."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from waggle.domain.machine import RAM
from waggle.infra.store import frozen_files
from waggle.infra.store.checksums import BLOCK, sha256
from waggle.infra.store.frozen_files import FILES, MANIFEST, Verified, problem, seal


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).write_bytes(name.encode() + bytes(4 * BLOCK))
    return tmp_path


def write(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_file_is_named(directory: Path, name: str) -> None:
    seal(directory, {"a": 1})
    assert problem(directory) is None
    assert frozen_files.facts(directory) == {"a": 1}
    write(directory / name, 3 * BLOCK, b"\1")
    assert problem(directory) == f"{name} is corrupt"


def test_what_an_earlier_version_has_sealed_is_still_verified(directory: Path) -> None:
    sums = {name: sha256(directory / name) for name in FILES}
    (directory / MANIFEST).write_text(json.dumps({"format": 2, "facts": {}, "sha256": sums}))
    assert problem(directory) is None
    write(directory / RAM, 0, b"x")
    assert problem(directory) == "ram is corrupt"


@pytest.mark.parametrize("written", [None, "3", 3.0, True, 1, 4, [3], {}])
def test_another_format_is_refused(directory: Path, written: object) -> None:
    seal(directory, {})
    manifest = json.loads((directory / MANIFEST).read_text())
    (directory / MANIFEST).write_text(json.dumps({**manifest, "format": written}))
    assert problem(directory) == "manifest.json is corrupt: it has another format"


def test_memory_that_changes_in_place_is_sealed_by_what_was_written(directory: Path) -> None:
    verified = Verified()
    verified.seal(directory, {}, will_change=True)
    write(directory / RAM, 2 * BLOCK, b"changed")
    verified.seal(directory, {}, [(2 * BLOCK, 2 * BLOCK + 4096)])
    assert problem(directory) is None
    assert verified.problem(directory) is None


def test_damage_since_the_last_time_is_not_sealed_with_what_was_written(directory: Path) -> None:
    verified = Verified()
    verified.seal(directory, {}, will_change=True)
    write(directory / RAM, 0, b"flipped")
    verified.seal(directory, {}, [(2 * BLOCK, 2 * BLOCK + 4096)])
    assert problem(directory) == "ram is corrupt"


def test_a_new_file_is_read_whole(directory: Path) -> None:
    verified = Verified()
    verified.seal(directory, {})
    write(directory / RAM, 0, b"another")
    verified.seal(directory, {}, None)
    assert problem(directory) is None


def test_memory_of_which_nothing_is_known_is_read_whole(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a start of the server, or after many others."""
    monkeypatch.setattr(frozen_files, "_MOST_SUMS", 0)
    verified = Verified()
    verified.seal(directory, {})
    write(directory / RAM, 0, b"another")
    verified.seal(directory, {}, [])
    assert problem(directory) is None
