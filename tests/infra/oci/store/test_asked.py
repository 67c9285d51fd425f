# SPDX-License-Identifier: Apache-2.0
"""The time at which a registry was last asked, recorded for every name and kept on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.images import file, write_layout

from waggle.infra.oci.store import Asked, ImageStore

NAME = "registry.example/app:v1"


def test_a_name_that_was_never_asked_for_has_no_time(tmp_path: Path) -> None:
    assert Asked(tmp_path / "images").when(NAME) is None


def test_the_last_time_of_every_name_is_kept_and_seen_by_other_processes(tmp_path: Path) -> None:
    asked = Asked(tmp_path)
    asked.note(NAME, 1_700_000_000.5)
    asked.note("registry.example/app:v2", 5.0)
    assert Asked(tmp_path).when(NAME) == 1_700_000_000.5
    asked.note(NAME, 20.0)
    assert asked.when(NAME) == 20.0
    assert asked.when("registry.example/app:v2") == 5.0


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a\0b", "n" * 5000, "\u00e4/\n", ""])
def test_no_name_leads_out_of_the_directory(tmp_path: Path, name: str) -> None:
    asked = Asked(tmp_path / "images")
    asked.note(name, 7.0)
    assert asked.when(name) == 7.0
    [directory] = (tmp_path / "images").iterdir()
    assert [path.parent for path in directory.iterdir()] == [directory]
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_recorded_times_do_not_affect_the_layout(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    write_layout(tmp_path, [[file("a", b"a")]], name=NAME)
    Asked(tmp_path).note(NAME, 7.0)
    before = [each.name for each in store.list()]
    store.collect()
    assert [each.name for each in store.list()] == before == [NAME]
    assert Asked(tmp_path).when(NAME) == 7.0


def test_an_unreadable_record_counts_as_never_asked(tmp_path: Path) -> None:
    (tmp_path / ".asked").write_text("a file in the directory's place")
    assert Asked(tmp_path).when(NAME) is None
    with pytest.raises(OSError, match="exists"):
        Asked(tmp_path).note(NAME, 7.0)
