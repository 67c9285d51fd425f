# SPDX-License-Identifier: Apache-2.0
"""What a process can still do with files once it has confined itself, on this kernel's Landlock."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from waggle.infra.shared import landlock
from waggle.infra.shared._abi import ffi

if TYPE_CHECKING:
    from waggle.infra.shared._abi import LibC

needs = pytest.mark.skipif(not landlock.version(), reason="NOT TESTED: this kernel has no Landlock")
PRELUDE = """
import os, sys, threading
from waggle.infra.shared import landlock
from waggle.infra.shared._abi import ffi

place = sys.argv[1] + "/"
room = os.open(place + "room", os.O_RDONLY)
memory = os.memfd_create("memory")

def tried(what):
    try:
        what()
        return "yes"
    except OSError as error:
        return type(error).__name__

def opened(path, flags=os.O_RDONLY, **more):
    return lambda: os.close(os.open(path, flags, 0o600, **more))

def show(*tries):
    print(*(tried(one) for one in tries))

rights = {place + "kernel": landlock.READ, place + "disk": landlock.READ | landlock.WRITE,
          place + "run": landlock.FILL}
assert landlock.confine(ffi.dlopen(None), rights)
"""


def confined(place: Path, script: str) -> list[str]:
    """Run a script that is confined to some of the files in `place`; return what was tried."""
    for name in ("kernel", "disk", "secret"):
        (place / name).write_text(name)
    for name in ("run", "room"):
        (place / name).mkdir()
        (place / name / "file").write_text("file")
    argv = [sys.executable, "-c", PRELUDE + script, str(place)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@needs
def test_files_are_read_and_written_as_named_and_others_are_gone(tmp_path: Path) -> None:
    script = """
show(opened(place + "kernel"), opened(place + "kernel", os.O_WRONLY),
     opened(place + "disk", os.O_RDWR), opened(place + "secret"), opened("/etc/passwd"),
     lambda: os.listdir(place))
"""
    no = "PermissionError"
    assert confined(tmp_path, script) == ["yes", no, "yes", no, no, no]


@needs
def test_a_directory_to_fill_takes_all_but_devices_and_programs(tmp_path: Path) -> None:
    script = """
run = place + "run/"
program = run + "true"
show(opened(run + "new", os.O_RDWR | os.O_CREAT), lambda: os.mkdir(run + "directory"),
     lambda: os.mkfifo(run + "pipe"), lambda: os.unlink(run + "file"),
     lambda: os.rmdir(run + "directory"), lambda: os.listdir(run), lambda: os.chmod(run, 0o755),
     lambda: os.truncate(run + "new", 5))
os.link(run + "new", program)
os.chmod(program, 0o755)
show(lambda: os.execv(program, [program]))
"""
    assert confined(tmp_path, script) == [*["yes"] * 8, "PermissionError"]


@needs
def test_a_directory_that_is_open_opens_nothing_and_nameless_memory_does(tmp_path: Path) -> None:
    script = """
show(opened("file", dir_fd=room), opened(f"/proc/self/fd/{memory}", os.O_RDWR))
"""
    assert confined(tmp_path, script) == ["PermissionError", "yes"]


@needs
def test_later_threads_are_confined_as_well(tmp_path: Path) -> None:
    script = """
thread = threading.Thread(target=lambda: show(opened(place + "secret")))
thread.start()
thread.join()
"""
    assert confined(tmp_path, script) == ["PermissionError"]


@needs
def test_a_path_that_is_not_there_is_an_error_and_confines_nothing(tmp_path: Path) -> None:
    found: list[bool] = []

    def in_a_thread() -> None:  # which alone would be confined
        with pytest.raises(FileNotFoundError, match="gone"):
            landlock.confine(ffi.dlopen(None), {str(tmp_path / "gone"): landlock.READ})
        found.append(Path("/etc/passwd").exists() and bool(Path("/etc/passwd").read_bytes()))

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert found == [True]


@needs
def test_rights_that_are_none_for_a_file_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"landlock_add_rule for .*file: Invalid argument"):
        landlock.confine(ffi.dlopen(None), {str(tmp_path / "file"): landlock.LIST})


class Kernel:
    """A kernel with this version of Landlock, which asks for nothing else."""

    def __init__(self, version: int) -> None:
        self.version = version
        self.calls: list[int] = []

    def syscall(self, number: int, *_: object) -> int:
        self.calls.append(number)
        return self.version


@pytest.mark.parametrize("error", [-1, 0])
def test_a_kernel_without_it_confines_nothing(error: int) -> None:
    kernel = Kernel(error)
    libc = cast("LibC", kernel)
    assert landlock.available(libc) == 0
    assert not landlock.confine(libc, {"/": landlock.READ})
    assert kernel.calls == [444, 444]  # only questions
