# SPDX-License-Identifier: Apache-2.0
"""The wheel: its contents, its dependencies, and that its code works without a checkout.

`fresh/steps/wheel.sh` installs it into a bare machine and uses all of it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from email import message_from_bytes
from email.message import Message
from importlib.metadata import packages_distributions
from pathlib import Path
from zipfile import ZipFile

import pytest
from tests.support.repository import name_of, normal, tracked
from tests.support.waggle_process import environ

from waggle import __version__
from waggle.infra.rootfs.kit import kit_key

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
DATA = "waggle/_data"
PARTS = {"mcp-types": "mcp", "pydantic-core": "pydantic"}
"""Distributions that come with another one, in exactly its version."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (made,) = directory.iterdir()
    return made


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Mapping[str, bytes]:
    with ZipFile(wheel) as archive:
        parts = (name.partition(".dist-info/") for name in archive.namelist())
        return {name: archive.read(head + between + name) for head, between, name in parts if name}


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed wheel. Its dependencies are those of the tests, which come after it."""
    target = tmp_path_factory.mktemp("site")
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--no-compile",
    ]
    subprocess.run([*install, "--target", str(target), str(wheel)], check=True, timeout=120)
    return target


class TestContents:
    def test_the_wheel_has_all_sources_definitions_and_documents_and_nothing_else(
        self, names: set[str]
    ) -> None:
        sources = {name_of(path).removeprefix("src/") for path in tracked("src/waggle/*")}
        data = {
            f"{DATA}/{name_of(path)}" for path in tracked("images/*", "docs/*.md", "docs/*.json")
        }
        assert names == sources | data

    @pytest.mark.parametrize(
        "name",
        [
            "waggle/py.typed",
            "waggle/infra/rootfs/kit/guest/init.c",
            "waggle/infra/rootfs/kit/guest/waggle.h",
            "waggle/infra/rootfs/kit/guest/assemble.sh",
            *(
                f"{DATA}/images/{name}/image.toml"
                for name in ("base", "data", "node", "python", "shell")
            ),
            f"{DATA}/images/data/requirements.txt",
        ],
    )
    def test_the_wheel_has_the_file(self, names: set[str], name: str) -> None:
        assert name in names

    def test_the_wheel_has_everything_that_the_readme_links(
        self, names: set[str], metadata: Mapping[str, bytes]
    ) -> None:
        links = set(re.findall(r"\]\((?!https?:|#)([^)#\s]+)", README))
        assert links
        there = {name.removeprefix(f"{DATA}/") for name in names}
        there |= {name.removeprefix("licenses/") for name in metadata}
        assert links <= there


class TestMetadata:
    def test_metadata_has_name_version_and_readme(
        self, metadata: Mapping[str, bytes], wheel: Path
    ) -> None:
        read: Message = message_from_bytes(metadata["METADATA"])
        assert (read["Name"], read["Version"]) == ("waggle-microvm", __version__)
        assert wheel.name == f"waggle_microvm-{__version__}-py3-none-any.whl"
        assert metadata["METADATA"].decode().endswith(README)

    def test_the_commands_are_entry_points(self, metadata: Mapping[str, bytes]) -> None:
        lines = metadata["entry_points.txt"].decode().splitlines()
        assert "waggle = waggle.__main__:main" in lines

    def test_every_imported_package_is_a_dependency(self) -> None:
        required = {normal(text) for text in PROJECT["dependencies"]}
        providers = packages_distributions()
        for package in sorted(third_party()):
            found = {normal(name) for name in providers[package]}
            found = {PARTS.get(name, name) for name in found}
            assert found & required, f"{package} comes from {found}, which is no dependency"


def third_party() -> set[str]:
    """Return the third-party packages that waggle's code imports anywhere."""
    found: set[str] = set()
    for path in tracked("src/waggle/*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Import(names=names):
                    found |= {name.name.partition(".")[0] for name in names}
                case ast.ImportFrom(module=str(module)):
                    found.add(module.partition(".")[0])
                case _:
                    pass
    return found - sys.stdlib_module_names - {"waggle"}


class TestWithoutACheckout:
    def run(
        self, site: Path, data: Path, *words: str, **settings: str
    ) -> subprocess.CompletedProcess[str]:
        variables = environ(data, {"image_cache_dir": str(data / "cache"), **settings})
        return subprocess.run(
            [sys.executable, *words],
            env={**variables, "PYTHONPATH": str(site)},
            cwd=data,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @pytest.mark.parametrize("command", ["waggle", "waggle-microvm"])
    def test_the_command_prints_its_version(self, site: Path, tmp_path: Path, command: str) -> None:
        ended = self.run(site, tmp_path, str(site / "bin" / command), "version")
        assert (ended.stdout, ended.stderr) == (f"waggle {__version__}\n", "")

    def test_the_kit_is_the_same(self, site: Path, tmp_path: Path) -> None:
        code = "from waggle.infra.rootfs.kit import *; print(GUEST_SOURCES, kit_key())"
        ended = self.run(site, tmp_path, "-c", code)
        where, key = ended.stdout.split()
        assert Path(where).is_relative_to(site)
        assert key == kit_key()

    def test_the_definitions_are_found(self, site: Path, tmp_path: Path) -> None:
        ended = self.run(site, tmp_path, "-m", "waggle", "image", "build", "nope")
        assert ended.returncode == 2
        assert "Known are: base, data, node, python, shell." in ended.stderr

    def test_documents_that_messages_name_are_there(self, site: Path, tmp_path: Path) -> None:
        ended = self.run(site, tmp_path, "-m", "waggle", "image", "ls", bogus="1")
        (document,) = re.findall(r"\S+\.md", ended.stderr)
        assert Path(document).is_relative_to(site)
        assert Path(document).is_file()
