# SPDX-License-Identifier: Apache-2.0
"""The documents name only things that exist: commands, variables, files, headings, tools, examples.

Links, tasks and the length of CLAUDE.md are in `test_repository`; the page of the settings has its
own test.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import CycloptsError, MissingArgumentError
from tests.support import vmms
from tests.support.server import default_tools

from waggle.cli.main import app
from waggle.config import fields, variable

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
ENDPOINT = "http://127.0.0.1:8080/mcp"
DOCUMENTS = [
    *(ROOT / "README.md", ROOT / "CLAUDE.md"),
    *sorted((ROOT / "docs").rglob("*.md")),
]
documents = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
COMMAND = re.compile(r"(?:[A-Z_]+=\S* +)*(?:\.venv/bin/)?waggle( .*)?")


def blocks(text: str, language: str) -> list[str]:
    """Return the contents of the fenced blocks in one language."""
    return [body for name, body in FENCE.findall(text) if name == language]


def spans(text: str) -> list[str]:
    """Return the text between single backticks, with line breaks as spaces."""
    return [span.replace("\n", " ") for span in SPAN.findall(FENCE.sub("", text))]


def commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments of every `waggle ...` in code; `a|b` is one command for each."""
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    for code in [*spans(text), *lines]:
        match = COMMAND.fullmatch(code.strip())
        if match is not None and match[1]:
            words = shlex.split(match[1].partition(" #")[0])
            yield from map(list, itertools.product(*(word.split("|") for word in words)))


@documents
def test_commands_exist(path: Path) -> None:
    for words in commands(path.read_text("utf-8")):
        try:
            app.parse_args(words, exit_on_error=False, print_error=False)
        except MissingArgumentError:
            continue  # a command that is only named
        except CycloptsError as error:
            pytest.fail(f"waggle {shlex.join(words)}: {error}")


def test_commands_are_found_wherever_they_are_written() -> None:
    text = "Run `waggle image build|ls` or\n```sh\nA=1 .venv/bin/waggle setup --yes  # so\n```\n"
    assert list(commands(text)) == [["image", "build"], ["image", "ls"], ["setup", "--yes"]]
    assert list(commands(README))


@documents
def test_variables_exist(path: Path) -> None:
    known = {variable(field) for field in fields()} | {*vmms.VARIABLES.values()}
    named = set(re.findall(r"WAGGLE_[A-Z_]*[A-Z](?![A-Z_…])", path.read_text("utf-8")))
    assert named <= known, named - known


@documents
def test_files_of_the_repository_exist(path: Path) -> None:
    made = set(re.findall(r"^/([\w.]+)/$", (ROOT / ".gitignore").read_text("utf-8"), re.M))
    top = {entry.name for entry in ROOT.iterdir()} - made
    for span in spans(path.read_text("utf-8")):
        first, slash, _ = span.partition("/")
        if slash and first in top and re.fullmatch(r"[\w./*-]+", span):
            pattern = re.sub(r"(?<=/)[A-Z]+(?=/)", "*", span.rstrip("/"))  # images/NAME/...
            assert any(ROOT.glob(pattern)), span


@documents
def test_headings_that_are_linked_exist(path: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", path.read_text("utf-8")):
        text = (path.parent / target if target else path).read_text("utf-8")
        titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.M)
        slugs = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
        assert anchor in slugs, f"{target}#{anchor}"


@documents
def test_addresses_are_loopback_or_made_up(path: Path) -> None:
    hosts = re.findall(r"\b(?!waggle:)\w+://([^\s/:,`\"')]+)", path.read_text("utf-8"))
    real = {host for host in hosts if not (host.endswith(".example") or host.isupper())}
    assert real <= {"127.0.0.1", "localhost"}


def test_every_decision_is_listed() -> None:
    listed = (ROOT / "docs/decisions/README.md").read_text("utf-8")
    for path in (ROOT / "docs/decisions").glob("0*.md"):
        heading = path.read_text("utf-8").partition("\n# ")[2].partition("\n")[0]
        number, _, title = heading.partition(": ")
        assert path.name.startswith(number)
        assert f"- [{number}: {title}]({path.name})\n" in listed


class TestReadme:
    def test_the_readme_is_short(self) -> None:
        assert len(README.splitlines()) < 200

    def test_the_list_of_tools_is_complete(self) -> None:
        listed = re.findall(r"`(\w+)`", README.partition("\n## Tools\n")[2].partition("\n## ")[0])
        names = {tool.name for tool in default_tools()}
        assert names <= set(listed)

    def test_the_client_configurations_are_well_formed(self) -> None:
        parsed = [json.loads(block) for block in blocks(README, "json")]
        parsed += [tomllib.loads(block) for block in blocks(README, "toml")]
        assert len(parsed) >= 4
        for configuration in parsed:
            (servers,) = configuration.values()
            assert list(servers) == ["waggle"]
            entry = servers["waggle"]
            assert entry.get("args") == ["serve", "--stdio"] or entry["url"] == ENDPOINT

    @pytest.mark.parametrize("block", blocks(README, "sh"))
    def test_the_shell_examples_parse(self, block: str) -> None:
        done = subprocess.run(
            ["bash", "-n"], input=block.encode(), capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")


def test_the_curl_calls_are_json_rpc() -> None:
    text = (ROOT / "docs/clients.md").read_text("utf-8")
    bodies = re.findall(r"-d '(.*?)'", "".join(blocks(text, "sh")), re.S)
    methods = [json.loads(body)["method"] for body in bodies]
    assert methods == ["initialize", "tools/list", "tools/call"]
