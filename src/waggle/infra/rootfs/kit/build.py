# SPDX-License-Identifier: Apache-2.0
"""The build of the guest kit: a small read-only EROFS with init, SSH, SFTP and the guest agent.

Called by `waggle setup` and, to find the file, by the composition root. The kit's file name has a
digest of its sources and package list, so a changed source makes a new file, and old ones can be
deleted.
"""

from __future__ import annotations

import asyncio
import hashlib
import shlex
from collections.abc import Callable
from pathlib import Path

from waggle.domain.errors import SetupIncomplete
from waggle.infra.shared import debian
from waggle.infra.shared.files import FileLock
from waggle.infra.shared.work import place, workspace

GUEST_SOURCES = Path(__file__).parent / "guest"
_BUILD_SECONDS = 900
PACKAGES = (
    "busybox-static",
    "dropbear-bin",
    "musl-tools",
    "openssh-sftp-server",
    "qemu-guest-agent",
)


def kit_key(sources: Path = GUEST_SOURCES) -> str:
    """Return a short digest of the kit's sources and packages. Pure except for reading them."""
    digest = hashlib.sha256(" ".join((debian.SUITE, *PACKAGES)).encode())
    for file in sorted(sources.iterdir()):
        if file.is_file():
            digest.update(f"{file.name}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


class GuestKit:
    """The kit of this version of waggle, in `directory`. Safe to use from several processes."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / f"kit-{kit_key()}.erofs"

    def require(self) -> Path:
        """Return the kit's file. Raises SetupIncomplete when it was not built yet."""
        if not self.path.exists():
            raise SetupIncomplete("The guest kit is not built.")
        return self.path

    async def ensure(
        self, mirror: str | None, on_line: Callable[[str], None] = lambda _line: None
    ) -> Path:
        """Build the kit unless it exists. Idempotent; a cancelled build leaves nothing.

        Raises SetupIncomplete when a tool is missing or fails.
        """
        if self.path.exists():
            return self.path
        self.path.parent.mkdir(parents=True, exist_ok=True)
        async with FileLock(self.path.with_suffix(".lock"), timeout=_BUILD_SECONDS):
            if not self.path.exists():
                await self._build(await asyncio.to_thread(debian.mirror, mirror), on_line)
        return self.path

    async def _build(self, mirror: str, on_line: Callable[[str], None]) -> None:
        with workspace(self.path.parent) as work:
            tree, image = work / "tree", work / "kit.erofs"
            tree.mkdir()
            hooks = [f"--extract-hook={hook}" for hook in _hooks(GUEST_SOURCES, tree)]
            argv = debian.tree_argv(mirror, packages=PACKAGES, hooks=hooks)
            await debian.run(argv, on_line)
            await debian.run(["mkfs.erofs", "--quiet", "-T0", "--all-root", str(image), str(tree)])
            image.chmod(0o444)
            await asyncio.to_thread(place, image, self.path)


def _hooks(sources: Path, output: Path) -> list[str]:
    """Return shell lines for mmdebstrap; `$1` is the tree. Only waggle's paths are inserted."""
    links = 'for d in bin sbin lib lib64; do [ -e "$1/$d" ] || ln -s usr/$d "$1/$d"; done'
    return [
        f'{links}; mkdir -p "$1/waggle-guest"',
        f"sync-in {shlex.quote(str(sources))} /waggle-guest",
        'chroot "$1" /usr/bin/busybox sh /waggle-guest/assemble.sh',
        f"sync-out /kit {shlex.quote(str(output))}",
    ]
