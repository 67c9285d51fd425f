# SPDX-License-Identifier: Apache-2.0
"""`waggle mcp-config` on real files, as users run it."""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.cli.mcp_config.samples import JSON

from waggle.cli.main import main
from waggle.cli.mcp_config import directories, local_server
from waggle.cli.mcp_config.clients import CLIENTS, Base
from waggle.cli.mcp_config.merge import read_json

DOCS = Path(__file__).parents[3] / "docs" / "clients.md"
NAMES = [client.name for client in CLIENTS]
FOREIGN = ("WAGGLE_", "XDG_CONFIG_HOME", "CODEX_HOME")
URL = "http://127.0.0.1:8080/mcp"


class Ended(NamedTuple):
    returncode: object
    stdout: str
    stderr: str


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return the command line in this process, with its own home and no other variables."""

    def command(home: Path, *words: str, **variables: str) -> Ended:
        for name in [name for name in os.environ if name.startswith(FOREIGN)]:
            monkeypatch.delenv(name)
        for name, value in {"HOME": str(home), **variables}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main(["mcp-config", *words])
        said = capsys.readouterr()
        return Ended(ended.value.code or 0, said.out, said.err)

    return command


def own_file(name: str, home: Path) -> Path:
    (client,) = (client for client in CLIENTS if client.name == name)
    assert client.file is not None
    return client.file(directories({"HOME": str(home)}, "linux"))


def test_without_a_client_all_clients_are_listed(run: Run, tmp_path: Path) -> None:
    said = run(tmp_path).stdout
    assert [line.split()[0] for line in said.splitlines()] == NAMES
    assert str(tmp_path / ".cursor/mcp.json") in said


@pytest.mark.parametrize("name", NAMES)
def test_the_printed_text_is_the_text_that_is_written(run: Run, tmp_path: Path, name: str) -> None:
    printed = run(tmp_path, name)
    assert printed.returncode == 0, printed.stderr
    assert "--stdio" in printed.stdout
    assert list(tmp_path.iterdir()) == []
    path = tmp_path / "deep" / "file"
    written = run(tmp_path, name, "--write", "--file", str(path))
    assert written.stdout == f"{path}\n"
    assert path.read_text() == printed.stdout
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", [name for name in NAMES if name != "claude-desktop"])
def test_the_form_for_a_server_that_listens(run: Run, tmp_path: Path, name: str) -> None:
    said = run(tmp_path, name, "--http", URL, "--token-env", "MY_TOKEN").stdout
    assert URL in said
    assert "MY_TOKEN" in said
    assert "command" not in said
    assert "MY_TOKEN" not in run(tmp_path, name, "--http", URL).stdout


def test_only_waggles_settings_are_included(run: Run, tmp_path: Path) -> None:
    environ = {"WAGGLE_DATA_DIR": "/data", "HOME": str(tmp_path), "OTHER": "x"}
    assert local_server(environ).variables == {"WAGGLE_DATA_DIR": "/data"}
    said = run(tmp_path, "codex", WAGGLE_DATA_DIR="/data").stdout
    assert tomllib.loads(said)["mcp_servers"]["waggle"]["env"] == {"WAGGLE_DATA_DIR": "/data"}


def test_invalid_settings_are_reported(run: Run, tmp_path: Path) -> None:
    ended = run(tmp_path, "cursor", WAGGLE_MAX_ENVIRONMENTS="many")
    assert ended.returncode == 1
    assert "WAGGLE_MAX_ENVIRONMENTS" in ended.stderr


@pytest.mark.parametrize("kind", JSON)
def test_an_existing_file_is_merged_and_keeps_its_mode(run: Run, tmp_path: Path, kind: str) -> None:
    path = own_file("claude-desktop", tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text(JSON[kind], newline="")
    path.chmod(0o640)
    assert run(tmp_path, "claude-desktop", "--write").returncode == 0
    data = read_json(path.read_text())[0]
    assert data["mcpServers"]["waggle"]["args"][-2:] == ["serve", "--stdio"]
    assert path.stat().st_mode & 0o777 == 0o640
    status = path.stat()
    again = run(tmp_path, "claude-desktop", "--write")
    assert "no change needed" in again.stderr
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (status.st_mtime_ns, status.st_ino)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_link_stays_a_link(run: Run, tmp_path: Path) -> None:
    path = own_file("zed", tmp_path)
    path.parent.mkdir(parents=True)
    real = tmp_path / "dotfiles.json"
    real.write_text('// mine\n{"theme": "x"}\n')
    path.symlink_to(real)
    assert run(tmp_path, "zed", "--write").returncode == 0
    assert path.is_symlink()
    assert real.read_text().startswith("// mine\n{")
    assert "context_servers" in real.read_text()


@pytest.mark.parametrize(
    "content", [b'{"mcpServers": {', b"\xff\xfe{\0", b'{"a": 1, "a": 2}', b"[]"]
)
def test_a_broken_file_is_left_alone_and_the_entry_shown(
    run: Run, tmp_path: Path, content: bytes
) -> None:
    path = own_file("cursor", tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    ended = run(tmp_path, "cursor", "--write")
    assert ended.returncode == 1
    assert "was not changed" in ended.stderr
    assert '"mcpServers"' in ended.stderr
    assert ended.stdout == ""
    assert path.read_bytes() == content


def test_a_directory_in_the_files_place_is_reported(run: Run, tmp_path: Path) -> None:
    own_file("codex", tmp_path).mkdir(parents=True)
    ended = run(tmp_path, "codex", "--write")
    assert ended.returncode == 1
    assert "was not changed" in ended.stderr


@pytest.mark.parametrize(
    "words, said",
    [
        (("emacs",), "There is no client 'emacs'"),
        (("claude-desktop", "--http", URL), "in its settings"),
        (("cursor", "--http", "127.0.0.1:8080"), "takes the URL"),
        (("cursor", "--http", "http://me:secret@host/mcp"), "takes the URL"),
        (("cursor", "--http", URL, "--token-env", "a b"), "the name of a variable"),
        (("cursor", "--token-env", "X"), "belongs to --http"),
        (("json", "--write"), "--file"),
    ],
)
def test_wrong_usage(run: Run, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    ended = run(tmp_path, *words)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert "secret" not in ended.stderr


def test_the_mac_has_its_own_places() -> None:
    base = directories({"HOME": "/Users/me"}, "darwin")
    assert base == Base(
        Path("/Users/me"), Path("/Users/me/Library/Application Support"), base.variables
    )
    found = {c.name: str(c.file(base)) for c in CLIENTS if c.file is not None}
    assert found["claude-desktop"].startswith("/Users/me/Library/Application Support/Claude/")
    assert found["zed"] == "/Users/me/.config/zed/settings.json"


def test_the_page_lists_the_same_clients_and_files() -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \|.*?\| `?([^|`]+)`? \|$", DOCS.read_text(), re.M))
    base = Base(Path("~"), Path("~/.config"))
    expected = {c.name: str(c.file(base)) if c.file else "none" for c in CLIENTS}
    assert {name: where.strip() for name, where in rows.items()} == expected


def test_the_written_entry_starts_a_server(run: Run, tmp_path: Path) -> None:
    entry = json.loads(run(tmp_path, "json").stdout)["mcpServers"]["waggle"]
    assert entry["command"] == sys.executable
    assert entry["args"] == ["-m", "waggle", "serve", "--stdio"]
