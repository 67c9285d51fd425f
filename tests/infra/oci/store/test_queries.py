# SPDX-License-Identifier: Apache-2.0
"""The time at which a registry was last queried for a name, kept on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.images import file, write_layout

from waggle.infra.oci.store import ImageStore, Queries

NAME = "registry.example/app:v1"


def test_a_name_that_was_never_queried_has_no_time(tmp_path: Path) -> None:
    assert Queries(tmp_path / "images").when(NAME) is None


def test_the_last_time_of_every_name_is_kept_and_seen_by_other_processes(tmp_path: Path) -> None:
    queries = Queries(tmp_path)
    queries.note(NAME, 1_700_000_000.5)
    queries.note("registry.example/app:v2", 5.0)
    assert Queries(tmp_path).when(NAME) == 1_700_000_000.5
    queries.note(NAME, 20.0)
    assert queries.when(NAME) == 20.0
    assert queries.when("registry.example/app:v2") == 5.0


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a\0b", "n" * 5000, "\u00e4/\n", ""])
def test_no_name_leads_out_of_the_directory(tmp_path: Path, name: str) -> None:
    queries = Queries(tmp_path / "images")
    queries.note(name, 7.0)
    assert queries.when(name) == 7.0
    [directory] = (tmp_path / "images").iterdir()
    assert [path.parent for path in directory.iterdir()] == [directory]
    assert [path.name for path in tmp_path.iterdir()] == ["images"]


def test_recorded_times_do_not_affect_the_layout(tmp_path: Path) -> None:
    store = ImageStore(tmp_path)
    write_layout(tmp_path, [[file("a", b"a")]], name=NAME)
    Queries(tmp_path).note(NAME, 7.0)
    before = [image.name for image in store.list()]
    store.collect()
    assert [image.name for image in store.list()] == before == [NAME]
    assert Queries(tmp_path).when(NAME) == 7.0


def test_an_unreadable_record_counts_as_never_queried(tmp_path: Path) -> None:
    (tmp_path / ".asked").write_text("a file in the directory's place")
    assert Queries(tmp_path).when(NAME) is None
    with pytest.raises(OSError, match="exists"):
        Queries(tmp_path).note(NAME, 7.0)
