# SPDX-License-Identifier: Apache-2.0
"""libkrun from its published Rust crate, built by cargo and kept by version.

The newest 1.x is asked for at each run, which takes a second; without a network the one that is
kept serves. A scratch project depends on the crate, because `cargo install` installs no library.
"""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

from lab.store import Store, key_of
from waggle.domain.errors import SetupIncomplete
from waggle.infra import debian

CRATE = "libkrun"
KIND = "libkrun"
FILE = "libkrun.so"
MANIFEST = """\
[package]
name = "lab"
version = "0.0.0"
edition = "2021"

[lib]
path = "lib.rs"

[dependencies.libkrun]
version = "{requirement}"
default-features = false
features = ["blk", "net"]

[profile.release]
opt-level = 1
codegen-units = 16
debug = false
"""
"""Optimised no further: a machine in the lab spends its time in emulated instructions."""
NO_CARGO = "Install Rust (cargo), which builds libkrun; Debian's own is too old."


def version_in(lock_file: str) -> str:
    """The version of libkrun in the text of a Cargo.lock. Pure. Raises SetupIncomplete."""
    for package in tomllib.loads(lock_file).get("package", []):
        if package.get("name") == CRATE:
            return str(package["version"])
    raise SetupIncomplete("cargo did not settle on a version of libkrun.")


def store_key(version: str) -> str:
    """What a build is kept by: the version, and how it is built. Pure."""
    return f"{version}-{key_of(MANIFEST)}"


def write_project(directory: Path, requirement: str) -> Path:
    """Write the scratch project; its manifest."""
    manifest = directory / "Cargo.toml"
    manifest.write_text(MANIFEST.format(requirement=requirement), "utf-8")
    (directory / "lib.rs").write_text("", "utf-8")
    return manifest


async def ensure(store: Store, work: Path, requirement: str, on_line: debian.OnLine) -> Path:
    """The directory that holds libkrun.so, its name ends in the version and a key.

    `work` is an empty directory; `requirement` is in cargo's language. Raises SetupIncomplete.
    """
    kept = store.newest(KIND) if requirement == "1" else None
    if shutil.which("cargo") is None:
        if kept is not None:
            return kept
        raise SetupIncomplete("cargo is not installed.", hint=NO_CARGO)
    manifest = write_project(work, requirement)
    try:
        await debian.run(["cargo", "generate-lockfile", f"--manifest-path={manifest}"], on_line)
    except SetupIncomplete:
        if kept is None:
            raise
        on_line(f"the newest version cannot be asked for; {kept.name} is used")
        return kept
    version = version_in((work / "Cargo.lock").read_text("utf-8"))

    async def make(directory: Path) -> None:
        await debian.run(build_argv(manifest, work / "target"), on_line)
        shutil.copy(work / "target/release" / FILE, directory / FILE)

    return await store.ensure(KIND, store_key(version), make)


def build_argv(manifest: Path, target: Path) -> list[str]:
    """The command that builds the library, locked to what was settled. Pure."""
    return [
        *("cargo", "build", "--release", "--locked", f"--package={CRATE}"),
        *(f"--manifest-path={manifest}", f"--target-dir={target}"),
    ]
