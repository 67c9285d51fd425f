# SPDX-License-Identifier: Apache-2.0
"""`waggle shell`: the OpenSSH client, with the environment's own key and pinned host key."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import anyio

from waggle.cli.client import connected_by, find
from waggle.config import Settings, load
from waggle.domain.errors import SetupIncomplete
from waggle.places import Places


def shell(environment: str) -> int:
    """Open the shell and return its exit code. Raises SetupIncomplete without an ssh program."""
    ssh = shutil.which("ssh")
    if ssh is None:
        raise SetupIncomplete(
            "There is no ssh program.", hint="Install openssh-client, or openssh-clients."
        )
    settings = load()
    directory = Places.of(settings).environments / anyio.run(_find, settings, environment)
    try:
        known = (directory / "known_hosts").read_text()
    except OSError as error:
        raise SetupIncomplete(
            f"{directory} cannot be read: {error.strerror}.",
            hint="Run this as the user of the server, with its WAGGLE_DATA_DIR.",
        ) from error
    port = known.partition("]:")[2].split()[0]
    return subprocess.call(ssh_argv(ssh, directory, port))


def ssh_argv(ssh: str, directory: Path, port: str) -> list[str]:
    """The ssh command: only this key, only the pinned host key, no configuration of the user."""
    options = {
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "IdentityFile": str(directory / "ssh_key"),
        "UserKnownHostsFile": str(directory / "known_hosts"),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "HostKeyAlgorithms": "ssh-ed25519",
        "LogLevel": "ERROR",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return [ssh, "-F", "/dev/null", *words, "-p", port, "-t", "root@127.0.0.1"]


async def _find(settings: Settings, environment: str) -> str:
    async with connected_by(settings) as client:
        return str((await find(client, environment))["environment_id"])
