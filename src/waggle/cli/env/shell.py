# SPDX-License-Identifier: Apache-2.0
"""`waggle shell`: a terminal over the server's websocket, from wherever the server can be reached.

`waggle exec -t` runs another program in one. With --ssh it is the OpenSSH client, on the server's
machine, with the environment's own key and pinned host key: a login past the server.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from waggle.cli.client import connected_by, find
from waggle.cli.env import program
from waggle.cli.env.exec import How, arguments_of
from waggle.cli.env.terminal import Place, attach
from waggle.cli.env.tty import descriptor, is_terminal
from waggle.config import Settings, load
from waggle.config.places import Places
from waggle.domain.errors import InvalidArgument, SetupIncomplete
from waggle.infra.host.process import held_by_listeners

_KNOWN = re.compile(r"\[127\.0\.0\.1\]:(?P<port>\d+) \S+ \S")


def shell(environment: str, *, job: int | None, user: str, ssh: bool) -> int:
    """Open the shell, or attach to a job, and return its exit code.

    Raises the server's refusals, and with `ssh` SetupIncomplete without an ssh program.
    """
    if ssh:
        return _over_ssh(environment)
    return anyio.run(_over_websocket, load(), environment, job, user)


async def _over_websocket(settings: Settings, environment: str, job: int | None, user: str) -> int:
    environment_id = await _find(settings, environment)
    return await attach(settings, Place(environment_id, environment, user, job))


def execute(environment: str, command: Sequence[str], how: How) -> int:
    """Run a program with this terminal, and return its exit code.

    Raises InvalidArgument where there is no terminal, and the server's refusals.
    """
    arguments = arguments_of(environment, command, how)
    if how.stdin or not is_terminal(descriptor()):
        raise InvalidArgument(
            "With -t, standard input must be a terminal.", hint="Leave out -t, or -i."
        )
    return anyio.run(_execute, load(), environment, arguments)


async def _execute(settings: Settings, environment: str, arguments: dict[str, Any]) -> int:
    async with connected_by(settings) as client:
        environment_id = str((await find(client, environment))["environment_id"])
        wanted = {**arguments, "environment_id": environment_id, "tty": True}
        job = await program.start(client, wanted)
    return await attach(settings, Place(environment_id, environment, job=job, offset=0))


def _over_ssh(environment: str) -> int:
    ssh = shutil.which("ssh")
    if ssh is None:
        raise SetupIncomplete(
            "There is no ssh program.", hint="Install openssh-client, or openssh-clients."
        )
    settings = load()
    directory, port = keys(settings, anyio.run(_find, settings, environment), os.geteuid())
    return subprocess.call(ssh_argv(ssh, directory, port))


def keys(settings: Settings, environment_id: str, user: int) -> tuple[Path, str]:
    """Return the environment's directory, and its port from the known hosts there.

    The listening server may use another data directory than these settings; then its lock is there.
    A lock of another user than `user` is not followed: root sees every user's locks, and the writer
    of the keys decides where the shell opens. Raises SetupIncomplete.
    """
    places = Places.of(settings)
    locks = held_by_listeners(settings.listen_addr.port, places.lock.name)
    elsewhere = (replace(places, data=lock.parent) for lock in locks if _is_of(lock, user))
    for place in (places, *elsewhere):
        directory = place.environments / environment_id
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if known := _KNOWN.match((directory / "known_hosts").read_text("ascii")):
                return directory, known["port"]
    raise SetupIncomplete(
        f"The keys of environment {environment_id} cannot be read.",
        hint="Run this on the server's machine, as its user and with its WAGGLE_DATA_DIR; "
        f"'waggle shell {environment_id}' without --ssh works from anywhere.",
    )


def _is_of(file: Path, user: int) -> bool:
    """Whether the user owns the file itself, not the target of a link."""
    with contextlib.suppress(OSError):
        return file.lstat().st_uid == user
    return False


def ssh_argv(ssh: str, directory: Path, port: str) -> list[str]:
    """Return the ssh command: only this key, only the pinned host key, no user configuration."""
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
