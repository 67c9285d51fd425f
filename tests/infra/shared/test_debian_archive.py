# SPDX-License-Identifier: Apache-2.0
"""Finding the Debian archive: in the host's own sources, and from mmdebstrap."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from waggle.domain.errors import SetupIncomplete
from waggle.infra.shared import debian

MIRROR = "http://mirror.example/debian"
UBUNTU = 'NAME="Ubuntu"\nID=ubuntu\nID_LIKE=debian\n'
KEY = "/usr/share/keyrings/debian-archive-keyring.gpg"


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "apt/sources.list.d").mkdir(parents=True)
    (tmp_path / "os-release").write_text(UBUNTU)
    return tmp_path


def stanza(uris: str, suites: str = "trixie", *more: str) -> str:
    lines = ("Types: deb deb-src", f"URIs: {uris}", f"Suites: {suites}", "Components: main", *more)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        f"deb {MIRROR} bookworm main\n",
        f"deb {MIRROR}/ bookworm contrib main # ours\n",
        f"# deb http://no.example/debian trixie main\ndeb [arch=amd64] {MIRROR} trixie main\n",
        f"deb [signed-by={KEY} arch=amd64] {MIRROR} trixie main\n",
        f"deb http://sec.example/debian-security trixie-security main\ndeb {MIRROR} trixie main\n",
        f"deb-src http://src.example/debian trixie main\ndeb {MIRROR} trixie main\n",
    ],
)
def test_a_list_is_read(etc: Path, text: str) -> None:
    (etc / "apt/sources.list").write_text(text)
    assert debian.host_archive(etc) == MIRROR


@pytest.mark.parametrize(
    "text",
    [
        stanza(MIRROR),
        "# comment\n\n" + stanza(f"cdrom:[x] {MIRROR}/ http://b.example/debian", "sid sid-updates"),
        stanza(f"\n  {MIRROR}", "trixie", f"Signed-By: {KEY}"),
        stanza("http://off.example/debian", "trixie", "Enabled: no") + "\n" + stanza(MIRROR),
        stanza("http://s.example/debian", "trixie-security") + "\n# next\n\n" + stanza(MIRROR),
    ],
)
def test_stanzas_are_read(etc: Path, text: str) -> None:
    (etc / "apt/sources.list.d/debian.sources").write_text(text)
    assert debian.host_archive(etc) == MIRROR


@pytest.mark.parametrize(
    "file,text",
    [
        ("ubuntu.sources", stanza("http://a.example/ubuntu http://b.example/ubuntu", "noble")),
        ("mint.list", "deb http://packages.example/mint wilma main upstream\n"),
        ("box.list", "deb http://box.example/virtualbox/debian noble main\n"),
        ("tool.list", "deb [signed-by=/etc/apt/keyrings/x.gpg] http://x.example/debian sid main\n"),
        ("tool.sources", stanza("http://x.example/debian", "stable", "Signed-By: /etc/apt/x.asc")),
        ("vendor.list", "deb http://vendor.example/apt stable main\n"),
        ("docker.list", "deb http://docker.example/linux/debian trixie stable\n"),
        ("broken.list", "deb\ndeb [\ndeb http://x.example/debian\n\x00\n"),
        ("broken.sources", "Types: deb\nURIs:\n\nnonsense\n"),
    ],
)
def test_on_ubuntu_no_other_archive_is_taken_for_debians(etc: Path, file: str, text: str) -> None:
    (etc / "apt/sources.list.d" / file).write_text(text)
    assert debian.host_archive(etc) is None


def test_bytes_that_are_not_text_name_no_archive(etc: Path) -> None:
    (etc / "apt/sources.list").write_bytes(b"\xff\xfedeb")
    assert debian.host_archive(etc) is None


def test_a_host_without_apt_names_no_archive(tmp_path: Path) -> None:
    assert debian.host_archive(tmp_path) is None


@pytest.mark.parametrize(
    "os_release,expected",
    [
        ('PRETTY_NAME="Debian"\nID=debian\n', True),
        ("ID='debian'", True),
        (UBUNTU, False),
        ("ID=linuxmint\nID_LIKE='ubuntu debian'\n", False),
        ("VARIANT_ID=debian\n", False),
        ("", False),
    ],
)
def test_a_derivative_of_debian_is_not_debian(etc: Path, os_release: str, expected: bool) -> None:
    (etc / "os-release").write_text(os_release)
    assert debian.is_debian(etc) is expected


def test_on_debian_any_path_counts_and_vendors_come_last(etc: Path) -> None:
    (etc / "os-release").write_text("ID=debian\n")
    parts = etc / "apt/sources.list.d"
    (parts / "a.sources").write_text(stanza("http://v.example/debian", "sid", "Signed-By: /v.gpg"))
    assert debian.host_archive(etc) == "http://v.example/debian"
    (parts / "b.sources").write_text(stanza("http://company.example/apt/mirror"))
    assert debian.host_archive(etc) == "http://company.example/apt/mirror"
    (parts / "c.sources").write_text(stanza(MIRROR))
    assert debian.host_archive(etc) == MIRROR


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory whose programs come before all others, with an empty cache before and after."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    debian.default_archive.cache_clear()
    yield tmp_path
    debian.default_archive.cache_clear()


def tool(directory: Path, script: str) -> None:
    program = directory / "mmdebstrap"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_mmdebstrap_is_run_once(tools: Path) -> None:
    tool(tools, f'echo x >>{tools}/calls; echo "I: x"; echo "deb {MIRROR}/ trixie main" >&2')
    assert debian.default_archive("trixie") == MIRROR
    assert debian.default_archive("trixie") == MIRROR
    assert (tools / "calls").read_text() == "x\n"


def test_mmdebstraps_answer_may_be_a_stanza(tools: Path) -> None:
    tool(tools, f"printf 'I: using /tmp/x\\n\\nTypes: deb\\nURIs: {MIRROR}\\nSuites: trixie\\n'")
    assert debian.default_archive("trixie") == MIRROR


def test_a_stanza_without_addresses_is_no_answer(tools: Path) -> None:
    tool(tools, r"printf 'Types: deb\nSuites: trixie\n'")
    with pytest.raises(SetupIncomplete, match="does not say"):
        debian.default_archive("trixie")
    tool(
        tools,
        rf"printf 'Types: deb\nSuites: trixie\n\nTypes: deb\nURIs: {MIRROR}\nSuites: trixie\n'",
    )
    assert debian.default_archive("trixie") == MIRROR


def test_a_failure_of_mmdebstrap_is_reported_and_not_cached(tools: Path) -> None:
    tool(tools, "echo 'E: out of order'; exit 7")
    with pytest.raises(SetupIncomplete, match=r"\(7\): E: out of order .*WAGGLE_DEBIAN_MIRROR"):
        debian.default_archive("trixie")
    tool(tools, f"echo 'deb {MIRROR} trixie main'")
    assert debian.default_archive("trixie") == MIRROR


def test_a_hanging_mmdebstrap_is_ended(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "ASK_SECONDS", 0.2)
    tool(tools, "sleep 1000 & wait")
    with pytest.raises(SetupIncomplete, match=r"\(124\)"):
        debian.default_archive("trixie")


def test_without_mmdebstrap_setup_is_the_next_step(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(SetupIncomplete, match=r"'waggle setup'.*WAGGLE_DEBIAN_MIRROR"):
        debian.default_archive("trixie")
