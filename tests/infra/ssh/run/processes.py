# SPDX-License-Identifier: Apache-2.0
"""Launchers of a peer that do not do what they should."""

from __future__ import annotations

import asyncssh


async def hang(process: asyncssh.SSHServerProcess[bytes]) -> None:
    await process.channel.wait_closed()


async def refuse(process: asyncssh.SSHServerProcess[bytes]) -> None:
    process.exit(125)
