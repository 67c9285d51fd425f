# SPDX-License-Identifier: Apache-2.0
"""Cells that do their worst, as clients see it: all is bounded, and the server stays as it was."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Generator
from typing import Any

import anyio
import pytest
from mcp import Client
from tests.support.server_holding import memory_kb
from tests.support.waggle_client import call, connected, create, refusal, until
from tests.support.waggle_process import Waggle, have_templates, running

from waggle.domain.programs.context import MAX_CONTEXTS

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.timeout(300)]
GROWTH_KB = 24_000
"""Memory that a server may take for one flood: what is kept of its output is on the disk."""
CAP = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Waggle]:
    have_templates("python")
    limits = {"default_network": "none", "max_environments": str(CAP), "default_exec_timeout": "2m"}
    with running(tmp_path_factory.mktemp("faults"), limits) as server:
        yield server


@pytest.fixture(scope="module")
async def place(server: Waggle, anyio_backend: str) -> AsyncGenerator[str]:
    """One environment for all tests, each of which has contexts of its own."""
    async with connected(server) as client:
        made = await create(client, "python")
        await cell(client, made, "x = 1")  # so that all is loaded before memory is counted
    yield made
    async with connected(server) as client:
        await call(client, "destroy_environment", environment_id=made)


async def cell(
    client: Client, place: str, code: str, context: str = "main", **more: object
) -> dict[str, Any]:
    """Run code and return its result, whether or not that is an error."""
    arguments = {"environment_id": place, "code": code, "context": context, **more}
    result = await client.call_tool("execute", arguments)
    assert result.structured_content is not None, result
    return result.structured_content


async def end_context(client: Client, place: str, context: str) -> None:
    """End a context, so that others have its place."""
    listed = (await call(client, "list_jobs", environment_id=place))["jobs"]
    for job in listed:
        if job["tool"] == "context" and job["summary"].endswith(f" {context}"):
            await call(client, "kill_job", environment_id=place, job_id=job["job_id"])


async def test_a_hundred_contexts_are_eight_at_once_and_leave_no_trace(
    server: Waggle, place: str
) -> None:
    async def in_guest() -> tuple[int, int]:
        code = "import os\nprint(open('/proc/meminfo').read(), *os.listdir('/proc'), sep='\\n')"
        said = (await cell(client, place, code))["stdout"]
        (available,) = re.findall(r"MemAvailable: +(\d+) kB", said)
        return int(available), len(re.findall(r"^\d+$", said, re.MULTILINE))

    async def one_after_the_other(first: int) -> None:
        for number in range(first, 100, MAX_CONTEXTS - 1):
            how = {"language": "shell", "context": f"c{number}"}
            assert (await cell(client, place, f"echo {number}", **how))["stdout"] == f"{number}\n"
            gone = await cell(client, place, "exit 3", **how)
            assert gone["diagnosis"]["code"] == "context_ended"

    async with connected(server) as client:
        before, memory = await in_guest(), memory_kb(server)
        for number in range(MAX_CONTEXTS - 1):
            await cell(client, place, f"n={number}", f"kept{number}", language="shell")
        refused = await refusal(
            client, "execute", environment_id=place, code="echo x", language="shell", context="more"
        )
        assert refused["code"] == "too_many_jobs"
        assert "python main" in refused["message"]
        assert "shell kept6" in refused["message"]
        for number in range(MAX_CONTEXTS - 1):
            said = await cell(client, place, "echo $n; exit", f"kept{number}", language="shell")
            assert said["stdout"] == f"{number}\n"
        async with anyio.create_task_group() as group:
            for first in range(MAX_CONTEXTS - 1):
                group.start_soon(one_after_the_other, first)
        after = await in_guest()
        assert before[0] - after[0] < 24_000, "kB of the guest's memory"
        assert after[1] <= before[1] + 2, "processes of the guest"
        assert memory_kb(server) - memory < GROWTH_KB


async def test_a_cell_that_prints_a_gigabyte_is_bounded_and_ends(
    server: Waggle, place: str
) -> None:
    code = (
        "import os\nblock = b'y' * 65535 + b'\\n'\n"
        "for _ in range(16384): os.write(1, block)\nkept = 7\nprint('END')"
    )
    async with connected(server) as client:
        memory = memory_kb(server)
        said = await cell(client, place, code, timeout_seconds=240, wait_seconds=240)
        assert said["status"] == "exited", {**said, "stdout": ""}
        assert len(said["stdout"]) < 50_000
        assert said["stdout"].endswith("END\n")
        page = await call(
            client, "read_job", environment_id=place, job_id=said["job_id"], offset=-4
        )
        assert (page["content"], page["size"]) == ("END\n", (1 << 30) + 4)
        assert memory_kb(server) - memory < GROWTH_KB
        assert (await cell(client, place, "print(kept)"))["stdout"] == "7\n"


async def test_ten_thousand_pictures_are_bounded(server: Waggle, place: str) -> None:
    code = (
        "import struct, zlib\n"
        "def part(kind, data):\n"
        "    check = struct.pack('>I', zlib.crc32(kind + data))\n"
        "    return struct.pack('>I', len(data)) + kind + data + check\n"
        "class Picture:\n"
        "    def _repr_png_(self):\n"
        "        return (b'\\x89PNG\\r\\n\\x1a\\n'\n"
        "            + part(b'IHDR', struct.pack('>IIBBBBB', 1, 1, 8, 0, 0, 0, 0))\n"
        "            + part(b'IDAT', zlib.compress(b'\\0\\0')) + part(b'IEND', b''))\n"
        "for _ in range(10_000): display(Picture())\nprint('END')"
    )
    async with connected(server) as client:
        memory = memory_kb(server)
        arguments = {"environment_id": place, "code": code, "context": "main", "wait_seconds": 240}
        result = await client.call_tool("execute", arguments)
        pictures = [part for part in result.content if part.type == "image"]
        texts = [part.text for part in result.content if part.type == "text"]
        assert 0 < len(pictures) <= 8
        assert "END" in "".join(texts)
        assert sum(map(len, texts)) < 50_000
        assert memory_kb(server) - memory < GROWTH_KB
        assert (await cell(client, place, "print(6 * 7)"))["stdout"] == "42\n"


async def test_memory_that_runs_out_is_named_and_the_next_cell_begins_anew(
    server: Waggle, place: str
) -> None:
    async with connected(server) as client:
        await cell(client, place, "kept = 1", "hungry")
        code = "hoard = []\nwhile True: hoard.append(bytearray(20_000_000))"
        gone = await cell(client, place, code, "hungry", wait_seconds=120)
        assert gone["diagnosis"]["code"] == "context_ended"
        assert "memory" in gone["diagnosis"]["cause"]
        assert "variables are lost" in gone["diagnosis"]["cause"]
        again = await cell(client, place, "print('kept' in vars())", "hungry")
        assert again["stdout"] == "False\n"
        await end_context(client, place, "hungry")


async def test_two_clients_in_one_context_take_turns_and_get_their_own_output(
    server: Waggle, place: str
) -> None:
    async def work(name: str) -> None:
        async with connected(server) as client:
            for number in range(10):
                code = f"log.append('{name}{number}'); print('{name}{number}', len(log))"
                said = await cell(client, place, code, "shared")
                taken.append(said["stdout"])
                assert said["stdout"].split()[0] == f"{name}{number}"

    taken: list[str] = []
    async with connected(server) as client:
        await cell(client, place, "log = []", "shared")
        async with anyio.create_task_group() as group:
            for name in ("a", "b"):
                group.start_soon(work, name)
        places = [int(said.split()[1]) for said in taken]
        assert sorted(places) == [*range(1, 21)]
        order = (await cell(client, place, "print(*log)", "shared"))["stdout"].split()
        for name in ("a", "b"):
            own = [entry for entry in order if entry.startswith(name)]
            assert own == [f"{name}{number}" for number in range(10)]
        await end_context(client, place, "shared")


async def test_a_fork_at_the_cap_is_refused_and_disturbs_nothing(
    server: Waggle, place: str
) -> None:
    async with connected(server) as client:
        counting = "import time\nfor n in range(20): print(n, flush=True); time.sleep(0.1)"
        job = (await cell(client, place, counting, "counts", background=True))["job_id"]
        how = {"environment_id": place, "count": CAP, "code": "print(1)", "context": "counts"}
        for arguments in (how, {"environment_id": place, "count": CAP}):
            refused = await refusal(client, "fork_environment", **arguments)
            assert refused["code"] == "max_environments", refused
        ended = await call(client, "wait_job", environment_id=place, job_id=job, wait_seconds=60)
        assert ended["stdout"] == "".join(f"{n}\n" for n in range(20))
        assert (await cell(client, place, "print(n)", "counts"))["stdout"] == "19\n"
        listed = await call(client, "list_environments")
        assert [one["environment_id"] for one in listed["environments"]] == [place]
        await end_context(client, place, "counts")


async def test_a_cell_that_ignores_interrupts_is_ended_for_a_client_that_hangs_up(
    server: Waggle, place: str
) -> None:
    code = (
        "import signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print('on', flush=True)\nwhile True: time.sleep(1)"
    )
    async with connected(server) as client:
        started = await cell(client, place, code, "deaf", background=True)
        job = {"environment_id": place, "job_id": started["job_id"]}

        async def has_begun() -> bool:
            return (await call(client, "read_job", **job)).get("stdout") == "on\n"

        await until(has_begun, 60)
        killed = await call(client, "kill_job", **job)
        assert killed["status"] == "killed"
        assert killed["diagnosis"]["code"] == "context_ended"
        assert "did not react to an interrupt" in killed["diagnosis"]["cause"]
        assert (await cell(client, place, "print(2)", "deaf"))["stdout"] == "2\n"
        await end_context(client, place, "deaf")
