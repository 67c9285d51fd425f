# SPDX-License-Identifier: Apache-2.0
"""A program in a VMM's place, below its guard: a static busybox runs a script in the small root."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from waggle.infra.shared.confined import Enclose
from waggle.infra.vmm.process import GuardedProcess, Start

UID = 1_900_000_781
BUSYBOX = Path("/bin/busybox")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root can change its user")


def jailer(place: Path, script: str) -> Path:
    """Return a program in the jailer's place. It dies with nobody, as after a change of user.

    It starts in the root that the guard has made, and has no seccomp filter.
    """
    path = place / "jailer"
    path.write_text(f"#!{BUSYBOX} sh\n{script}\n")
    path.chmod(0o755)
    return path


@dataclass(slots=True)
class Guarded:
    """A started program and what it says."""

    process: GuardedProcess
    messages: socket.socket

    async def said(self) -> str:
        """Return everything that it says until it ends."""
        loop = asyncio.get_running_loop()
        text = b""
        while part := await loop.sock_recv(self.messages, 65536):
            text += part
        return text.decode()


@contextlib.asynccontextmanager
async def guarded(
    directory: Path,
    script: str,
    kind: type[Start] = Start,
    enclose: Enclose | None = None,
    waiting: GuardedProcess | None = None,
    process: type[GuardedProcess] = GuardedProcess,
    *,
    proceeds: bool = True,
    **others: object,
) -> AsyncGenerator[Guarded]:
    """Run a script; `others` are fields of `Start`. It is killed at the end of the block.

    A guard that is `waiting` begins it, or else one of the kind `process`. Unless it `proceeds`,
    the script has to wait until it may run.
    """
    uid = UID if os.geteuid() == 0 else None
    with contextlib.ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        ours.setblocking(False)
        files: dict[str, tuple[int, bool]] = {}
        for name, writable in (("kernel", False), ("scratch", True)):
            (directory / name).write_bytes(name.encode())
            (directory / name).chmod(0o666)
            files[name] = (os.open(directory / name, os.O_RDWR), writable)
            stack.callback(os.close, files[name][0])
        memory = os.memfd_create("memory")
        stack.callback(os.close, memory)
        os.write(memory, b"remembered")
        start = kind(
            program=BUSYBOX,
            arguments=("sh", "-c", script),
            jailer=None,
            id="test_1",
            files=files,
            directory=directory,
            run_mib=1,
            memory=memory,
            messages=theirs.fileno(),
            uid=uid,
        )
        changed = replace(start, **others)  # pyright: ignore[reportArgumentType] fields of Start
        stack.callback(theirs.close)
        if waiting is None:
            began = process.launch(changed, enclose)
        else:
            waiting.begin(changed, enclose)
            began = waiting
        theirs.close()
        if proceeds:
            began.proceed()
        try:
            yield Guarded(began, ours)
        finally:
            await began.kill()
            began.close()
