# SPDX-License-Identifier: Apache-2.0
"""The eight basic tools through the real client, over HTTP, in both eras."""

from __future__ import annotations

from typing import Any

import pytest
from mcp import Client
from mcp_types import BlobResourceContents, CallToolResult, EmbeddedResource, ResourceLink
from tests.support.fakes import FakeFile
from tests.support.server import (
    ERAS,
    NOW,
    client,
    created,
    data_of,
    error_of,
    serving,
    text_of,
)

from waggle.domain.files import FileEntry, Listing
from waggle.domain.programs import ExecutionResult, Output, Streams
from waggle.mcp.context import Ctx
from waggle.mcp.tools import environments, execution, files
from waggle.mcp.tools import run as packages

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("era", ERAS)
async def test_an_environment_is_created_used_and_destroyed(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        made = await agent.call_tool("create_environment", {"runtime": "python"})
        assert data_of(made) == {
            "environment_id": "00000000-0000-4000-8000-000000000001",
            "name": "python-00000000",
            "runtime": "python",
            "status": "running",
            "timeout": "30m",
        }
        assert text_of(made) == (
            "Environment 00000000-0000-4000-8000-000000000001 (python-00000000, python) is running;"
            " destroyed after 30m without a call."
        )
        made_id = data_of(made)["environment_id"]
        environment = {"environment_id": made_id}
        ran = await agent.call_tool("execute", {**environment, "code": "echo 42\nerr oh"})
        assert data_of(ran) == {
            "job_id": 1,
            "status": "exited",
            "stdout": "42\n",
            "stderr": "oh\n",
            "exit_code": 0,
        }
        assert text_of(ran) == "42\n[stderr]\noh\n[job 1: exit 0]"
        wrote = await agent.call_tool(
            "write_file", {**environment, "path": "data/a.txt", "content": "héllo\n"}
        )
        assert data_of(wrote) == {
            "path": "/home/sandbox/data/a.txt",
            "bytes_written": 7,
        }
        read = await agent.call_tool("read_file", {**environment, "path": "data/a.txt"})
        assert text_of(read) == "héllo\n"
        assert data_of(read) == {"content": "héllo\n"}
        listed = await agent.call_tool("list_files", {**environment, "path": "data"})
        assert data_of(listed)["files"] == [{"name": "a.txt", "size": 7}]
        assert text_of(listed) == "a.txt 7"
        installed = await agent.call_tool(
            "install_packages", {**environment, "packages": "numpy uvicorn[standard]"}
        )
        assert data_of(installed)["exit_code"] == 0
        assert rig.host.only.commands[-1].argv == ("install", "numpy", "uvicorn[standard]")
        assert data_of(await agent.call_tool("list_environments", {}))["count"] == 1
        for _ in range(2):
            gone = await agent.call_tool("destroy_environment", environment)
            assert data_of(gone)["status"] == "destroyed"
        after = await agent.call_tool("list_environments", {})
        assert data_of(after) == {"note": text_of(after)}
        assert "create_environment" in text_of(after)
        assert rig.host.only.dead.is_set()


async def test_every_option_of_create_has_an_effect() -> None:
    async with serving() as rig, client(rig) as agent:
        arguments = {"runtime": "node", "name": "b.1", "timeout_minutes": 60, "network": "none"}
        made = data_of(await agent.call_tool("create_environment", arguments))
        assert (made["name"], made["timeout"], made["network"]) == ("b.1", "60m", "none")
        listed = data_of(await agent.call_tool("list_environments", {}))["environments"]
        assert (listed[0]["network"], listed[0]["runtime"]) == ("none", "node")
        environment = rig.services.environments.all()[0]
        assert environment.idle_timeout.total_seconds() == 3600
        assert environment.created_at == NOW


async def test_the_working_directory_of_an_image_is_used_and_reported() -> None:
    async with serving() as rig, client(rig) as agent:
        rig.host.prepare = lambda guest: setattr(guest, "directory", "/srv/app")
        made = await agent.call_tool("create_environment", {"runtime": "python"})
        assert data_of(made)["working_directory"] == "/srv/app"
        assert text_of(made).endswith(
            "Programs start in /srv/app; relative paths of the file tools count from /home/sandbox."
        )
        this = {"environment_id": data_of(made)["environment_id"]}
        for cwd, shown in ((None, "/srv/app"), ("x", "/home/sandbox/x"), ("/x", "/x")):
            ran = await agent.call_tool("execute", {**this, "code": "cwd", "cwd": cwd})
            assert data_of(ran)["stdout"] == f"{shown}\n"
        await agent.call_tool("write_file", {**this, "path": "a", "content": "x"})
        assert "/home/sandbox/a" in rig.host.only.files


async def test_optional_parameters_may_be_null_or_empty() -> None:
    async with serving() as rig, client(rig) as agent:
        nothing: dict[str, Any] = {"name": None, "timeout_minutes": None, "network": ""}
        made = await agent.call_tool("create_environment", {"runtime": "python", **nothing})
        environment = {"environment_id": data_of(made)["environment_id"]}
        for empty in (None, ""):
            code = {"code": "echo x", "language": empty, "cwd": empty}
            assert data_of(await agent.call_tool("execute", {**environment, **code}))
            assert data_of(await agent.call_tool("list_files", {**environment, "path": empty}))
            file = {"path": "a", "content": "", "mode": empty}
            assert data_of(await agent.call_tool("write_file", {**environment, **file}))


@pytest.mark.parametrize(
    "tool, wrong",
    [
        ("create_environment", {"timeout_minutes": True}),
        ("create_environment", {"timeout_minutes": "five"}),
        ("create_environment", {"timeout_minutes": "true"}),
        ("create_environment", {"timeout_minutes": 5.5}),
        ("create_environment", {"name": 5}),
        ("run_code", {"code": "echo", "timeout_seconds": True}),
        ("run_code", {"code": "echo", "timeout_seconds": "5 s"}),
        ("run_code", {"code": "echo", "files": {"a": 5}}),
        ("run_code", {"code": "echo", "packages": [5]}),
    ],
)
async def test_values_outside_the_schema_are_refused(tool: str, wrong: dict[str, Any]) -> None:
    async with serving() as rig, client(rig) as agent:
        refused = error_of(await agent.call_tool(tool, {"runtime": "shell", **wrong}))
        assert refused["code"] == "invalid_argument"
        assert [*wrong][-1] in refused["message"]
        assert rig.host.guests == {}


@pytest.mark.parametrize("given", [755, 493, "755", "0755", "0o755"])
async def test_a_mode_may_be_a_number(given: object) -> None:
    async with serving() as rig, client(rig) as agent:
        file = {"path": "x", "content": "y", "runtime": "shell", "mode": given}
        made = data_of(await agent.call_tool("write_file", file))
        listed = await agent.call_tool("list_files", {"environment_id": made["environment_id"]})
        assert data_of(listed)["files"] == [{"name": "x", "size": 1, "mode": "0755"}]


@pytest.mark.parametrize("five", [5.0, "5"])
async def test_a_whole_number_may_be_written_with_a_point_or_as_text(five: object) -> None:
    async with serving() as rig, client(rig) as agent:
        arguments = {"runtime": "shell", "timeout_minutes": five}
        result = await agent.call_tool("create_environment", arguments)
        assert "after 5m without a call" in text_of(result)


async def test_every_option_of_execute_has_an_effect() -> None:
    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)
        result = await agent.call_tool(
            "execute",
            {
                "environment_id": environment,
                "code": "stdin\nenv A\ncwd",
                "language": "shell",
                "timeout_seconds": 2.5,
                "cwd": "/tmp",
                "env": {"A": "ä b"},
                "stdin": "in\n",
            },
        )
        assert data_of(result)["stdout"] == "in\nä b\n/tmp\n"
        (command,) = rig.host.only.commands
        assert (command.argv, command.timeout) == (("shell", "{file}"), 2.5)


