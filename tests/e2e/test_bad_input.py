# SPDX-License-Identifier: Apache-2.0
"""Bad input from clients, by mistake or on purpose: a clear refusal that changes nothing."""

from __future__ import annotations

import uuid
from typing import Any

import httpx2
import pytest
from tests.support.server import ERAS, error_of, text_of
from tests.support.waggle_client import bare, connected, execute
from tests.support.waggle_process import Waggle, running, small

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]

ENV = "environment_id"
NOBODY = str(uuid.UUID(int=4))
CODE = {"code": "print(1)"}

# tool, arguments (THIS stands for a running environment), error code, text in the message
THIS = object()
CASES: dict[str, tuple[str, dict[str, object], str, str]] = {
    "id malformed": ("execute", {ENV: "../../x", **CODE}, "invalid_argument", "UUID"),
    "id long": ("execute", {ENV: "a" * 100_000, **CODE}, "invalid_argument", "UUID"),
    "id a number": ("execute", {ENV: 5, **CODE}, "invalid_argument", "environment_id"),
    "id missing": ("list_files", {}, "invalid_argument", "environment_id"),
    "id unknown": ("execute", {ENV: NOBODY, **CODE}, "not_found", "create_environment"),
    "id unknown, destroy": ("destroy_environment", {ENV: NOBODY}, "not_found", NOBODY),
    "id unknown, files": ("list_files", {ENV: NOBODY}, "not_found", "list_environments"),
    "runtime unknown": (
        "create_environment",
        {"runtime": "ruby"},
        "invalid_runtime",
        "python, node, shell, data",
    ),
    "parameter unknown": (
        "create_environment",
        {"runtime": "python", "flavour": "alpine"},
        "invalid_argument",
        "no parameter 'flavour'",
    ),
    "image not allowed": (
        "create_environment",
        {"runtime": "python", "image": "alpine"},
        "invalid_argument",
        "not allowed",
    ),
    "image malformed": (
        "create_environment",
        {"runtime": "python", "image": "A b\0"},
        "invalid_argument",
        "reference",
    ),
    "name": (
        "create_environment",
        {"runtime": "python", "name": "a b; rm"},
        "invalid_argument",
        "cannot be a name",
    ),
    "minutes 0": (
        "create_environment",
        {"runtime": "python", "timeout_minutes": 0},
        "invalid_argument",
        "1 to 60",
    ),
    "minutes 61": (
        "create_environment",
        {"runtime": "python", "timeout_minutes": 61},
        "invalid_argument",
        "1 to 60",
    ),
    "minutes huge": (
        "create_environment",
        {"runtime": "python", "timeout_minutes": 10**30},
        "invalid_argument",
        "timeout_minutes",
    ),
    "network": (
        "create_environment",
        {"runtime": "python", "network": "host"},
        "invalid_argument",
        "public, none, ask",
    ),
    "code empty": ("execute", {ENV: THIS, "code": ""}, "invalid_argument", "empty"),
    "code blank": ("execute", {ENV: THIS, "code": " \n"}, "", ""),
    "code oversized": ("execute", {ENV: THIS, "code": "#" * 512_001}, "too_large", "512000"),
    "code NUL": ("execute", {ENV: THIS, "code": "a\0b"}, "invalid_argument", "NUL"),
    "language": ("execute", {ENV: THIS, **CODE, "language": "cobol"}, "invalid_runtime", "shell"),
    "seconds negative": (
        "execute",
        {ENV: THIS, **CODE, "timeout_seconds": -1},
        "invalid_argument",
        "at most 3600",
    ),
    "seconds 0": (
        "execute",
        {ENV: THIS, **CODE, "timeout_seconds": 0},
        "invalid_argument",
        "more than 0",
    ),
    "seconds huge": (
        "execute",
        {ENV: THIS, **CODE, "timeout_seconds": 1e300},
        "invalid_argument",
        "at most 3600",
    ),
    "variable": (
        "execute",
        {ENV: THIS, **CODE, "env": {"A=B": "x"}},
        "invalid_argument",
        "environment variable",
    ),
    "cwd NUL": ("execute", {ENV: THIS, **CODE, "cwd": "a\0"}, "invalid_argument", "NUL"),
    "path empty": (
        "write_file",
        {ENV: THIS, "path": "", "content": "x"},
        "invalid_argument",
        "empty",
    ),
    "path NUL": ("read_file", {ENV: THIS, "path": "a\0b"}, "invalid_argument", "NUL"),
    "path long": ("read_file", {ENV: THIS, "path": "a/" * 2048}, "invalid_argument", "4095"),
    "path missing": ("read_file", {ENV: THIS, "path": "no/such"}, "file_not_found", "/home/"),
    "read a directory": ("read_file", {ENV: THIS, "path": "/etc"}, "file_refused", "list_files"),
    "read a device": ("read_file", {ENV: THIS, "path": "/dev/zero"}, "file_refused", "regular"),
    "read a secret": ("read_file", {ENV: THIS, "path": "/root/secret"}, "file_refused", "sandbox"),
    "read beyond the end": (
        "read_file",
        {ENV: THIS, "path": "/etc/passwd", "offset": 10**9},
        "invalid_argument",
        "offset",
    ),
    "offset negative": (
        "read_file",
        {ENV: THIS, "path": "/etc/passwd", "offset": -1},
        "invalid_argument",
        "offset",
    ),
    "write to a directory": (
        "write_file",
        {ENV: THIS, "path": "/tmp", "content": "x"},
        "file_refused",
        "is a directory",
    ),
    "write below a file": (
        "write_file",
        {ENV: THIS, "path": "/etc/passwd/x", "content": "x"},
        "file_refused",
        "/etc/passwd/x",
    ),
    "write where root may": (
        "write_file",
        {ENV: THIS, "path": "/etc/passwd", "content": "x"},
        "file_refused",
        "/home/sandbox",
    ),
    "write too much": (
        "write_file",
        {ENV: THIS, "path": "x", "content": "x" * (10 * 1024 * 1024 + 1)},
        "too_large",
        "10485760",
    ),
    "write bad base64": (
        "write_file",
        {ENV: THIS, "path": "x", "content": "%%%", "encoding": "base64"},
        "invalid_argument",
        "base64",
    ),
    "mode": (
        "write_file",
        {ENV: THIS, "path": "x", "content": "x", "mode": "rwx"},
        "invalid_argument",
        "octal",
    ),
    "list a file": ("list_files", {ENV: THIS, "path": "/etc/passwd"}, "file_refused", ""),
    "list nothing": ("list_files", {ENV: THIS, "path": "/nowhere"}, "file_not_found", "nowhere"),
    "packages none": (
        "install_packages",
        {ENV: THIS, "packages": ""},
        "invalid_argument",
        "No package",
    ),
    "packages option": (
        "install_packages",
        {ENV: THIS, "packages": "--index-url=http://127.0.0.1 six"},
        "invalid_argument",
        "more than names of packages",
    ),
    "packages URL": (
        "install_packages",
        {ENV: THIS, "packages": ["git+https://example.test/x"]},
        "invalid_argument",
        "pip install git+https",
    ),
    "packages shell": (
        "install_packages",
        {ENV: THIS, "packages": ["six;id"]},
        "invalid_argument",
        "not a package name",
    ),
    "tool unknown": ("launch", {}, "unknown_tool", "create_environment"),
}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[2]])
async def test_bad_input_is_refused(server: Waggle, python: str, name: str) -> None:
    tool, arguments, code, says = CASES[name]
    given: dict[str, Any] = {k: python if v is THIS else v for k, v in arguments.items()}
    before = server.remains()
    for era in ERAS:
        async with connected(server, era) as client:
            result = await client.call_tool(tool, given)
        error = error_of(result)
        assert error["code"] == code, error
        assert says in text_of(result)
        assert error["message"].endswith(".")
        assert len(text_of(result)) < 1_000
    assert server.remains() == before


