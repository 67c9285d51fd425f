# SPDX-License-Identifier: Apache-2.0
"""Rust and a C compiler, kept as a tree of Debian packages, so that the host needs neither.

Called by `session`. The tree is a Debian with a Rust new enough for libkrun; its builds are linked
with the outer machine's older C library, which it contains as a sysroot. cargo runs in a copy made
of hard links and removed after the run: only that copy gets the host's network configuration.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lab import base
from lab.store import Store, key_of
from waggle.infra.shared import debian

KIND = "rust"
SUITE = "trixie"
PACKAGES = ("base-files", "cargo-web", "gcc", "rustc-web")
"""Debian updates the `-web` packages for its browsers; the plain ones stay as old as the suite."""
SYSROOT = "sysroot"
SYSROOT_PACKAGES = ("libc6-dev",)
KEY = key_of(SUITE, *PACKAGES, base.SUITE, *SYSROOT_PACKAGES)
BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
"""Where distributions keep the system's certificate authorities."""
_BUNDLE = BUNDLES[0]
_PASSED = ("CARGO_HTTP_", "CARGO_NET_", "CARGO_REGISTRIES_", "CARGO_REGISTRY_", "CARGO_SOURCE_")
_FIXED = {
    "PATH": "/usr/bin",
    "HOME": "/work",
    "CARGO_HOME": "/cargo",
    "CARGO_HTTP_CAINFO": _BUNDLE,
    # The host's cargo configuration of these is for the host's compilers.
    "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER": "gcc",
    "CARGO_ENCODED_RUSTFLAGS": f"-Clink-arg=--sysroot=/{SYSROOT}",
    "RUSTC_WRAPPER": "",
    "CC": "gcc",
    "CFLAGS": f"--sysroot=/{SYSROOT}",
}


@dataclass(frozen=True, slots=True)
class Host:
    """How this machine reaches the crates: its variables and directories."""

    variables: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    etc: Path = Path("/etc")

    @property
    def config(self) -> Path | None:
        """Cargo's configuration file, if it exists."""
        home = self.variables.get("CARGO_HOME") or Path(self.variables.get("HOME", "/"), ".cargo")
        return next(filter(Path.is_file, (Path(home, n) for n in ("config.toml", "config"))), None)

    def bundle(self) -> Path | None:
        """Find the certificate authorities in cargo's order. Reads cargo's configuration."""
        configured: str | None = None
        if self.config:
            with contextlib.suppress(tomllib.TOMLDecodeError):  # cargo reports it
                text = self.config.read_text("utf-8")
                configured = tomllib.loads(text).get("http", {}).get("cainfo")
        named = [
            self.variables.get("CARGO_HTTP_CAINFO"),
            configured,
            self.variables.get("SSL_CERT_FILE"),
            self.variables.get("CURL_CA_BUNDLE"),
            *BUNDLES,
        ]
        return next((Path(name) for name in named if name and Path(name).is_file()), None)


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A way to run cargo. `cargo` is the command; it sees the directory `project` as /work."""

    cargo: Sequence[str]
    project: Path
    environment: Mapping[str, str]

    async def run(self, arguments: Sequence[str], on_line: debian.OnLine) -> None:
        """Run cargo in the project. Raises SetupIncomplete with its last lines."""
        await debian.run([*self.cargo, *arguments], on_line, self.environment)


def environment(host: Mapping[str, str]) -> dict[str, str]:
    """Return cargo's variables: the host's proxies and registries and nothing else of it. Pure."""
    passed = {
        name: value
        for name, value in host.items()
        if name.lower().endswith("_proxy") or name.startswith(_PASSED)
    }
    return {**passed, **_FIXED}


def tree_argvs(mirror: str, tree: Path) -> list[list[str]]:
    """Return the commands that make the tree, in order. Pure."""
    wanted = ((SUITE, PACKAGES, tree), (base.SUITE, SYSROOT_PACKAGES, tree / SYSROOT))
    return [
        debian.tree_argv(
            mirror,
            suite=suite,
            packages=packages,
            options=base.APT,
            target=str(target),
            form="directory",
        )
        for suite, packages, target in wanted
    ]


async def ensure(store: Store, mirror: str, on_line: debian.OnLine) -> Path:
    """Return the kept tree. Raises SetupIncomplete."""

    async def make(directory: Path) -> None:
        tree = directory / "tree"
        for argv in tree_argvs(mirror, tree):
            await debian.run(argv, on_line)
        forget(tree)
        forget(tree / SYSROOT)

    return await store.ensure(KIND, KEY, make) / "tree"


def forget(tree: Path) -> None:
    """Remove mmdebstrap's traces of this machine: its mirror, resolver and name."""
    for name in ("etc", "var"):  # a compiler needs neither
        shutil.rmtree(tree / name)


def furnish(kept: Path, tree: Path, host: Host) -> Toolchain:
    """Copy the kept tree to `tree`, on the same file system, and add the host's network setup."""
    shutil.copytree(kept, tree, symlinks=True, copy_function=os.link)
    texts = {"etc/nsswitch.conf": b"hosts: files dns\n"}
    found = {
        "etc/resolv.conf": host.etc / "resolv.conf",
        "etc/hosts": host.etc / "hosts",
        _BUNDLE.lstrip("/"): host.bundle(),
        "cargo/config.toml": host.config,
    }
    texts |= {name: path.read_bytes() for name, path in found.items() if path and path.is_file()}
    for name, text in texts.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # the kept tree has the same inode
        path.write_bytes(text)
    project = tree / "work"
    project.mkdir()
    return Toolchain(("chroot", str(tree), "cargo"), project, environment(host.variables))
