# SPDX-License-Identifier: Apache-2.0
"""Large and odd files through the tools, compared with what the guest itself reports."""

from __future__ import annotations

import base64
import hashlib
import random

import pytest
from tests.support.server import ERAS, MODERN
from tests.support.waggle_client import call, connected, execute
from tests.support.waggle_process import Waggle

from waggle.domain.files import MAX_FILE_BYTES

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]


@pytest.mark.parametrize("era", ERAS)
async def test_10_mib_of_bytes_are_written_and_read(server: Waggle, shell: str, era: str) -> None:
    data = random.Random(era).randbytes(MAX_FILE_BYTES)
    path = f"/tmp/{era}.bin"
    async with connected(server, era) as client:
        written = await call(
            client,
            "write_file",
            environment_id=shell,
            path=path,
            content=base64.b64encode(data).decode(),
            encoding="base64",
        )
        assert written["bytes_written"] == MAX_FILE_BYTES
        digest = (await execute(client, shell, f"sha256sum {path}")).split()[0]
        assert digest == hashlib.sha256(data).hexdigest()
        parts: list[bytes] = []
        offset: int | None = 0
        while offset is not None:
            page = await call(
                client,
                "read_file",
                environment_id=shell,
                path=path,
                offset=offset,
                encoding="base64",
                limit=3 << 20 if era == MODERN else 360_000,
            )
            assert (page["encoding"], page["size"]) == ("base64", MAX_FILE_BYTES)
            parts.append(base64.b64decode(page["content"]))
            offset = page.get("next_offset")
        await execute(client, shell, f"rm {path}")
    assert b"".join(parts) == data


async def test_10_mib_of_text_are_written_and_read_in_one_call(server: Waggle, shell: str) -> None:
    line = 'aé€😀"\n'
    text = line * (MAX_FILE_BYTES // len(line.encode()))
    async with connected(server, MODERN, max_event=None) as client:
        await call(client, "write_file", environment_id=shell, path="/tmp/t.txt", content=text)
        page = await call(
            client, "read_file", environment_id=shell, path="/tmp/t.txt", limit=MAX_FILE_BYTES
        )
        assert "encoding" not in page
        assert page["content"] == text
        await execute(client, shell, "rm /tmp/t.txt")


ODD_NAMES = ["with space", "-rf", "new\nline", "é😀", "$(id)", "'\"\\", "*", " "]


async def test_names_are_never_interpreted(server: Waggle, shell: str) -> None:
    async with connected(server) as client:
        for number, name in enumerate(ODD_NAMES):
            path = f"/tmp/odd/{name}"
            await call(client, "write_file", environment_id=shell, path=path, content=str(number))
            read = await call(client, "read_file", environment_id=shell, path=path)
            assert read["content"] == str(number)
        listed = await call(client, "list_files", environment_id=shell, path="/tmp/odd")
        assert sorted(item["name"] for item in listed["files"]) == sorted(ODD_NAMES)


async def test_links_and_dots_stay_inside_the_guest(server: Waggle, shell: str) -> None:
    """A path is resolved in the guest; no path names a file of the host."""
    async with connected(server) as client:
        users = await execute(client, shell, "cat /etc/passwd; ln -sf /etc /tmp/link")
        for path in ("../../etc/passwd", "/tmp/link/passwd", "/home/../etc//passwd"):
            read = await call(client, "read_file", environment_id=shell, path=path)
            assert read["content"] == users
        up = "../" * 40 + f"{server.data}/state.db"
        result = await client.call_tool("read_file", {"environment_id": shell, "path": up})
        assert result.is_error
        assert server.data.joinpath("state.db").exists()


async def test_a_write_through_a_link_replaces_its_target(server: Waggle, shell: str) -> None:
    async with connected(server) as client:
        await execute(client, shell, "cd /tmp; echo old >real; ln -s real alias; chmod 600 real")
        await call(client, "write_file", environment_id=shell, path="/tmp/alias", content="new")
        assert await execute(client, shell, "cd /tmp; cat real; test -L alias") == "new"


async def test_a_file_that_is_not_utf_8_is_read_as_base64(server: Waggle, shell: str) -> None:
    async with connected(server) as client:
        await execute(client, shell, r"printf 'a\377\000b' >/tmp/odd.dat")
        where = {"environment_id": shell, "path": "/tmp/odd.dat"}
        answer = await call(client, "read_file", **where)
        assert "content" not in answer
        read = await call(client, "read_file", **where, encoding="base64")
        assert (read["encoding"], read["mime_type"]) == ("base64", "application/octet-stream")
        assert base64.b64decode(read["content"]) == b"a\xff\0b"


async def test_output_that_is_not_utf_8_is_replaced(server: Waggle, shell: str) -> None:
    async with connected(server) as client:
        assert await execute(client, shell, r"printf 'a\377\000b'") == "a\ufffd\0b"


async def test_long_output_is_cut_in_the_middle(server: Waggle, shell: str) -> None:
    async with connected(server) as client:
        result = await call(
            client,
            "execute",
            environment_id=shell,
            code="echo begin; head -c 5000000 /dev/zero | tr '\\0' x; echo; echo end",
        )
    assert result["exit_code"] == 0
    assert result["stdout"].startswith("begin\nxxx")
    assert result["stdout"].endswith("xxx\nend\n")
    assert 23_900 < len(result["stdout"]) <= 24_000
    assert result["stdout_bytes_cut"] > 4_900_000


async def test_a_timeout_returns_what_was_printed_and_ends_all_processes(
    server: Waggle, shell: str
) -> None:
    async with connected(server) as client:
        code = "echo before; sleep 986 & setsid sleep 986 & sleep 986"
        result = await client.call_tool(
            "execute", {"environment_id": shell, "code": code, "timeout_seconds": 2}
        )
        assert result.is_error
        assert result.structured_content is not None
        assert result.structured_content["status"] == "timed_out"
        assert result.structured_content["stdout"] == "before\n"
        assert (
            await execute(client, shell, "cat /proc/*/cmdline | grep -ac '[s]leep.986'; true")
            == "0\n"
        )