@pytest.mark.parametrize(
    "code, ending",
    [
        ("exit 3", "[job 1: exit 3]"),
        ("signal KILL", "[job 1: signaled KILL, 0.2 s]"),
        ("oops", "[stderr]\nno such word: oops\n[job 1: exit 1]"),
    ],
)
async def test_a_failed_program_is_a_result_and_not_an_error(code: str, ending: str) -> None:
    async with serving() as rig, client(rig) as agent:
        arguments = {"environment_id": await created(agent), "code": code}
        result = await agent.call_tool("execute", arguments)
        assert not result.is_error
        assert text_of(result) == ending


@pytest.mark.parametrize("era", ERAS)
async def test_a_timeout_is_an_error_that_carries_the_output_so_far(era: str) -> None:
    async with serving() as rig, client(rig, era) as agent:
        arguments = {"environment_id": await created(agent), "code": "echo part\ntimeout"}
        result = await agent.call_tool("execute", arguments)
        assert error_of(result)["code"] == "timeout"
        assert text_of(result).startswith("part\n[job 1: timed_out, 0.2 s]\n")
        assert "timeout_seconds (at most 300)" in text_of(result)
        assert result.structured_content is not None
        assert result.structured_content["stdout"] == "part\n"
        assert result.structured_content["status"] == "timed_out"
        assert "exit_code" not in result.structured_content
        failure = error_of(result)
        assert result.structured_content["error"] == {
            name: failure[name] for name in ("code", "message", "hint")
        }


