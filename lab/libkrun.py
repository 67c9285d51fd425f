# SPDX-License-Identifier: Apache-2.0
"""libkrun from its published Rust crate, built by cargo and kept by version.

Every run looks for the newest 1.x, which takes a second; without a network it uses the kept build.
A scratch project depends on the crate, because `cargo install` installs no library. Must not know
more of the toolchain (`rust`) than that it runs cargo.
"""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path

from lab import rust
from lab.store import Store, key_of
from waggle.domain.errors import SetupIncomplete
from waggle.infra.shared import debian

CRATE = "libkrun"
KIND = "libkrun"
FILE = "libkrun.so"
MANIFEST = """\
[package]
name = "lab"
version = "0.0.0"
edition = "2021"
resolver = "3"

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
""" + "".join(
    f"\n[profile.release.package.{name}]\nopt-level = 0\n"
    for name in ("aho-corasick", "jiff", "regex-automata", "regex-syntax", "zstd-sys")
)
"""Low optimisation: a machine in the lab spends its time in emulated instructions. The packages at
the end take longest to compile and hardly run: log filters, and compressed kernels."""
MANIFEST_PATH = "--manifest-path=/work/Cargo.toml"
ANY = "1"
BUILD = ("build", "--release", "--locked", f"--package={CRATE}", MANIFEST_PATH)
HINT = "cargo runs in a tree of its own and reaches crates as cargo is configured on this machine."


def version_in(lock_file: str) -> str:
    """Return the version of libkrun in the text of a Cargo.lock. Pure. Raises SetupIncomplete."""
    for package in tomllib.loads(lock_file).get("package", []):
        if package.get("name") == CRATE:
            return str(package["version"])
    raise SetupIncomplete("cargo did not settle on a version of libkrun.")


def store_key(version: str) -> str:
    """Return the key of a build, made of the version and the way it is built. Pure."""
    return f"{version}-{key_of(MANIFEST, rust.KEY)}"


def write_project(directory: Path, requirement: str) -> Path:
    """Write the scratch project and return its manifest."""
    manifest = directory / "Cargo.toml"
    manifest.write_text(MANIFEST.format(requirement=requirement), "utf-8")
    (directory / "lib.rs").write_text("", "utf-8")
    return manifest


async def ensure(
    store: Store,
    toolchain: Callable[[], Awaitable[rust.Toolchain]],
    requirement: str,
    on_line: debian.OnLine,
) -> Path:
    """Return the directory that holds libkrun.so; its name ends in the version and a key.

    `toolchain` is called once, to run cargo; `requirement` has cargo's syntax. Raises
    SetupIncomplete.
    """
    kept = store.newest(KIND) if requirement == ANY else None
    try:
        return await _newest(store, await toolchain(), requirement, on_line)
    except SetupIncomplete as error:
        if kept is None:
            raise SetupIncomplete(error.message, hint=error.hint or HINT) from error
        on_line(f"the newest version cannot be had, so {kept.name} is used: {error.message}")
        return kept


async def _newest(
    store: Store, tools: rust.Toolchain, requirement: str, on_line: debian.OnLine
) -> Path:
    """Return the newest version that fits, built if it is not kept. Raises SetupIncomplete."""
    write_project(tools.project, requirement)
    await tools.run(["generate-lockfile", MANIFEST_PATH], on_line)
    version = version_in((tools.project / "Cargo.lock").read_text("utf-8"))

    async def make(directory: Path) -> None:
        await tools.run(BUILD, on_line)
        shutil.copy(tools.project / "target/release" / FILE, directory / FILE)

    return await store.ensure(KIND, store_key(version), make)
