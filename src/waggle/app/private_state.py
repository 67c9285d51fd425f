# SPDX-License-Identifier: Apache-2.0
"""A state directory for one short-lived server, and the end of those that dead servers left.

Used by the composition root: desktop clients start several stdio servers at once, beside one that
listens, and each needs its own. Below `root`, which they share, lies one directory for each, held
by a lock in it; `root/.lock` guards their making and their sweeping.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import structlog

from waggle.domain.errors import SettingsInvalid
from waggle.infra.shared.confined import kill_identified
from waggle.infra.shared.files import FileLock
from waggle.infra.store.environments import SqliteStore

log = structlog.get_logger(__name__)

ALIVE = "alive.lock"
WAIT_SECONDS = 60.0


@contextlib.asynccontextmanager
async def private_state(root: Path) -> AsyncGenerator[Path]:
    """An empty directory below `root`, removed at the end; leftovers of dead servers go first.

    Raises SettingsInvalid when it cannot be made, TimedOut when `root` stays locked for a minute.
    """
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        async with FileLock(root / ".lock", timeout=WAIT_SECONDS):
            await _sweep(root)
            directory = root / secrets.token_hex(4)
            directory.mkdir(mode=0o700)
            alive = FileLock(directory / ALIVE)
            alive.try_acquire()
    except OSError as error:
        raise SettingsInvalid(
            f"{error.filename or root} cannot be used: {error.strerror}.",
            hint="Check WAGGLE_DATA_DIR, and who may write there.",
        ) from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        alive.release()


async def sweep(root: Path) -> None:
    """Remove what dead servers left below `root`: machines that still run, files. Idempotent.

    What cannot be removed is logged and left for the next time.
    """
    if not root.is_dir():
        return
    lock = FileLock(root / ".lock")
    try:
        if lock.try_acquire():  # else another server is at it
            try:
                await _sweep(root)
            finally:
                lock.release()
    except OSError as error:
        log.warning("private_state_not_swept", path=str(root), why=error.strerror)


async def keep_swept(root: Path, interval: float) -> None:
    """Sweep every `interval` seconds until cancelled."""
    while True:
        await anyio.sleep(interval)
        await sweep(root)


async def _sweep(root: Path) -> None:
    for directory in sorted(root.iterdir()):
        if not directory.is_dir() or directory.is_symlink():
            continue
        alive = FileLock(directory / ALIVE)
        try:
            if not alive.try_acquire():
                continue
        except OSError:
            continue  # its owner is just removing it
        try:
            await _kill_machines(directory / "state.db")
            shutil.rmtree(directory)
            log.info("private_state_swept", path=str(directory))
        except Exception:
            log.exception("private_state_not_swept", path=str(directory))
        finally:
            alive.release()


async def _kill_machines(state: Path) -> None:
    """Kill what the record names and what still is the same process. They mostly died before."""
    if not state.exists():
        return
    store = await SqliteStore.open(state)
    try:
        for environment in await store.unfinished():
            if environment.machine is not None and kill_identified(environment.machine):
                log.info("machine_of_dead_server_killed", environment=environment.id)
    finally:
        await store.aclose()