async def test_long_output_states_how_much_was_cut() -> None:
    async with serving() as rig, client(rig) as agent:
        arguments = {"environment_id": await created(agent), "code": "flood 5000000"}
        result = await agent.call_tool("execute", arguments)
        output = data_of(result)
        cut = f"[... {output['stdout_bytes_cut']} of 5000000 bytes cut ...]"
        assert cut in output["stdout"]
        assert cut in text_of(result)
        assert 23_900 < len(output["stdout"]) <= 24_000
        for wanted in (100, 200_000):
            result = await agent.call_tool("execute", {**arguments, "max_output": wanted})
            assert wanted - 100 < len(data_of(result)["stdout"]) <= wanted
        for wrong in (99, 200_001):
            result = await agent.call_tool("execute", {**arguments, "max_output": wrong})
            assert error_of(result)["code"] == "invalid_argument"


async def test_binary_output_at_its_worst_reaches_the_client() -> None:
    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)

        async def noisy(_command: object, into: Streams) -> ExecutionResult:
            for stream in (into.stdout, into.stderr):
                stream.feed(b"\xff\x01" * 500_000)
                stream.feed(b"\x02\xfe" * 500_000)
            return ExecutionResult(Output(b""), Output(b""), None, "KILL", False, 1.5)

        rig.host.only.programs["python"] = noisy
        result = await agent.call_tool("execute", {"environment_id": environment, "code": "x"})
        output = data_of(result)
        assert output["signal"] == "KILL"
        assert output["stdout"].startswith("\ufffd\x01")
        assert output["stderr"].endswith("\x02\ufffd")


@pytest.mark.parametrize(
    "packages, names",
    [
        ("a b", ("a", "b")),
        (["a", "b[c]"], ("a", "b[c]")),
        ('["a", "b"]', ("a", "b")),
    ],
)
async def test_packages_are_a_string_a_list_or_a_list_in_a_string(
    packages: str | list[str], names: tuple[str, ...]
) -> None:
    async with serving() as rig, client(rig) as agent:
        arguments = {"environment_id": await created(agent), "packages": packages}
        assert data_of(await agent.call_tool("install_packages", arguments))
        assert rig.host.only.commands[-1].argv == ("install", *names)


