# SPDX-License-Identifier: Apache-2.0
"""Puts programs of `guest/` into an environment, as its root user can. Used by `assaults`."""

from __future__ import annotations

import base64
import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mcp import Client
from tests.support.hostile_archives import TINY, deep_records

from waggle.cli.client import CallRefused, call
from waggle.infra.host.requirements import find_program

GUEST = Path(__file__).parent / "guest"
PLACE = "/home/sandbox/hostile"
SERVER = "benchmarks.attacks.guest.server"
"""The module, which has the same name in the guest."""
_UNITS = 100_000
LIES: Mapping[str, Callable[[], bytes]] = {
    "deep-names": deep_records,
    "tiny-records": lambda: TINY * _UNITS,
    "found-without-end": lambda: b"f\0a\0f\x005\0" * _UNITS,
    "failed-without-end": lambda: b"x\0a\0no\0" * _UNITS,
}
"""Output that the program in place of the kit's `files` prints repeatedly."""
_LIAR = f"""#!/.waggle/bin/busybox sh
while /.waggle/bin/busybox cat {PLACE}/lie; do :; done
"""
_SERVER = f"""#!/bin/busybox sh
unset LD_PRELOAD
exec /bin/busybox nsenter -m/proc/1/ns/mnt /bin/sh {PLACE}/start KIND
"""
"""Runs in the kit's root, as dropbear does, and changes to the image's."""
_START = f"cd {PLACE} && exec /usr/bin/python3 -S -E -m {SERVER} $1 {PLACE}"
_REPLACE = f"""set -e
chmod 755 {PLACE}/program
mount --bind {PLACE}/program /.waggle/bin/TARGET
"""
_END_SERVERS = "kill -9 $(grep -l dropbear /proc/[0-9]*/comm | cut -d/ -f3)"
"""Kills the servers of current connections, including this one, and the one that waits: the next
connections get the hostile server."""


def compiled(compiler: str) -> bytes:
    """Compile seal.c to a shared object for the guest, which has the host's processor."""
    with tempfile.TemporaryDirectory(prefix="waggle-attacks-") as name:
        made = Path(name, "seal.so")
        source = GUEST / "seal.c"
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", made, source], check=True)
        return made.read_bytes()


def sealer() -> bytes:
    """Compile it with this system's compiler. Raises RuntimeError if there is none."""
    compiler = find_program("cc")
    if compiler is None:
        raise RuntimeError("There is no cc here: run 'waggle setup --yes --tests'.")
    return compiled(str(compiler))


async def put(client: Client, environment_id: str, name: str, data: bytes) -> None:
    """Write a file in PLACE."""
    await call(
        client,
        "write_file",
        environment_id=environment_id,
        path=f"{PLACE}/{name}",
        content=base64.b64encode(data).decode(),
        encoding="base64",
    )


async def start(client: Client, environment_id: str, command: Sequence[str]) -> None:
    """Start a program that goes on in the background."""
    arguments = {"environment_id": environment_id, "command": command, "background": True}
    await call(client, "run_command", **arguments)


async def as_root(client: Client, environment_id: str, lines: str) -> None:
    """Run shell lines as root. Raises RuntimeError if they fail."""
    done = await call(
        client, "run_command", environment_id=environment_id, command=lines, user="root"
    )
    if done["exit_code"] != 0:
        raise RuntimeError(f"the guest could not be made hostile: {done}")


async def lie(client: Client, environment_id: str, kind: str) -> None:
    """Replace the kit's program for files with one that prints LIES[kind] endlessly."""
    await put(client, environment_id, "lie", LIES[kind]())
    await put(client, environment_id, "program", _LIAR.encode())
    await as_root(client, environment_id, _REPLACE.replace("TARGET", "files"))


async def take_over(client: Client, environment_id: str, kind: str, sealer: bytes) -> None:
    """Replace the SSH server; the next call meets the hostile one, which attacks as `kind`."""
    await put(client, environment_id, "seal.so", sealer)
    for name in ("server.py", "wire.py"):
        where = f"benchmarks/attacks/guest/{name}"
        await put(client, environment_id, where, (GUEST / name).read_bytes())
    await put(client, environment_id, "start", _START.encode())
    await put(client, environment_id, "program", _SERVER.replace("KIND", kind).encode())
    await as_root(client, environment_id, _REPLACE.replace("TARGET", "dropbear"))
    with contextlib.suppress(CallRefused):  # its connection ends with its server
        await as_root(client, environment_id, _END_SERVERS)
