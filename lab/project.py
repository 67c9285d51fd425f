# SPDX-License-Identifier: Apache-2.0
"""The third disk: a tar of this working tree and of the jobs, read by the initramfs.

Contains all files that git does not ignore, including changed and new ones, so an experiment needs
no commit.
"""

from __future__ import annotations

import io
import json
import py_compile
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path, PurePosixPath

from lab.jobs import Job
from lab.wheels import PYTHON
from waggle.domain.errors import SetupIncomplete

ROOT = Path(__file__).parents[1]
COMPILED = ("src", "tests", "lab", "benchmarks")
"""Where the lab's tests import from."""
SAME_PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}" == PYTHON


def listing(root: Path) -> list[str]:
    """List the project's files, relative to `root`. Raises SetupIncomplete without git."""
    argv = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(argv, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupIncomplete(
            f"{root} is not a git working tree.", hint="The lab runs from a clone of waggle."
        ) from error
    names = sorted(set(done.stdout.decode().split("\0")) - {""})
    return [name for name in names if (root / name).is_file()]


def write(
    target: Path,
    root: Path,
    jobs: Sequence[Job],
    environment: Mapping[str, str],
    put: Path | None = None,
) -> None:
    """Write the disk; `put` is a file or directory that becomes /lab/put.

    Raises SetupIncomplete, OSError.
    """
    told = [described(job, environment) for job in jobs]
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        for name in listing(root):
            archive.add(root / name, f"project/{name}", filter=_as_root)
            if is_imported(name) and SAME_PYTHON:
                _add(archive, f"project/{compiled_name(name)}", compiled(root / name), 0o644)
        if put is not None:
            archive.add(put, "put", filter=_as_root)
        _add(archive, "jobs.json", json.dumps(told).encode(), 0o644)
        init = (Path(__file__).parent / "inside/init").read_bytes()
        _add(archive, "init", init, 0o755)


def described(job: Job, environment: Mapping[str, str]) -> dict[str, object]:
    """Return a job as inside/run.py reads it. Pure."""
    fields: dict[str, object] = asdict(job)
    del fields["variables"]
    return {**fields, "environment": {**environment, **job.variables}}


def is_imported(name: str) -> bool:
    """Return whether Python looks for the compiled form; pytest has its own of tests. Pure."""
    path = PurePosixPath(name)
    tests = path.name.startswith("test_") or path.name == "conftest.py"
    return path.suffix == ".py" and path.parts[0] in COMPILED and not tests


def compiled_name(name: str) -> str:
    """Return the path where Python looks for the compiled form of a source. Pure."""
    path = PurePosixPath(name)
    return str(path.parent / "__pycache__" / f"{path.stem}.{sys.implementation.cache_tag}.pyc")


def compiled(source: Path) -> bytes:
    """Compile a source here, since an emulated machine takes ten times as long.

    Returns an empty file, which Python ignores, if the source does not compile: its import fails.
    """
    now = source.stat()
    return _compiled(source, now.st_mtime_ns, now.st_size)


@cache  # every outer machine gets a disk, and another after a breakdown
def _compiled(source: Path, _changed: int, _size: int) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "out.pyc")
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        try:
            py_compile.compile(
                str(source), str(out), doraise=True, invalidation_mode=mode, optimize=0
            )
        except py_compile.PyCompileError:
            return b""
        return out.read_bytes()


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), mode
    archive.addfile(member, io.BytesIO(data))