async def test_a_failed_install_is_an_error_with_the_installers_output() -> None:
    async with serving() as rig, client(rig) as agent:
        arguments = {"environment_id": await created(agent), "packages": "nope"}

        async def fails(_command: object, into: Streams) -> ExecutionResult:
            into.stderr.feed(b"No match")
            return ExecutionResult(Output(b""), Output(b""), 1, None, False, 1.0)

        rig.host.only.programs["install"] = fails
        result = await agent.call_tool("install_packages", arguments)
        assert error_of(result)["code"] == "install_failed"
        assert "No match" in text_of(result)
        assert result.structured_content is not None
        assert result.structured_content["exit_code"] == 1


async def test_text_that_looks_like_json_stays_text() -> None:
    async with serving() as rig, client(rig) as agent:
        environment = {"environment_id": await created(agent)}
        for content in ('{"a": 1}', "[1]", "null", "true", "5", '"x"'):
            file = {"path": "a", "content": content}
            await agent.call_tool("write_file", {**environment, **file})
            read = await agent.call_tool("read_file", {**environment, "path": "a"})
            assert data_of(read)["content"] == content
            ran = await agent.call_tool("execute", {**environment, "code": content})
            assert "environment_id" not in text_of(ran)
            assert rig.host.only.commands[-1].code == content.encode()
        arguments = {**environment, "code": "env A", "env": '{"A": "b"}'}
        assert data_of(await agent.call_tool("execute", arguments))["stdout"] == "b\n"
        named = {"runtime": "python", "name": "true"}
        assert data_of(await agent.call_tool("create_environment", named))["name"] == "true"


async def read(agent: Client, environment: str, **arguments: object) -> CallToolResult:
    return await agent.call_tool("read_file", {"environment_id": environment, **arguments})


async def test_read_file_returns_a_link_to_bytes_and_base64_on_request() -> None:
    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)
        rig.host.only.files["/tmp/a b.pdf"] = FakeFile(b"\x89PNG\0\xff", 0o644)
        result = await read(agent, environment, path="/tmp/a b.pdf")
        uri = f"waggle://environments/{environment}/files/tmp/a%20b.pdf"
        assert data_of(result) == {
            "mime_type": "application/pdf",
            "size": 6,
            "uri": uri,
            "note": "Not text: encoding base64 returns its bytes.",
        }
        assert text_of(result).startswith("/tmp/a b.pdf: application/pdf, 6 bytes.\nNot text: ")
        link = result.content[-1]
        assert isinstance(link, ResourceLink)
        assert (link.uri, link.name, link.size) == (uri, "a b.pdf", 6)
        result = await read(agent, environment, path="/tmp/a b.pdf", encoding="base64")
        assert data_of(result)["content"] == "iVBORwD/"
        assert data_of(result)["encoding"] == "base64"
        assert data_of(result)["mime_type"] == "application/pdf"
        block = result.content[-1]
        assert isinstance(block, EmbeddedResource)
        assert isinstance(block.resource, BlobResourceContents)
        assert block.resource.blob == "iVBORwD/"
        assert block.resource.mime_type == "application/pdf"
        assert str(block.resource.uri).endswith(f"{environment}/files/tmp/a%20b.pdf")


async def test_a_page_states_where_the_next_begins() -> None:
    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)
        rig.host.only.files["/tmp/a"] = FakeFile("ab€c".encode(), 0o644)
        first = await read(agent, environment, path="/tmp/a", limit=4)
        assert data_of(first)["content"] == "ab"
        assert data_of(first)["next_offset"] == 2
        assert "[bytes 0 to 2 of 6; the next page begins at offset 2]" in text_of(first)
        second = await read(agent, environment, path="/tmp/a", offset=2, limit=4)
        assert data_of(second)["content"] == "€c"
        assert "next_offset" not in data_of(second)
        assert "this is the end" in text_of(second)
        rig.host.only.files["/tmp/a"] = FakeFile(b"", 0o644)
        assert text_of(await read(agent, environment, path="/tmp/a")) == "The file is empty."


