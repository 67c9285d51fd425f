# SPDX-License-Identifier: Apache-2.0
"""The configuration that a bare root takes from this machine: package sources and trust."""

from __future__ import annotations

import re
from pathlib import Path

from fresh.configuration import apt_options, apt_sources, certificates, chosen, read

from waggle.infra.shared.debian import Source

KEY = "/usr/share/keyrings/debian-archive-bookworm-stable.gpg"


def source(uri: str, *suites: str, component: str = "main", key: str = "") -> Source:
    return Source((uri,), suites, (component,), key)


def certificate(text: str) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----"


def test_debian_archives_are_rewritten_for_the_other_suite() -> None:
    entries = [
        source("http://mirror.example/debian", "bookworm", "bookworm-updates", key=KEY),
        source("http://mirror.example/debian-security/", "bookworm-security"),
        source("http://vendor.example/linux/debian", "bookworm", component="stable"),
        source("http://vendor.example/debian", "bookworm", key="/etc/apt/keyrings/vendor.asc"),
        source("http://other.example/apt", "bookworm"),
        source("http://mirror.example/debian", "sid"),
    ]
    assert re.findall(
        r"^(?:URIs|Suites): (.*)", apt_sources(entries, "bookworm", "trixie"), re.M
    ) == [
        *("http://mirror.example/debian", "trixie trixie-updates"),
        *("http://mirror.example/debian-security/", "trixie-security"),
    ]


def test_only_apt_options_about_the_network_are_kept() -> None:
    dump = (
        'APT::Install-Recommends "1";\nAcquire::http::Proxy "http://proxy.example:3128";\n'
        'Acquire::Check-Valid-Until "false";\nAcquire::Languages "";\nAcquire::Retries "3";\n'
    )
    assert apt_options(dump) == (
        'Acquire::http::Proxy "http://proxy.example:3128";\n'
        'Acquire::Check-Valid-Until "false";\nAcquire::Retries "3";\n'
    )


def test_only_variables_about_packages_and_certificates_are_kept() -> None:
    kept = {
        "PIP_CERT": "/c.pem",
        "PIP_INDEX_URL": "i",
        "PIP_FIND_LINKS": "/w",
        "UV_INDEX": "i",
        "npm_config_registry": "r",
        "HTTPS_PROXY": "p",
        "CARGO_NET_OFFLINE": "false",
    }
    dropped = {
        "HOME": "/root",
        "WAGGLE_TOKEN": "secret",
        "PATH": "/bin",
        "CI": "true",
        "CARGO_REGISTRY_TOKEN": "secret",
        "UV_PUBLISH_TOKEN": "secret",
        "CARGO_HOME": "/c",
        "PIP_CACHE_DIR": "/c",
        "npm_config_cache": "/c",
        "UV_CACHE_DIR": "/c",
        "PIP_TARGET": "/t",
        "npm_config_prefix": "/p",
        "UV_PYTHON": "3.9",
    }
    assert chosen({**kept, **dropped}) == kept


def test_each_certificate_is_taken_once() -> None:
    one, two = certificate("one"), certificate("two")
    assert certificates([f"{one}\n{two}\n", f"# a comment\n{two}\n"]) == (one, two)


def test_this_machines_configuration_is_read_completely(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(certificate("ours"))
    npm = f"cafile={tmp_path}/ca.pem\n"
    (tmp_path / ".npmrc").write_text(npm)
    (tmp_path / "wheels").mkdir()
    environ = {"HOME": str(tmp_path), "PIP_FIND_LINKS": str(tmp_path / "wheels"), "SECRET": "x"}
    found = read("trixie", environ)
    assert found.home == {".npmrc": npm.encode()}
    assert found.variables == {"PIP_FIND_LINKS": str(tmp_path / "wheels")}
    assert set(found.copied) >= {tmp_path / "ca.pem", tmp_path / "wheels"}
    assert certificate("ours") in found.certificates
    sources = found.files["etc/apt/sources.list.d/debian.sources"].decode()
    assert "trixie" in sources
    assert "URIs: " in sources
