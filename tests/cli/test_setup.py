# SPDX-License-Identifier: Apache-2.0
"""`waggle setup` where everything is done: it prints nothing, changes nothing and is quick."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from tests.support.waggle_process import command_line, installation, own_cache

from waggle.config.places import Places


@pytest.mark.vm
def test_a_second_run_changes_nothing(tmp_path: Path) -> None:
    guest = Places.of(installation()).guest
    before = {path.name: path.stat().st_mtime_ns for path in guest.iterdir()}
    began = time.monotonic()
    ended = command_line("setup", "--yes", data=tmp_path / "data", settings={})
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert time.monotonic() - began < 20
    assert {path.name: path.stat().st_mtime_ns for path in guest.iterdir()} == before


@pytest.mark.vm
def test_no_answer_is_needed_if_nothing_is_missing(tmp_path: Path) -> None:
    settings = {"image_cache_dir": str(own_cache(tmp_path / "cache"))}
    ended = command_line("setup", data=tmp_path / "data", settings=settings)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
