# SPDX-License-Identifier: Apache-2.0
"""`waggle env network`: what an environment reaches, and changes of it, by the server's tools."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import anyio

from waggle.cli.client import call, connected_by, find
from waggle.cli.progress import print_json, say
from waggle.config import load
from waggle.domain.network import PUBLIC_NETWORK


def network(
    environment: str,
    value: str | None,
    allow: Sequence[str],
    deny: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """Print the environment's network, after changing it if a change is given."""
    given = {"network": value, "allow": [*allow], "deny": [*deny]}
    change = {name: wanted for name, wanted in given.items() if wanted}
    shown = anyio.run(_network, environment, change)
    if as_json:
        print_json(shown)
        return
    sys.stdout.write(f"{shown['network']}\n")
    if closed := shown.get("closed_connections"):
        say(f"{closed} open connections were closed.")


async def _network(environment: str, change: Mapping[str, object]) -> dict[str, Any]:
    async with connected_by(load()) as client:
        environment_id = str((await find(client, environment))["environment_id"])
        if change:
            return await call(client, "set_network", environment_id=environment_id, **change)
        state = await call(client, "get_environment", environment_id=environment_id)
        return {"network": state.get("network", str(PUBLIC_NETWORK))}
