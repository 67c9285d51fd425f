# SPDX-License-Identifier: Apache-2.0
"""A client's first call draws a plot with pandas; the image and template have prepared for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
from mcp_types import CallToolResult, ImageContent, TextContent
from tests.support.waggle_client import connected
from tests.support.waggle_process import have_templates, running

pytestmark = [pytest.mark.anyio, pytest.mark.vm, pytest.mark.slow, pytest.mark.timeout(900)]
PATIENCE = {"default_exec_timeout": "2m", "boot_timeout": "4m"}
MOST_READ = 10_000_000
"""Bytes read from the image's disk; ten times as much is read when nothing is in memory."""
PLOT = """
import json, pathlib, sys

def has_read():
    return int(pathlib.Path("/sys/block/vdb/stat").read_text().split()[2]) * 512

def is_never_checked(path):
    return pathlib.Path(path).read_bytes()[4:8] == bytes([1, 0, 0, 0])

before = has_read()
import pandas
import matplotlib.pyplot as plt
pandas.DataFrame({"x": range(9), "y": range(9)}).plot(x="x", y="y")
plt.savefig("x.png")
read = has_read() - before
specs = [m.__spec__ for m in sys.modules.values() if getattr(m, "__spec__", None)]
own = [s for s in specs if s.has_location and not s.origin.startswith("/.waggle/")]
files = [s.cached for s in own if s.origin.endswith(".py")]
compiled = [file for file in files if not is_never_checked(file)]
print(json.dumps({"read": read, "modules": len(files), "compiled": compiled}))
"""


def goes_on(answer: CallToolResult) -> bool:
    content = cast("dict[str, object]", answer.structured_content or {})
    return content.get("status") == "running"


async def test_a_first_plot_is_shown_and_prepares_nothing(tmp_path: Path) -> None:
    """No byte code or font list is made, and with a template hardly anything is read.

    On a busy machine the job outlasts its call; a client that waits for it gets the plot.
    """
    have_templates("data")
    with running(tmp_path, PATIENCE) as server:
        async with connected(server) as client:
            answer = await client.call_tool("execute", {"code": PLOT})
            (created,) = server.events("environment_created")
            again = {"environment_id": created["environment"], "job_id": 1, "wait_seconds": 120}
            while goes_on(answer):
                answer = await client.call_tool("read_job", again)
    text = "\n".join(block.text for block in answer.content if isinstance(block, TextContent))
    assert any(isinstance(block, ImageContent) for block in answer.content), text
    assert "[stderr]" not in text
    facts = json.loads(next(line for line in text.splitlines() if line.startswith("{")))
    assert facts["modules"] > 500
    assert facts["compiled"] == []
    if created["template"] is None:
        pytest.skip("NOT TESTED: what is read, since nothing here is frozen")
    assert facts["read"] < MOST_READ
