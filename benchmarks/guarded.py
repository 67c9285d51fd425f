# SPDX-License-Identifier: Apache-2.0
"""A real server as an operator exposes one: with a tokens file, metrics and an audit log."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.server import Server, serving
from waggle.domain.access import METRICS, parse_owner
from waggle.infra.access.tokens_file import Entry, digest, new_token

OWNER = "bench"


@dataclass(frozen=True, slots=True)
class Guarded:
    """The server, the token of a client, the token of /metrics, and the audit log."""

    server: Server
    token: str
    scraper: str
    audit: Path


@asynccontextmanager
async def guarded(more: Mapping[str, str] | None = None) -> AsyncGenerator[Guarded]:
    """Run a server and leave nothing at the end. `more` are variables of its environment."""
    with tempfile.TemporaryDirectory(prefix="waggle-bench-") as name:
        tokens, audit = Path(name, "tokens"), Path(name, "audit.log")
        made = {owner: new_token() for owner in (OWNER, METRICS)}
        entries = [
            Entry(parse_owner(owner), digest(token), None).line() for owner, token in made.items()
        ]
        tokens.touch(mode=0o600)
        tokens.write_text("".join(entries), "ascii")
        variables = {
            "WAGGLE_AUTH_TOKENS_FILE": str(tokens),
            "WAGGLE_AUDIT_LOG": str(audit),
            "WAGGLE_METRICS": "true",
            **(more or {}),
        }
        async with serving(more=variables) as server:
            yield Guarded(server, made[OWNER], made[METRICS], audit)
