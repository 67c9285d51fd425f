# SPDX-License-Identifier: Apache-2.0
"""The kit's parsers as fuzz targets: their harnesses, and how they are compiled.

A harness is `kit/fuzz_NAME.c` and includes the source that it tests. Its corpus `corpus/NAME` holds
the inputs of earlier runs that reached new code.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from waggle.infra.rootfs.kit import GUEST_SOURCES

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
TARGETS = {
    "users": (),
    "frame": ("program.c", "common.c"),
    "program": (),
    "content": (),
    "hosts": (),
    "dns": (),
    "ranges": (),
}
"""Name -> sources of the kit that the harness needs besides the one that it includes."""
_CHECKS = ("-g", "-O1", "-fno-sanitize-recover=all")


def compile_target(
    name: str, target: Path, compiler: str, sanitizers: str, more: Sequence[Path] = ()
) -> None:
    """Compile a harness into the program `target`. Raises CalledProcessError."""
    sources = [HERE / "kit" / f"fuzz_{name}.c", *(GUEST_SOURCES / s for s in TARGETS[name]), *more]
    flags = ["-D_GNU_SOURCE", *_CHECKS, f"-fsanitize={sanitizers}", f"-I{GUEST_SOURCES}"]
    subprocess.run([compiler, *flags, "-o", str(target), *map(str, sources)], check=True)
