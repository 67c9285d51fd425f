# SPDX-License-Identifier: Apache-2.0
"""The disks of images that `waggle image build` made on this host, compared with umoci.

Needs root, umoci and the images; takes several seconds per image.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import time
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from tests.support.oracle import made, named_directories, read, same, umoci
from tests.support.waggle_process import installation

from waggle.infra.oci.store import ImageStore

pytestmark = [
    pytest.mark.slow,
    pytest.mark.vm,  # boots no machine, but needs the images that the other vm tests need
    pytest.mark.skipif(
        os.geteuid() != 0, reason="MOUNTING A DISK NEEDS ROOT: run these tests as root too"
    ),
]


@pytest.mark.parametrize("name", ["python", "node"])
def test_the_disk_of_a_built_image_holds_what_umoci_unpacks(tmp_path: Path, name: str) -> None:
    store = ImageStore(installation().image_cache_dir / "images")
    image = f"{store.layout.path}:{name}"
    ours = read(made(tmp_path, image), tmp_path)
    began = time.time_ns() - 1_000_000_000
    theirs = umoci(tmp_path, image)
    assert theirs is not None
    blobs = [store.layout.blob_path(layer) for layer in store.resolve(name).layers]
    with contextlib.ExitStack() as stack:
        opened = [cast("BinaryIO", stack.enter_context(gzip.open(blob))) for blob in blobs]
        same(ours, theirs, began, named_directories(opened))
    assert len(ours) > 1000
