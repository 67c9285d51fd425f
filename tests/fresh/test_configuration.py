# SPDX-License-Identifier: Apache-2.0
"""What a bare root is given of this machine: how packages are fetched and who is trusted."""

from __future__ import annotations

from pathlib import Path

from fresh.configuration import apt_options, apt_sources, certificates, chosen, read

SOURCES = """\
Types: deb
# where it was copied from
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""
OTHER = "Types: deb\nURIs: https://other.example/apt\nSuites: bookworm\nComponents: main\n"


def certificate(text: str) -> str:
    return f"-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----"


def test_the_archives_of_debian_are_named_for_the_other_suite() -> None:
    written = apt_sources([SOURCES, OTHER], "bookworm", "trixie")
    assert "Suites: trixie trixie-updates\n" in written
    assert "Suites: trixie-security\n" in written
    assert "debian-archive-keyring.gpg" in written
    assert "bookworm" not in written
    assert "other.example" not in written
    assert "#" not in written


def test_where_there_is_none_nothing_is_made_up() -> None:
    assert apt_sources([OTHER], "bookworm", "trixie").strip() == ""


def test_of_apts_options_those_about_the_network_are_kept() -> None:
    dump = (
        'APT::Install-Recommends "1";\nAcquire::http::Proxy "http://proxy.example:3128";\n'
        'Acquire::Check-Valid-Until "false";\nAcquire::Languages "";\nAcquire::Retries "3";\n'
    )
    assert apt_options(dump) == (
        'Acquire::http::Proxy "http://proxy.example:3128";\n'
        'Acquire::Check-Valid-Until "false";\nAcquire::Retries "3";\n'
    )


def test_of_the_variables_those_about_packages_and_certificates_are_kept() -> None:
    kept = {"PIP_CERT": "/c.pem", "npm_config_registry": "r", "HTTPS_PROXY": "p", "UV_INDEX": "i"}
    dropped = {"HOME": "/root", "WAGGLE_TOKEN": "secret", "PATH": "/bin", "CI": "true"}
    assert chosen({**kept, **dropped}) == kept


def test_each_certificate_is_taken_once() -> None:
    one, two = certificate("one"), certificate("two")
    assert certificates([f"{one}\n{two}\n", f"# a comment\n{two}\n"]) == (one, two)


def test_this_machines_configuration_is_whole(tmp_path: Path) -> None:
    (tmp_path / ".npmrc").write_text("fund=false\n")
    (tmp_path / "wheels").mkdir()
    environ = {"HOME": str(tmp_path), "PIP_FIND_LINKS": str(tmp_path / "wheels"), "SECRET": "x"}
    found = read("trixie", environ)
    assert found.home == {".npmrc": b"fund=false\n"}
    assert found.variables == {"PIP_FIND_LINKS": str(tmp_path / "wheels")}
    assert found.copied == (tmp_path / "wheels",)
    sources = found.files["etc/apt/sources.list.d/debian.sources"].decode()
    assert "trixie" in sources
    assert "URIs: " in sources
