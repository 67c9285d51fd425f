# SPDX-License-Identifier: Apache-2.0
"""The data directory, which belongs to one server at a time. Called by the composition root."""

from __future__ import annotations

import contextlib
from collections.abc import Generator

from waggle.config.places import Places
from waggle.domain.errors import DataDirBusy, SettingsInvalid
from waggle.infra.shared.files import FileLock


@contextlib.contextmanager
def own(places: Places) -> Generator[None]:
    """Make the directories and lock the data directory. Raises DataDirBusy or SettingsInvalid."""
    lock = FileLock(places.lock)
    try:
        for directory in (places.data, places.environments, places.cache, places.disks):
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        acquired = lock.try_acquire()
    except OSError as error:
        raise SettingsInvalid(
            f"{error.filename or places.data} cannot be used: {error.strerror}.",
            hint="Check WAGGLE_DATA_DIR and WAGGLE_IMAGE_CACHE_DIR, and who may write there.",
        ) from error
    if not acquired:
        raise DataDirBusy(
            f"{places.data} is used by another waggle server ({lock.owner()}).",
            hint="Stop it, or give this one its own WAGGLE_DATA_DIR.",
        )
    try:
        yield
    finally:
        lock.release()
