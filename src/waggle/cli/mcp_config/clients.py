# SPDX-License-Identifier: Apache-2.0
"""The MCP clients that waggle can configure: the places of their files and the form of an entry.

Called by `waggle mcp-config`. Pure. docs/clients.md lists the same clients; a test compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from waggle.cli.mcp_config.merge import Format
from waggle.domain.errors import InvalidArgument

Entry = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Local:
    """A server that the client starts: command, arguments and variables."""

    command: str
    args: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Remote:
    """A server that listens: its URL, and the variable with the bearer token, if it needs one."""

    url: str
    token_variable: str | None = None


@dataclass(frozen=True, slots=True)
class Base:
    """The user's home directory, the directory of applications' configuration, and variables."""

    home: Path
    config: Path
    variables: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class Client:
    """One client. `file` is None if it has no known file; `remote` if its file takes no URLs."""

    name: str
    title: str
    section: str
    file: Callable[[Base], Path] | None
    local: Callable[[Local], Entry]
    remote: Callable[[Remote], Entry] | None
    form: Format = "json"
    then: str = "Restart the client."


def _plain(server: Local, **more: Any) -> Entry:
    entry: Entry = {**more, "command": server.command, "args": list(server.args)}
    return {**entry, "env": dict(server.variables)} if server.variables else entry


def _headers(server: Remote, shape: str) -> Entry:
    """Return the header with the token. `shape` is how the client's file refers to a variable."""
    if server.token_variable is None:
        return {}
    return {"headers": {"Authorization": "Bearer " + shape.replace("NAME", server.token_variable)}}


def _codex(server: Remote) -> Entry:
    name = server.token_variable
    return {"url": server.url, **({"bearer_token_env_var": name} if name else {})}


def _goose(server: Local) -> Entry:
    return {
        "enabled": True,
        "type": "stdio",
        "name": "waggle",
        "description": "Throw-away Linux machines",
        "cmd": server.command,
        "args": list(server.args),
        "envs": dict(server.variables),
        "timeout": 300,
    }


def _goose_remote(server: Remote) -> Entry:
    return {
        "enabled": True,
        "type": "streamable_http",
        "name": "waggle",
        "description": "Throw-away Linux machines",
        "uri": server.url,
        "headers": _headers(server, "${NAME}").get("headers", {}),
        "env_keys": [server.token_variable] if server.token_variable else [],
        "timeout": 300,
    }


def _codex_file(base: Base) -> Path:
    own = base.variables.get("CODEX_HOME")
    return (Path(own) if own else base.home / ".codex") / "config.toml"


def _mac(base: Base) -> bool:
    """Whether applications keep their configuration where macOS does."""
    return base.config.name == "Application Support"


def _xdg(base: Base) -> Path:
    return base.home / ".config" if _mac(base) else base.config


CLIENTS: tuple[Client, ...] = (
    Client(
        "claude-desktop",
        "Claude Desktop",
        "mcpServers",
        lambda base: base.config / "Claude" / "claude_desktop_config.json",
        _plain,
        None,
        then="Quit Claude Desktop completely and start it again.",
    ),
    Client(
        "claude-code",
        "Claude Code",
        "mcpServers",
        lambda base: base.home / ".claude.json",
        lambda server: _plain(server, type="stdio"),
        lambda server: {"type": "http", "url": server.url, **_headers(server, "${NAME}")},
        then="Restart Claude Code; `/mcp` shows the server.",
    ),
    Client(
        "cursor",
        "Cursor",
        "mcpServers",
        lambda base: base.home / ".cursor" / "mcp.json",
        _plain,
        lambda server: {"url": server.url, **_headers(server, "${env:NAME}")},
    ),
    Client(
        "vscode",
        "Visual Studio Code",
        "servers",
        lambda base: base.config / "Code" / "User" / "mcp.json",
        lambda server: _plain(server, type="stdio"),
        lambda server: {"type": "http", "url": server.url, **_headers(server, "${env:NAME}")},
        then="Run `MCP: List Servers` in VS Code and start waggle.",
    ),
    Client(
        "windsurf",
        "Windsurf",
        "mcpServers",
        lambda base: base.home / ".codeium" / "windsurf" / "mcp_config.json",
        _plain,
        lambda server: {"serverUrl": server.url, **_headers(server, "${env:NAME}")},
        then="Refresh the MCP servers in Windsurf.",
    ),
    Client(
        "zed",
        "Zed",
        "context_servers",
        lambda base: _xdg(base) / "zed" / "settings.json",
        _plain,
        lambda server: {"url": server.url, **_headers(server, "<token in NAME>")},
        then="Zed reads the file at once. It has no variables: put the token itself there.",
    ),
    Client(
        "gemini-cli",
        "Gemini CLI",
        "mcpServers",
        lambda base: base.home / ".gemini" / "settings.json",
        _plain,
        lambda server: {"httpUrl": server.url, **_headers(server, "$NAME")},
    ),
    Client(
        "codex",
        "Codex",
        "mcp_servers",
        _codex_file,
        _plain,
        _codex,
        form="toml",
    ),
    Client(
        "goose",
        "goose",
        "extensions",
        lambda base: _xdg(base) / "goose" / "config.yaml",
        _goose,
        _goose_remote,
        form="yaml",
    ),
    Client(
        "json",
        "Any other",
        "mcpServers",
        None,
        _plain,
        lambda server: {"type": "http", "url": server.url, **_headers(server, "${NAME}")},
        then="Put it where your client keeps its MCP servers.",
    ),
)


def client_named(name: str) -> Client:
    """Return a client by its name. Raises InvalidArgument."""
    clients = {client.name: client for client in CLIENTS}
    if name not in clients:
        raise InvalidArgument(
            f"There is no client {name!r} in the list.",
            hint=f"The clients are: {', '.join(clients)}. 'json' is what most others read.",
        )
    return clients[name]
