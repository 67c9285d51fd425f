# SPDX-License-Identifier: Apache-2.0
"""A load killed half-way adds no image, and the next collection frees its leftovers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.infra.oci.archives import (
    blobs,
    ignore,
    layout_members,
    leftovers,
    write_archive,
)
from tests.infra.oci.killed import child, stopped
from tests.support.images import (
    file,
    write_layout,
)

from waggle.infra.oci.store import ImageStore
from waggle.infra.oci.transfer import load

CHILD = """
from pathlib import Path
from waggle.infra.oci.transfer import load
from waggle.infra.oci.store import ImageStore

where, source, store = sys.argv[1:]

def advance(fraction, text):
    if where == "copying" and fraction > 0.2:
        stop()

load(source, ImageStore(Path(store)), "registry.example/killed", advance)
"""


@pytest.mark.parametrize("where", ["copying", "stored"])
@pytest.mark.parametrize("form", ["oci", "oci-archive"])
def test_a_killed_load_adds_no_image_and_is_cleaned_up(
    store: ImageStore, layout: Path, tmp_path: Path, where: str, form: str
) -> None:
    load(f"oci:{layout}", store, "kept", ignore)
    kept = blobs(store)
    big = tmp_path / "big"
    write_layout(big, [[file("big", os.urandom(3 << 20))]], name="big")
    source = write_archive(tmp_path / "a", layout_members(big)) if form == "oci-archive" else big
    with stopped(child(CHILD, where, f"{form}:{source}", str(store.layout.path))):
        if where == "copying":
            assert len(leftovers(store)) == 1
    assert [image.name for image in store.list()] == ["kept:latest"]
    assert blobs(store) != kept or leftovers(store)
    assert store.collect() > 0 or where == "copying"
    assert (blobs(store), leftovers(store)) == (kept, [])
    assert load(f"{form}:{source}", store, "again", ignore) == "again:latest"
