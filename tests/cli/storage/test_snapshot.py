# SPDX-License-Identifier: Apache-2.0
"""`waggle env pause` and related commands with a server in this process; `waggle snapshot`."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest
from tests.cli.beside import Commands
from tests.service.local.frozen.kept import kept
from tests.support.server import MODERN, client, created, data_of, serving
from tests.support.waggle_process import command_line

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


async def test_an_environment_is_paused_copied_and_rolled_back(tmp_path: Path) -> None:
    async with serving() as rig, client(rig, MODERN) as agent:
        waggle = Commands(rig, tmp_path)
        identity = await created(agent)
        assert await waggle("env", "pause", identity[:36], "--to-disk") == (
            0,
            f"{identity}\n",
            "It is kept until 2026-03-05T05:06:07Z, and resumes when it is used.\n",
        )
        assert await waggle("env", "resume", f"python-{identity[:8]}") == (0, f"{identity}\n", "")
        code, out, _ = await waggle("env", "snapshot", identity, "--name", "ready", "--json")
        taken = json.loads(out)
        assert (code, taken["name"], taken["environment_id"]) == (0, "ready", identity)
        assert await waggle("env", "rollback", identity, "ready") == (0, f"{identity}\n", "")
        code, _, err = await waggle("env", "rollback", identity, "other")
        assert (code, "has no snapshot 'other'" in err) == (1, True)
        code, out, _ = await waggle("env", "fork", identity, "--count", "2")
        listed = data_of(await agent.call_tool("list_environments", {}))["environments"]
        assert code == 0
        assert {identity, *out.split()} == {row["environment_id"] for row in listed}
        code, _, err = await waggle("env", "fork", identity)
        assert (code, "in use" in err) == (1, True)


async def test_the_operator_lists_and_removes_snapshots_of_all_owners(tmp_path: Path) -> None:
    directory = kept(tmp_path)

    async def waggle(*words: str) -> tuple[int, str]:
        settings = {"image_cache_dir": "/nonexistent"}
        ended = await anyio.to_thread.run_sync(
            lambda: command_line("snapshot", *words, data=tmp_path, settings=settings)
        )
        return ended.returncode, ended.stdout

    (directory.parent / "broken").mkdir()
    code, out = await waggle("ls", "--json")
    (row,) = json.loads(out)
    assert (code, row["id"], row["owner"], row["name"]) == (0, directory.name, "ann", "ready")
    assert directory.name in (await waggle("ls"))[1]
    file = tmp_path / "file"
    assert (await waggle("export", directory.name, str(file)))[0] == 0
    assert (await waggle("export", directory.name, str(file)))[0] == 2
    assert (await waggle("rm", directory.name, "other")) == (1, "")
    assert (await waggle("rm", directory.name)) == (0, f"{directory.name}\n")
    assert (await waggle("export", directory.name, str(file)))[0] == 1
    assert not directory.exists()
