# SPDX-License-Identifier: Apache-2.0
"""The working tree as a disk."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import pytest
from lab.jobs import ENVIRONMENT, JOBS, Job
from lab.project import SAME_PYTHON, compiled, compiled_name, is_imported, listing, write

from waggle.domain.errors import SetupIncomplete


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "src/waggle").mkdir(parents=True)
    (root / "src/waggle/new.py").write_text("X = 1\n")
    (root / "src/waggle/broken.py").write_text("X = = 1\n")
    (root / ".gitignore").write_text("*.secret\n")
    (root / "key.secret").write_text("s")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root


def test_new_files_are_included_and_ignored_ones_are_not(tree: Path) -> None:
    names = listing(tree)
    assert "src/waggle/new.py" in names
    assert "key.secret" not in names


def test_a_file_deleted_without_a_commit_is_left_out(tree: Path) -> None:
    subprocess.run(["git", "-C", str(tree), "add", "-A"], check=True)
    (tree / "src/waggle/new.py").unlink()
    assert "src/waggle/new.py" not in listing(tree)


def test_a_directory_that_is_no_clone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupIncomplete, match="not a git working tree"):
        listing(tmp_path)


def test_the_disk_holds_the_tree_the_jobs_and_init(tree: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    tests = Job("two", "", 6.0, ("-k", "x"), {"B": "c"})
    write(disk, tree, [Job("one", "true", 5.0), tests], {"A": "b"})
    with tarfile.open(disk) as archive:
        members = {member.name: member for member in archive}
        data = archive.extractfile("jobs.json")
        assert data is not None
        jobs = json.load(data)
    assert jobs == [
        {
            "name": "one",
            "command": "true",
            "seconds": 5.0,
            "tests": [],
            "environment": {"A": "b"},
        },
        {
            "name": "two",
            "command": "",
            "seconds": 6.0,
            "tests": ["-k", "x"],
            "environment": {"A": "b", "B": "c"},
        },
    ]
    assert members["init"].mode == 0o755
    assert {member.uid for member in members.values()} == {0}
    assert ("project/" + compiled_name("src/waggle/new.py") in members) == SAME_PYTHON


def test_a_put_directory_is_included(tree: Path, tmp_path: Path) -> None:
    put, disk = tmp_path / "put-this", tmp_path / "disk"
    put.mkdir()
    (put / "tool").write_text("x")
    write(disk, tree, [], {}, put)
    with tarfile.open(disk) as archive:
        assert {"put", "put/tool"} <= set(archive.getnames())


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("src/waggle/tasks.py", True),
        ("tests/support/server.py", True),
        ("tests/vm/test_network.py", False),
        ("tests/conftest.py", False),
        ("docs/tool_notes.py", False),
        ("src/waggle/infra/rootfs/kit/driver.python", False),
    ],
)
def test_what_tests_import_comes_compiled(name: str, wanted: bool) -> None:
    assert is_imported(name) is wanted


def test_a_source_that_does_not_compile_gives_an_empty_file(tree: Path) -> None:
    assert compiled(tree / "src/waggle/broken.py") == b""
    assert len(compiled(tree / "src/waggle/new.py")) > 16


def test_jobs_have_names_that_are_file_names_and_run_with_krun() -> None:
    assert len({job.name for job in JOBS}) == len(JOBS)
    for job in JOBS:
        assert job.name.replace("-", "").isalnum()
        assert bool(job.command) != bool(job.tests)
    assert ENVIRONMENT["WAGGLE_HYPERVISOR"] == "krun"
