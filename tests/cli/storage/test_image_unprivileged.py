# SPDX-License-Identifier: Apache-2.0
"""`waggle image` by an ordinary user: the same disks as root's, in the user's own cache only."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.support.corpus import tars
from tests.support.corpus_files import FILES
from tests.support.corpus_layers import LAYERS
from tests.support.images import write_layout
from tests.support.ordinary import USER, as_user, needs_two_users, owned, place
from tests.support.registry import run_registry, skopeo
from tests.support.waggle_process import command_line, environ

NAME = "registry.example/odd:v1"
ODD = (
    *(FILES[name] for name in ("special files", "setuid and modes", "owners by number")),
    FILES["capabilities and other attributes"],
    LAYERS["names of one file are hidden one by one"],
)


@pytest.fixture(autouse=True)
def two_users() -> None:
    needs_two_users()


@pytest.fixture
def here() -> Generator[Path]:
    with place() as made:
        yield made


@pytest.fixture
def layout(here: Path) -> Path:
    """An image whose files belong to many users, with devices, setuid programs and capabilities."""
    layers = [layer for sample in ODD for layer in tars(sample.layers)]
    write_layout(here / "odd", layers, name=NAME)
    return here / "odd"


@pytest.fixture
def theirs(here: Path) -> Path:
    return owned(here / "theirs")


def by_user(home: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    settings = {"image_cache_dir": str(home / "cache"), **more}
    argv = [sys.executable, "-m", "waggle", "image", *words]
    return as_user(*argv, env=environ(home / "data", settings))


def by_root(home: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    settings = {"image_cache_dir": str(home / "cache"), **more}
    return command_line("image", *words, data=home / "data", settings=settings)


def disk(home: Path) -> Path:
    [path] = (home / "cache" / "disks").glob("*.erofs")
    return path


def test_load_makes_the_same_disk_as_root(here: Path, theirs: Path, layout: Path) -> None:
    ended = by_user(theirs, "load", f"oci:{layout}")
    assert (ended.returncode, ended.stdout) == (0, f"{NAME}\n"), ended.stderr
    assert by_root(here / "roots", "load", f"oci:{layout}").returncode == 0
    assert disk(theirs).stat().st_uid == USER
    assert disk(theirs).name == disk(here / "roots").name
    assert disk(theirs).read_bytes() == disk(here / "roots").read_bytes()


def test_pull_makes_the_same_disk_as_root(here: Path, theirs: Path, layout: Path) -> None:
    with run_registry(here / "registry") as registry:
        name = f"{registry.name}/odd:v1"
        skopeo("copy", "--dest-tls-verify=false", f"oci:{layout}:{NAME}", f"docker://{name}")
        ended = by_user(theirs, "pull", name, insecure_registries=registry.name)
        assert (ended.returncode, ended.stdout) == (0, f"{name}\n"), ended.stderr
        roots = by_root(here / "roots", "pull", name, insecure_registries=registry.name)
        assert roots.returncode == 0
    assert disk(theirs).read_bytes() == disk(here / "roots").read_bytes()


@pytest.mark.slow
def test_a_user_manages_an_own_cache(theirs: Path, layout: Path) -> None:
    by_user(theirs, "load", f"oci:{layout}")
    assert NAME in by_user(theirs, "ls").stdout
    assert '"digest": "sha256:' in by_user(theirs, "inspect", NAME).stdout
    saved = by_user(theirs, "save", NAME, f"oci-archive:{theirs}/saved.tar")
    assert saved.returncode == 0, saved.stderr
    assert (theirs / "saved.tar").stat().st_uid == USER
    assert "images and disks take" in by_user(theirs, "prune", "--max-size", "1GB").stderr
    assert by_user(theirs, "rm", NAME).returncode == 0
    assert NAME not in by_user(theirs, "ls").stdout


@pytest.mark.slow
def test_roots_cache_can_be_read_and_is_not_changed(here: Path, theirs: Path, layout: Path) -> None:
    assert by_root(here / "roots", "load", f"oci:{layout}").returncode == 0
    roots = {"image_cache_dir": str(here / "roots" / "cache")}
    assert NAME in by_user(theirs, "ls", **roots).stdout
    for words in (
        ("rm", NAME),
        ("prune", "--max-size", "1MB"),
        ("load", f"oci:{layout}", "--name", "registry.example/b"),
    ):
        ended = by_user(theirs, *words, **roots)
        assert ended.returncode == 1
        assert "Permission denied" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert "permissions" in ended.stderr
    assert disk(here / "roots").exists()
    assert NAME in by_root(here / "roots", "ls").stdout
