# SPDX-License-Identifier: Apache-2.0
"""Sample images for comparing waggle with umoci, and archives that tarfile cannot write.

The samples are in `corpus_files` (one layer: kinds of entries), `corpus_layers` (merging of layers)
and `corpus_hostile`. Where waggle and umoci differ, a sample says how and why; nothing is
normalised silently.
"""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.support.images import (
    Layer,
    Member,
    tar_bytes,
)

Layers = Sequence[Layer | bytes | Callable[[], bytes]]


@dataclass(frozen=True)
class Sample:
    """An image and the results of waggle and umoci: by default both make the same tree."""

    layers: Layers
    compression: str | Sequence[str] = "gzip"
    refused: str = ""
    """A pattern of waggle's message if it refuses the image."""
    umoci_refuses: bool = False
    for_umoci: Layers = ()
    """The same files in a form that umoci can read, if it refuses the layers."""
    undated: frozenset[str] = frozenset()
    """Directories that get the unpacking time from umoci, besides those without an entry."""
    because: str = ""
    """Why waggle and umoci differ."""


def tars(layers: Layers) -> list[bytes]:
    made = [layer() if callable(layer) else layer for layer in layers]
    return [layer if isinstance(layer, bytes) else tar_bytes(layer) for layer in made]


def attributes(values: Mapping[str, bytes]) -> dict[str, str]:
    """Return the PAX records of extended attributes, with any bytes."""
    return {
        f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")
        for name, value in values.items()
    }


def sparse(form: str, pieces: int) -> Callable[[], bytes]:
    """Return a maker of a GNU tar of files with holes: `pieces` of data, only a hole, no hole."""

    def make() -> bytes:
        with tempfile.TemporaryDirectory() as name:
            here = Path(name)
            with (here / "pieces").open("wb") as out:
                for number in range(pieces):
                    out.seek((2 * number + 1) * 65536)
                    out.write(b"%d" % number * 500)
                out.truncate((2 * pieces + 3) * 65536 + 77)
            with (here / "hole").open("wb") as out:
                out.truncate(1 << 20)
            (here / "whole").write_bytes(b"no hole at all" * 1000)
            how = [f"--format={form}"] if form == "gnu" else [f"--sparse-version={form}"]
            argv = [
                "tar",
                "-S",
                "--mtime=@1700000000",
                *how,
                "-C",
                here,
                "-c",
                "pieces",
                "hole",
                "whole",
            ]
            if form != "gnu":
                argv.insert(1, "--format=posix")
            return subprocess.run(argv, check=True, capture_output=True).stdout

    return make


def written(form: str, mask: Sequence[Member]) -> bytes:
    """Return a tar in one of tarfile's formats, such as GNU with its long names."""
    formats: Mapping[str, Literal[0, 1]] = {
        "gnu": tarfile.GNU_FORMAT,
        "ustar": tarfile.USTAR_FORMAT,
    }
    return b"".join(
        info.tobuf(formats[form], "utf-8", "surrogateescape")
        + content
        + bytes(-len(content) % tarfile.BLOCKSIZE)
        for info, content in mask
    ) + bytes(2 * tarfile.BLOCKSIZE)
