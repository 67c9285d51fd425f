# SPDX-License-Identifier: Apache-2.0
"""Trees of Debian packages, by mmdebstrap: what images, the guest kit and the kernel come from.

Shared by the adapters under `waggle.infra`, like `files`. Knows the host's mirror and keyring;
knows nothing of what is done with a tree.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import signal
import subprocess
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path

from waggle.domain.errors import DiskFull, SetupIncomplete
from waggle.infra.shared import archive, userns
from waggle.tasks import finish

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SUITE = "trixie"
_ETC = Path("/etc")
_TAIL_LINES = 15
_CHUNK = 16 * 1024
GRACE_SECONDS = 10.0
_PROBE_SECONDS = 10.0
_DISK_FULL = ("No space left on device", "Disk quota exceeded", "not enough free space")
"""What tools say, the last of them apt."""

OnLine = Callable[[str], None]
"""Called with each line that a tool prints, for progress."""


def mirror(configured: str | None, etc: Path = _ETC) -> str:
    """The URI of a Debian archive: the configured one, else this host's, else mmdebstrap's own.

    The host's is the one in its apt sources below `etc`; where these name none, as on Ubuntu, it
    is what the installed mmdebstrap takes by default. Blocks for about a second when that is
    asked, which is once in a process. Raises SetupIncomplete when none is known.
    """
    return configured or archive.host_archive(etc) or archive.default_archive(SUITE)


def tree_argv(
    uri: str,
    *,
    suite: str = SUITE,
    packages: Sequence[str],
    variant: str = "extract",
    hooks: Sequence[str] = (),
    options: Sequence[str] = (),
    target: str = "-",
    form: str = "null",
) -> list[str]:
    """The mmdebstrap command for a tree of packages. Pure.

    `hooks` are `--extract-hook`s and the like, complete; validity dates are not checked because
    mirrors lag, signatures are.
    """
    argv = ["mmdebstrap", f"--variant={variant}", f"--format={form}", "--skip=check/empty"]
    argv.append('--aptopt=Acquire::Check-Valid-Until "false"')
    if packages:
        argv.append(f"--include={','.join(packages)}")
    if KEYRING.exists():
        argv.append(f"--keyring={KEYRING}")
    return [*argv, *hooks, *options, suite, target, f"deb {uri} {suite} main"]


def own_mounts() -> tuple[str, ...]:
    """What to put before a command so that its mounts end with its last process; maybe nothing.

    mmdebstrap as root mounts /proc and more into its tree, which stay on the host when it is
    killed. Empty for those who may not have mounts of their own: they cannot mount, either.
    """
    return _own_mounts(os.geteuid())


@functools.cache
def _own_mounts(_user: int) -> tuple[str, ...]:
    unshare = ("unshare", "--mount")
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run([*unshare, "true"], check=True, capture_output=True, timeout=_PROBE_SECONDS)
        return unshare
    return ()


async def run(
    argv: Sequence[str],
    on_line: OnLine = lambda _line: None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a build tool to its end. Raises SetupIncomplete with its last lines when it fails.

    Raises DiskFull when these say that the disk is full. `environment` is instead of this process's
    own, also for finding what the tool itself starts. Cancelling ends the whole process group,
    which gets GRACE_SECONDS to clean up behind itself, and waits for it.
    """
    program = shutil.which(argv[0])
    if program is None:
        raise SetupIncomplete(f"{argv[0]} is not installed.")
    process = await asyncio.create_subprocess_exec(
        *await asyncio.to_thread(own_mounts),
        program,
        *argv[1:],
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
        start_new_session=True,
        cwd="/",  # mmdebstrap's mapped users may not be let into the caller's directory
    )
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    try:
        async for line in _output_lines(process.stdout):
            tail.append(line)
            on_line(line)
        code = await process.wait()
    finally:
        await finish(_end(process))
    if code != 0 and any(told in line for line in tail for told in _DISK_FULL):
        raise DiskFull(f"{argv[0]} met a full disk: " + " | ".join(tail))
    if code != 0:
        refused = userns.refusal(os.geteuid()) if argv[0] == "mmdebstrap" else ""
        raise SetupIncomplete(
            f"{argv[0]} failed ({code}): " + " | ".join(tail),
            hint=f"Without root it needs user namespaces: {refused}. {userns.NEXT_STEP}"
            if refused
            else "",
        )


async def _output_lines(stream: asyncio.StreamReader | None) -> AsyncGenerator[str]:
    """What a tool prints, line by line; progress bars count as lines, and lines are cut."""
    rest = b""
    while stream is not None and (data := await stream.read(_CHUNK)):
        *lines, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
        rest = rest[:_CHUNK]
        for line in lines:
            yield line[:_CHUNK].decode("utf-8", "replace").rstrip()
    if rest:
        yield rest.decode("utf-8", "replace").rstrip()


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the group of a process that was not waited for yet, so that its number is its own."""
    for number, seconds in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, None)):
        if process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await process.wait()
