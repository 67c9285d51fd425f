# SPDX-License-Identifier: Apache-2.0
"""Text and structured content carry the same facts, because clients show a model only one."""

from __future__ import annotations

import base64
import io
import tarfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from mcp import Client
from tests.mcp.forms import NAMES, check
from tests.support.fakes import FakeFile
from tests.support.server import MODERN, NOW, Rig, client, serving

from waggle.domain.diagnosis import Diagnosis
from waggle.domain.files import FileEntry, Listing
from waggle.domain.files.search import Kind, Match, Searched
from waggle.domain.programs import HOME

pytestmark = pytest.mark.anyio


@dataclass
class Session:
    """An agent, its environment, and the tools whose results were compared."""

    rig: Rig
    agent: Client
    environment: str = ""
    seen: set[str] = field(default_factory=set[str])

    async def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """Call a tool and compare both forms of its result."""
        takes = tool not in ("create_environment", "list_environments", "run_code")
        takes = takes and "snapshot" not in tool
        given = {"environment_id": self.environment, **arguments} if takes else arguments
        result = await self.agent.call_tool(tool, given)
        check(given, result)
        self.seen.add(tool)
        return result.structured_content or {}


@asynccontextmanager
async def session() -> AsyncGenerator[Session]:
    async with serving() as rig, client(rig, MODERN) as agent:
        made = Session(rig, agent)
        made.environment = (await made.call("create_environment", runtime="python"))[
            "environment_id"
        ]
        yield made


async def jobs_agree(here: Session) -> None:
    """Use the tools for jobs, and compare their forms."""
    call, guest = here.call, here.rig.host.only
    job = (await call("execute", code="echo begun\nhang", background=True))["job_id"]
    await guest.started.wait()
    await call("get_environment")
    await call("list_jobs")
    await call("read_job", job_id=job)
    await call("wait_job", job_id=job, wait_seconds=0)
    await call("kill_job", job_id=job, signal="INT")
    await call("kill_job", job_id=job)
    asks = {"code": "hang", "background": True, "stdin_open": True}
    asking = (await call("execute", **asks))["job_id"]
    await call("write_job", job_id=asking, text="yes\n")
    await call("write_job", job_id=asking, text="", close=True)
    await call("pause_environment")
    await call("read_job", job_id=asking)
    await call("get_environment")
    await call("kill_job", job_id=asking)


async def test_both_forms_agree_for_every_tool() -> None:
    async with session() as here:
        call, guest, this = here.call, here.rig.host.only, {"environment_id": here.environment}
        await call("list_jobs")
        await call("execute", code="echo 42")
        await call("run_command", command=["shell", "x"], stdin="a")
        await call("write_file", path="a.txt", content="one\ntwo\n")
        await call("read_file", path="a.txt")
        await call("read_file", path="a.txt", offset=4, limit=4)
        await call("edit_file", path="a.txt", old_text="two", new_text="2")
        await call("search_files", content="one")
        await call("search_files", content="none of it")
        await call("list_files")
        archive = base64.b64encode(tar(b="x")).decode()
        await call("upload_files", archive=archive, path="up")
        packed = await call("download_files", path="up")
        await call("download_files", path="up", archive_id=packed["archive_id"], limit=50)
        await call("install_packages", packages="numpy")
        await jobs_agree(here)
        guest.listening.add(8000)
        await call("expose_port", port=8000)
        await call("expose_port", port=9000)
        await call("unexpose_port", port=8000)
        await call("unexpose_port", port=8000)
        await call("extend_environment", minutes=60)
        await call("set_network", allow=["example.org", "*.example.net:22"])
        await call("restart_environment")
        await call("list_snapshots")
        taken = await call("snapshot_environment", **this)
        await call("list_snapshots")
        await call("rollback_environment", snapshot_id=taken["snapshot_id"], **this)
        await call("delete_snapshot", snapshot_id=taken["snapshot_id"])
        await call("fork_environment")
        tries = await call("fork_environment", code=["echo a\nerr b\nexit 3"])
        here.environment = tries["environments"][0]["environment_id"]
        await call("keep_fork")
        await call("pause_environment")
        await call("get_environment")
        await call("resume_environment")
        await call("pause_environment", to_disk=True)
        await call("list_environments")
        await call("run_code", code="echo 1\nerr 2\nexit 3")
        for item in (await call("list_environments"))["environments"]:
            here.environment = item["environment_id"]
            await call("destroy_environment")
        await call("list_environments")
        assert here.seen == NAMES


async def test_both_forms_agree_on_failures() -> None:
    async with session() as here:
        call, guest = here.call, here.rig.host.only
        guest.diagnosis = Diagnosis("disk_full", "The disk is full.", "Delete files.")
        await call("execute", code="err no\nexit 3")
        guest.diagnosis = None
        await call("execute", code="signal KILL")
        await call("execute", code="leave server\necho x")
        await call("list_jobs")
        late = await call("execute", code="echo part\ntimeout")
        assert late["error"]["hint"].startswith("Give a larger timeout_seconds")
        guest.directories.add(f"{HOME}/b")
        partial = await call("upload_files", archive=base64.b64encode(tar(a="1", b="2")).decode())
        assert partial["error"]["code"] == "partial_upload"
        job = (await call("execute", code="hang\ndie", background=True))["job_id"]
        guest.release.set()
        lost = await call("wait_job", job_id=job)
        assert lost["error"]["code"] == "guest_lost"


async def test_both_forms_agree_on_shortened_results() -> None:
    async with session() as here:
        call, guest = here.call, here.rig.host.only
        cut = await call("execute", code="echo begin\nflood 100000\necho end")
        assert "read_job with job_id 1, offset" in cut["note"]
        assert cut["stdout_uri"].endswith("/executions/1/stdout")
        await call("run_code", code="flood 100000")
        await call("read_job", job_id=1, offset=90_000, limit=2_000)
        guest.files["/tmp/long"] = FakeFile(b"line\n" * 20_000, 0o644)
        assert (await call("read_file", path="/tmp/long"))["next_offset"] == 32_000
        guest.files["/tmp/bytes"] = FakeFile(b"\0\1\2", 0o644)
        await call("read_file", path="/tmp/bytes")
        await call("read_file", path="/tmp/bytes", encoding="base64")
        entries = [FileEntry(f"f{n}", n, n % 3 == 0, n % 3 == 1, 0o755, NOW) for n in range(500)]
        guest.listing = Listing("/tmp", tuple(entries), truncated=True)
        assert (await call("list_files", path="/tmp"))["more"] == 300
        matches = [Match(f"/a/{n}", Kind.FILE, None, n + 1, 1, f"text {n}") for n in range(500)]
        guest.searched = Searched("/a", tuple(matches), stopped="results", binary=2)
        assert (await call("search_files", content="text"))["more"] == 300


def tar(**files: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as made:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            made.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()
