# SPDX-License-Identifier: Apache-2.0
"""Which libkrun is built, and what serves when none can be. cargo is a script here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from lab.store import Store

from lab import libkrun
from waggle.domain.errors import SetupIncomplete

pytestmark = pytest.mark.anyio
LOCK = 'version = 4\n[[package]]\nname = "libkrun"\nversion = "1.19.7"\n'
CARGO = f"""#!/bin/sh
echo "$@" >>"$LOG"
[ ! -e "$OFFLINE" ] || {{ echo no network; exit 1; }}
for word; do
    case "$word" in
        --manifest-path=*) here=$(dirname "${{word#*=}}") ;;
    esac
done
case "$1" in
    generate-lockfile) printf '%s' '{LOCK}' >"$here/Cargo.lock" ;;
    build) mkdir -p "$here/target/release"; echo lib >"$here/target/release/libkrun.so" ;;
esac
"""


def quiet(_line: str) -> None:
    pass


@pytest.fixture
def cargo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a `log` of its calls; a file `offline` in it makes them fail."""
    directory = tmp_path / "cargo"
    directory.mkdir()
    (directory / "cargo").write_text(CARGO)
    (directory / "cargo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(directory / "log"))
    monkeypatch.setenv("OFFLINE", str(directory / "offline"))
    return directory


def work(tmp_path: Path, name: str) -> Path:
    (tmp_path / name).mkdir()
    return tmp_path / name


async def test_built_once_for_each_version(tmp_path: Path, cargo: Path) -> None:
    store = Store(tmp_path / "store")
    for name in ("one", "two"):
        made = await libkrun.ensure(store, work(tmp_path, name), "1", quiet)
        assert made.name.startswith("libkrun-1.19.7-")
        assert (made / "libkrun.so").read_text() == "lib\n"
    calls = [line.split()[0] for line in (cargo / "log").read_text().splitlines()]
    assert calls == ["generate-lockfile", "build", "generate-lockfile"]


async def test_without_a_network_the_kept_one_serves(tmp_path: Path, cargo: Path) -> None:
    store = Store(tmp_path / "store")
    made = await libkrun.ensure(store, work(tmp_path, "one"), "1", quiet)
    (cargo / "offline").touch()
    said: list[str] = []
    assert await libkrun.ensure(store, work(tmp_path, "two"), "1", said.append) == made
    assert any("cannot be asked for" in line for line in said)
    with pytest.raises(SetupIncomplete, match="no network"):
        await libkrun.ensure(store, work(tmp_path, "three"), "=1.19.6", quiet)


async def test_without_cargo_the_kept_one_serves(
    tmp_path: Path, cargo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    made = await libkrun.ensure(store, work(tmp_path, "one"), "1", quiet)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await libkrun.ensure(store, work(tmp_path, "two"), "1", quiet) == made
    with pytest.raises(SetupIncomplete, match="cargo is not installed"):
        await libkrun.ensure(Store(tmp_path / "new"), work(tmp_path, "three"), "1", quiet)


def test_a_version_is_read_from_the_lock_file() -> None:
    assert libkrun.version_in(LOCK) == "1.19.7"
    with pytest.raises(SetupIncomplete):
        libkrun.version_in("version = 4\n")


def test_the_default_features_stay_off_and_disks_and_net_on(tmp_path: Path) -> None:
    text = libkrun.write_project(tmp_path, "=1.19.6").read_text()
    assert 'version = "=1.19.6"' in text
    assert "default-features = false" in text
    assert 'features = ["blk", "net"]' in text
