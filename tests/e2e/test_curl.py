# SPDX-License-Identifier: Apache-2.0
"""curl and a real machine: the calls of the development guide, and the main job."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from tests.support.curl import INITIALIZE_CALL, LIST_CALL
from tests.support.waggle_client import by_curl
from tests.support.waggle_process import Waggle

from waggle.domain.toolset import TOOLS, Toolset

pytestmark = [pytest.mark.vm, pytest.mark.timeout(300)]


def run(server: Waggle, command: str) -> Any:
    """Run a command of the guide on this server instead of port 8080, without the `jq`."""
    written = command.replace("http://127.0.0.1:8080", server.url).rpartition("|")[0]
    said = subprocess.run(
        ["bash", "-c", written], check=True, capture_output=True, text=True, timeout=240
    )
    return json.loads(said.stdout)


def test_the_calls_of_the_guide_work(server: Waggle) -> None:
    hello = run(server, INITIALIZE_CALL)
    assert hello["result"]["protocolVersion"] == "2025-11-25"
    assert hello["result"]["serverInfo"]["name"] == "waggle"
    listed = run(server, LIST_CALL)
    assert [tool["name"] for tool in listed["result"]["tools"]] == [*TOOLS[Toolset.CORE]]


def test_the_main_job_works_with_curl(server: Waggle) -> None:
    this = by_curl(server, "create_environment", runtime="shell")["environment_id"]
    try:
        by_curl(server, "write_file", environment_id=this, path="data.txt", content="1\n2\n3\n")
        total = by_curl(
            server, "execute", environment_id=this, code="paste -sd+ data.txt | tr -d ' '"
        )
        assert total["stdout"] == "1+2+3\n"
        assert by_curl(server, "list_environments")["count"] >= 1
    finally:
        by_curl(server, "destroy_environment", environment_id=this)
