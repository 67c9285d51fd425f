# SPDX-License-Identifier: Apache-2.0
"""A pull killed half-way adds no image, and the next collection frees its leftovers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.infra.oci.archives import blobs, ignore, leftovers
from tests.infra.oci.killed import child, stopped
from tests.support.images import file, write_layout
from tests.support.registry import run_registry, skopeo

from waggle.infra.oci.store import ImageStore
from waggle.infra.oci.transfer import load

CHILD = """
import asyncio
from pathlib import Path
from waggle.domain.reference import parse_reference
from waggle.infra.oci.registry.options import RegistryOptions
from waggle.infra.oci.registry import Puller
from waggle.infra.oci.store import ImageStore

where, reference, directory = sys.argv[1:]
store = ImageStore(Path(directory))
parsed = parse_reference(reference)

def report(now):
    if where == "fetching" and now.done_bytes > 1_000_000:
        stop()

options = RegistryOptions(insecure=frozenset((parsed.registry,)))
puller = Puller(store.layout, options, platform=store.platform)
print(asyncio.run(puller.pull(parsed, report)))
"""


@pytest.mark.parametrize("where", ["fetching", "stored"])
def test_a_killed_pull_adds_no_image_and_is_cleaned_up(tmp_path: Path, where: str) -> None:
    store = ImageStore(tmp_path / "images")
    write_layout(tmp_path / "small", [[file("kept", b"k")]], name="x")
    load(f"oci:{tmp_path}/small", store, "kept", ignore)
    kept = blobs(store)
    layers = [[file(name, os.urandom(2 << 20))] for name in ("a", "b")]
    digest = write_layout(tmp_path / "big", layers, name="x")
    with run_registry(tmp_path / "registry") as registry:
        name = f"{registry.name}/big:v1"
        skopeo("copy", "-q", "--dest-tls-verify=false", f"oci:{tmp_path}/big:x", f"docker://{name}")
        words = (name, str(store.layout.path))
        with stopped(child(CHILD, where, *words)):
            pass
        assert [image.name for image in store.list()] == ["kept:latest"]
        assert len(leftovers(store)) == 1
        assert (len(blobs(store)) > len(kept)) == (where == "stored")
        store.collect()
        assert (blobs(store), leftovers(store)) == (kept, [])
        whole = child(CHILD, "to the end", *words)
        done = subprocess.run(whole, capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.strip() == digest
    assert store.resolve(name).digest == digest
