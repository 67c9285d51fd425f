# SPDX-License-Identifier: Apache-2.0
"""Nearly valid frozen machines from elsewhere: files and manifests are accepted or refused."""

from __future__ import annotations

import json
import random
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import zstandard
from tests.support.changed import (
    NUMBERS,
    attempts,
    changed,
    changed_json,
    mended,
)

from waggle.domain.errors import FrozenMachineUnusable
from waggle.infra.store import frozen_archive, frozen_files
from waggle.infra.store.checksums import BLOCK
from waggle.infra.store.frozen_files import FILES, MANIFEST
from waggle.service.local.frozen.manifest import Shelves, from_facts, vmm_of
from waggle.service.local.frozen.snapshots import _bounds, parse_snapshot

HERE = Path("/nowhere")
SHELVES = Shelves(HERE, HERE, HERE)
MANIFEST_TEXT: dict[str, Any] = {
    "format": 2,
    "facts": {
        "runtime": "python",
        "image": {
            "reference": "a:b", "digest": "sha256:" + "0" * 64, "disk": "x.erofs",
            "variables": {"PATH": "/bin"}, "user": "1000", "directory": "/w", "shell": "/bin/sh",
        },
        "kernel": "kernel-1", "kit": "kit-1",
        "resources": {"cpus": 1, "memory_mib": 1, "disk_mib": 1},
        "vmm": {"qemu": "10", "cpu": "x"},
        "snapshot": {
            "name": "n", "owner": "o", "origin": "env-1", "runtime": "python", "image": "a:b",
            "resources": [1, 512, 1024], "network": "none", "directory": "/w",
            "made_of": {"kit": "kit-1"}, "created_at": "2026-01-01T00:00:00+00:00",
            "expires_at": "2026-01-02T00:00:00+00:00", "variables": {"A": "1"}, "packages": ["p"],
        },
    },
    "sha256": dict.fromkeys(FILES, "0" * 64),
}  # fmt: skip


def members(manifest: bytes) -> bytes:
    """Return a small frozen machine in the format that `pack` writes."""
    sizes = json.dumps(dict.fromkeys(FILES, BLOCK)).encode()
    parts = [(MANIFEST, manifest), ("sizes.json", sizes)]
    parts += [(f"{name}/{at:016x}", b"data") for name in FILES for at in (0, 512)]
    return b"".join(frozen_archive._member(*part) for part in parts) + bytes(1024)


@pytest.mark.parametrize("count", NUMBERS)
def test_files(count: int, in_memory: Path) -> None:
    plain = members(json.dumps(MANIFEST_TEXT).encode())
    target = in_memory / "in"

    def make(chance: random.Random) -> bytes:
        kind = chance.randrange(3)
        if kind == 0:
            return changed(zstandard.compress(plain), chance)
        data = changed(plain, chance)
        return zstandard.compress(mended(data) if kind == 1 else data, 1)

    def attempt(data: bytes) -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        frozen_archive.unpack(BytesIO(data), target, _bounds)
        frozen_files.problem(target)

    attempts(count, make, attempt, (FrozenMachineUnusable,))


@pytest.mark.parametrize("count", NUMBERS)
def test_changed_manifests_are_accepted_or_refused(count: int, in_memory: Path) -> None:
    for name in FILES:
        (in_memory / name).write_bytes(b"x")

    def attempt(data: bytes) -> None:
        (in_memory / MANIFEST).write_bytes(data)
        frozen_files.problem(in_memory)
        assert all(size > 0 for size in _bounds(data).values())
        with frozen_files.understanding():
            facts = frozen_files.facts(in_memory)
            from_facts(facts, SHELVES)
            vmm_of(facts)
            parse_snapshot(facts)

    def make(chance: random.Random) -> bytes:
        return changed_json(MANIFEST_TEXT, chance)

    attempts(count, make, attempt, (FrozenMachineUnusable,))


@pytest.mark.parametrize("number", [float("inf"), float("nan"), "9" * 5_000])
def test_a_number_that_is_none_is_refused(number: object) -> None:
    facts = MANIFEST_TEXT["facts"]
    with (
        pytest.raises(FrozenMachineUnusable, match="not one of ours"),
        frozen_files.understanding(),
    ):
        from_facts({**facts, "resources": {"cpus": number}}, SHELVES)
    with (
        pytest.raises(FrozenMachineUnusable, match="not one of ours"),
        frozen_files.understanding(),
    ):
        parse_snapshot({"snapshot": {**facts["snapshot"], "resources": [number]}})
