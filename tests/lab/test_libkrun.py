# SPDX-License-Identifier: Apache-2.0
"""Which libkrun is built, and which is used if none can be. cargo is a script here."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from lab.rust import Toolchain
from lab.store import Store

from lab import libkrun
from waggle.domain.errors import SetupIncomplete
from waggle.infra.shared.debian import OnLine

pytestmark = pytest.mark.anyio
LOCK = 'version = 4\n[[package]]\nname = "libkrun"\nversion = "1.19.7"\n'
CARGO = f"""#!/bin/sh
echo "$1" >>"$HOME/log"
[ ! -e "$HOME/offline" ] || {{ echo no network; exit 1; }}
case "$1" in
    generate-lockfile) printf '%s' '{LOCK}' >"$WORK/Cargo.lock" ;;
    build) mkdir -p "$WORK/target/release"; echo lib >"$WORK/target/release/libkrun.so" ;;
esac
"""


def quiet(_line: str) -> None:
    pass


class Bench:
    """`tmp` has a `log` of cargo's calls; a file `offline` in it makes them fail."""

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        self.store = Store(tmp / "store")
        (tmp / "cargo").write_text(CARGO)
        (tmp / "cargo").chmod(0o755)

    async def toolchain(self) -> Toolchain:
        """Make a toolchain in a new directory."""
        work = Path(tempfile.mkdtemp(dir=self.tmp))
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.tmp), "WORK": str(work)}
        return Toolchain((str(self.tmp / "cargo"),), work, environment)

    async def ensure(self, requirement: str = "1", on_line: OnLine = quiet) -> Path:
        return await libkrun.ensure(self.store, self.toolchain, requirement, on_line)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_a_version_is_built_once(bench: Bench) -> None:
    for _ in range(2):
        made = await bench.ensure()
        assert made.name.startswith("libkrun-1.19.7-")
        assert (made / "libkrun.so").read_text() == "lib\n"
    calls = (bench.tmp / "log").read_text().split()
    assert calls == ["generate-lockfile", "build", "generate-lockfile"]


async def test_the_kept_build_is_used_without_a_network(bench: Bench) -> None:
    made = await bench.ensure()
    (bench.tmp / "offline").touch()
    said: list[str] = []
    assert await bench.ensure(on_line=said.append) == made
    assert any("cannot be had" in line for line in said)
    with pytest.raises(SetupIncomplete, match="no network") as caught:
        await bench.ensure("=1.19.6")
    assert caught.value.hint == libkrun.HINT


async def test_the_kept_build_is_used_without_a_toolchain(bench: Bench) -> None:
    async def none() -> Toolchain:
        raise SetupIncomplete("no mirror", hint="Set it.")

    with pytest.raises(SetupIncomplete, match="no mirror") as caught:
        await libkrun.ensure(bench.store, none, "1", quiet)
    assert caught.value.hint == "Set it."
    made = await bench.ensure()
    assert await libkrun.ensure(bench.store, none, "1", quiet) == made


def test_a_version_is_read_from_the_lock_file() -> None:
    assert libkrun.version_in(LOCK) == "1.19.7"
    with pytest.raises(SetupIncomplete):
        libkrun.version_in("version = 4\n")


def test_only_the_features_for_disks_and_net_are_on(tmp_path: Path) -> None:
    text = libkrun.write_project(tmp_path, "=1.19.6").read_text()
    assert 'version = "=1.19.6"' in text
    assert "default-features = false" in text
    assert 'features = ["blk", "net"]' in text
