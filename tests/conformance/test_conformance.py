# SPDX-License-Identifier: Apache-2.0
"""The protocol's own conformance suite and the Inspector against a real server process.

`./task conformance` runs these. The suite's fixtures are those of `tests.conformance.server`; the
Inspector sees the product without them.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.tools import environment, node_tools
from tests.support.waggle_process import Waggle, running

pytestmark = pytest.mark.net
REVISIONS = {"2025-11-25": 60, "2026-07-28": 90}
"""The least number of passed checks, so that a suite that runs nothing is noticed."""
SECONDS = 240


@pytest.fixture(scope="module")
def fixtures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Waggle]:
    directory = tmp_path_factory.mktemp("conformance")
    own = {"image_cache_dir": str(directory / "cache")}
    crashes = ("tool_crashed",)  # the suite wants tools that fail
    module = ("tests.conformance.server",)
    with running(directory, own, module=module, expected=crashes) as server:
        yield server


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Waggle]:
    directory = tmp_path_factory.mktemp("inspected")
    with running(directory, {"image_cache_dir": str(directory / "cache")}) as server:
        yield server


def run(command: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=environment(home),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.parametrize("revision", REVISIONS)
def test_no_scored_check_of_the_suite_fails(
    fixtures: Waggle, revision: str, tmp_path: Path
) -> None:
    suite = [*node_tools().command("conformance"), "server", "--url", fixtures.mcp]
    ended = run([*suite, "--requirements", revision, "-o", str(tmp_path / "out")], tmp_path)
    scored, _, rest = ended.stdout.partition("=== SUMMARY ===")[2].partition("Not scored")
    unscored = set(re.findall(r"^\s+[✓✗] (\S+) \(", rest, re.M))
    results = re.findall(r"^([✓✗]) (\S+): (\d+) passed, (\d+) failed", scored, re.M)
    failed = [name for mark, name, _, bad in results if name not in unscored and mark + bad != "✓0"]
    passed = sum(int(good) for _, name, good, _ in results if name not in unscored)
    assert not failed, ended.stdout[-8000:]
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert passed >= REVISIONS[revision]


def inspector(server: Waggle, home: Path, *words: str) -> dict[str, Any]:
    command = [*node_tools().command("mcp-inspector"), "--cli", server.mcp, "--transport", "http"]
    ended = run([*command, *words], home)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_inspector_accepts_the_tools(product: Waggle, era: str, tmp_path: Path) -> None:
    words = ("--method", "tools/list", "--strict", "--protocol-era", era)
    listed = inspector(product, tmp_path, *words)
    assert {"create_environment", "execute"} <= {tool["name"] for tool in listed["tools"]}
    assert not [tool for tool in listed["tools"] if tool["name"].startswith("test_")]


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_the_inspector_calls_a_tool(product: Waggle, era: str, tmp_path: Path) -> None:
    words = ("--method", "tools/call", "--tool-name", "list_environments", "--protocol-era", era)
    assert inspector(product, tmp_path, *words)["structuredContent"].get("count", 0) == 0
