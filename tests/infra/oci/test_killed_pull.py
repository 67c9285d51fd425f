# SPDX-License-Identifier: Apache-2.0
"""A pull that is killed half-way: nothing of it counts, and the next clean-up frees it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.infra.oci.archives import blobs, ignore, leftovers
from tests.support.images import file, write_layout
from tests.support.registry import run_registry, skopeo

from waggle.infra.oci.load import load
from waggle.infra.oci.store import ImageStore

CHILD = """
import asyncio, sys
from pathlib import Path
from waggle.domain.reference import parse_reference
from waggle.infra.oci.layout import Layout
from waggle.infra.oci.registry.options import RegistryOptions
from waggle.infra.oci.registry.pull import Puller
from waggle.infra.oci.store import ImageStore

where, reference, directory = sys.argv[1:]
store = ImageStore(Path(directory))
parsed = parse_reference(reference)

def stop():
    print("here", flush=True)
    sys.stdin.read()

if where == "stored":
    put = Layout.put_file
    def put_and_stop(*args):
        put(*args)
        stop()
    Layout.put_file = put_and_stop

def report(now):
    if where == "fetching" and now.done_bytes > 1_000_000:
        stop()

options = RegistryOptions(insecure=frozenset((parsed.registry,)))
puller = Puller(store.layout, options, platform=store.platform)
print(asyncio.run(puller.pull(parsed, report)))
"""


@pytest.mark.parametrize("where", ["fetching", "stored"])
def test_a_killed_pull_leaves_nothing_that_counts(tmp_path: Path, where: str) -> None:
    store = ImageStore(tmp_path / "images")
    write_layout(tmp_path / "small", [[file("kept", b"k")]], name="x")
    load(f"oci:{tmp_path}/small", store, "kept", ignore)
    kept = blobs(store)
    layers = [[file(name, os.urandom(2 << 20))] for name in ("a", "b")]
    digest = write_layout(tmp_path / "big", layers, name="x")
    with run_registry(tmp_path / "registry") as registry:
        name = f"{registry.name}/big:v1"
        skopeo("copy", "-q", "--dest-tls-verify=false", f"oci:{tmp_path}/big:x", f"docker://{name}")
        words = [sys.executable, "-c", CHILD, where, name, str(store.layout.path)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout
            assert child.stdout.readline() == b"here\n"
            os.kill(child.pid, signal.SIGKILL)
        assert [each.name for each in store.list()] == ["kept:latest"]
        assert len(leftovers(store)) == 1
        assert (len(blobs(store)) > len(kept)) == (where == "stored")
        store.collect()
        assert (blobs(store), leftovers(store)) == (kept, [])
        words[3] = "to the end"
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout.strip() == digest
    assert store.resolve(name).digest == digest
