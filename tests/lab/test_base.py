# SPDX-License-Identifier: Apache-2.0
"""The base disk: its command, its key, and the files added to the packages' tree."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from lab.base import base_key, tree_argv

from lab import base

LAB = Path(base.__file__).parent


def test_a_hook_completes_the_tree(tmp_path: Path) -> None:
    site, out = tmp_path / "my site", tmp_path / "out"
    argv = tree_argv("file:/mirror", site, out)
    (hook,) = (word for word in argv if word.startswith("--extract-hook="))
    assert f"\"$1\" '{site}' {out}" in hook
    subprocess.run(["sh", "-n", "-c", hook.partition("=")[2]], check=True)
    assert argv[-3:] == ["bookworm", "-", "deb file:/mirror bookworm main"]
    assert any("linux-image-cloud-amd64" in word for word in argv)


def test_the_key_depends_on_requirements_and_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    key = base_key("anyio==1")
    assert key == base_key("anyio==1")
    assert key != base_key("anyio==2")
    monkeypatch.setattr(base, "_RECIPE", ("base.py",))
    assert key != base_key("anyio==1")


def test_the_recipe_names_files_that_exist() -> None:
    assert all((LAB / name).is_file() for name in base._RECIPE)


def test_the_hook_runs_without_this_project_on_the_path() -> None:
    done = subprocess.run(
        ["python3", str(LAB / "assemble.py")], cwd="/", capture_output=True, text=True, check=False
    )
    assert "not enough values to unpack" in done.stderr


def test_host_devices_are_left_out_and_the_tree_is_restored(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; import assemble\n"
        "tree = Path(sys.argv[1])\n"
        "with assemble.without_mounts(tree) as stage:\n"
        "    print(sorted(str(p.relative_to(stage)) for p in stage.rglob('*')))\n"
        "print(sorted(str(p.relative_to(tree)) for p in tree.rglob('*')))\n"
    )
    for name in ("dev/pts", "usr/bin"):
        (tmp_path / name).mkdir(parents=True)
    argv = ["python3", "-c", program, str(tmp_path)]
    done = subprocess.run(argv, cwd=LAB, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "['dev', 'proc', 'sys', 'usr', 'usr/bin']",
        "['dev', 'dev/pts', 'usr', 'usr/bin']",
    ]
