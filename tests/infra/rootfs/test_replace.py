# SPDX-License-Identifier: Apache-2.0
"""Replacing a file: the kit's code (kit/guest/replace.c), compiled and run on this host.

The new file is renamed where the result would be the same; otherwise the old one is overwritten.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.support.programs import program

from waggle.infra.rootfs.kit import GUEST_SOURCES

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="its system calls")
Replace = Callable[[Path, Path], int]
USER = 4000


@pytest.fixture(scope="module")
def replace(tmp_path_factory: pytest.TempPathFactory) -> Replace:
    """A function that renames as the preloaded code does and returns 0 or the errno."""
    library = tmp_path_factory.mktemp("replace") / "replace.so"
    source = str(GUEST_SOURCES / "replace.c")
    flags = ["-shared", "-fPIC", "-nostdlib", "-fno-builtin", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([program("cc"), *flags, "-o", str(library), source], check=True)
    loaded = ctypes.CDLL(str(library), use_errno=True)

    def call(new: Path, old: Path) -> int:
        done = loaded.rename(os.fsencode(new), os.fsencode(old))
        return ctypes.get_errno() if done else 0

    return call


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "f"
    path.write_bytes(b"a content that is longer")
    path.chmod(0o640)
    return path


@pytest.fixture
def new(tmp_path: Path) -> Path:
    path = tmp_path / ".waggle-1"
    path.write_bytes(b"new")
    path.chmod(0o640)
    return path


def test_a_plain_file_is_replaced_by_a_rename(replace: Replace, old: Path, new: Path) -> None:
    inode = new.stat().st_ino
    assert replace(new, old) == 0
    assert old.stat().st_ino == inode
    assert old.read_bytes() == b"new"
    assert not new.exists()


def test_a_missing_target_is_made_by_a_rename(replace: Replace, tmp_path: Path, new: Path) -> None:
    assert replace(new, tmp_path / "g") == 0
    assert (tmp_path / "g").read_bytes() == b"new"


def test_all_links_of_a_file_show_the_new_content(replace: Replace, old: Path, new: Path) -> None:
    other = old.with_name("other")
    other.hardlink_to(old)
    assert replace(new, old) == 0
    assert other.read_bytes() == old.read_bytes() == b"new"
    assert old.stat().st_nlink == 2
    assert stat.S_IMODE(old.stat().st_mode) == 0o640
    assert not new.exists()


def test_the_new_mode_is_set_on_a_file_that_is_overwritten(
    replace: Replace, old: Path, new: Path
) -> None:
    old.with_name("other").hardlink_to(old)
    new.write_bytes(bytes(300_000))
    new.chmod(0o4711)
    assert replace(new, old) == 0
    assert old.read_bytes() == bytes(300_000)
    assert stat.S_IMODE(old.stat().st_mode) == 0o4711


def test_extended_attributes_are_kept(replace: Replace, old: Path, new: Path) -> None:
    try:
        os.setxattr(old, "user.origin", b"here")
    except OSError:
        pytest.skip("this file system has no attributes")
    assert replace(new, old) == 0
    assert os.getxattr(old, "user.origin") == b"here"
    assert old.read_bytes() == b"new"


def test_files_of_other_programs_are_just_renamed(replace: Replace, old: Path, new: Path) -> None:
    other, mine = old.with_name("other"), new.with_name("mine")
    other.hardlink_to(old)
    new.rename(mine)
    assert replace(mine, old) == 0
    assert other.read_bytes() == b"a content that is longer"


def test_a_symlink_is_replaced_and_not_followed(replace: Replace, old: Path, new: Path) -> None:
    link = old.with_name("link")
    link.symlink_to(old)
    assert replace(new, link) == 0
    assert not link.is_symlink()
    assert old.read_bytes() == b"a content that is longer"


def as_user(replace: Replace, directory: Path, new: str, old: str) -> int:
    """Call `replace` in a process of user 4000, who owns the new file."""
    os.chown(directory / new, USER, USER)
    child = os.fork()
    if child == 0:
        os.chdir(directory)
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
        os._exit(replace(Path(new), Path(old)))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(os.getuid() != 0, reason="files of several owners take root")
@pytest.mark.parametrize(
    "owner, mode, result",
    [
        (0, 0o644, errno.EACCES),  # as with write(2), although the directory allows a rename
        (0, 0o666, 0),
        (USER, 0o444, 0),  # the user's own file: an editor would replace it too
    ],
)
def test_owner_and_mode_decide_whether_a_file_is_replaced(
    replace: Replace, tmp_path: Path, old: Path, new: Path, owner: int, mode: int, result: int
) -> None:
    tmp_path.chmod(0o777)
    os.chown(old, owner, owner)
    old.chmod(mode)
    new.chmod(mode)
    assert as_user(replace, tmp_path, new.name, old.name) == result
    assert old.read_bytes() == (b"a content that is longer" if result else b"new")
    about = old.stat()
    assert (about.st_uid, stat.S_IMODE(about.st_mode)) == (owner, mode)


@pytest.mark.skipif(os.getuid() != 0, reason="files of several owners take root")
def test_a_user_cannot_change_the_mode_of_anothers_file(
    replace: Replace, tmp_path: Path, old: Path, new: Path
) -> None:
    tmp_path.chmod(0o777)
    old.chmod(0o666)
    new.chmod(0o600)
    assert as_user(replace, tmp_path, new.name, old.name) == errno.EPERM
    assert old.read_bytes() == b"a content that is longer"


@pytest.mark.skipif(os.getuid() != 0, reason="files of several owners take root")
def test_a_file_in_a_read_only_directory_is_overwritten(
    replace: Replace, tmp_path: Path, new: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    old = closed / "f"
    old.write_bytes(b"old")
    old.chmod(0o640)
    os.chown(old, USER, USER)
    os.chown(tmp_path, USER, USER)
    assert as_user(replace, tmp_path, new.name, "closed/f") == 0
    assert old.read_bytes() == b"new"
    assert not new.exists()
