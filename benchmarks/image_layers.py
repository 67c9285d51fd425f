# SPDX-License-Identifier: Apache-2.0
"""Images for the benchmarks, made of noise and text, and pushed to a registry by skopeo."""

from __future__ import annotations

import asyncio
import io
import random
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

from tests.support.images import write_layout

FILE_BYTES = 40_000
"""Size of a file. Half of it is noise, so that a layer is stored in half its size."""


def make_layer(seed: int, size: int) -> bytes:
    """Make the tar of a layer that is stored in about `size` bytes."""
    chance = random.Random(seed)
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for number in range(size // (FILE_BYTES // 2)):
            noise = chance.randbytes(FILE_BYTES // 2)
            info = tarfile.TarInfo(f"usr/share/{seed}/{number % 50}/{number}")
            info.size = FILE_BYTES
            archive.addfile(info, io.BytesIO(noise + b"text that compresses\n" * 2000))
    return plain.getvalue()


async def push(registry: str, work: Path, name: str, layers: Sequence[bytes]) -> None:
    """Make an image of gzip layers and push it with skopeo."""
    layout = work / "layout"
    shutil.rmtree(layout, ignore_errors=True)
    await asyncio.to_thread(write_layout, layout, layers, name="v1")
    target = f"docker://{registry}/{name}"
    await run("skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:v1", target)
    shutil.rmtree(layout)


async def run(*argv: str) -> None:
    """Run a program to its end. Raises RuntimeError if it fails."""
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.DEVNULL)
    if await process.wait() != 0:
        raise RuntimeError(f"{argv[0]} failed")
