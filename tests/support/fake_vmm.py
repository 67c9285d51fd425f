# SPDX-License-Identifier: Apache-2.0
"""Programs that stand for VMMs: they print a version and answer with one, truly or not."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support.programs import program

SOURCE = Path(__file__).with_name("fake_vmm.c")


def fake_vmm(path: Path, said: str, answer: str | None = None, *behaviour: str) -> Path:
    """Compile one to `path` that prints `said` and whose API answers `answer`; without, none.

    `behaviour` defines macros of the source, such as HANGS or CODE=7.
    """
    given = [f'-DSAID="{said}\\n"', *(f"-D{name}" for name in behaviour)]
    if answer is not None:
        given.append(f'-DANSWER="{answer}"')
    flags = ["-static", "-pthread", "-Os", "-Wall", "-Wextra", "-Werror"]
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([program("cc"), *flags, *given, "-o", path, SOURCE], check=True)
    return path


def firecracker(path: Path, version: str = "1.13.0", answer: str | None = None) -> Path:
    """Compile a Firecracker, which tells the truth unless `answer` is another version."""
    return fake_vmm(path, f"Firecracker v{version}", answer or version)


def jailer(path: Path, version: str = "1.13.0") -> Path:
    """Compile a jailer."""
    return fake_vmm(path, f"Jailer v{version}")
