# SPDX-License-Identifier: Apache-2.0
"""`waggle logs`: what a job of an environment has printed, so far or to its end."""

from __future__ import annotations

import sys

import anyio
from mcp import Client

from waggle.cli.client import connected_by, find
from waggle.cli.env.program import OutputStream, status_of, until_resumed
from waggle.cli.progress import interruptible, say
from waggle.config import load

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0
"""Seconds between two looks at a job that prints nothing new."""


def logs(environment: str, job: int, *, follow: bool, stderr: bool) -> int:
    """Print a job's output, and return the exit code: 1 if some of it was not kept.

    Raises the server's refusals, and KeyboardInterrupt at a signal.
    """
    stream = "stderr" if stderr else "stdout"
    lost = anyio.run(_print, environment, job, stream, follow)
    if lost:
        say(f"waggle: {lost} bytes are lost: the server keeps WAGGLE_OUTPUT_KEEP_MB of a stream.")
    return 1 if lost else 0


async def _print(environment: str, job: int, stream: str, follow: bool) -> int:
    async with connected_by(load()) as client:
        environment_id = str((await find(client, environment))["environment_id"])
        return await interruptible(
            lambda: _copy(client, environment_id, job, stream, follow=follow)
        )


async def _copy(client: Client, environment_id: str, job: int, stream: str, *, follow: bool) -> int:
    """Copy the stream, and return the number of bytes that are lost."""
    uri = f"waggle://environments/{environment_id}/executions/{job}/{stream}"
    output = OutputStream(client, uri, sys.stdout.buffer)
    wanted = {"environment_id": environment_id, "job_id": job}
    pause = _FIRST_PAUSE
    while True:
        status = await status_of(client, wanted) if follow else ""
        new = await output.copy()
        if status == "paused":
            await until_resumed(client, wanted)
        elif status != "running":
            return output.lost
        pause = _FIRST_PAUSE if new else min(pause * 1.5, _LONGEST_PAUSE)
        await anyio.sleep(pause)
