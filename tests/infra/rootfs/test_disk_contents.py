# SPDX-License-Identifier: Apache-2.0
"""What is on a root disk, read by the kernel, held against what umoci unpacks from the same image.

Entry by entry: type, mode, owner, size, content, link target, names of one file, device, attributes
and time to the nanosecond. The images are in `tests.support.corpus_*`. Needs
root to mount and to make device nodes; a user who is not root gets a loud skip.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import subprocess
import tarfile
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
from tests.support.trees import Description, check_directory_links, described, mounted

from waggle.domain.errors import ImageCorrupt
from waggle.infra.oci.flatten import flatten
from waggle.infra.oci.store import ImageStore
from waggle.infra.rootfs.disk import RootDisks

root_only = pytest.mark.skipif(
    os.geteuid() != 0, reason="MOUNTING A DISK NEEDS ROOT: run these tests as root too"
)
CORPUS = FILES | LAYERS | HOSTILE
Tree = dict[str, Description]


def make(here: Path, layers: Sequence[Layer | bytes], compression: str | Sequence[str]) -> Path:
    """The layout `here/layout` and the disk that the server would boot."""
    write_layout(here / "layout", layers, compression=compression)
    image = ImageStore(here / "store").resolve(f"{here}/layout:latest")
    disk = asyncio.run(RootDisks(here / "cache", flatten).ensure(image))
    subprocess.run(["fsck.erofs", disk], check=True, capture_output=True)
    return disk


def read(disk: Path, here: Path) -> Tree:
    with mounted(disk, here / "mnt") as top:
        check_directory_links(top)
        return described(top)


def umoci(here: Path, layout: str = "layout") -> Tree | None:
    """What umoci unpacks, or None where it refuses."""
    bundle = here / f"bundle of {layout}"
    argv = ["umoci", "unpack", "--image", f"{here}/{layout}:latest", bundle]
    if subprocess.run(argv, check=False, capture_output=True, timeout=60).returncode:
        return None
    return described(bundle / "rootfs")


def named_directories(layers: Sequence[bytes]) -> set[str]:
    """The directories that the layers have entries of, by the names of those."""
    found: set[str] = set()
    for layer in filter(None, layers):
        with tarfile.open(fileobj=BytesIO(layer), errorlevel=0) as archive:
            found |= {posixpath.normpath("/" + i.name)[1:] or "." for i in archive if i.isdir()}
    return found


def same(ours: Tree, theirs: Tree, began: int, dated: set[str]) -> None:
    """Hold two trees together. Of directories not in `dated`, umoci's time is that of unpacking.

    waggle's is the epoch, so that the same image makes the same disk.
    """
    assert ours.keys() == theirs.keys()
    for path, expected in theirs.items():
        found = dict(ours[path])
        now = expected["mtime"]
        assert isinstance(now, int)
        if str(expected["mode"])[0] == "d" and path not in dated and now >= began:
            found["mtime"] = now
        assert found == expected, path


@root_only
@pytest.mark.parametrize("name", CORPUS)
def test_a_disk_holds_what_umoci_unpacks(tmp_path: Path, name: str) -> None:
    sample = CORPUS[name]
    layers = tars(sample.layers)
    if sample.refused:
        with pytest.raises(ImageCorrupt, match=sample.refused):
            make(tmp_path, layers, sample.compression)
        assert (umoci(tmp_path) is None) == sample.umoci_refuses
        return
    ours = read(make(tmp_path, layers, sample.compression), tmp_path)
    began = time.time_ns() - 1_000_000_000  # the kernel's clock for files may lag by a tick
    theirs = umoci(tmp_path)
    assert (theirs is None) == sample.umoci_refuses
    if theirs is None:
        layers = tars(sample.for_umoci)
        write_layout(tmp_path / "readable", layers)
        theirs = umoci(tmp_path, "readable")
        assert theirs is not None
    same(ours, theirs, began, named_directories(layers) - sample.undated)
    for path in ours.keys() - named_directories(layers):
        if str(ours[path]["mode"])[0] == "d":
            assert ours[path]["mtime"] == 0, "what no entry dates has the same time everywhere"


def differs(sample: Sample) -> bool:
    refuses = bool(sample.refused)
    return refuses != sample.umoci_refuses or bool(sample.for_umoci or sample.undated)


@pytest.mark.parametrize("name", CORPUS)
def test_every_difference_has_its_reason(name: str) -> None:
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
    with tempfile.TemporaryDirectory() as name:
        here, base = Path(name), [file("kept", b"kept")]
        ours = None
        with contextlib.suppress(ImageCorrupt):
            ours = read(make(here, [base, *layers], ""), here)
        theirs = umoci(here)
        assert (ours is None) == (theirs is None)
        for path in ours or ():
            assert ours is not None
            assert theirs is not None
            if str(ours[path]["mode"])[0] == "d":
                ours[path]["mtime"] = theirs[path]["mtime"]
        assert ours == theirs