async def test_the_environment_is_unharmed(server: Waggle, python: str) -> None:
    async with connected(server) as client:
        assert await execute(client, python, "print('well')") == "well\n"
        code = "import os; print(sorted(os.listdir()), os.path.getsize('/etc/passwd') > 10)"
        assert "'x'" not in await execute(client, python, code)


@pytest.mark.parametrize("text", ["\\ud800", "\\udcff"])
async def test_a_lone_surrogate_in_code_is_refused(server: Waggle, python: str, text: str) -> None:
    """A lone surrogate is valid JSON but not valid Unicode; an SDK client cannot send it."""
    message, headers = bare("execute", {ENV: python, "code": "SURROGATE"})
    body = httpx2.Request("POST", server.mcp, json=message).content.replace(
        b"SURROGATE", text.encode()
    )
    async with httpx2.AsyncClient(timeout=60) as http:
        headers = {**headers, "Content-Type": "application/json"}
        answer = await http.post(server.mcp, content=body, headers=headers)
    assert "error" in answer.text or '"isError":true' in answer.text
    assert "Traceback" not in answer.text


async def test_a_full_disk(tmp_path: Any) -> None:
    """Writing fails with a clear error, the environment keeps running, and space can be freed."""
    with running(tmp_path, {**small(tmp_path), "scratch_mb": "64"}) as server:
        async with connected(server) as client:
            made = await client.call_tool("create_environment", {"runtime": "shell"})
            assert made.structured_content is not None
            this = made.structured_content[ENV]
            fill = "busybox dd if=/dev/zero of=fill bs=1M count=200 2>&1; busybox ls -l fill"
            assert "No space left" in await execute(client, this, fill)
            result = await client.call_tool(
                "write_file", {ENV: this, "path": "more", "content": "x" * 1_000_000}
            )
            assert error_of(result)["code"] == "file_refused"
            assert "full" in text_of(result)
            listed = await client.call_tool("list_files", {ENV: this})
            assert listed.structured_content is not None
            assert [item["name"] for item in listed.structured_content["files"]] == ["fill"]
            await execute(client, this, "busybox rm fill")
            result = await client.call_tool(
                "write_file", {ENV: this, "path": "more", "content": "x" * 1_000_000}
            )
            assert not result.is_error
            await client.call_tool("destroy_environment", {ENV: this})
