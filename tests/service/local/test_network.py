# SPDX-License-Identifier: Apache-2.0
"""The questions to package managers, put to stand-ins, and what becomes of the answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from tests.support.programs import program

from waggle.domain.network import Network, parse_network
from waggle.domain.network.registries import parse_registries
from waggle.domain.network.rules import Rule
from waggle.domain.programs import Command
from waggle.service.local.blueprint import StartedMachine
from waggle.service.local.network import CONFIGURED, FILES, NetworkOfGuest

BUSYBOX = program("busybox")
TOOLS = {
    "python3": """
case "$*" in
*import\\ pip*)
    echo "  -i, --index-url <url> The index (default https://pip.example.org/simple). Another"
    printf '%s\\n' "global.extra-index-url='https://a.example.org/x\\\\nhttps://b.example.org/y'"
    echo "See https://docs.example.org/" ;;
*) shift 2; echo "$1/pip/ https://files.example.org" ;;
esac""",
    "npm": """
echo '; registry = "https://overridden.example.org/"'
echo 'registry = "https://npm.example.org/"'
echo '"@corp:registry" = "https://corp.example.org/npm/"'
echo 'replace-registry-host = "npmjs"'""",
    "go": """
case "$2" in
GOPROXY) echo "https://go.example.org|https://go2.example.org,direct" ;;
*) echo "sum.example.org+abc https://sumproxy.example.org" ;;
esac""",
    "apt-get": """echo "'http://apt.example.org/debian/dists/x/InRelease' apt 0" """,
    "cargo": """
mkdir -p "$CARGO_HOME/registry/index/x"
echo '{"dl": "https://crates.example.org/dl", "api": "https://api.example.org"}' \\
    >"$CARGO_HOME/registry/index/x/config.json"
echo "DEBUG cache_path=\\"$CARGO_HOME/registry/index/index.example.org-0123456789abcdef/.cache\\""
echo "error: no matching package" """,
}


def asked(directory: Path, script: str, tools: Sequence[str], *arguments: str) -> str:
    """Run a question with these tools on PATH, and return what it prints."""
    programs = directory / "bin"
    programs.mkdir()
    for name in tools:
        stand_in = programs / name
        stand_in.write_text(f"#!/bin/sh\n{TOOLS[name]}\n")
        stand_in.chmod(0o755)
    argv = [BUSYBOX, "sh", "-c", script.replace("/.waggle/bin/busybox", BUSYBOX), "ask"]
    variables = {
        "PATH": f"{programs}:{os.defpath}" if tools else str(programs),
        "HOME": str(directory),
        "CARGO_HOME": str(directory / "cargo"),
        "TMPDIR": str(directory),
    }
    (directory / "cargo").mkdir()
    (directory / "cargo" / "config.toml").write_text(
        '[registries.own]\nindex = "sparse+https://own.example.org/index/"\n'
    )
    ran = subprocess.run(
        [*argv, *arguments], env=variables, capture_output=True, text=True, check=True, timeout=60
    )
    assert not [*directory.glob(".registries-*")], "nothing is left"
    return ran.stdout


def hosts(text: str) -> set[str]:
    return {str(rule) for rule in parse_registries(text)}


def test_every_tool_names_its_registries(tmp_path: Path) -> None:
    answer = asked(tmp_path, CONFIGURED, [*TOOLS])
    assert hosts(answer) == {
        *("pip.example.org:443", "a.example.org:443", "b.example.org:443"),
        *("npm.example.org:443", "corp.example.org:443"),
        *("go.example.org:443", "go2.example.org:443", "sumproxy.example.org:443"),
        "apt.example.org:80",
        *("index.example.org:443", "own.example.org:443"),
    }
    assert answer.endswith("complete\n")


def test_the_checksum_database_of_go_is_its_name_where_it_has_no_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TOOLS, "go", 'echo "sum.example.org+abc"')
    assert "sum.example.org:443" in hosts(asked(tmp_path, CONFIGURED, ["go"]))


def test_files_are_where_the_registries_pages_say(tmp_path: Path) -> None:
    index = "https://pip.example.org/simple"
    answer = asked(tmp_path, FILES, ["python3", "cargo"], index)
    expected = {"pip.example.org:443", "files.example.org:443", "crates.example.org:443"}
    assert hosts(answer) == expected


def test_an_image_without_tools_names_nothing(tmp_path: Path) -> None:
    assert asked(tmp_path, CONFIGURED, []).strip() == "complete"


class Ran:
    """A result with this standard output."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.stdout = self

    def text(self) -> str:
        return self._text


class Asked(NetworkOfGuest):
    """A guest that gives these answers."""

    def __init__(self, *answers: str) -> None:
        self.answers = [*answers]
        self.commands: list[Command] = []
        self.networks: list[list[str]] = []
        self._shell = self  # type: ignore[assignment]
        self._proxy = self  # type: ignore[assignment]
        self._naming_the_cause = self.naming
        image = SimpleNamespace(variables={"GOPROXY": "https://mirror.example.org/"})
        blueprint = SimpleNamespace(parts=SimpleNamespace(image=image))
        self.started = cast("StartedMachine", SimpleNamespace(blueprint=blueprint))

    async def run(self, command: Command) -> Ran:
        await asyncio.sleep(0)
        self.commands.append(command)
        return Ran(self.answers.pop(0))

    def set_network(self, network: Network, registries: Sequence[Rule]) -> int:
        self.networks.append([str(rule) for rule in registries])
        return 0

    @contextlib.asynccontextmanager
    async def naming(self) -> AsyncGenerator[None]:
        yield


NETWORK = parse_network("@packages")


@pytest.mark.anyio
async def test_the_second_question_is_asked_with_the_registries_within_reach() -> None:
    guest = Asked(
        "npm https://npm.example.org/\npip https://pip.example.org/simple\ncomplete\n",
        "pip https://files.example.org\ncomplete\n",
    )
    found = await guest.registries(NETWORK, ["PIP_INDEX_URL", "GOPROXY"])
    first = ["npm.example.org:443", "pip.example.org:443"]
    assert guest.networks == [first, [*first, "files.example.org:443"]]
    assert [str(rule) for rule in found.rules] == guest.networks[-1]
    assert found.is_complete
    assert guest.commands[1].argv[-1] == "https://pip.example.org/simple"
    for command in guest.commands:
        before = ("/.waggle/bin/busybox", "env", "-u", "PIP_INDEX_URL")
        assert command.argv[:5] == (*before, "GOPROXY=https://mirror.example.org/")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "answers, complete",
    [(("pip https://pip.example.org/\n", "complete\n"), False), (("complete\n",), False)],
)
async def test_what_was_late_or_nothing_is_not_complete(
    answers: tuple[str, ...], complete: bool
) -> None:
    assert (await Asked(*answers).registries(NETWORK, [])).is_complete is complete
