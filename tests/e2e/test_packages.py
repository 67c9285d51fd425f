# SPDX-License-Identifier: Apache-2.0
"""An environment that reaches only the registries of its image, and rules that change in use."""

from __future__ import annotations

import json
from pathlib import Path

import anyio.to_thread
import pytest
from tests.support.waggle_client import call, connected, environment, execute
from tests.support.waggle_process import Waggle, beside, have_templates, running

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.vm,
    pytest.mark.net,
    pytest.mark.slow,
    pytest.mark.timeout(400),
]

FETCH = """
import urllib.request
try:
    urllib.request.urlopen("https://host.example.org/", timeout=20)
except OSError as error:
    print(error)
"""


async def test_an_environment_reaches_the_registries_of_its_image_and_nothing_else(
    tmp_path: Path,
) -> None:
    have_templates("python")
    rules = tmp_path / "rules.toml"
    rules.write_text('[rules]\ngit = ["git.example.org"]\n')
    with running(tmp_path / "server", {"network_rules": str(rules)}) as server:
        async with (
            connected(server) as client,
            environment(client, "python", network="@packages") as box,
        ):
            await call(client, "install_packages", environment_id=box, packages="six")
            assert "403" in await execute(client, box, FETCH)
            await anyio.to_thread.run_sync(change, server, box)
            after = await execute(client, box, FETCH)
            assert "403" not in after, "the name is allowed now, and does not exist"


def change(server: Waggle, box: str) -> None:
    changed = beside(server, "env", "network", box, "--allow", "*.example.org", "--allow", "@git")
    assert changed.stdout == "@packages, @git, *.example.org\n"
    shown = json.loads(beside(server, "env", "network", box, "--json").stdout)
    assert shown == {"network": "@packages, @git, *.example.org"}
