# SPDX-License-Identifier: Apache-2.0
"""Environments to save."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from waggle.domain.environment import Environment, Resources, State, VmmProcess
from waggle.domain.network import PUBLIC_NETWORK
from waggle.domain.programs.runtime import RuntimeName

NOW = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)


def environment(number: int = 1, state: State = State.RUNNING) -> Environment:
    return Environment(
        id=f"00000000-0000-4000-8000-{number:012x}",
        name=f"python-{number}",
        runtime=RuntimeName.PYTHON,
        image="local/python",
        owner="local",
        resources=Resources(1, 512, 1024),
        network=PUBLIC_NETWORK,
        idle_timeout=timedelta(minutes=30),
        created_at=NOW,
        last_used_at=NOW,
        state=state,
        ssh_port=10_000 + number,
        machine=VmmProcess(pid=100 + number, started=7, boot_id="b"),
        booted_from={"image": "sha256:1"},
    )
