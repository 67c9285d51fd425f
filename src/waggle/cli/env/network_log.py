# SPDX-License-Identifier: Apache-2.0
"""`waggle env network ENV --log`: what the environment's connections were, and who refused them.

Reads the resource of the running server; `waggle.cli.env.commands` calls it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anyio
from mcp.shared.exceptions import MCPError
from mcp_types import TextResourceContents

from waggle.cli.client import connected_by, find, refused_request
from waggle.cli.progress import print_json, print_table, say
from waggle.config import load

_COLUMNS = ("last", "outcome", "to", "count", "sent", "received", "rule or reason")
_NONE = "No connection since the environment's machine started."
_WIDTH = 200


def network_log(environment: str, *, as_json: bool) -> None:
    """Print the last decisions about its connections, oldest first, as a table or as JSON."""
    content = anyio.run(_read, environment)
    if as_json:
        print_json(content)
        return
    rows = [_row(decision) for decision in content["decisions"]]
    print_table(_COLUMNS, rows, _NONE, _WIDTH)
    if rows:
        say(
            f"network {content['network']}: {content['connections']} connections, "
            f"{content['refused']} refused, {content['sent_bytes']} bytes sent, "
            f"{content['received_bytes']} received"
        )


def _row(decision: Mapping[str, Any]) -> list[str]:
    host, port = str(decision["host"]), decision["port"]
    return [
        str(decision["last_at"]),
        str(decision["outcome"]),
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        str(decision["count"]),
        str(decision["sent_bytes"]),
        str(decision["received_bytes"]),
        str(decision["rule"] or decision["why"]),
    ]


async def _read(environment: str) -> dict[str, Any]:
    async with connected_by(load()) as client:
        found = str((await find(client, environment))["environment_id"])
        uri = f"waggle://environments/{found}/network"
        try:
            read = await client.read_resource(uri, cache_mode="bypass")
        except MCPError as error:
            if refusal := refused_request(error):
                raise refusal from error
            raise
        (content,) = read.contents
        text = content.text if isinstance(content, TextResourceContents) else "{}"
        return {"environment_id": found, **json.loads(text)}
