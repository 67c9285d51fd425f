# SPDX-License-Identifier: Apache-2.0
"""Root disks as the kernel reads them, compared with what umoci unpacks from the same images.

The comparison covers type, mode, owner, size, content, link target, hard links, device, attributes
and time to the nanosecond of every entry. The images are in `tests.support.corpus_*`. Needs root to
mount and to make device nodes; other users get a loud skip.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.corpus import Sample, tars
from tests.support.corpus_files import FILES
from tests.support.corpus_hostile import HOSTILE
from tests.support.corpus_layers import LAYERS
from tests.support.images import (
    Layer,
    directory,
    file,
    hard_link,
    opaque,
    symlink,
    whiteout,
    write_layout,
)
from tests.support.in_memory import IN_MEMORY
from tests.support.oracle import made, named_directories, read, same, umoci

from waggle.domain.errors import ImageCorrupt

root_only = pytest.mark.skipif(
    os.geteuid() != 0, reason="MOUNTING A DISK NEEDS ROOT: run these tests as root too"
)
CORPUS = FILES | LAYERS | HOSTILE


def packed(here: Path, layers: Sequence[Layer | bytes], compression: str | Sequence[str]) -> str:
    write_layout(here / "layout", layers, compression=compression)
    return f"{here}/layout:latest"


@root_only
@pytest.mark.parametrize("name", CORPUS)
def test_a_disk_holds_what_umoci_unpacks(tmp_path: Path, name: str) -> None:
    sample = CORPUS[name]
    layers = tars(sample.layers)
    image = packed(tmp_path, layers, sample.compression)
    if sample.refused:
        with pytest.raises(ImageCorrupt, match=sample.refused):
            made(tmp_path, image)
        assert (umoci(tmp_path, image) is None) == sample.umoci_refuses
        return
    ours = read(made(tmp_path, image), tmp_path)
    began = time.time_ns() - 1_000_000_000  # the kernel's clock for files may lag by a tick
    theirs = umoci(tmp_path, image)
    assert (theirs is None) == sample.umoci_refuses
    if theirs is None:
        layers = tars(sample.for_umoci)
        write_layout(tmp_path / "readable", layers)
        theirs = umoci(tmp_path, f"{tmp_path}/readable:latest")
        assert theirs is not None
    named = named_directories(BytesIO(layer) for layer in layers if layer)
    same(ours, theirs, began, named - sample.undated)
    for path in ours.keys() - named:
        if str(ours[path]["mode"])[0] == "d":
            assert ours[path]["mtime"] == 0, "what no entry dates has the same time everywhere"


def differs(sample: Sample) -> bool:
    refuses = bool(sample.refused)
    return refuses != sample.umoci_refuses or bool(sample.for_umoci or sample.undated)


@pytest.mark.parametrize("name", CORPUS)
def test_every_difference_from_umoci_has_a_reason(name: str) -> None:
    sample = CORPUS[name]
    assert differs(sample) == bool(sample.because)


places = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
targets = st.sampled_from(["a", "b", "/c", "../a", "a/b", "../../b", "."])
members = st.one_of(
    st.builds(file, places, st.binary(max_size=3), st.sampled_from([0o644, 0o4755])),
    st.builds(directory, places, st.sampled_from([0o755, 0o1700])),
    st.builds(symlink, places, targets),
    st.builds(hard_link, places, st.just("kept")),
    st.builds(whiteout, places),
    st.builds(opaque, places),
)
layers = st.lists(st.lists(members, max_size=7), min_size=1, max_size=3)


@root_only
@settings(max_examples=60, deadline=None)
@given(layers)
def test_any_layers_merge_as_umoci_merges_them(layers: list[Layer]) -> None:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as name:
        here, base = Path(name), [file("kept", b"kept")]
        ours, image = None, packed(here, [base, *layers], "")
        with contextlib.suppress(ImageCorrupt):
            ours = read(made(here, image), here)
        theirs = umoci(here, image)
        assert (ours is None) == (theirs is None)
        for path in ours or ():
            assert ours is not None
            assert theirs is not None
            if str(ours[path]["mode"])[0] == "d":
                ours[path]["mtime"] = theirs[path]["mtime"]
        assert ours == theirs