async def test_a_large_file_is_read_in_pages_of_whole_lines() -> None:
    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)
        lines = "".join(f"def function_{n}(): return 'ä'\n" for n in range(8_000)).encode()
        rig.host.only.files["/tmp/a"] = FakeFile(lines, 0o644)
        content, offset = "", 0
        while offset is not None:
            page = data_of(await read(agent, environment, path="/tmp/a", offset=offset))
            assert len(page["content"]) <= 32_000
            assert page["content"].endswith("\n")
            assert page["size"] == len(lines)
            content, offset = content + page["content"], page.get("next_offset")
        assert content.encode() == lines


async def test_a_directory_with_hostile_names_is_listed_within_bounds() -> None:
    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)
        guest = rig.host.only
        entries = tuple(
            FileEntry(f"{number}\udcff\n{'é' * 120}", 1, False, True, 0o777, NOW)
            for number in range(2_000)
        )
        guest.listing = Listing("/tmp", entries, truncated=False)
        result = await agent.call_tool("list_files", {"environment_id": environment})
        listed = data_of(result)
        assert 30 < listed["count"] == len(listed["files"]) <= 200
        assert listed["count"] + listed["more"] == 2_000
        assert listed["files"][0]["name"] == f"0?\n{'é' * 120}"
        assert f"Not listed: {listed['more']} more entries. search_files" in text_of(result)
        assert len(text_of(result)) < 100_000
        assert len(text_of(result).splitlines()) == listed["count"] + 1


async def test_a_long_list_states_how_much_it_leaves_out() -> None:
    async with serving() as rig, client(rig) as agent:
        environment = {"environment_id": await created(agent)}
        rig.host.only.listing = Listing(
            "/tmp",
            (
                FileEntry("a dir", 4096, True, False, 0o755, NOW),
                FileEntry("b link", 7, False, True, 0o777, NOW),
                FileEntry("c.sh", 7, False, False, 0o755, NOW),
                *(FileEntry(f"f{n}", n, False, False, 0o644, NOW) for n in range(1_997)),
            ),
            truncated=True,
        )
        result = await agent.call_tool("list_files", environment)
        listed = data_of(result)
        assert (listed["count"], listed["more"]) == (200, 1_800)
        assert listed["files"][:4] == [
            {"name": "a dir", "is_dir": True},
            {"name": "b link", "is_link": True},
            {"name": "c.sh", "size": 7, "mode": "0755"},
            {"name": "f0"},
        ]
        assert text_of(result).startswith("a dir/\nb link@\nc.sh 7 0755\nf0 0\nf1 1\n")
        assert "Not listed: at least 1800 more entries." in listed["note"]
        rig.host.only.listing = Listing("/tmp", (), truncated=False)
        empty = await agent.call_tool("list_files", environment)
        assert data_of(empty) == {"note": "/tmp is empty."}


async def test_environments_of_other_owners_are_invisible(monkeypatch: pytest.MonkeyPatch) -> None:
    def somebody_else(_ctx: Ctx) -> str:
        return "somebody else"

    async with serving() as rig, client(rig) as agent:
        environment = await created(agent)
        for module in (environments, execution, files, packages):
            monkeypatch.setattr(module, "current_owner", somebody_else)
        assert data_of(await agent.call_tool("list_environments", {})).get("count", 0) == 0
        mine = {"environment_id": environment}
        for tool, more in {
            "destroy_environment": {},
            "execute": {"code": "echo x"},
            "write_file": {"path": "a", "content": ""},
            "read_file": {"path": "a"},
            "list_files": {},
            "install_packages": {"packages": "a"},
        }.items():
            assert error_of(await agent.call_tool(tool, {**mine, **more}))["code"] == "not_found"
