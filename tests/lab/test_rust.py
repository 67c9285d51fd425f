# SPDX-License-Identifier: Apache-2.0
"""What cargo gets from this machine, and that none of it is kept. `test_lab` builds with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab.rust import SYSROOT, Host, environment, forget, furnish, tree_argvs


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    tree = tmp_path / "kept"
    for name in ("etc/apt/sources.list", "var/lib/dpkg/status", "usr/bin/cargo"):
        (tree / name).parent.mkdir(parents=True)
        (tree / name).write_text("of the packages")
    forget(tree)
    return tree


@pytest.fixture
def host(tmp_path: Path) -> Host:
    for name, text in {
        "etc/resolv.conf": "nameserver 192.0.2.1\n",
        "etc/hosts": "192.0.2.2 name\n",
        "home/.cargo/config.toml": "[net]\nretry = 9\n",
        "ca.pem": "authorities",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return Host(
        {"HOME": str(tmp_path / "home"), "SSL_CERT_FILE": str(tmp_path / "ca.pem")},
        tmp_path / "etc",
    )


def files(tree: Path) -> dict[str, str]:
    return {str(p.relative_to(tree)): p.read_text() for p in tree.rglob("*") if p.is_file()}


def test_host_settings_are_in_the_copy_and_not_in_the_kept_tree(
    tmp_path: Path, kept: Path, host: Host
) -> None:
    before = files(kept)
    tools = furnish(kept, tmp_path / "copy", host)
    assert files(tmp_path / "copy") == {
        "etc/resolv.conf": "nameserver 192.0.2.1\n",
        "etc/hosts": "192.0.2.2 name\n",
        "etc/nsswitch.conf": "hosts: files dns\n",
        "etc/ssl/certs/ca-certificates.crt": "authorities",
        "cargo/config.toml": "[net]\nretry = 9\n",
        "usr/bin/cargo": "of the packages",
    }
    assert files(kept) == before
    assert tools.project == tmp_path / "copy/work"
    assert tools.cargo == ("chroot", str(tmp_path / "copy"), "cargo")


def test_packages_are_hard_linked(tmp_path: Path, kept: Path, host: Host) -> None:
    furnish(kept, tmp_path / "copy", host)
    assert (tmp_path / "copy/usr/bin/cargo").samefile(kept / "usr/bin/cargo")


def test_without_a_cargo_configuration_the_copy_has_none(tmp_path: Path, kept: Path) -> None:
    furnish(kept, tmp_path / "copy", Host({"HOME": str(tmp_path)}, tmp_path))
    assert not (tmp_path / "copy/cargo").exists()


def test_authorities_are_found_in_cargos_order(tmp_path: Path, host: Host) -> None:
    assert host.bundle() == tmp_path / "ca.pem"
    for name in ("configured", "named"):
        (tmp_path / name).touch()
    assert host.config is not None
    host.config.write_text(f"[http]\ncainfo = '{tmp_path / 'configured'}'\n")
    assert host.bundle() == tmp_path / "configured"
    named = {**host.variables, "CARGO_HTTP_CAINFO": str(tmp_path / "named")}
    assert Host(named, host.etc).bundle() == tmp_path / "named"


def test_a_broken_configuration_is_left_to_cargo(tmp_path: Path, host: Host) -> None:
    assert host.config is not None
    host.config.write_text("[[[")
    assert host.bundle() == tmp_path / "ca.pem"


def test_cargo_gets_proxies_and_registries_but_no_compiler_settings() -> None:
    given = {
        "https_proxy": "http://192.0.2.9:8080",
        "NO_PROXY": "localhost",
        "CARGO_REGISTRIES_MINE_INDEX": "sparse+http://192.0.2.9/",
        "CARGO_HTTP_CAINFO": "/host/ca.pem",
        "CARGO_HOME": "/host/cargo",
        "RUSTFLAGS": "-Ctarget-cpu=native",
        "LD_PRELOAD": "/host/lib.so",
        "PATH": "/host/bin",
    }
    found = environment(given)
    assert {name: found[name] for name in list(given)[:3]} == dict(list(given.items())[:3])
    assert not any("/host" in value for value in found.values())
    assert not {"RUSTFLAGS", "LD_PRELOAD"} & set(found)


def test_builds_are_linked_with_the_outer_machines_c_library(tmp_path: Path) -> None:
    newer, older = tree_argvs("file:/mirror", tmp_path)
    assert newer[-3:] == ["trixie", str(tmp_path), "deb file:/mirror trixie main"]
    assert older[-3:] == ["bookworm", str(tmp_path / SYSROOT), "deb file:/mirror bookworm main"]
    found = environment({})
    assert found["CFLAGS"] == f"--sysroot=/{SYSROOT}"
    assert found["CARGO_ENCODED_RUSTFLAGS"].endswith(f"=--sysroot=/{SYSROOT}")
